"""The cells of a table: ids, sequences and missing values; and the records that are made of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

NO_CELLS: Mapping[str, str] = {}
# The value of Cells.light for a row that is read as one sequence.
NO_LIGHT = object()
# The words for a missing value in tables. Case matters: an antibody may be called Nan, but not nan.
MISSING = frozenset(
    {*("", "NA", "na", "N/A", "n/a", "#N/A", "#n/a", "<NA>", "NaN", "nan", "NAN", "-")}
    | {*("None", "none", "NONE", "null", "Null", "NULL")}
)
# Excel keeps 15 digits of a number. A longer id has already lost its last digits in the file.
_EXACT_BELOW = 10**15


class Record(NamedTuple):
    """One sequence, or one pair of chains, as the file has it.

    Attributes:
        id: its id.
        sequence: the sequence; for a pair, the heavy chain.
        line: line number in the file, from 1; in Parquet the number of the data row.
        label: text of the label's cell.
        kept: name of a column -> text of the cell, for columns that are copied to the output.
        light: the light chain of a pair; None if the record is read as one sequence.
    """

    id: str
    sequence: str
    line: int
    label: str = ""
    kept: Mapping[str, str] = NO_CELLS
    light: str | None = None


class Cells(NamedTuple):
    """The used cells of one row. They can have any type."""

    id: object
    sequence: object
    label: object
    kept: Mapping[str, object] = NO_CELLS
    light: object = NO_LIGHT


class RejectedRecord(NamedTuple):
    """A record that cannot be used, its line, and the reason."""

    id: str
    line: int
    reason: str


class ExcelDate(NamedTuple):
    """A cell that Excel stores as a date or a time, perhaps because somebody typed an id like MAR1."""

    shown: str

    def __str__(self) -> str:
        return f"the Excel date {self.shown}"


def identified(
    id_: str,
    ordinal: int,
    sequence: str,
    line: int,
    label: str = "",
    kept: Mapping[str, str] = NO_CELLS,
    light: str | None = None,
) -> Record | RejectedRecord:
    """The record of a table's row. If the id is missing, the row's number is the id."""
    if id_.strip() in MISSING:
        return Record(str(ordinal), sequence, line, label, kept, light)
    return named(id_, sequence, line, label, kept, light)


def named(
    id_: str,
    sequence: str,
    line: int,
    label: str = "",
    kept: Mapping[str, str] = NO_CELLS,
    light: str | None = None,
) -> Record | RejectedRecord:
    """The record with this id; rejected if the id is not valid UTF-8."""
    if not id_.isascii() and any("\ud800" <= char <= "\udfff" for char in id_):
        shown = id_.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        return RejectedRecord(shown, line, "the id is not valid UTF-8")
    return Record(id_, sequence, line, label, kept, light)


def typed(cells: Cells, ordinal: int, line: int) -> Record | RejectedRecord:
    """The record of a row whose cells have types (Parquet, JSONL, Excel)."""
    id_, sequence = cells.id, cells.sequence
    name = id_ if isinstance(id_, str) else whole_number(id_)
    if name is None:
        return RejectedRecord(str(ordinal), line, f"the id is {_unfit(id_)}; store ids as text")
    shown = identified(name, ordinal, "", line).id
    if cells.light is not NO_LIGHT:
        for chain, cell in (("heavy", sequence), ("light", cells.light)):
            if not (isinstance(cell, str) or is_missing(cell)):
                return RejectedRecord(shown, line, f"the {chain} chain is {_type(cell)}, not text")
        heavy, light = (cell if isinstance(cell, str) else "" for cell in (sequence, cells.light))
        return identified(name, ordinal, heavy, line, text(cells.label), _plain(cells.kept), light)
    if isinstance(sequence, str):
        return identified(name, ordinal, sequence, line, text(cells.label), _plain(cells.kept))
    if sequence is None or sequence != sequence:
        return RejectedRecord(shown, line, f"the sequence is {'null' if sequence is None else 'NaN'}, not text")
    return RejectedRecord(shown, line, f"the sequence is {_type(sequence)}, not text")


def whole_number(value: object) -> str | None:
    """The text of a number as an id; "" if it is missing; None if it is not whole, or has lost digits.

    pandas and Excel write whole numbers as 1.0.
    """
    if value is None or value != value:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT_BELOW:
        return str(int(value))
    return None


def text(value: object) -> str:
    """The text of a cell without white space around it; "" if it is missing. 1.0 stays 1.0."""
    return "" if value is None else str(value).strip()


def _plain(kept: Mapping[str, object]) -> Mapping[str, str]:
    return {name: plain(value) for name, value in kept.items()} if kept else NO_CELLS


def plain(value: object) -> str:
    """The text of a kept cell: "" if it is missing; JSON for a list or an object."""
    if isinstance(value, str):
        return value
    if value is None or value != value:
        return ""
    if isinstance(value, bool | list | dict):
        return msgspec.json.encode(value).decode()
    return value.shown if isinstance(value, ExcelDate) else str(value)


def is_missing(value: object) -> bool:
    """Whether a cell of any type has no value."""
    return value is None or value != value or (isinstance(value, str) and value.strip() in MISSING)


def _unfit(id_: object) -> str:
    if isinstance(id_, float):
        return f"the number {id_!r}" + (", of more than 15 digits" if id_.is_integer() else "")
    return _type(id_)


def _type(value: object) -> str:
    return str(value) if isinstance(value, ExcelDate) else type(value).__name__
