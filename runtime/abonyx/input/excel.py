"""Records of an Excel workbook (.xlsx). A child process with limits reads the file; see excel_child.py."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from abonyx.errors import InputError, printable
from abonyx.extras import require
from abonyx.input.cells import ExcelDate, Record, RejectedRecord, is_missing, typed, whole_number
from abonyx.input.columns import Columns, Wanted, find_columns
from abonyx.wording import option

# excel_child gives this as `fix` if the user must name a sheet.
_SHEET = "sheet"

_CHILD = Path(__file__).with_name("excel_child.py")
_TOO_LARGE = "Save the table as CSV UTF-8 or Parquet."


def refuse_untrusted(name: str) -> None:
    """Refuse a workbook from a source that is not trusted, e.g. HTTP. Raises InputError."""
    what = f"{name}: is an Excel workbook, which is not accepted here: its unpacked size has no limit"
    raise InputError(what, "Send CSV, TSV or FASTA.")


def read_excel(stream: BinaryIO, name: str, wanted: Wanted, notes: list[str]) -> Generator[Record | RejectedRecord]:
    """Yield the records of one sheet. The line of a record is the row of the sheet."""
    require("Excel")
    rows = _rows(stream.read(), name, wanted.sheet)
    try:
        sheet = next(rows)[0]
        if sheet["sheets"] > 1:
            notes.append(f"{name}: read from sheet {printable(sheet['sheet'])!r} of {sheet['sheets']}")
        yield from read_sheet(rows, name, wanted, notes)
    finally:
        rows.close()


def read_sheet(
    rows: Iterator[list[Any]], name: str, wanted: Wanted, notes: list[str]
) -> Generator[Record | RejectedRecord]:
    """Yield the records of a sheet. Each row is a list that begins with the row's number, as the child writes it."""
    header_row, header = _header(rows, name)
    at = find_columns(header, f"{name}:{header_row}", wanted, notes)
    if blank_rows := (yield from _records(rows, name, header_row, len(header), at)):
        notes.append(f"{name}: {blank_rows} rows of blank cells are left out")


def _header(rows: Iterator[list[Any]], name: str) -> tuple[int, list[str]]:
    """(number, names) of the first row that is not a comment."""
    for number, *cells in rows:
        filled = [cell for cell in cells if cell != ""]
        if len(filled) == 1 < len(cells) and str(filled[0]).startswith("#"):
            continue
        names = [cell if isinstance(cell, str) else whole_number(cell) or str(cell) for cell in cells]
        while names and not names[-1].strip():
            names.pop()
        if names:
            return number, [names[0].removeprefix("#"), *names[1:]]
    raise InputError(f"{name}: the sheet has no header", "Give a header and records.")


def _records(
    rows: Iterator[list[Any]], name: str, header_row: int, width: int, at: Columns
) -> Generator[Record | RejectedRecord, None, int]:
    """Yield the records below the header; return the number of rows with only blank cells above the last record."""
    ordinal, last_row = 0, header_row
    for number, *row in rows:
        cells = [ExcelDate(cell["date"]) if isinstance(cell, dict) else cell for cell in row]
        if all(isinstance(cell, str) and not cell.strip() for cell in row):
            continue
        ordinal += 1
        cells += [None] * (width - len(cells))
        used = at.cells(cells)
        sequence = "" if used.sequence is None else used.sequence
        label = "" if is_missing(used.label) else used.label
        light = "" if used.light is None else used.light
        kept = {name: whole_number(cell) or cell for name, cell in used.kept.items()}
        yield typed(used._replace(sequence=sequence, label=label, kept=kept, light=light), ordinal, number)
        last_row = number
    if not ordinal:
        raise InputError(f"{name}:{header_row}: has a header, but no records below it", "Give at least one record.")
    return last_row - header_row - ordinal


def _rows(data: bytes, name: str, sheet: str | None) -> Generator[list[Any]]:
    """Yield what the child writes: a list with its first object, then the rows.

    Raises:
        InputError: the child refuses the workbook, or ended without an answer.
    """
    command = [sys.executable, "-P", str(_CHILD), *([sheet] if sheet is not None else [])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        assert child.stdin is not None and child.stdout is not None
        feeding = threading.Thread(target=_feed, args=(child.stdin, data))
        feeding.start()
        try:
            answered = False
            for line in child.stdout:
                value = msgspec.json.decode(line)
                if isinstance(value, dict) and "error" in value:
                    fix = f"Name one of them with {option('sheet')}." if value["fix"] == _SHEET else value["fix"]
                    raise InputError(f"{name}: {value['error']}", fix)
                yield value if answered else [value]
                answered = True
            child.wait()
            if child.returncode or not answered:
                what = f"{name}: cannot be read: the process that read it ended with exit status {child.returncode}"
                raise InputError(f"{what}; it may have run out of memory", _TOO_LARGE)
        finally:
            child.kill()
            feeding.join()


def _feed(stdin: Any, data: bytes) -> None:
    try:
        with stdin:
            stdin.write(data)
    except BrokenPipeError:
        pass  # the child has ended, and its status says why
