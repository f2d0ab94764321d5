"""benchmarks/domain_table.py: docs/domain.md shows its record, and the record meets the targets."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from .conftest import REPOSITORY

RECORD = REPOSITORY / "benchmarks" / "records" / "domain_table.json"


def test_a_set_is_counted_by_outcome(sequences: list[str]) -> None:
    import domain_table

    row = domain_table.count("name", "trusted", [*sequences, "M" + sequences[0], "X" * 40, sequences[1][9:]])
    assert (row.n, row.trusted, row.noted, row.flagged, row.refused) == (len(sequences) + 3, len(sequences), 0, 2, 1)
    assert row.reasons == {"residues outside the domain": 1, "fragment": 1}


def test_the_page_shows_the_record() -> None:
    import domain_table

    rows = msgspec.convert(json.loads(RECORD.read_text())["sets"], list[domain_table.Row])
    assert domain_table.table(rows) in (REPOSITORY / "docs" / "domain.md").read_text(encoding="utf-8")


def test_the_record_meets_the_targets() -> None:
    record = json.loads(RECORD.read_text())
    sets = {row["name"]: row for row in record["sets"]}
    for name in ("VH: Jain", "VH: Shehata", "VH: repertoire, without the source of truncated sequences", "VHH: Harvey"):
        assert sets[name]["flagged"] + sets[name]["refused"] <= 0.005 * sets[name]["n"], name
    for name in ("Light chains: Jain and Shehata", "T-cell receptors", "Ig-like domains", "Unrelated proteins"):
        assert sets[name]["flagged"] == sets[name]["n"] > 0, name
    assert max(kind["slowest_ms"] for kind in record["bad_input"].values()) < 20


def test_the_table_replaces_the_old_one(tmp_path: Path) -> None:
    import domain_table

    page = tmp_path / "page.md"
    page.write_text("\n".join(["before", domain_table.TABLE_MARKS[0], "old", domain_table.TABLE_MARKS[1], "after"]))
    domain_table.write_table(page, "new")
    domain_table.write_table(page, "newer")
    assert page.read_text().split("\n") == [
        "before",
        domain_table.TABLE_MARKS[0],
        "newer",
        domain_table.TABLE_MARKS[1],
        "after",
    ]
    page.write_text("no marks")
    with pytest.raises(ValueError, match="unpack"):
        domain_table.write_table(page, "new")
