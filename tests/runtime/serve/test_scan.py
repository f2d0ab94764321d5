"""POST /v1/scan: the session's scan as columns, progress, refusals, and a client that leaves."""

from __future__ import annotations

import dataclasses
import http.client
import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

for _name in ("fastapi", "uvicorn", "prometheus_client"):
    pytest.importorskip(_name, reason="the serve extra is not installed")

import abonyx  # noqa: E402
from abonyx.bundle.tolerances import BATCH_NEIGHBOURS  # noqa: E402
from abonyx.config import RuntimeConfig  # noqa: E402
from abonyx.errors import InputTooLarge, ScoreNotFinite  # noqa: E402
from abonyx.explain.places import places  # noqa: E402
from abonyx.explain.scan_mutants import AMINO_ACIDS  # noqa: E402
from abonyx.explain.scan_result import NOT_VALIDATED  # noqa: E402
from abonyx.explain.validated import Validated  # noqa: E402
from abonyx.serve.interfaces import PAGE_HEADER  # noqa: E402
from abonyx.serve.scans import plan_scan_request  # noqa: E402
from abonyx.serve.settings import Settings  # noqa: E402
from abonyx.serve.speed import Speed  # noqa: E402
from abonyx.session import Session  # noqa: E402
from abonyx.wording import Interface, in_words, option  # noqa: E402

from ..domain.proteins import KAPPA, LAMBDA, NANOBODY, VH  # noqa: E402
from ..paired import make_paired  # noqa: E402
from .serving import CSV, JSON, NDJSON, PATIENCE_S, Running, at_once, refused, service, until  # noqa: E402

# Most residues are left out, because each mutant takes time.
EXCLUDED = [residue for residue in AMINO_ACIDS if residue not in "ADKNW"]
MOST = 60
# Three rounds.
LONG = {"positions": "105-117", "exclude": [*EXCLUDED, "N"]}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A bundle with heads of both chains, of the heavy chain (first) and of the light chain."""
    folder = tmp_path_factory.mktemp("heads")
    bundle = make_paired(folder / "paired", {"nonspecificity": ("H",), "psr": ("H", "L"), "light": ("L",)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ABONYX_CACHE_DIR", str(folder / "cache"))
        config = RuntimeConfig(bundle=str(bundle), token_budget=256)
        with service(config, max_scan_mutants=MOST) as running:
            yield running


@pytest.fixture(autouse=True)
def isolated() -> None:
    """Replaces conftest's fixture: the module's service keeps its session open."""


def ask(running: Running, headers: dict[str, str] | None = None, **body: Any) -> Any:
    return running.ask("POST", "/v1/scan", {"sequence": VH, "exclude": EXCLUDED, **body}, headers)


def scan(running: Running, **body: Any) -> Any:
    answer = ask(running, **body)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json"), answer.body
    return answer.json


def same(found: dict[str, list[Any]], expected: dict[str, Any]) -> None:
    """Check that the columns of two scans are equal, although their batches differ."""
    assert list(found) == list(expected)
    for name, cells in expected.items():
        if cells and isinstance(cells[0], float) and name.startswith(("nonspecificity", "p_", "light")):
            np.testing.assert_allclose(found[name], cells, rtol=0, atol=50 * BATCH_NEIGHBOURS)  # of logits
        else:
            assert found[name] == cells, name


def test_it_is_the_sessions_scan(shared: Running) -> None:
    answer = scan(shared, id="mab", positions="107,30", rank=True)
    expected = abonyx.scan(Session(shared.session), VH, positions="107,30", exclude=EXCLUDED)
    same(answer["columns"], json.loads(json.dumps(expected.table(rank=True))))
    assert answer["mutants"] == len(expected.mutants) == len(answer["columns"]["mutant"]) <= 10
    assert answer["statement"] == NOT_VALIDATED == answer["notes"][0]
    parent = answer["parent"]
    assert (parent["id"], parent["sequence"], parent["chain"], parent["flag"]) == ("mab", VH, "H", "")
    assert (parent["net_charge"], parent["pI"]) == (round(expected.charge, 4), round(expected.pi, 4))
    assert "domain" not in parent
    (head,) = answer["heads"]
    own = expected.head()
    assert own.fit is not None
    assert (head["name"], head["column"], head["unit"], head["sd"]) == ("nonspecificity", "p_nonspecific", None, None)
    assert head["parent"] == pytest.approx(own.parent, abs=BATCH_NEIGHBOURS)
    assert list(head["charge"].values()) == pytest.approx(list(own.fit), abs=1e-3)
    assert head["words"].startswith(f"nonspecificity: over {own.fit.n} mutants, change = ")
    assert (answer["positions"], len(answer["exclude"])) == ("107,30", 15)
    assert (
        scan(shared, positions=[107, "30"], exclude=",".join(EXCLUDED))["columns"]
        == scan(shared, positions="107,30")["columns"]
    )


def test_a_light_chain_a_longer_record_and_one_that_is_not_judged(shared: Running) -> None:
    body = {"positions": "107", "heads": ["light"]}
    light = shared.ask("POST", "/v1/scan", {"heavy": VH, "light": LAMBDA, "exclude": EXCLUDED, **body}).json
    assert (light["parent"]["sequence"], light["parent"]["chain"]) == (LAMBDA, "L")
    assert "light_change" in light["columns"] and set(light["columns"]["seen_in_repertoire"]) == {None}
    trimmed = scan(shared, sequence=f"GSGSGSGSGSGS{VH}", positions="107", trim="domain")
    assert (trimmed["parent"]["sequence"], trimmed["parent"]["domain"]) == (VH, f"13-{12 + len(VH)}")
    assert trimmed["columns"]["position"] == scan(shared, positions="107")["columns"]["position"]
    unjudged = scan(shared, sequence="EVQLVESGG", positions="all", exclude=list(AMINO_ACIDS[1:]), domain="off")
    assert set(unjudged["columns"]["flag"]) == {""} and unjudged["parent"]["flag"] == ""
    assert scan(shared, sequence=NANOBODY, positions="107")["parent"]["flag"] == "nanobody-like"


def test_progress_comes_in_lines_and_the_answer_last(shared: Running) -> None:
    with shared.engine.held():

        def release(_number: int) -> None:
            until(lambda: shared.scheduler._unsettled)
            shared.engine.go_on.set()

        answer, _ = at_once(lambda number: ask(shared, NDJSON, positions="107") if not number else release(number), 2)
    assert answer.headers["content-type"] == "application/x-ndjson"
    *progress, last = map(json.loads, answer.body.splitlines())
    assert progress[0]["total"] == last["mutants"] + 1 and "problem" not in last
    assert last["columns"] == scan(shared, positions="107")["columns"]


def test_scores_are_run_between_a_scans_rounds(shared: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    run, rounds = shared.scheduler._score, list[list[str]]()

    def noted(shares: Any) -> None:
        rounds.append(["score" if job.totals is None else "scan" for job, _ in shares])
        run(shares)

    monkeypatch.setattr(shared.scheduler, "_score", noted)
    with shared.engine.held():
        work = {0: lambda: ask(shared, **LONG).status, 1: lambda: after(1, lambda: shared.score([VH, KAPPA]).status)}

        def after(count: int, then: Any) -> Any:
            until(lambda: len(shared.scheduler._unsettled) == count)
            shared.engine.inside.wait(PATIENCE_S)
            return then()

        statuses = at_once(lambda at: work[at]() if at in work else after(2, shared.engine.go_on.set), 3)
    assert statuses[:2] == [200, 200]
    assert rounds == [["scan"], ["scan"], ["score"], ["scan"]]


def test_clients_that_leave_take_their_mutants_with_them(shared: Running) -> None:
    rows = shared.engine.rows
    body = json.dumps({"sequence": VH, "exclude": EXCLUDED, **LONG})
    for headers in (JSON, JSON | NDJSON):
        with shared.engine.held():
            connection = http.client.HTTPConnection(shared.host, shared.port, timeout=PATIENCE_S)
            connection.request("POST", "/v1/scan", body, headers)
            until(lambda: shared.scheduler._unsettled and shared.engine.inside.is_set())
            (job,) = shared.scheduler._unsettled
            assert job.left  # a round takes some of them
            connection.close()
            until(lambda: not shared.scheduler._unsettled)
    assert shared.score([VH]).status == 200
    assert shared.engine.rows - rows < 2 * len(job.sequences)


def test_what_is_refused(shared: Running) -> None:
    refused(ask(shared, positions="300"), 422, "positions: 300 lies outside a domain")
    refused(ask(shared, positions="111A"), 422, "positions 111A: parent has no residue there")
    refused(ask(shared, positions="x"), 422, "is not an IMGT position")
    refused(ask(shared, positions=[]), 422, "is not an IMGT position")
    refused(ask(shared, exclude="B"), 422, "exclude: 'B'")
    refused(ask(shared, sequence=KAPPA), 422, "parent: is flagged: light chain (kappa)")
    refused(ask(shared, id="K", sequence=KAPPA, positions="cdr"), 422, "K: is flagged")
    tagged = ask(shared, sequence=VH + "HHHHHH")
    refused(tagged, 422, "6 residues outside the domain")
    assert tagged.json["fix"].endswith("To cut off what lies outside the domain, use trim domain.")
    page = ask(shared, {PAGE_HEADER: "1"}, sequence=VH + "HHHHHH").json
    assert page["fix"].endswith(f"use {in_words(option('trim_domain'), Interface.PAGE)}.")
    for body in ({"sequence": KAPPA}, {"sequence": VH[:90] + "HHHHHH", "trim": "domain"}):
        answer = ask(shared, **body)
        refused(answer, 422, "parent: is flagged")
        assert "trim domain" not in answer.json["fix"]
    refused(ask(shared, sequence="EVQLVESGG", domain="off"), 422, "no antibody domain was found")
    refused(ask(shared, sequence="EV-QL"), 422, "cannot be scored")
    refused(ask(shared, heads=["psr"]), 422, "psr expects both chains of a record, and a scan changes one")
    refused(ask(shared, heads="all"), 422, "psr expects both chains")
    refused(ask(shared, heads=["no"]), 422, "no")
    refused(ask(shared, sequence=LAMBDA, heads=["light"], rank=True), 422, "rank: parent is not a heavy chain")
    refused(ask(shared, domain="off", trim="domain"), 422, "trim is domain and domain is off")
    refused(ask(shared, sequences=[VH]), 422, "sequences")
    refused(ask(shared, domain="no"), 422, "allowed: 'check', 'require', 'off'")
    refused(shared.ask("POST", "/v1/scan", [VH]), 422, "array")
    refused(shared.ask("POST", "/v1/scan", b"{", JSON), 422, "request: ")
    refused(shared.ask("POST", "/v1/scan?rank=true", {"sequence": VH}), 422, "rank in the query")
    answer = shared.ask("POST", "/v1/scan", b"sequence\nEVQL\n", CSV)
    refused(answer, 415, "text/csv")
    assert answer.json["fix"] == "Send application/json, in UTF-8."
    assert shared.score([VH]).status == 200


def test_too_many_mutants_say_what_to_choose(shared: Running) -> None:
    answer = ask(shared, exclude="")
    refused(answer, 413, f"mutants; max_scan_mutants is {MOST}")
    assert answer.json["fix"] == "Choose fewer positions, or name residues to exclude."
    refused(ask(shared, positions="all", sequence="A" * 170_000, domain="off"), 413, "bytes; a scan has one parent")


@pytest.mark.parametrize(
    ("limit", "most"), [("max_scan_mutants", 4), ("max_sequences", 5), ("max_residues_per_request", 5 * len(VH))]
)
def test_each_limit_is_named(shared: Running, limit: str, most: int) -> None:
    """Five mutants and their parent."""
    settings = dataclasses.replace(Settings(), **{limit: most})
    body = json.dumps({"sequence": VH, "positions": "107", "exclude": EXCLUDED[:14]}).encode()
    with pytest.raises(InputTooLarge, match=f"{limit} is {most}"):
        plan_scan_request(body, shared.scheduler.model(), settings, lambda: None)


def test_a_scan_that_cannot_end_in_time_is_refused_before_it_starts(
    shared: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = shared.engine.rows
    tokens = 5 * (len(VH) + 2)  # four mutants and their parent
    speed = Speed(600)
    monkeypatch.setattr(shared.scheduler, "_speed", speed)
    speed.add(tokens, 59)
    speed.add(tokens, 1_941)  # 1,000 s for the scan
    answer = ask(shared, positions="107")
    refused(answer, 413, "request_timeout_s is 600")
    said = r"parent: the scan has 5 sequences with their parent, which take about 10\d\d s on this service; "
    assert re.search(said, answer.json["detail"])  # 1000 s, and the time since the request came
    assert "Choose fewer positions" in answer.json["fix"] and "`abonyx scan` has no limit of time" in answer.json["fix"]
    assert shared.engine.rows == rows
    monkeypatch.setattr(shared.scheduler, "_speed", faster := Speed(600))
    faster.add(tokens, 740)  # an estimate can be off: this is tried
    assert ask(shared, positions="107").status == 200


def test_each_heads_statement_is_told(shared: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    other = dataclasses.replace(shared.scheduler.model(), validated=Validated("light", "Worse than chance."))
    monkeypatch.setattr(shared.scheduler, "_model", other)
    assert scan(shared, positions="107")["statement"] == NOT_VALIDATED
    light = {"sequence": LAMBDA, "positions": "107", "heads": ["light"]}
    assert scan(shared, **light)["statement"] == "Worse than chance."


def test_pooling_by_batches_is_refused(shared: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service opens no such bundle, but a scan must refuse it independently."""
    model = shared.scheduler.model()
    config = RuntimeConfig(bundle=model.config.bundle, pooling="upstream-batch", batch_size=8)
    monkeypatch.setattr(shared.scheduler, "_model", dataclasses.replace(model, config=config))
    refused(ask(shared, positions="107"), 422, "pooling upstream-batch")


def test_a_score_that_is_not_finite_names_its_mutant(shared: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_number(*_given: Any, ids: list[str], **_more: Any) -> Any:
        raise ScoreNotFinite(f"a score is not finite: {ids[1]}", "Use another variant.")

    monkeypatch.setattr("abonyx.serve.scheduler.run_totals", no_number)
    old = next(place.residue for place in places(VH) if place.imgt == "107")
    refused(ask(shared, positions="107"), 500, f"parent {old}107A")
