"""Records of a FASTA file."""

from __future__ import annotations

import gzip
import zlib
from array import array
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field

from abonyx.errors import InputError, printable
from abonyx.input.cells import NO_CELLS, Record, RejectedRecord, named
from abonyx.input.columns import ALL
from abonyx.wording import option

# What `keep` calls the header after its first word.
DESCRIPTION = "description"
# First characters of lines that hold nothing: comments, and "" of a blank one.
_SKIPPED = frozenset(("", "#", ";"))


def read_fasta(
    lines: Iterable[str], name: str, keep: tuple[str, ...], notes: list[str]
) -> Generator[Record | RejectedRecord]:
    """Yield the records. The id is the first word, or in the whole file the whole header if first words collide.

    Args:
        keep: ("description",) or ALL: the header after its first word is kept.
    """
    if keep not in ((), (ALL,), (DESCRIPTION,)):
        what = f"{name}: is FASTA, which has no column {printable(next(key for key in keep if key != DESCRIPTION))!r}"
        raise InputError(what, f"Use {option('keep')} {DESCRIPTION}: the header after its first word.")
    entries = _Entries()
    try:
        entries.read(lines, name)
    except (InputError, OSError, EOFError, gzip.BadGzipFile, zlib.error):
        yield from entries.records(whole=False, keep=bool(keep))  # what was read before, for the message to say how far
        raise
    whole = entries.collide()
    if whole:
        notes.append(f"{name}: first words of headers collide, so every id is its whole header")
    yield from entries.records(whole=whole, keep=bool(keep))


@dataclass
class _Entries:
    """Headers, sequences and line numbers, in file order: held as text, since only the last header decides the ids."""

    headers: list[str] = field(default_factory=list)
    sequences: list[str] = field(default_factory=list)
    lines: array[int] = field(default_factory=lambda: array("Q"))

    def read(self, lines: Iterable[str], name: str) -> None:
        """Read to the end."""
        header, start = "", 0
        parts: list[str] = []
        for number, line in enumerate(lines, 1):
            text = line.strip(" \t\r\n")
            first = text[:1]
            if first == ">":
                if start:
                    self._add(header, parts, start)
                header, start, parts = text[1:].strip(), number, []
            elif first in _SKIPPED:
                continue
            elif start:
                parts.append(text)
            else:
                fix = "Start each record with a '>' line; name a table .csv or .tsv."
                raise InputError(f"{name}:{number}: {text[:40]!r} is before the first '>'", fix)
        if not start:
            raise InputError(f"{name}: only blank lines from line 1 on, no records", "Give at least one '>' record.")
        self._add(header, parts, start)

    def _add(self, header: str, parts: list[str], line: int) -> None:
        self.headers.append(header)
        self.sequences.append("".join(parts))
        self.lines.append(line)

    def collide(self) -> bool:
        """Whether two records have the same first word, and whole headers are more than that."""
        words = {header.split(maxsplit=1)[0] for header in self.headers if header}
        named = sum(map(bool, self.headers))
        return len(words) < named and any(len(header.split(maxsplit=1)) > 1 for header in self.headers)

    def records(self, *, whole: bool, keep: bool) -> Generator[Record | RejectedRecord]:
        """The records; `whole` headers are their ids; `keep` their descriptions."""
        rows = zip(self.headers, self.sequences, self.lines, strict=True)
        for ordinal, (header, sequence, line) in enumerate(rows, 1):
            words = header.split(maxsplit=1)
            id_ = words[0] if words and not whole else header
            kept = {DESCRIPTION: words[1] if len(words) == 2 else ""} if keep else NO_CELLS
            yield named(id_ or str(ordinal), sequence, line, "", kept)
