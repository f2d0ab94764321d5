"""A text with one sequence per line: every line that is not blank is a record, or the whole text is refused."""

from __future__ import annotations

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abonyx.errors import InputError
from abonyx.input.records import Record, read_records

LINES = st.lists(st.text(st.characters(exclude_characters=",;\t\r\n\0>", codec="utf-8"), max_size=20), max_size=8)


def read(body: bytes) -> list[Record]:
    records = list(read_records(None, stdin=io.BytesIO(body), name="request", plain=True))
    assert all(isinstance(record, Record) for record in records)
    return records  # type: ignore[return-value]


@given(LINES, st.sampled_from(["\n", "\r\n", "\r"]))
@settings(deadline=None)
def test_each_line_that_is_not_blank_is_a_record(lines: list[str], end: str) -> None:
    # The first line is a plain sequence, because another first line may look like another kind of file.
    records = read(end.join(["EVQL", *lines]).encode())
    expected = [(at, line.strip()) for at, line in enumerate(["EVQL", *lines], 1) if line.strip()]
    assert [(record.line, record.sequence) for record in records] == expected
    assert [record.id for record in records] == [str(number) for number in range(1, len(expected) + 1)]


@pytest.mark.parametrize("header", ["sequence", "Sequence", "VH", "heavy_sequence", "aa_sequence"])
def test_a_columns_name_is_not_scored(header: str) -> None:
    with pytest.raises(InputError, match="is the name of a column, not a sequence"):
        read(f"\n{header}\nEVQL\n".encode())
    assert [record.sequence for record in read(f"EVQL\n{header}\n".encode())] == ["EVQL", header]


def test_bytes_that_are_not_utf8_are_kept_in_their_line() -> None:
    assert [record.sequence for record in read(b"EVQL\nEV\xff\n")] == ["EVQL", "EV\udcff"]
