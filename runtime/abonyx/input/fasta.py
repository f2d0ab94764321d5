"""Records of a FASTA file."""

from __future__ import annotations

import gzip
import zlib
from collections import deque
from collections.abc import Generator, Iterable

from abonyx.errors import InputError
from abonyx.input.cells import Record, RejectedRecord, identified

_COMMENTS = ("#", ";")


def read_fasta(lines: Iterable[str], name: str, notes: list[str]) -> Generator[Record | RejectedRecord]:
    """Yield the records. The id is the first word, or in the whole file the whole header if first words collide."""
    held: deque[Record | RejectedRecord] = deque()
    try:
        held.extend(_records(lines, name))
    except (InputError, OSError, EOFError, gzip.BadGzipFile, zlib.error):
        yield from held  # what was read before, for the message to say how far
        raise
    names = [record.id for record in held if isinstance(record, Record)]
    whole = len(set(names)) < len(names) and any(record.description for record in held if isinstance(record, Record))
    if whole:
        notes.append(f"{name}: first words of headers collide, so every id is its whole header")
    while held:
        record = held.popleft()
        if whole and isinstance(record, Record) and record.description:
            record = record._replace(id=f"{record.id} {record.description}")
        yield record


def _records(lines: Iterable[str], name: str) -> Generator[Record | RejectedRecord]:
    header, start, ordinal = "", 0, 0
    parts: list[str] = []
    for number, line in enumerate(lines, 1):
        text = line.strip(" \t\r\n")
        if text.startswith(">"):
            if ordinal:
                yield _record(header, ordinal, parts, start)
            header = text[1:]
            start, ordinal, parts = number, ordinal + 1, []
        elif not text or text.startswith(_COMMENTS):
            continue
        elif ordinal:
            parts.append(text)
        else:
            fix = "Start each record with a '>' line; name a table .csv or .tsv."
            raise InputError(f"{name}:{number}: {text[:40]!r} is before the first '>'", fix)
    if not ordinal:
        raise InputError(f"{name}: only blank lines from line 1 on, no records", "Give at least one '>' record.")
    yield _record(header, ordinal, parts, start)


def _record(header: str, ordinal: int, parts: list[str], line: int) -> Record | RejectedRecord:
    words = header.split(maxsplit=1)
    id_ = words[0] if words else ""
    description = words[1].rstrip() if len(words) > 1 else ""
    sequence = parts[0] if len(parts) == 1 else "".join(parts)
    record = identified(id_, ordinal, sequence, line, description=description)
    if description and isinstance(record, Record) and not description.isascii():
        safe = description.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        record = record._replace(description=safe)
    return record
