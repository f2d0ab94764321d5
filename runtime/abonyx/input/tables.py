"""Records of a CSV or TSV table.

CSV follows RFC 4180: a quoted cell may have line ends. In TSV each line is a row, even if it has quotes.
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

# The limit of the module csv, 128 KiB, refuses long cells of text. A cell of over 16 MiB is an unclosed quote.
FIELD_LIMIT_CHARS = 1 << 24
# Delimiter of cells -> its name in messages.
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
# Excel's first line `sep=;`. If Excel saves the file again, empty cells follow: `sep=;;;`.
_DECLARATION = re.compile(r'"?sep=(.?)"?\1*"?', re.IGNORECASE)
_R_ROW_NAMES = ": R may have written row names without a header; write the file with col.names=NA or row.names=FALSE"


class _Top(NamedTuple):
    """The lines of a table down to its header.

    Attributes:
        lines: number of lines before `first`.
        first: the line of the header; or the first record, if the header begins with `#`.
        commented: the last line that begins with `#`, without the `#`; None if there is none.
        commented_line: its line number.
        delimiter: the declared delimiter; None if there is none.
    """

    lines: int
    first: str
    commented: str | None
    commented_line: int
    delimiter: str | None


def read_table(
    lines: Iterator[str], name: str, kind: str, wanted: Wanted, notes: list[str]
) -> Generator[Record | RejectedRecord]:
    """Yield the records of a table.

    Args:
        lines: the lines of the file.
        name: name of the file in messages.
        kind: "csv", "tsv", or "table" if the suffix does not tell.
        wanted: the requested columns.
        notes: a list to which lines for the user are added.
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
    """Read down to the header. Blank lines, comments, OAS metadata and Excel's `sep=;` may come before it."""
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
    raise InputError(f"{name}:{max(number, 1)}: the file has no header", "Give a header and records.")


def _delimiter(top: _Top, kind: str, wanted: Wanted) -> str:
    """The delimiter that gives the needed columns, or else the most cells. A comma wins a tie."""
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
    """The cells of one line."""
    if delimiter == "\t":
        return _split(line, 0)
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:  # a cell is over the limit of csv
        return line.split(delimiter)


def _resolves(header: list[str], wanted: Wanted) -> bool:
    try:
        find_columns(header, "", wanted)
    except InputError:
        return False
    return True


def _is_header(first: list[str], commented: list[str], wanted: Wanted) -> bool:
    """Whether the first line is a header, so that the line before it with `#` is only a comment.

    A record may have a cell that is a known name, such as "heavy", but not in the column of the sequences.
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
    """Yield (line number, cells). `above` is the number of lines that were already read."""
    width = 0
    for number, line in enumerate(lines, above + 1):
        cells = _split(line, width) if '"' in line else line.rstrip("\r\n").split("\t")
        width = width or len(cells)
        yield number, cells if cells != [""] else []


def _split(line: str, width: int) -> list[str]:
    """The cells of a line that has quotes. Quotes around a whole cell are removed, because R and pandas write them.

    Args:
        line: the line.
        width: number of columns in the header. If the line has too many cells, a tab in a quoted cell counts as text
            if that gives the right number.
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
    """Yield (number of the first line of a row, cells). `above` is the number of lines that were already read."""
    while True:
        start = above + reader.line_num + 1
        # The limit is for the whole process, so it is raised only while csv parses.
        limit = csv.field_size_limit(FIELD_LIMIT_CHARS)
        try:
            row = next(reader, None)
        except csv.Error as error:
            fix = "Close the quotes, and write a quote inside a quoted cell twice."
            raise InputError(f"{name}:{start}: the record that starts here is not CSV: {error}", fix) from error
        finally:
            csv.field_size_limit(limit)
        if row is None:
            return
        yield start, row


def _records(
    rows: Iterator[tuple[int, list[str]]], header: list[str], where: str, at: Columns, notes: list[str]
) -> Generator[Record | RejectedRecord]:
    """Yield the records below the header."""
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
            cells = at.cells(row + [""] * (width - len(row)))  # the added cells are not needed
            kept = {name: str(cell) for name, cell in cells.kept.items()}
            light = None if at.light is None else str(cells.light)
            yield identified(str(cells.id), ordinal, str(cells.sequence), line, str(cells.label).strip(), kept, light)
    if not ordinal:
        raise InputError(f"{where}: has a header, but no records below it", "Give at least one record.")


def _width_problem(row: list[str], width: int, at: Columns) -> str | None:
    """Why a row with another number of columns than the header cannot be used; None if it can.

    It cannot be used if a needed cell is missing, or if there are cells with text after the last column.
    """
    count = len(row)
    if count <= at.needed[-1] or any(map(str.strip, row[width:])):
        return f"the row has {count} columns, the header has {width}"
    return None


def _data_rows(
    rows: Iterator[tuple[int, list[str]]], width: int, where: str, notes: list[str]
) -> Generator[tuple[int, list[str]]]:
    """Yield the rows that are records, without comments, blank lines and rows of blank cells."""
    blank_rows, blanks = 0, array("Q")  # a list would take 40 bytes for a blank line of one byte
    for line, row in rows:
        if width == 1:
            # A blank line between records is a record without a sequence. Blank lines at the end are ignored.
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
            continue  # a comment; a row with more than one cell is data
        yield line, row
    if blank_rows:
        notes.append(f"{where.rpartition(':')[0]}: {blank_rows} rows of blank cells are left out")
