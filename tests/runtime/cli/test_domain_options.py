"""--domain and --trim of `abonyx score`, as a user sees them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from ..input.test_judged import DNA, HEAVY, LIGHT, SCFV

NANOBODY = (
    "QVQLVESGGGLVQAGGSLRLSCAASGRTFSSYAMGWFRQAPGKEREFVAAISWSGGSTYYADSVKGRFTISRDNAKNTVYLQMNSLKPED"
    "TAVYYCAADRGSYYSTQPNEYDYWGQGTQVTVSS"
)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    path = tmp_path / "mixed.fasta"
    path.write_text(f">heavy\n{HEAVY}\n>light\n{LIGHT}\n>vhh\n{NANOBODY}\n", encoding="utf-8")
    return path


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_flagged_record_has_a_score_and_no_call(run: Any, mixed: Path, tmp_path: Path) -> None:
    done = run("score", mixed, "-o", tmp_path / "out.csv", "--table")
    assert done.code == 0
    heavy, light, vhh = rows(tmp_path / "out.csv")
    assert (heavy["flag"], light["flag"], vhh["flag"]) == ("", "light chain (kappa)", "nanobody-like")
    assert (heavy["nonspecific"] in ("0", "1"), light["nonspecific"]) == (True, "")
    assert vhh["nonspecific"] in ("0", "1"), "nanobody-like alone is a note, not a doubt"
    assert 0 < float(light["p_nonspecific"]) < 1
    assert "flagged: 2 of 3 records (light chain (kappa) 1, nanobody-like 1); 1 without a call" in done.err
    assert run("score", mixed, "-o", tmp_path / "out.jsonl").code == 0
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["nonspecific"] is None for line in lines] == [False, True, False]


def test_require_rejects_and_off_says_that_nothing_was_looked_at(run: Any, mixed: Path, tmp_path: Path) -> None:
    refused = run("score", mixed, "-o", tmp_path / "out.csv", "--domain", "require")
    assert refused.code == 3
    assert "mixed.fasta:3: light: light chain (kappa)" in refused.err
    skipped = run("score", mixed, "-o", tmp_path / "out.csv", "--domain", "require", "--on-invalid", "skip")
    assert [row["id"] for row in rows(tmp_path / "out.csv")] == ["heavy", "vhh"]
    assert "1 rejected" in skipped.err
    off = run("score", mixed, "-o", tmp_path / "off.csv", "--domain", "off")
    assert "chain and domain were not looked at" in off.err
    assert [row["flag"] for row in rows(tmp_path / "off.csv")] == ["", "", ""]
    assert rows(tmp_path / "off.csv")[1]["nonspecific"] == "1"


def test_trim_names_the_range_and_needs_a_look(run: Any, tmp_path: Path) -> None:
    source = tmp_path / "scfv.csv"
    source.write_text(f"id,sequence\na,{SCFV}\nb,{HEAVY}\n", encoding="utf-8")
    assert run("score", source, "-o", tmp_path / "out.csv").code == 3, "longer than the bundle takes"
    assert run("score", source, "-o", tmp_path / "out.csv", "--trim", "domain").code == 0
    scfv, heavy = rows(tmp_path / "out.csv")
    assert (scfv["sequence"], scfv["domain"], heavy["domain"]) == (SCFV, f"1-{len(HEAVY)}", f"1-{len(HEAVY)}")
    assert scfv["p_nonspecific"] == heavy["p_nonspecific"]
    wrong = run("score", source, "-o", tmp_path / "x.csv", "--trim", "domain", "--domain", "off")
    assert wrong.code == 2
    assert "--trim domain with --domain off" in wrong.err


def test_nucleotides_are_refused_with_the_column_that_may_hold_the_protein(run: Any, tmp_path: Path) -> None:
    source = tmp_path / "x.csv"
    source.write_text(f"id,sequence\na,{DNA}\n", encoding="utf-8")
    done = run("score", source, "-o", tmp_path / "out.csv")
    assert done.code == 3
    assert "x.csv:2: a: looks like DNA or RNA" in done.err
    assert "sequence_aa" in done.err


def test_the_rule_is_a_part_of_a_runs_identity(run: Any, mixed: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    for check in ("check", "off"):
        assert run("score", mixed, "-o", tmp_path / f"{check}.parquet", "--domain", check).code == 0
    said = [pq.read_schema(tmp_path / f"{check}.parquet").metadata[b"abonyx.domain"] for check in ("check", "off")]
    assert b"immunum" in said[0]
    assert said[0] != said[1]
