"""FASTA and tables from other writers are read back unchanged; random bytes never crash a reader."""

from __future__ import annotations

import csv
import gzip
import io
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abonyx.alphabet import SequenceLimit, clean, problem
from abonyx.bundle.manifest import RESIDUES
from abonyx.errors import InputError
from abonyx.input.cells import MISSING
from abonyx.input.records import Record, RejectedRecord, read_records

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SEQUENCE = st.text(RESIDUES, min_size=1, max_size=30)
WORD = st.text(st.characters(exclude_categories=["Cs", "Z", "C"]), min_size=1, max_size=12)


def read(data: bytes, **columns: Any) -> list[Record | RejectedRecord]:
    return list(read_records(None, stdin=io.BytesIO(data), **columns))


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(st.tuples(TEXT, TEXT, TEXT), min_size=1, max_size=8),
    ends=st.sampled_from(["\n", "\r\n", "\r"]),
    mark=st.booleans(),
    zipped=st.booleans(),
)
def test_a_table_reads_back(rows: list[tuple[str, str, str]], ends: str, mark: bool, zipped: bool) -> None:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator=ends, quoting=csv.QUOTE_ALL).writerows([("id", "note", "sequence"), *rows])
    data = buffer.getvalue().encode("utf-8-sig" if mark else "utf-8")
    rows = [row for row in rows if any(map(str.strip, row))]
    if not rows:
        return
    found = read(gzip.compress(data, 1, mtime=0) if zipped else data)
    ids = [str(number) if id_.strip() in MISSING else id_ for number, (id_, _, _) in enumerate(rows, 1)]
    assert [(record.id, record.sequence) for record in found if isinstance(record, Record)] == [
        (id_, sequence) for id_, (_, _, sequence) in zip(ids, rows, strict=True)
    ]


@settings(max_examples=150, deadline=None)
@given(
    records=st.lists(st.tuples(WORD, SEQUENCE), min_size=1, max_size=8, unique_by=lambda record: record[0]),
    width=st.integers(1, 40),
    ends=st.sampled_from(["\n", "\r\n", "\r"]),
    note=st.sampled_from(["", " heavy chain", "\ta\tb"]),
)
def test_fasta_reads_back(records: list[tuple[str, str]], width: int, ends: str, note: str) -> None:
    lines = []
    for id_, sequence in records:
        lines += [f">{id_}{note}", *(sequence[at : at + width] for at in range(0, len(sequence), width)), ""]
    found = read(ends.join(lines).encode())
    assert [record[:2] for record in found] == records
    assert [record.line for record in found] == [at for at, line in enumerate(lines, 1) if line.startswith(">")]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.sampled_from([b"", b">", b"id,sequence\n", b"id\tsequence\n", b"\x1f\x8b", b"#\n"]))
def test_bytes_at_random_give_records_or_a_refusal(data: bytes, start: bytes) -> None:
    try:
        found = read(start + data)
    except InputError as error:
        assert error.fix and len(str(error)) < 4000
        return
    assert found
    for record in found:
        if isinstance(record, Record):
            sequence = clean(record.sequence)
            assert problem(sequence, SequenceLimit(50)) is not None or set(sequence) <= set(RESIDUES)


def test_a_doubled_column_is_not_quoted_at_length() -> None:
    long = "c" * 1_000_000
    with pytest.raises(InputError, match="appears more than once") as caught:
        read(f"id,sequence,{long},{long}\na,EVQ,1,2\n".encode(), id_column=long)
    assert len(str(caught.value)) < 1000
