"""The antibodies that ship with export: they are real, of both kinds, and the two halves are not similar."""

from __future__ import annotations

import csv
import hashlib
import json

import pytest

from abonyx_export.antibodies import shipped_antibodies

from ..conftest import REPOSITORY

FILE = REPOSITORY / "export" / "abonyx_export" / "antibodies.csv"


def rows() -> list[dict[str, str]]:
    with FILE.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def test_the_file_agrees_with_its_record() -> None:
    record = json.loads((REPOSITORY / "training" / "records" / "antibodies.json").read_text())
    assert hashlib.sha256(FILE.read_bytes()).hexdigest() == record["sha256"]
    assert len(rows()) == record["chosen"]


def test_every_source_has_a_licence_beside_the_file() -> None:
    text = FILE.with_suffix(".md").read_text(encoding="utf-8")
    sources = {row["source"] for row in rows()}
    assert {source for source in sources if not source.startswith("tnp_")} == {"oas_bernat2019_igg"}
    assert "CC BY 4.0" in text
    assert "BSD 3-Clause License" in text


def test_each_half_has_as_many_vh_as_vhh() -> None:
    halves = shipped_antibodies()
    assert len(halves.calibration) == len(halves.judging) >= 1_000
    found = rows()
    for half in (found[: len(found) // 2], found[len(found) // 2 :]):
        assert sum(row["domain"] == "VH" for row in half) == len(half) // 2


def test_judging_rows_are_not_similar_to_calibrating_rows() -> None:
    pytest.importorskip("rapidfuzz", reason="the training extra is not installed")
    from corpus import near

    halves = shipped_antibodies()
    assert not near(halves.judging, halves.calibration).any()
