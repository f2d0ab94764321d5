"""Read a workbook in a child process, because a hostile workbook of a few kB can need 549 GB of memory.

This file is run as a script. Its only argument is the name of a sheet, and may be left out. The workbook is read from
standard input. Standard output is JSON, one value on each line: first an object (with `error` and `fix`, or with
`sheet`), then the rows, each a list that begins with the row's number. The script imports nothing from abonyx.
"""

from __future__ import annotations

import datetime
import io
import json
import math
import re
import sys
import zipfile
from typing import Any
from xml.parsers import expat

MAX_UNPACKED_BYTES = 1 << 29
# Largest number of cells in the rectangle around a sheet's cells. The reader keeps
# this rectangle in memory, with 32 bytes for each cell.
MAX_CELLS = 20_000_000
MAX_MEMORY_BYTES = 3 << 30
MAX_CPU_S = 300
_CHUNK_BYTES = 1 << 20
# The value of `fix` if the user must name a sheet. The parent knows the option for it.
_SHEET = "sheet"


class _Refused(Exception):
    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.fix = fix


def main() -> None:
    """Read the workbook on standard input."""
    import python_calamine  # noqa: F401  (the limits set below are only for the workbook)

    _limit()
    try:
        _read(sys.stdin.buffer.read(), sys.argv[1] if len(sys.argv) > 1 else None)
    except _Refused as refused:
        _say({"error": str(refused), "fix": refused.fix})
    except Exception as error:  # three libraries may raise anything for a damaged file
        _say({"error": f"cannot be read: {type(error).__name__}: {str(error)[:200]!a}", "fix": _SAVE})


_SAVE = "Save it again as .xlsx, or as CSV UTF-8."


def _limit() -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    for what, most in ((resource.RLIMIT_AS, MAX_MEMORY_BYTES), (resource.RLIMIT_CPU, MAX_CPU_S)):
        try:
            resource.setrlimit(what, (most, resource.getrlimit(what)[1]))
        except (ValueError, OSError):
            continue  # the hard limit is lower, or the system does not have this limit
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def _read(data: bytes, wanted: str | None) -> None:
    from python_calamine import CalamineWorkbook, SheetTypeEnum

    _check_size(data)
    with CalamineWorkbook.from_filelike(io.BytesIO(data)) as book:
        names = [sheet.name for sheet in book.sheets_metadata if sheet.typ == SheetTypeEnum.WorkSheet]
        if wanted is not None and wanted not in names:
            raise _Refused(f"has no sheet {wanted[:60]!r}; sheets: {_listed(names)}", _SHEET)
        if wanted is None:
            filled = [name for name in names if _is_filled(book, name)]
            if len(filled) > 1:
                raise _Refused(f"has {len(filled)} sheets with values: {_listed(filled)}", _SHEET)
            if not filled:
                raise _Refused("has no cell with a value", "Give a header and at least one record.")
            wanted = filled[0]
        sheet = book.get_sheet_by_name(wanted)
        if merged := sheet.merged_cell_ranges:
            (row, column), _ = merged[0]
            what = f"sheet {wanted[:60]!r} has merged cells, the first at row {row + 1}, column {column + 1}"
            raise _Refused(what, "Unmerge them: a merged cell has its value in only one of its rows and columns.")
        _say({"sheet": wanted, "sheets": len(names)})
        for number, row in enumerate(sheet.to_python(skip_empty_area=False), 1):
            if any(cell != "" for cell in row):
                _say([number, *map(_plain, row)])


def _is_filled(book: Any, name: str) -> bool:
    return any(cell != "" for row in book.get_sheet_by_name(name).to_python() for cell in row)


def _listed(names: list[str]) -> str:
    return ", ".join(repr(name[:40]) for name in names[:20]) + (", ..." if len(names) > 20 else "")


def _plain(cell: object) -> object:
    """A cell as a JSON value. A date or a time, which JSON does not have, is an object."""
    if isinstance(cell, datetime.date | datetime.time | datetime.timedelta):
        return {"date": str(cell)}
    if isinstance(cell, float) and not math.isfinite(cell):
        return None
    return cell


def _check_size(data: bytes) -> None:
    """Unpack every part piece by piece and count the bytes, because the sizes in the archive may be wrong."""
    left = MAX_UNPACKED_BYTES
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for part in archive.infolist():
            extent = _Extent() if re.fullmatch(r"/?xl/worksheets/[^/]+\.xml", part.filename, re.IGNORECASE) else None
            with archive.open(part) as stream:
                while chunk := stream.read(_CHUNK_BYTES):
                    left -= len(chunk)
                    if left < 0:
                        what = f"unpacks to more than {MAX_UNPACKED_BYTES} bytes"
                        raise _Refused(what, "Save the table as CSV UTF-8 or Parquet.")
                    if extent:
                        extent.feed(chunk)
            if extent and extent.rows * extent.columns > MAX_CELLS:
                where = f"{part.filename} spans {extent.rows} rows and {extent.columns} columns"
                fix = "Delete the cell far from the others (Ctrl-End shows it), or save the table as CSV UTF-8."
                raise _Refused(f"{where}, more than {MAX_CELLS} cells", fix)


class _Extent:
    """The number of rows and columns of a sheet, from its XML."""

    def __init__(self) -> None:
        self.rows = self.columns = 1
        self._row = self._column = 0
        self._parser = expat.ParserCreate()
        self._parser.StartElementHandler = self._start

    def feed(self, chunk: bytes) -> None:
        self._parser.Parse(chunk, False)

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        name = tag.rpartition(":")[2]
        if name == "row":
            number = attributes.get("r", "")
            self._row = int(number) if number.isdecimal() and len(number) < 10 else self._row + 1
            self._column = 0
        elif name == "c":
            match = re.match("([A-Za-z]{1,4})([0-9]{1,9})", attributes.get("r", ""))
            self._column += 1
            if match:
                self._column = 0
                for letter in match[1].upper():
                    self._column = self._column * 26 + ord(letter) - 64
                self.rows = max(self.rows, int(match[2]))
        self.rows, self.columns = max(self.rows, self._row), max(self.columns, self._column)


def _say(value: object) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=True, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
