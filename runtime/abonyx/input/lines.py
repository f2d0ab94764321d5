"""Records of a text with one sequence on each line and no header."""

from __future__ import annotations

from collections.abc import Generator, Iterable

from abonyx.errors import InputError, printable
from abonyx.input.cells import Record, RejectedRecord, named
from abonyx.input.columns import Wanted, is_sequence_name
from abonyx.input.tables import DELIMITERS

_AS_TABLE = "Send a table as text/csv."


def read_lines(lines: Iterable[str], name: str, wanted: Wanted) -> Generator[Record | RejectedRecord]:
    """Yield the records, with the ids 1, 2, 3 and so on. Blank lines are left out.

    Raises:
        InputError: a column is requested, the first line is the name of a column, or a line is from a table or FASTA.
    """
    column = wanted.sequence or wanted.id
    if column is not None:
        raise InputError(f"{name}: has one sequence on each line, and no column {printable(column)!r}", _AS_TABLE)
    count = 0
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text:
            continue
        if mark := next((mark for mark in DELIMITERS if mark in line.rstrip("\r\n")), None):
            what = f"{name}:{number}: has {DELIMITERS[mark]}, which a text with one sequence on each line cannot have"
            raise InputError(what, _AS_TABLE)
        if text.startswith(">"):
            what = f"{name}:{number}: {printable(text)!r} begins like a FASTA header, but there is text before it"
            raise InputError(what, "Begin FASTA with a '>' line, or send one sequence on each line.")
        if count == 0 and is_sequence_name(text):
            what = f"{name}:{number}: {printable(text)!r} is the name of a column, not a sequence"
            raise InputError(what, f"{_AS_TABLE} Leave the line out if each line is a sequence.")
        count += 1
        yield named(str(count), text, number)
    if not count:
        raise InputError(f"{name}: has only blank lines, no sequences", "Send at least one.")
