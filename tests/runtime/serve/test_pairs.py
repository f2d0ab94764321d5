"""Pairs over HTTP: in JSON and in files, scored with heads on both chains, beside requests for heads of one chain."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

for _name in ("fastapi", "uvicorn", "prometheus_client"):
    pytest.importorskip(_name, reason="the serve extra is not installed")

from abonyx.bundle.tolerances import BATCH_NEIGHBOURS, CONTRIBUTION_SUM  # noqa: E402
from abonyx.config import RuntimeConfig  # noqa: E402

from ..input.test_pairs import LIGHT, heavy_chains  # noqa: E402
from ..paired import make_paired  # noqa: E402
from .serving import CSV, Running, at_once, refused, service  # noqa: E402

PAIRS = [(heavy, LIGHT if at % 2 else LIGHT[:-1] + "R") for at, heavy in enumerate(heavy_chains())]
CLOSE = {"rtol": 0, "atol": BATCH_NEIGHBOURS}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    bundle: Path = make_paired(tmp_path_factory.mktemp("bundles") / "paired")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ABONYX_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))
        with service(RuntimeConfig(bundle=str(bundle))) as running:
            yield running


@pytest.fixture(autouse=True)
def isolated() -> None:
    """Replaces conftest's fixture: the module's service keeps its session open."""


def items(pairs: list[tuple[str, str]] = PAIRS) -> list[dict[str, str]]:
    return [{"id": f"m{at}", "heavy": heavy, "light": light} for at, (heavy, light) in enumerate(pairs)]


def post(shared: Running, sequences: Any, **more: Any) -> Any:
    return shared.ask("POST", "/v1/score", {"sequences": sequences, **more})


def test_pairs_in_json(shared: Running) -> None:
    answer = post(shared, items(), heads="all").json
    expected = dict(zip(("psr", "hic"), shared.session.score(PAIRS, ("psr", "hic")).T, strict=True))
    assert answer["chains"] == ["H", "L"] and answer["rejected"] == []
    assert [(row["heavy"], row["light"]) for row in answer["results"]] == PAIRS
    assert list(answer["results"][0])[:4] == ["id", "heavy", "light", "p_nonspecific"]
    np.testing.assert_allclose([row["p_nonspecific"] for row in answer["results"]], expected["psr"], **CLOSE)
    np.testing.assert_allclose([row["heads"]["hic_value"] for row in answer["results"]], expected["hic"], **CLOSE)
    assert {row["flag"] for row in answer["results"]} == {""}


def test_contributions_of_both_chains(shared: Running) -> None:
    names = ["psr", "hic", "light"]
    answer = shared.ask("POST", "/v1/explain", {"sequences": items(PAIRS[:1]), "heads": names}).json
    (row,) = answer["results"]
    assert [chain["chain"] for chain in row["chains"]] == ["H", "L"]
    heavy, light = (
        np.array([residue["contributions"] for residue in chain["residues"]]).sum(axis=0) for chain in row["chains"]
    )
    assert [len(chain["residues"]) for chain in row["chains"]] == [len(chain) for chain in PAIRS[0]]
    assert heavy[2] == 0 and light[2] != 0
    np.testing.assert_allclose(np.array(row["baseline"]) + heavy + light, row["total"], rtol=0, atol=CONTRIBUTION_SUM)
    hic = shared.session.score(PAIRS[:1], ("hic",))[0, 0]
    np.testing.assert_allclose(row["total"][1], hic, **CLOSE)


def test_a_table_and_fasta(shared: Running) -> None:
    expected = shared.session.score(PAIRS, ("psr",))[:, 0]
    rows = "".join(f"m{at},{light},{heavy}\n" for at, (heavy, light) in enumerate(PAIRS))
    fasta = "".join(f">m{at}|H\n{heavy}\n>m{at}|L\n{light}\n" for at, (heavy, light) in enumerate(PAIRS))
    for path, body in (
        ("/v1/score", f"id,VL,VH\n{rows}"),
        ("/v1/score?heavy_column=b&light_column=a", f"id,a,b\n{rows}"),
        ("/v1/score", fasta),
    ):
        answer = shared.ask("POST", path, body.encode(), CSV).json
        np.testing.assert_allclose([row["p_nonspecific"] for row in answer["results"]], expected, **CLOSE)
        assert [row["id"] for row in answer["results"]] == [f"m{at}" for at in range(len(PAIRS))]


def test_a_missing_chain(shared: Running) -> None:
    given = [*items()[:2], {"id": "alone", "heavy": PAIRS[0][0]}, {"id": "light", "heavy": "", "light": LIGHT}]
    refused(post(shared, given), 422, "no light chain: the heads need both chains of a record")
    answer = post(shared, given, on_invalid="skip").json
    assert len(answer["results"]) == 2
    assert [(one["id"], one["line"]) for one in answer["rejected"]] == [("alone", 3), ("light", 4)]
    assert answer["rejected"][1]["reason"].startswith("no heavy chain")


def test_a_record_without_the_chain_is_left_out_alone(shared: Running) -> None:
    given = [*items()[:2], {"id": "heavy", "heavy": PAIRS[0][0]}, {"id": "one", "sequence": LIGHT}]
    answer = post(shared, given, heads=["light"], on_invalid="skip").json
    assert [row["id"] for row in answer["results"]] == [items()[0]["id"], items()[1]["id"], "one"]
    (only,) = answer["rejected"]
    assert (only["id"], only["line"]) == ("heavy", 3) and only["reason"].startswith("has no light chain")


def test_heads_of_one_chain_take_it(shared: Running) -> None:
    for head, chain in (("nonspecificity", 0), ("light", 1)):
        own = [pair[chain] for pair in PAIRS]
        expected = shared.session.score(own, (head,))[:, 0]
        for given in (items(), own):
            answer = post(shared, given, heads=[head]).json
            assert answer["chains"] == ["HL"[chain]]
            assert [row["sequence"] for row in answer["results"]] == own
            assert {row["flag"] for row in answer["results"]} == {""}
            np.testing.assert_allclose([row["heads"][f"{head}_p"] for row in answer["results"]], expected, **CLOSE)


@pytest.mark.parametrize(
    ("given", "more", "part"),
    [
        ([PAIRS[0][0]], {}, "is one sequence, and the heads need both chains"),
        ([{"id": "a", "sequence": PAIRS[0][0]}], {}, "is one sequence"),
        ([{"id": "a"}], {}, "missing required field `sequence`"),
        ([{"id": "a", "sequence": LIGHT, "light": LIGHT}], {}, "give one of them"),
        ([{"id": "a", "heavy": PAIRS[0][0]}], {"heads": ["light"]}, "has no light chain"),
        ([{"id": "a", "heavy": 1}], {}, "$.sequences[0].heavy"),
    ],
)
def test_what_is_no_pair(given: Any, more: dict[str, Any], part: str, shared: Running) -> None:
    refused(post(shared, given, **more), 422, part)


def test_columns_that_do_not_fit(shared: Running) -> None:
    body = f"id,VH,VL\na,{PAIRS[0][0]},{LIGHT}\n".encode()
    refused(shared.ask("POST", "/v1/score?sequence_column=VH", body, CSV), 422, "the heads need both chains")
    refused(shared.ask("POST", "/v1/score?heavy_column=x", body, CSV), 422, "no column 'x'")
    lines = {"Content-Type": "text/plain"}
    refused(
        shared.ask("POST", "/v1/score", LIGHT.encode(), lines),
        422,
        "one sequence on each line, but the heads need both",
    )


def test_requests_of_both_kinds_share_the_queue(shared: Running) -> None:
    own = [pair[0] for pair in PAIRS]
    expected = [shared.session.score(PAIRS, ("psr",))[:, 0], shared.session.score(own, ("nonspecificity",))[:, 0]]

    def ask(number: int) -> list[float]:
        if number % 2:
            rows = post(shared, own, heads=["nonspecificity"]).json["results"]
            return [row["heads"]["nonspecificity_p"] for row in rows]
        return [row["p_nonspecific"] for row in post(shared, items()).json["results"]]

    for number, values in enumerate(at_once(ask, 8)):
        np.testing.assert_allclose(values, expected[number % 2], **CLOSE)


def test_embed_takes_single_sequences(shared: Running) -> None:
    answer = shared.ask("POST", "/v1/embed", {"sequences": [PAIRS[0][0], LIGHT]}).json
    assert [len(row["embedding"]) for row in answer["results"]] == [answer["width"]] * 2
    assert answer["flags"] == {}


def test_the_model_says_which_chains_a_head_needs(shared: Running) -> None:
    found = shared.ask("GET", "/v1/model").json
    assert found["chains"] == ["H", "L"]
    assert {head["name"]: head["chains"] for head in found["heads"]}["light"] == ["L"]
    schemas = shared.ask("GET", "/openapi.json").json["components"]["schemas"]
    assert {"heavy", "light"} <= schemas["Sequence"]["properties"].keys()
