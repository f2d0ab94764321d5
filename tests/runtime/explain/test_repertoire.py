"""The shipped table of human heavy chains, and the script that makes it."""

from __future__ import annotations

import csv
import gzip
import json
import sys
from pathlib import Path

import msgspec
import pytest

import repertoire_table
from abonyx.explain.places import region_of
from abonyx.explain.repertoire import SEEN, Repertoire, repertoire
from abonyx.explain.scan_mutants import AMINO_ACIDS

from ..domain.proteins import KAPPA, VH


def test_the_table_says_where_it_is_from() -> None:
    table = repertoire()
    assert set(table.sources) == {"tnp_vh_oas", "oas_bernat2019_igg", "oas_briney2019_igm"}
    assert "CC BY 4.0" in table.licence
    assert table.source().startswith(f"{table.domains:,} human VH of OAS")
    assert all(region_of(position) for position in table.counts)
    assert {residue for counts in table.counts.values() for residue in counts} <= set(AMINO_ACIDS)
    assert all(100 <= sum(counts.values()) <= table.domains for counts in table.counts.values())


def test_shares() -> None:
    table = repertoire()
    cysteine = table.share("104", "C")
    assert cysteine is not None and cysteine > 0.99
    assert table.share("104", "K") == 0.0
    assert table.share("10", "G") is None  # human heavy chains have no residue there
    seen = [residue for residue in AMINO_ACIDS if (table.share("105", residue) or 0) >= SEEN]
    assert sorted(seen) == ["A", "G", "T", "V"]


def test_the_script_counts_heavy_domains_of_the_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "repertoire.csv.gz"
    rows = [("tnp_vh_oas", VH), ("oas_bernat2019_igg", VH[:10] + "T" + VH[11:]), ("oas_briney2019_igm", VH[15:])]
    rows += [("tnp_vh_oas", KAPPA), ("avida_sc2_binder", VH)]  # a light chain, and another source
    with gzip.open(path, "wt", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("id", "sequence", "domain", "source"), *((0, s, "VH", of) for of, s in rows)])
    monkeypatch.setattr(repertoire_table, "FEWEST", 2)
    monkeypatch.setattr(sys, "argv", ["repertoire_table.py", str(path)])
    repertoire_table.main()
    found = json.loads(capsys.readouterr().out)
    assert found["domains"] == 3
    assert found["counts"]["1"] == {"E": 2} and found["counts"]["104"] == {"C": 3}
    assert found["counts"]["12"] == {"L": 1, "T": 1}
    msgspec.convert(found, Repertoire)  # what the runtime reads
