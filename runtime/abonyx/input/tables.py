"""Records of a CSV or TSV table.

CSV is RFC 4180's: a quoted cell may span lines. TSV has no such quoting: a line is a row, whatever its quotes.
"""

from __future__ import annotations

import csv
import re
from array import array
from collections.abc import Generator, Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from abonyx.errors import InputError, printable
from abonyx.input.cells import Record, RejectedRecord, identified
from abonyx.input.columns import Columns, Wanted, find_columns, is_sequence_name

if TYPE_CHECKING:
    from _csv import Reader

# csv's own limit of 128 KiB refuses long free-text columns; past 16 MiB a field is an unclosed quote, not data.
FIELD_LIMIT_CHARS = 1 << 24
# What a table's cells can be split at, and its name in messages.
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
# Excel's first line `sep=;`. When Excel saves the file again, empty cells follow it: `sep=;;;`.
_DECLARATION = re.compile(r'"?sep=(.?)"?\1*"?', re.IGNORECASE)
_R_ROW_NAMES = ", one name short: R's row names? Write with col.names=NA, or row.names=FALSE"


class _Top(NamedTuple):
    """A table's lines down to its header.

    Attributes:
        lines: read before `first`.
        first: the header's line, or the first record's below a header that starts with `#`.
        commented: that header without its `#`, if there is one; and its line's number.
        delimiter: None: not declared.
    """

    lines: int
    first: str
    commented: str | None
    commented_line: int
    delimiter: str | None


def read_table(
    lines: Iterator[str], name: str, kind: str, wanted: Wanted, notes: list[str]
) -> Generator[Record | RejectedRecord]:
    """Yield the records.

    Args:
        kind: "csv", "tsv", or "table" of a file whose suffix says neither.
    """
    top = _read_top(lines, name)
    delimiter = top.delimiter or _delimiter(top, kind, wanted)
    if delimiter != ("\t" if kind == "tsv" else ","):
        notes.append(f"{name}: cells are split at {DELIMITERS[delimiter]}")
    rows = _rows(chain([top.first], lines), name, top.lines, delimiter)
    commented = _cells(top.commented, delimiter) if top.commented is not None else []
    if commented and _resolves(commented, wanted) and not _is_header(_cells(top.first, delimiter), commented, wanted):
        line, header = top.commented_line, commented
    else:
        line, header = next(rows)
    where = f"{name}:{line}"
    yield from _records(rows, header, where, find_columns(header, where, wanted, notes, in_text=True), notes)


def _read_top(lines: Iterator[str], name: str) -> _Top:
    """Read down to the header: blank lines, comments, OAS's metadata and Excel's `sep=;` come before it."""
    delimiter, commented, commented_line, number = None, None, 0, 0
    for line in lines:
        number += 1
        stripped = line.strip()
        if line.startswith("#"):
            commented, commented_line = line[1:].lstrip(" "), number
        elif not stripped or (delimiter is None and stripped.startswith(("{", '"{'))):
            continue
        elif delimiter is None and (declaration := _DECLARATION.fullmatch(line.strip("\r\n "))):
            delimiter = declaration[1]
            if delimiter not in DELIMITERS:
                what = f"{name}:{number}: declares the delimiter {printable(delimiter)!r}"
                raise InputError(what, "Use a comma, a semicolon or a tab.")
        else:
            return _Top(number - 1, line, commented, commented_line, delimiter)
    raise InputError(f"{name}:{max(number, 1)}: the file ends before a header", "Give a header and records.")


def _delimiter(top: _Top, kind: str, wanted: Wanted) -> str:
    """The one by which the header has the needed columns, else the one that makes most cells; a comma if in doubt."""
    if kind == "tsv":
        return "\t"
    best, best_rank = ",", (False, 0)
    for delimiter in DELIMITERS:
        headers = [_cells(line, delimiter) for line in (top.first, top.commented) if line is not None]
        rank = (any(_resolves(header, wanted) for header in headers), len(headers[0]))
        if rank > best_rank:
            best, best_rank = delimiter, rank
    return best


def _cells(line: str, delimiter: str) -> list[str]:
    """One line's cells, for a look at it."""
    if delimiter == "\t":
        return _split(line, 0)
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:  # a cell over csv's limit
        return line.split(delimiter)


def _resolves(header: list[str], wanted: Wanted) -> bool:
    try:
        find_columns(header, "", wanted)
    except InputError:
        return False
    return True


def _is_header(first: list[str], commented: list[str], wanted: Wanted) -> bool:
    """Whether the line below a header that starts with `#` is a header itself, and the other one a comment.

    A record may have a cell that is a known name, such as "heavy", but not in the place of the sequence.
    """
    if not _resolves(first, wanted):
        return False
    if len(first) != len(commented):
        return True
    at = find_columns(commented, "", wanted).sequence.start
    return is_sequence_name(first[at]) or first[at].strip().lower() == commented[at].strip().lower()


def _rows(lines: Iterable[str], name: str, above: int, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    if delimiter == "\t":
        return _tab_rows(lines, above)
    return _csv_rows(csv.reader(lines, delimiter=delimiter, strict=True), name, above)


def _tab_rows(lines: Iterable[str], above: int) -> Generator[tuple[int, list[str]]]:
    """Yield each line's cells with its number; `above` lines were read before."""
    width = 0
    for number, line in enumerate(lines, above + 1):
        cells = _split(line, width) if '"' in line else line.rstrip("\r\n").split("\t")
        width = width or len(cells)
        yield number, cells if cells != [""] else []


def _split(line: str, width: int) -> list[str]:
    """Cells of a line that has quotes: a cell that is quoted as a whole loses them, as R and pandas write it.

    Args:
        width: the header's; a tab in a quoted cell is data if only then the row is that wide.
    """
    line = line.rstrip("\r\n")
    cells = line.split("\t")
    if width and len(cells) > width:
        try:
            quoted = next(csv.reader([line], delimiter="\t", strict=True), [])
        except csv.Error:
            quoted = []
        if len(quoted) == width:
            return quoted
    return [_unquoted(cell) for cell in cells]


def _unquoted(cell: str) -> str:
    inner = cell[1:-1]
    whole = len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if whole else cell


def _csv_rows(reader: Reader, name: str, above: int) -> Generator[tuple[int, list[str]]]:
    """Yield each row with the number of the line it starts on; `above` lines were read before."""
    while True:
        start = above + reader.line_num + 1
        # The limit is the whole process's: raised only while csv parses, never while the caller runs.
        limit = csv.field_size_limit(FIELD_LIMIT_CHARS)
        try:
            row = next(reader, None)
        except csv.Error as error:
            fix = "Close its quotes, and write a quote inside a quoted field twice."
            raise InputError(f"{name}:{start}: the record starting here is not CSV: {error}", fix) from error
        finally:
            csv.field_size_limit(limit)
        if row is None:
            return
        yield start, row


def _records(
    rows: Iterator[tuple[int, list[str]]], header: list[str], where: str, at: Columns, notes: list[str]
) -> Generator[Record | RejectedRecord]:
    """The records below the header."""
    width, ordinal, in_r = len(header), 0, False
    plain = len(at.sequence) == 1 and not at.gapped and at.label is None and not at.kept and at.light is None
    sequence_at = at.sequence.start if plain else None
    for line, row in _data_rows(rows, width, where, notes):
        ordinal += 1
        in_r = in_r or (ordinal == 1 and len(row) == width + 1 and bool(row[-1].strip()))
        if len(row) != width and (reason := _width_problem(row, width, at)):
            reason += _R_ROW_NAMES * (in_r and len(row) == width + 1)
            id_ = row[at.id] if at.id is not None and at.id < len(row) else ""
            yield RejectedRecord(identified(id_, ordinal, "", line).id, line, reason)
        elif sequence_at is not None:
            yield identified("" if at.id is None else row[at.id], ordinal, row[sequence_at], line)
        else:
            cells = at.cells(row + [""] * (width - len(row)))  # what is padded is not needed
            kept = {name: str(cell) for name, cell in cells.kept.items()}
            light = None if at.light is None else str(cells.light)
            yield identified(str(cells.id), ordinal, str(cells.sequence), line, str(cells.label).strip(), kept, light)
    if not ordinal:
        raise InputError(f"{where}: a header, but no records below it", "Give at least one record.")


def _width_problem(row: list[str], width: int, at: Columns) -> str | None:
    """Why a row of another width than the header's cannot be used: it lacks a used cell, or has one too many."""
    count = len(row)
    if count <= at.needed[-1] or any(map(str.strip, row[width:])):
        return f"the row has {count} columns, the header {width}"
    return None


def _data_rows(
    rows: Iterator[tuple[int, list[str]]], width: int, where: str, notes: list[str]
) -> Generator[tuple[int, list[str]]]:
    """The rows that are records: without comments, blank lines and rows of blank cells."""
    blank_rows, blanks = 0, array("Q")  # a list takes 40 bytes for a byte of blank line
    for line, row in rows:
        if width == 1:
            # A blank line between records is a record without a sequence; one after the last is not.
            if not row or (len(row) == 1 and row[0].isspace()):
                blanks.append(line)
                continue
            yield from ((blank, [""]) for blank in blanks)
            del blanks[:]
        elif not row[:1] or not row[0].strip():
            if not any(map(str.strip, row)):
                blank_rows += len(row) > 1
                continue
        elif len(row) == 1 and row[0].startswith("#"):
            continue  # a row of the header's width is data, and so is one with a second cell
        yield line, row
    if blank_rows:
        notes.append(f"{where.rpartition(':')[0]}: {blank_rows} rows of blank cells are left out")
