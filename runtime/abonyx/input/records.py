"""Read records from a FASTA, CSV, TSV, JSONL, Parquet or Excel file, or from standard input.

A file that cannot be read raises an InputError. A single bad row gives a RejectedRecord, so that the caller can list
all of them at once.
"""

from __future__ import annotations

import gzip
import io
import zlib
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, cast

from abonyx.errors import InputError, printable
from abonyx.input import excel
from abonyx.input.cells import Record, RejectedRecord
from abonyx.input.columns import Wanted
from abonyx.input.fasta import read_fasta
from abonyx.input.gunzip import unzip
from abonyx.input.jsonl import read_jsonl
from abonyx.input.limits import ReadLimits, limited_lines
from abonyx.input.lines import read_lines
from abonyx.input.parquet import read_parquet
from abonyx.input.recognition import GZIP, check_kind, named_kind, sniff
from abonyx.input.streams import open_source, peek
from abonyx.input.tables import read_table
from abonyx.wording import option

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

__all__ = ["Record", "RejectedRecord", "read_records"]


def read_records(
    source: Path | None,
    *,
    id_column: str | None = None,
    sequence_column: str | None = None,
    light_column: str | None = None,
    chains: tuple[str, ...] = ("H",),
    label_column: str | None = None,
    sheet: str | None = None,
    keep: tuple[str, ...] = (),
    find_label: bool = False,
    stdin: BinaryIO | None = None,
    name: str | None = None,
    limits: ReadLimits | None = None,
    notes: list[str] | None = None,
    plain: bool = False,
) -> Iterator[Record | RejectedRecord]:
    """Yield the records of a file, in file order. A row that cannot be used is a RejectedRecord.

    Args:
        source: the file; None = standard input. The suffix gives the format. Standard input, and files with other
            suffixes, are recognised by their first bytes.
        id_column: column of the ids; None = a column with a known name (columns.py), else the number of the record.
            FASTA ignores this and the next argument.
        sequence_column: column of the sequences; None = `sequence` or another known name. FIRST:LAST is a range of
            columns, one for each position of an alignment (ANARCI's tables, 1:128); gaps are left out. For pairs, the
            column of the heavy chains.
        light_column: for pairs, column of the light chains; None = a known name.
        chains: the chains that a record needs: ("H",), ("L",), or both for a pair. In FASTA, a pair is >ID|H and >ID|L.
        label_column: column of the labels; None = read no labels. With FASTA it is an error.
        sheet: sheet of a workbook; needed if several sheets have cells.
        keep: columns to copy to the output, or ("all",); for FASTA ("description",).
        find_label: whether to also keep a column called label, labels, y or class.
        stdin: stream to read instead of sys.stdin.buffer. It stays open.
        name: name of the source in messages; None = its path, or "standard input".
        limits: limits for a source that is not trusted; None = no limits. With limits, Parquet and Excel are refused,
            because their unpacked size has no limit.
        notes: a list to which lines about how the file was read are added.
        plain: whether a text has one sequence on each line (lines.py), if it has no suffix and is not FASTA. If false,
            it is a table or JSONL.

    Raises:
        InputTooLarge: the source is over a limit.
        InputError: the file cannot be read. The first `next` opens the file.
    """
    name = name or ("standard input" if source is None else str(source))
    most = limits and limits.columns
    wanted = Wanted(id_column, sequence_column, label_column, sheet, keep, most, light_column, chains, find_label)
    reading = _Reading(name, wanted, limits, [] if notes is None else notes, plain)
    line = 0
    try:
        with closing(_parse(source, stdin, reading)) as items:
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


class _Reading(NamedTuple):
    """The arguments for reading one source; see read_records."""

    name: str
    wanted: Wanted
    limits: ReadLimits | None
    notes: list[str]
    plain: bool


def _parse(source: Path | None, stdin: BinaryIO | None, reading: _Reading) -> Generator[Record | RejectedRecord]:
    """Unpack gzip, find the format, and call the reader of that format."""
    kind, zipped = named_kind(source)
    with ExitStack() as stack:
        head, stream = peek(stack.enter_context(open_source(source, stdin)), stack)
        if zipped and not head.startswith(GZIP):
            check_kind(head, None, reading.name)  # e.g. a Git LFS pointer
            if head:
                what = f"{reading.name}: ends with .gz, but is not gzip data; it begins with {head[:16]!r}"
                raise InputError(what, "Rename it without .gz, or compress it: gzip FILE.")
        if zipped or (kind is None and head.startswith(GZIP)):
            unzipped = stack.enter_context(_unzipped(stream, reading))
            head, stream = peek(unzipped, stack, reading.limits and reading.limits.unpacked_bytes)
            source = None
        if not head:
            raise InputError(f"{reading.name}: is empty", "Give a file with at least one record.")
        check_kind(head, kind, reading.name)
        kind = kind or sniff(head, reading.name)
        if reading.plain and kind in ("table", "jsonl"):
            kind = "lines"
        if kind in ("parquet", "xlsx"):
            yield from _read_packed(source, stream, kind, reading)
        else:
            # newline="" splits at \n, \r\n and \r and does not change line ends inside quoted fields.
            text = stack.enter_context(io.TextIOWrapper(stream, "utf-8-sig", "surrogateescape", newline=""))
            yield from _read_text(text, kind, reading)


def _unzipped(stream: BinaryIO, reading: _Reading) -> BinaryIO:
    if reading.limits is None:
        return cast("BinaryIO", gzip.GzipFile(fileobj=stream))
    return unzip(stream, reading.name, reading.limits)


def _read_text(text: io.TextIOWrapper, kind: str, reading: _Reading) -> Iterator[Record | RejectedRecord]:
    name, wanted, limits, notes, _ = reading
    if wanted.sheet is not None:
        raise InputError(
            f"{name}: is {kind}, which has no sheet {printable(wanted.sheet)!r}", f"Leave out {option('sheet')}."
        )
    if kind == "fasta" and wanted.label is not None:
        what = f"{name}: is FASTA, which has no column {printable(wanted.label)!r}"
        raise InputError(what, "Give a table (CSV, TSV, Parquet, xlsx) with labels.")
    lines = text if limits is None else limited_lines(text, name, limits)
    if kind == "fasta":
        return read_fasta(lines, name, wanted.keep, notes, wanted.chains)
    if kind == "lines" and wanted.paired:
        what = f"{name}: has one sequence on each line, but the heads need both chains of a record"
        raise InputError(what, "Send a table with a column for each chain, or FASTA with >ID|H and >ID|L.")
    if kind == "lines":
        return read_lines(lines, name, wanted)
    if kind == "jsonl":
        return read_jsonl(lines, name, wanted, notes)
    return read_table(lines, name, kind, wanted, notes)


def _read_packed(
    source: Path | None, stream: BinaryIO, kind: str, reading: _Reading
) -> Iterator[Record | RejectedRecord]:
    name, wanted, limits, notes, _ = reading
    if kind == "xlsx":
        if limits is not None:
            excel.refuse_untrusted(name)
        return excel.read_excel(stream, name, wanted, notes)
    if limits is not None:
        what = f"{name}: is Parquet, which is not accepted here: its unpacked size has no limit"
        raise InputError(what, "Send CSV, TSV or FASTA.")
    if wanted.sheet is not None:
        raise InputError(
            f"{name}: is Parquet, which has no sheet {printable(wanted.sheet)!r}", f"Leave out {option('sheet')}."
        )
    in_place = source if source is not None and source.is_file() else None
    return read_parquet(in_place or io.BytesIO(stream.read()), name, wanted, notes)
