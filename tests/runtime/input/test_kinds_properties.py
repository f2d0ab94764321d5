"""Any cells in a table of any kind: every record is scored or rejected, with its id, in order."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abonyx.alphabet import SequenceLimit
from abonyx.bundle.manifest import RESIDUES
from abonyx.input.cells import MISSING, RejectedRecord
from abonyx.input.checked import check_records
from abonyx.input.records import read_records

from .workbook import one_sheet

LIMIT = SequenceLimit(30)
# Characters that XML or a TSV cell cannot have: line ends, control characters.
PLAIN = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"), max_size=8)
WORDS = st.sampled_from(
    ["NA", "nan", "-", "", " ", "#1", '"', '"a"', "1.0", "0007", "EV-Q", "evq", "EVnanQ", "a;b", ">x"]
)
CELL = WORDS | PLAIN | st.text(RESIDUES, min_size=1, max_size=12)
ROW = st.tuples(CELL, CELL, CELL)


def as_csv(rows: list[tuple[str, ...]]) -> bytes:
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows([("id", "sequence", "note"), *rows])
    return buffer.getvalue().encode()


def as_tsv(rows: list[tuple[str, ...]]) -> bytes:
    return "".join("\t".join(row) + "\n" for row in [("id", "sequence", "note"), *rows]).encode()


def as_jsonl(rows: list[tuple[str, ...]]) -> bytes:
    return "".join(json.dumps(dict(zip(("id", "sequence", "note"), row, strict=True))) + "\n" for row in rows).encode()


def as_parquet(rows: list[tuple[str, ...]]) -> bytes:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    buffer = io.BytesIO()
    columns = list(zip(*rows, strict=True))
    parquet.write_table(pa.table(dict(zip(("id", "sequence", "note"), columns, strict=True))), buffer)
    return buffer.getvalue()


def as_xlsx(rows: list[tuple[str, ...]]) -> bytes:
    pytest.importorskip("python_calamine")
    return one_sheet([("id", "sequence", "note"), *rows])


def check(write: Callable[[list[tuple[str, ...]]], bytes], rows: list[tuple[str, ...]], blank_rows: bool) -> None:
    expected: list[tuple[str, str]] = []
    for id_, sequence, note in rows:
        if blank_rows and not (id_ + sequence + note).strip():
            continue  # no record: see docs/files.md
        expected.append((str(len(expected) + 1) if id_.strip() in MISSING else id_, sequence))
    records = list(read_records(None, stdin=io.BytesIO(write(rows)))) if expected else []
    assert [record.id for record in records] == [id_ for id_, _ in expected]
    lines = [record.line for record in records]
    assert lines == sorted(set(lines))
    kept = [(record.id, record.sequence) for record in records if not isinstance(record, RejectedRecord)]
    assert kept == expected, "text cells can all be read; what can be scored is decided later"
    checked = check_records(
        [*records, records[0]._replace(sequence="EV")] if records else [], "x", LIMIT, skip_invalid=True
    )
    assert len(checked.ids) + len(checked.rejected) == len(records) + bool(records)
    assert all(set(sequence) <= set(RESIDUES) for sequence in checked.sequences)
    merged = {(problem.line, problem.id) for problem in checked.rejected}
    order = [record.id for record in records if (record.line, record.id) not in merged]
    assert checked.ids[: len(order)] == order


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(ROW, min_size=1, max_size=6))
@pytest.mark.parametrize(("write", "blank_rows"), [(as_csv, True), (as_jsonl, False), (as_parquet, False)])
def test_every_record_is_scored_or_rejected(write: Any, blank_rows: bool, rows: list[tuple[str, ...]]) -> None:
    check(write, rows, blank_rows)


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(ROW, min_size=1, max_size=6))
def test_the_same_of_tsv(rows: list[tuple[str, ...]]) -> None:
    """A completely quoted cell loses its quotes, because R quotes every cell."""

    def bare(cell: str) -> str:
        return cell.replace('"', "'")

    check(as_tsv, [(bare(a), bare(b), bare(c)) for a, b, c in rows], True)


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(ROW, min_size=1, max_size=6))
def test_no_quote_of_a_tsv_swallows_a_row(rows: list[tuple[str, ...]]) -> None:
    kept = [row for row in rows if "".join(row).strip()]
    if kept:
        records = list(read_records(None, stdin=io.BytesIO(as_tsv(rows))))
        assert len(records) == len(kept)


@settings(max_examples=12, deadline=None)
@given(rows=st.lists(ROW, min_size=1, max_size=6))
def test_the_same_of_xlsx(rows: list[tuple[str, ...]]) -> None:
    """Few examples: each starts a process."""
    check(as_xlsx, rows, True)
