"""POST /v1/explain: the session's contributions with the place of each residue, and refusals."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

for _name in ("fastapi", "uvicorn", "prometheus_client"):
    pytest.importorskip(_name, reason="the serve extra is not installed")

from abonyx.bundle.heads import sigmoid  # noqa: E402
from abonyx.bundle.tolerances import BATCH_NEIGHBOURS, CONTRIBUTION_SUM  # noqa: E402
from abonyx.config import RuntimeConfig  # noqa: E402
from abonyx.explain.places import places  # noqa: E402

from ..domain.proteins import KAPPA, VH  # noqa: E402
from ..several import make_several  # noqa: E402
from .serving import CSV, Running, at_once, made_up, refused, service, until  # noqa: E402

MOST = 12


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Three heads; the second gives values."""
    folder = tmp_path_factory.mktemp("heads")
    bundle = make_several(folder / "several", ("nonspecificity", "hic", "psr"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ABONYX_CACHE_DIR", str(folder / "cache"))
        with service(RuntimeConfig(bundle=str(bundle)), max_explained_sequences=MOST) as running:
            yield running


@pytest.fixture(autouse=True)
def isolated() -> None:
    """Replaces conftest's fixture: the module's service keeps its session open."""


def explain(running: Running, sequences: list[Any], **more: Any) -> Any:
    answer = running.ask("POST", "/v1/explain", {"sequences": sequences, **more})
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json"), answer.body
    return answer.json


def numbers(chain: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(residues, heads)."""
    return np.array([residue["contributions"] for residue in chain["residues"]])


def test_they_are_the_sessions_and_sum_to_the_score(shared: Running, sequences: list[str]) -> None:
    names = ["psr", "nonspecificity"]
    found = explain(shared, sequences[:3], heads=names)
    assert [head["name"] for head in found["heads"]] == names
    expected = shared.session.contributions(sequences[:3], names)
    scores = shared.session.score(sequences[:3], names)
    for number, (row, own, p) in enumerate(zip(found["results"], expected, scores, strict=True), 1):
        assert (row["id"], row["heads"]) == (str(number), names)
        (chain,) = row["chains"]
        np.testing.assert_allclose(numbers(chain), own.chains[0].residues, rtol=0, atol=BATCH_NEIGHBOURS)
        total = np.array(row["baseline"]) + numbers(chain).sum(axis=0) + np.array(chain["end"])
        np.testing.assert_allclose(total, row["total"], rtol=0, atol=CONTRIBUTION_SUM)
        np.testing.assert_allclose(sigmoid(np.array(row["total"])), p, rtol=0, atol=BATCH_NEIGHBOURS)
        regions = np.array(list(chain["regions"].values())).sum(axis=0)
        np.testing.assert_allclose(regions, numbers(chain).sum(axis=0), rtol=0, atol=CONTRIBUTION_SUM)


def test_each_residue_has_its_place_and_each_domain_its_charge(shared: Running) -> None:
    (row,) = explain(shared, [{"id": "a", "sequence": f"GSGS{VH}"}])["results"]
    (chain,) = row["chains"]
    found = [(each["position"], each["residue"], each["imgt"], each["region"]) for each in chain["residues"]]
    assert found == [(place.index + 1, *place[1:]) for place in places(f"GSGS{VH}")]
    assert found[0] == (1, "G", "", "") and found[4][2:] == ("1", "FR1")
    assert list(chain["regions"]) == ["FR1", "CDR1", "FR2", "CDR2", "FR3", "CDR3", "FR4", "outside"]
    added = shared.score([f"GSGS{VH}"], **{"with": ["charge", "pI"]}).json["results"][0]["added"]
    assert (chain["net_charge"], chain["pI"]) == (added["charge"], added["pI"])
    assert row["flag"] == "4 residues outside the domain" and "domain" not in row


def test_records_are_judged_left_out_and_trimmed_as_of_scores(shared: Running) -> None:
    table = f"id,sequence\nlight,{KAPPA}\nlong,GSGSGSGSGSGSGSGSGSGS{VH}\ngap,EV-QL\nshort,EVQLVESGG\n".encode()
    query = "?on_invalid=skip&trim=domain&heads=all"
    answer = shared.ask("POST", f"/v1/explain{query}", table, CSV).json
    scored = shared.ask("POST", f"/v1/score{query}", table, CSV).json
    assert [(row["id"], row["flag"], row["domain"]) for row in answer["results"]] == [
        (row["id"], row["flag"], row["domain"]) for row in scored["results"]
    ]
    for field in ("rejected", "flags", "trim", "domain", "model"):
        assert answer[field] == scored[field]
    by_id = {row["id"]: row["chains"][0] for row in answer["results"]}
    assert len(by_id["long"]["residues"]) == len(VH) and by_id["long"]["residues"][0]["position"] == 1
    assert by_id["short"]["net_charge"] is None and list(by_id["short"]["regions"]) == ["outside"]
    assert len(answer["results"][0]["heads"]) == 3


def test_it_shares_the_queue_with_scores(shared: Running, sequences: list[str]) -> None:
    before = shared.value("abonyx_sequences_total", output="contributions")
    with shared.engine.held():
        work = {
            0: lambda: shared.score(sequences[:4]).json["results"][0]["p_nonspecific"],
            1: lambda: explain(shared, sequences[:4])["results"][0]["total"][0],
            2: lambda: explain(shared, sequences[:4], heads=["hic"])["results"][0]["total"][0],
            3: lambda: shared.ask("POST", "/v1/embed", sequences[:4]).status,
        }

        def release() -> None:
            until(lambda: len(shared.scheduler._unsettled) == len(work))
            shared.engine.go_on.set()

        p, logit, value, status, _ = at_once(lambda number: work.get(number, release)(), len(work) + 1)
    hic = shared.session.score(sequences[:1], ["hic"])[0, 0]
    assert sigmoid(np.array(logit)) == pytest.approx(p, abs=BATCH_NEIGHBOURS)
    assert value == pytest.approx(hic, rel=1e-4) and status == 200
    assert shared.value("abonyx_sequences_total", output="contributions") == before + 8


def test_what_is_refused(shared: Running) -> None:
    limit = f"max_explained_sequences is {MOST}"
    many = made_up(MOST + 1, 1)
    refused(shared.ask("POST", "/v1/explain", many), 413, limit)
    refused(shared.ask("POST", "/v1/explain", "sequence\n" + "\n".join(many), CSV), 413, limit)
    assert shared.score(many).status == 200
    refused(shared.ask("POST", "/v1/explain", {"sequences": [VH], "threshold": 0.5}), 422, "threshold")
    refused(shared.ask("POST", "/v1/explain?with=charge", b"sequence\nEVQL\n", CSV), 422, "with")
    refused(shared.ask("POST", "/v1/explain", {"sequences": [VH], "heads": ["no"]}), 422, "no")
    refused(shared.ask("POST", "/v1/explain", []), 422, "no sequences")
    refused(shared.ask("POST", "/v1/explain", ["EV-QL"]), 422, "cannot be scored")


def test_a_bundle_without_contributions_says_how_to_get_them(shared: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    model = dataclasses.replace(shared.scheduler.model(), gives_contributions=False)
    monkeypatch.setattr(shared.scheduler, "_model", model)
    answer = shared.ask("POST", "/v1/explain", [VH])
    refused(answer, 501, "its graph gives no contributions")
    assert "Export it again" in answer.json["fix"]
    assert shared.score([VH]).status == 200


def test_contributions_that_do_not_sum_fail_their_own_request(shared: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("abonyx.contributions.CONTRIBUTION_SUM", 0.0)
    refused(shared.ask("POST", "/v1/explain", [VH]), 500, "contributions to head")
    assert shared.score([VH]).status == 200
