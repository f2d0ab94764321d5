"""How much of a source is read that is not trusted: counted while it is read, whatever its lines hold."""

from __future__ import annotations

import io
from collections.abc import Callable, Generator
from typing import NamedTuple

from abonyx.errors import InputTooLarge

_MARKS = (",", ";", "\t")
_FIX = "Send fewer records at a time, and only the columns that are needed."


def no_step() -> None:
    """For a reading that nobody interrupts."""


class ReadLimits(NamedTuple):
    """The most that is taken of one source.

    Attributes:
        unpacked_bytes: that gzip data may unpack to.
        gzip_members: gzip files, one after another, that the data may be.
        gzip_extra_bytes: of the headers of all members, and of zeros between and after them.
        lines: of any kind: blank lines and comments too.
        line_chars: of one line.
        columns: of a header, and of any line: one more than its commas, semicolons or tabs, in quoted cells too.
        cells: of all lines, counted so.
        step: called before each line, and before each small piece of gzip data. It may wait, and it may raise to end
            the reading.
    """

    unpacked_bytes: int
    gzip_members: int
    gzip_extra_bytes: int
    lines: int
    line_chars: int
    columns: int
    cells: int
    step: Callable[[], None] = no_step


def limited_lines(text: io.TextIOBase, name: str, limits: ReadLimits) -> Generator[str]:
    """Yield the lines of a text.

    Args:
        name: what messages call the source.

    Raises:
        InputTooLarge: at the first line that is over a limit.
    """
    number = cells = 0
    # A line is counted before csv sees it: csv splits a whole line in one piece that no other thread interrupts.
    while line := text.readline(limits.line_chars + 1):
        limits.step()
        number += 1
        if number > limits.lines:
            what = f"{name}: more than {limits.lines} lines, blank lines and comments too; max_lines is {limits.lines}"
            raise InputTooLarge(what, _FIX)
        if len(line) > limits.line_chars:
            what = f"{name}:{number}: more than {limits.line_chars} characters; max_line_chars is {limits.line_chars}"
            raise InputTooLarge(what, _FIX)
        columns = 1 + max(map(line.count, _MARKS))
        check_width(columns, f"{name}:{number}", limits.columns)
        cells += columns
        if cells > limits.cells:
            what = f"{name}:{number}: more than {limits.cells} cells up to here; max_cells is {limits.cells}"
            raise InputTooLarge(what, _FIX)
        yield line


def check_width(columns: int, where: str, most: int | None) -> None:
    """Refuse a line or a header of too many columns.

    Raises:
        InputTooLarge: more than `most`, if there is such a limit.
    """
    if most is not None and columns > most:
        raise InputTooLarge(f"{where}: {columns} columns; max_columns is {most}", _FIX)
