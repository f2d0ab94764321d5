"""Records from a FASTA, CSV, TSV or Parquet file, or from standard input.

A file that cannot be read as what it should be is an InputError. A single unusable row is a RejectedRecord, so that the
caller can list all of them at once.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import sys
import zlib
from array import array
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, cast

from abonyx.errors import InputError, InputTooLarge
from abonyx.extras import load
from abonyx.input.columns import Wanted, find_columns

if TYPE_CHECKING:
    from _csv import Reader
    from collections.abc import Generator, Iterable, Iterator

    from _typeshed import WriteableBuffer

ACCEPTED = ".fasta .fa .faa .fas .csv .tsv (each also with .gz) .parquet .pq"

_KINDS = {
    **dict.fromkeys((".fasta", ".fa", ".faa", ".fas"), "fasta"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
    ".csv": "csv",
    ".tsv": "tsv",
}
_GZIP_MAGIC, _PARQUET_MAGIC = b"\x1f\x8b", b"PAR1"
_NOT_TEXT = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", _GZIP_MAGIC: "gzip data", _PARQUET_MAGIC: "Parquet"}
_HEAD_BYTES = 1 << 16
# csv's own limit of 128 KiB refuses long free-text columns; past 16 MiB a field is an unclosed quote, not data.
_FIELD_LIMIT_CHARS = 1 << 24


class Record(NamedTuple):
    """One sequence as found; `line` is 1-based, in Parquet the number of the data row; `label` is the cell's text."""

    id: str
    sequence: str
    line: int
    label: str = ""


class RejectedRecord(NamedTuple):
    """One record that cannot be used, where it stands, and why."""

    id: str
    line: int
    reason: str


class _Replay(io.RawIOBase):
    """Bytes already taken from a stream, then the rest of it; closing this leaves the stream open."""

    def __init__(self, head: bytes, rest: BinaryIO, max_bytes: int | None) -> None:
        self._head = head
        self._rest = rest
        self._max_bytes = max_bytes
        self._given = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        data = self._head[: len(view)] or self._rest.read(len(view))
        self._head = self._head[len(view) :]
        self._given += len(data)
        if self._max_bytes is not None and self._given > self._max_bytes:
            what = f"the gzip data unpack to more than {self._max_bytes} bytes, the most that is taken here"
            raise InputTooLarge(what, "Send fewer records at a time.")
        view[: len(data)] = data
        return len(data)


def read_records(
    source: Path | None,
    *,
    id_column: str | None = None,
    sequence_column: str | None = None,
    label_column: str | None = None,
    stdin: BinaryIO | None = None,
    name: str | None = None,
    max_unpacked_bytes: int | None = None,
) -> Iterator[Record | RejectedRecord]:
    """Yield the records of a file in file order; a row that cannot be used by itself comes as a RejectedRecord.

    Args:
        source: the file; its suffix names the format. None is standard input; it and other suffixes are recognised by
            their first bytes.
        id_column: column of the ids; by default `id`, and the record's ordinal where there is no such column.
        sequence_column: column of the sequences; by default `sequence`. FASTA uses neither. FIRST:LAST is a range of
            columns, one a position of an alignment (ANARCI's tables, 1:128); gaps are left out.
        label_column: column of the labels; by default none is read. FASTA has none: an InputError.
        stdin: read in place of sys.stdin.buffer; left open.
        name: what messages call the source; None = its path, or "standard input".
        max_unpacked_bytes: most bytes that gzip data may unpack to, counted while they do. Parquet, whose unpacked size
            nothing bounds, is refused then. None = a source that is trusted.

    Raises:
        InputTooLarge: over max_unpacked_bytes.
        InputError: at the first fault of the file as a whole; the first `next` already opens the file.

    """
    name = name or ("standard input" if source is None else str(source))
    wanted = Wanted(id_column, sequence_column, label_column)
    line = 0
    try:
        with closing(_parse(source, stdin, name, wanted, max_unpacked_bytes)) as items:
            for item in items:
                line = item.line
                yield item
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(
            f"{name}: truncated or corrupt gzip data {f'after line {line}' if line else 'at line 1'}: {error}",
            "Test the file with `gzip -t`, then copy or download it again.",
        ) from error
    except OSError as error:
        advice = "Check the path, and that you may read it (`chmod u+r`)."
        raise InputError(f"{name}: cannot be read: {error.strerror or error}", advice) from error


def _open(source: Path | None, stdin: BinaryIO | None) -> AbstractContextManager[BinaryIO]:
    if source is None:
        if stdin is None and sys.stdin is None:
            raise InputError("standard input is closed", "Name a file, or pipe one in.")
        return nullcontext(stdin if stdin is not None else sys.stdin.buffer)
    if source.is_dir():
        raise InputError(f"{source}: is a directory", f"Name one file in it; accepted: {ACCEPTED}.")
    return source.open("rb")


def _parse(
    source: Path | None, stdin: BinaryIO | None, name: str, wanted: Wanted, max_unpacked_bytes: int | None
) -> Generator[Record | RejectedRecord]:
    """Undo gzip, settle the format, and hand the bytes to its reader."""
    kind, zipped = named_kind(source)
    with ExitStack() as stack:
        head, stream = _peek(stack.enter_context(_open(source, stdin)), stack)
        if zipped or (kind is None and head.startswith(_GZIP_MAGIC)):
            unzipped = stack.enter_context(gzip.GzipFile(fileobj=stream))
            head, stream = _peek(cast("BinaryIO", unzipped), stack, max_unpacked_bytes)
            source = None
        if not head:
            raise InputError(f"{name}: is empty, there is no line 1", "Give a file with at least one record.")
        kind = kind or _sniff(head, name)
        if kind == "parquet":
            if max_unpacked_bytes is not None:
                what = f"{name}: is Parquet, which is not taken here: nothing bounds what it unpacks to"
                raise InputError(what, "Send CSV, TSV or FASTA.")
            in_place = source if source is not None and source.is_file() else None
            yield from _read_parquet(in_place or io.BytesIO(stream.read()), name, wanted)
            return
        for mark, found in _NOT_TEXT.items():
            if head.startswith(mark):
                raise InputError(f"{name}: is {found}, not {kind} in UTF-8", f"Convert or rename it: {ACCEPTED}.")
        # newline="" splits at \n, \r\n and \r and leaves line ends inside quoted fields as they are.
        text = stack.enter_context(io.TextIOWrapper(stream, "utf-8-sig", "surrogateescape", newline=""))
        if kind == "fasta" and wanted.label is not None:
            what = f"{name}: is FASTA, which has no column {wanted.label!r}"
            raise InputError(what, "Give a CSV, TSV or Parquet file with labels.")
        yield from _read_fasta(text, name) if kind == "fasta" else _read_table(text, name, kind, wanted)


def named_kind(source: Path | None) -> tuple[str | None, bool]:
    """Return the format that the suffix names, None if it names none, and whether it says gzip."""
    suffixes = [suffix.lower() for suffix in source.suffixes] if source is not None else []
    zipped = suffixes[-1:] == [".gz"]
    return _KINDS.get("".join(suffixes[-2:-1] if zipped else suffixes[-1:])), zipped


def _peek(stream: BinaryIO, stack: ExitStack, max_bytes: int | None = None) -> tuple[bytes, BinaryIO]:
    """Return the first bytes and a stream that still has them; a pipe cannot be rewound."""
    head = b""
    while len(head) < _HEAD_BYTES and (more := stream.read(_HEAD_BYTES - len(head))):
        head += more
    whole = stack.enter_context(io.BufferedReader(_Replay(head, stream, max_bytes), _HEAD_BYTES))
    return head, cast("BinaryIO", whole)


def _sniff(head: bytes, name: str) -> str:
    if head.startswith(_PARQUET_MAGIC):
        return "parquet"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b">"):
        return "fasta"
    lines = (line for line in re.split(rb"[\r\n]", text) if line.strip() and not line.startswith(b"#"))
    header = next(lines, b"")
    if head[:2] not in _NOT_TEXT and (b"\0" in header or b"\0" in head[:16]):
        raise InputError(f"{name}: line 1 is binary, not FASTA, CSV, TSV or Parquet", f"Accepted: {ACCEPTED}.")
    return "tsv" if b"\t" in header else "csv"


def _identified(id_: str, ordinal: int, sequence: str, line: int, label: str = "") -> Record | RejectedRecord:
    if not id_ or id_.isspace():
        return Record(str(ordinal), sequence, line, label)
    if not id_.isascii() and any("\ud800" <= char <= "\udfff" for char in id_):
        shown = id_.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        return RejectedRecord(shown, line, "the id is not valid UTF-8")
    return Record(id_, sequence, line, label)


def _read_fasta(lines: Iterable[str], name: str) -> Generator[Record | RejectedRecord]:
    header, start, ordinal = "", 0, 0
    parts: list[str] = []
    for number, line in enumerate(lines, 1):
        text = line.strip(" \t\r\n")
        if text.startswith(">"):
            if ordinal:
                yield _identified(header, ordinal, "".join(parts), start)
            header = "".join(text[1:].split(maxsplit=1)[:1])
            start, ordinal, parts = number, ordinal + 1, []
        elif text and not ordinal:
            fix = "Start each record with a '>' line; name a table .csv or .tsv."
            raise InputError(f"{name}:{number}: {text[:40]!r} stands before the first '>'", fix)
        elif text:
            parts.append(text)
    if not ordinal:
        raise InputError(f"{name}: only blank lines from line 1 on, no records", "Give at least one '>' record.")
    yield _identified(header, ordinal, "".join(parts), start)


def _read_table(text: io.TextIOWrapper, name: str, kind: str, wanted: Wanted) -> Generator[Record | RejectedRecord]:
    above = 0
    for first in text:
        if first.strip() and not first.startswith("#"):
            break
        above += 1
    else:
        raise InputError(f"{name}:{max(above, 1)}: the file ends before a header", "Give a header and records.")
    reader = csv.reader(chain([first], text), delimiter="\t" if kind == "tsv" else ",", strict=True)
    rows = _numbered_rows(reader, name, above)
    line, header = next(rows)
    where = f"{name}:{line}"
    at = find_columns(header, where, wanted)
    width, ordinal, blanks = len(header), 0, array("Q")  # a list takes 40 bytes for a byte of blank line
    for line, row in rows:
        if not row or (len(row) == 1 and row[0].isspace()):
            blanks.append(line)
            continue
        # A comment below the header, too; a row of the header's width is data, and "#" in it is refused as a residue.
        if row[0].startswith("#") and (len(row) != width or width == 1):
            continue
        # Where there is one column, a blank line between records is a record without a sequence.
        for blank in blanks if width == 1 else ():
            ordinal += 1
            yield Record(str(ordinal), "", blank)
        del blanks[:]
        ordinal += 1
        if len(row) == width:
            id_, sequence, label = map(str, at.cells(row))
            yield _identified(id_, ordinal, sequence, line, label)
        else:
            id_ = row[at.id] if at.id is not None and at.id < len(row) else ""
            shown = _identified(id_, ordinal, "", line).id
            yield RejectedRecord(shown, line, f"the row has {len(row)} columns, the header {width}")
    if not ordinal:
        raise InputError(f"{where}: a header, but no records below it", "Give at least one record.")


def _numbered_rows(reader: Reader, name: str, above: int) -> Generator[tuple[int, list[str]]]:
    """Yield each row with the line it starts on, 1-based, `above` lines having been read before."""
    while True:
        start = above + reader.line_num + 1
        # The limit is the whole process's: raised only while csv parses, never while the caller runs.
        limit = csv.field_size_limit(_FIELD_LIMIT_CHARS)
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


def _read_parquet(file: Path | io.BytesIO, name: str, wanted: Wanted) -> Generator[Record | RejectedRecord]:
    pa, pq = load("Parquet", "pyarrow"), load("Parquet", "pyarrow.parquet")
    row = 0
    try:
        with pq.ParquetFile(file) as parquet:
            header = parquet.schema_arrow.names
            at = find_columns(header, f"{name}, header", wanted)
            used = sorted({*at.sequence} | {place for place in (at.id, at.label) if place is not None})
            for batch in parquet.iter_batches(columns=[header[place] for place in used]):
                columns = {place: batch.column(header[place]).to_pylist() for place in used}
                for at_row in range(batch.num_rows):
                    row += 1
                    id_, sequence, label = at.cells({place: cells[at_row] for place, cells in columns.items()})
                    yield _typed(id_, sequence, row, str(label))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{name}: not readable as Parquet after row {row}: {error}", "Write it again.") from error
    if not row:
        raise InputError(f"{name}, header: columns, but no records", "Give at least one record.")


def _typed(id_: object, sequence: object, row: int, label: str) -> Record | RejectedRecord:
    # A whole number has one text, and tables number their rows; any other type would need a choice.
    if isinstance(id_, int) and not isinstance(id_, bool):
        id_ = str(id_)
    if isinstance(id_, str) and isinstance(sequence, str):
        return _identified(id_, row, sequence, row, label)
    what, value = ("sequence", sequence) if isinstance(id_, str) else ("id", id_)
    shown = _identified(id_ if isinstance(id_, str) else "", row, "", row).id
    return RejectedRecord(shown, row, f"the {what} is {'null' if value is None else type(value).__name__}, not text")
