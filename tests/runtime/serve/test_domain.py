"""Chain and domain over HTTP: the same flags and refusals as in Python and on the command line."""

from __future__ import annotations

import csv
import json
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

for _name in ("fastapi", "uvicorn", "prometheus_client"):
    pytest.importorskip(_name, reason="the serve extra is not installed")

import abonyx  # noqa: E402
from abonyx.serve import requests  # noqa: E402

from ..domain.proteins import CH1, DNA, GFP, KAPPA, LAMBDA, NANOBODY, SCFV, VH  # noqa: E402
from .serving import CSV, NDJSON, PATIENCE_S, Answer, Running, refused, service, until  # noqa: E402

LONGEST = 148  # residues that mini takes
MIXED = {
    "heavy": VH,
    "kappa": KAPPA,
    "lambda": LAMBDA,
    "scfv": SCFV,
    "part-of-gfp": GFP[:LONGEST],
    "nanobody": NANOBODY,
    "dna": DNA,
    "unknown": VH.replace("GFN", "GXN"),
    "lower": VH.lower(),
    "fragment": VH[10:],
    "tagged": VH + "HHHHHH",
    "heavy-again": VH,
}
TABLE = "id,sequence\n" + "".join(f"{id_},{sequence}\n" for id_, sequence in MIXED.items())
FLAGS = {
    "heavy": "",
    "kappa": "light chain (kappa)",
    "lambda": "light chain (lambda)",
    "part-of-gfp": "no antibody domain",
    "nanobody": "nanobody-like",
    "unknown": "1 unknown residue (X)",
    "lower": "",
    "fragment": "fragment",
    "tagged": "6 residues outside the domain",
    "heavy-again": "",
}
TRUSTED = ("heavy", "nanobody", "lower", "heavy-again")


def ask(running: Running, **more: str) -> list[Answer]:
    """The mixed set as JSON, in one answer and in lines, and as a file."""
    options = {"on_invalid": "skip", **more}
    items = [{"id": id_, "sequence": sequence} for id_, sequence in MIXED.items()]
    query = "&".join(f"{name}={value}" for name, value in options.items())
    return [
        running.ask("POST", "/v1/score", {"sequences": items, **options}),
        running.ask("POST", "/v1/score", {"sequences": items, **options}, NDJSON),
        running.ask("POST", f"/v1/score?{query}", TABLE, CSV),
    ]


def last(answer: Answer) -> Any:
    assert answer.status == 200, answer.body
    return json.loads(answer.body.splitlines()[-1])


@pytest.mark.parametrize("options", [{}, {"domain": "require"}, {"trim": "domain"}, {"domain": "off"}])
@pytest.mark.parametrize("judging", [0, 2])
def test_flags_are_those_of_python_and_of_the_command_line(
    run: Any, tmp_path: Path, judging: int, options: dict[str, str]
) -> None:
    (tmp_path / "in.csv").write_text(TABLE)
    out = tmp_path / "out.csv"
    flags = [text for name, value in options.items() for text in (f"--{name}", value)]
    done = run("score", tmp_path / "in.csv", "-o", out, "--on-invalid", "skip", *flags)
    assert done.code == 0, done.err
    rows = list(csv.DictReader(out.read_text().splitlines()))
    bad = list(csv.DictReader((tmp_path / "out.csv.rejected.csv").read_text().splitlines()))
    with service(judging=judging) as running:
        answers = [last(answer) for answer in ask(running, **options)]
        assert len(psutil.Process().children()) == judging
    assert answers[0]["results"] == answers[1]["results"] and answers[0]["rejected"] == answers[1]["rejected"]
    for answer in answers:
        found = answer["results"]
        assert [row["id"] for row in found] == [row["id"] for row in rows]
        for name in ("sequence", "flag", *(["domain"] if "trim" in options else [])):
            assert [row[name] for row in found] == [row[name] for row in rows], name
        assert [("" if row["nonspecific"] is None else str(row["nonspecific"])) for row in found] == [
            row["nonspecific"] for row in rows
        ]
        assert ("domain" in found[0]) == ("trim" in options)
        assert [(row["id"], row["reason"]) for row in answer["rejected"]] == [(row["id"], row["reason"]) for row in bad]
        assert (answer["domain"], answer["trim"]) == (options.get("domain", "check"), options.get("trim"))
    assert [row["line"] for row in answers[2]["rejected"]] == [int(row["line"]) for row in bad]
    if not options:
        judgements = dict(zip(MIXED, abonyx.judge(MIXED.values()), strict=True))
        assert [row["flag"] for row in found] == [judgements[row["id"]].text for row in found]


def test_what_is_flagged_refused_and_counted() -> None:
    with service() as running:
        for found in map(last, ask(running)):
            assert {row["id"]: row["flag"] for row in found["results"]} == FLAGS
            assert tuple(row["id"] for row in found["results"] if row["nonspecific"] is not None) == TRUSTED
            assert found["flags"] == {
                **{"light chain (kappa)": 1, "light chain (lambda)": 1, "no antibody domain": 1, "nanobody-like": 1},
                **{"unknown residues (X)": 1, "fragment": 1, "residues outside the domain": 1},
            }
            reasons = {row["id"]: row["reason"] for row in found["rejected"]}
            assert list(reasons) == ["scfv", "dna"]
            assert "two domains; 15 residues outside the domain" in reasons["scfv"]  # too long, and what it is
            assert "looks like DNA or RNA" in reasons["dna"]
        for found in map(last, ask(running, domain="require")):
            assert tuple(row["id"] for row in found["results"]) == TRUSTED
            reasons = {row["id"]: row["reason"] for row in found["rejected"]}
            assert all(reasons[id_] == flag for id_, flag in FLAGS.items() if id_ not in TRUSTED)
        for found in map(last, ask(running, domain="off")):
            assert {row["flag"] for row in found["results"]} == {""} and found["flags"] == {}
            assert all(row["nonspecific"] is not None for row in found["results"])


def test_a_refused_record_is_named_with_its_place() -> None:
    with service() as running:
        refused(running.ask("POST", "/v1/score", TABLE, CSV), 422, "request:8: dna: looks like DNA or RNA")
        refused(running.score([VH, KAPPA], domain="require"), 422, "request:2: s1: light chain (kappa)")


def test_trim_scores_the_domain_and_shows_the_whole() -> None:
    whole = [VH, SCFV, VH + CH1, f"M{VH}HHHHHH", KAPPA]
    with service() as running:
        alone = running.score([VH, KAPPA]).json["results"]
        found = running.score(whole, trim="domain").json["results"]
        items = [{"id": str(at), "sequence": sequence} for at, sequence in enumerate(whole)]
        embedded = running.ask("POST", "/v1/embed", {"sequences": items, "trim": "domain"}).json
    length = len(VH)
    assert [row["sequence"] for row in found] == whole
    assert [row["domain"] for row in found] == [*[f"1-{length}"] * 3, f"2-{length + 1}", f"1-{len(KAPPA)}"]
    assert [row["flag"] for row in found] == ["", "", "", "", "light chain (kappa)"]
    expected = [alone[0]["p_nonspecific"]] * 4 + [alone[1]["p_nonspecific"]]
    assert [row["p_nonspecific"] for row in found] == pytest.approx(expected, abs=1e-5)
    assert embedded["flags"] == {"light chain (kappa)": 1} and embedded["trim"] == "domain"
    assert embedded["results"][1]["embedding"] == pytest.approx(embedded["results"][0]["embedding"], abs=1e-4)


def test_a_small_request_does_not_wait_until_a_large_one_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    inside, free = threading.Event(), threading.Event()
    check = requests.check_records

    def slowly(records: Any, *given: Any, **more: Any) -> Any:
        rows = list(records)
        if len(rows) > 1:
            inside.set()
            while not free.wait(0.001):
                more["step"]()  # as between any two records
        return check(rows, *given, **more)

    monkeypatch.setattr(requests, "check_records", slowly)
    many = [VH] * 100
    with service() as running:
        answers: list[Answer] = []
        large = threading.Thread(target=lambda: answers.append(running.score(many)))
        large.start()
        try:
            assert inside.wait(PATIENCE_S)
            assert running.score([VH]).status == 200 and not answers
        finally:
            free.set()
        large.join(PATIENCE_S)
        until(lambda: answers)
    assert answers[0].status == 200
