"""Limits for reading a source that is not trusted. Everything is counted while it is read."""

from __future__ import annotations

import io
from collections.abc import Callable, Generator
from typing import NamedTuple

from abonyx.errors import InputTooLarge

_MARKS = (",", ";", "\t")
_FIX = "Send fewer records at a time, and only the columns that are needed."


def no_step() -> None:
    """Do nothing: for reading without interruption."""


class ReadLimits(NamedTuple):
    """The limits for one source.

    Attributes:
        unpacked_bytes: largest size of unpacked gzip data.
        gzip_members: largest number of gzip members.
        gzip_extra_bytes: largest size of all headers of members, and of zeros between and after members.
        lines: largest number of lines, with blank lines and comments.
        line_chars: largest number of characters in a line.
        columns: largest number of columns in any line: the number of its commas, semicolons or tabs, plus one. Those in
            quoted cells count too.
        cells: largest number of cells in all lines, counted in this way.
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
        text: the text.
        name: name of the source in messages.
        limits: the limits.

    Raises:
        InputTooLarge: a line is over a limit.
    """
    number = cells = 0
    # A line is counted before csv reads it, because csv splits a whole line without letting other threads run.
    while line := text.readline(limits.line_chars + 1):
        limits.step()
        number += 1
        if number > limits.lines:
            what = f"{name}: more than {limits.lines} lines, with blank lines and comments; max_lines is {limits.lines}"
            raise InputTooLarge(what, _FIX)
        if len(line) > limits.line_chars:
            what = f"{name}:{number}: more than {limits.line_chars} characters; max_line_chars is {limits.line_chars}"
            raise InputTooLarge(what, _FIX)
        columns = 1 + max(map(line.count, _MARKS))
        check_width(columns, f"{name}:{number}", limits.columns)
        cells += columns
        if cells > limits.cells:
            what = f"{name}:{number}: more than {limits.cells} cells up to this line; max_cells is {limits.cells}"
            raise InputTooLarge(what, _FIX)
        yield line


def check_width(columns: int, where: str, most: int | None) -> None:
    """Check the number of columns of a line or a header.

    Raises:
        InputTooLarge: there are more than `most` (None = no limit).
    """
    if most is not None and columns > most:
        raise InputTooLarge(f"{where}: {columns} columns; max_columns is {most}", _FIX)
