"""How scores, embeddings and rejected records become the bytes of a file."""

from __future__ import annotations

import csv
import functools
import gzip
import io
import re
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

from abonyx.arrays import shortest_decimal
from abonyx.bundle.chosen import P
from abonyx.bundle.panel import PERCENTILE
from abonyx.bundle.threshold import CALL, CALLED
from abonyx.errors import ConfigError, printable
from abonyx.extras import load
from abonyx.output.files import replacing
from abonyx.output.kinds import ScoreKind
from abonyx.wording import Interface, in_words, option

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from abonyx.arrays import Float32Array
    from abonyx.bundle.chosen import ColumnKind
    from abonyx.input.records import RejectedRecord
    from abonyx.output.files import Sink


Columns = tuple[Any, ...]
# A column of a window: float32 values, or calls.
Cells = Any

_NO_COLUMNS: Mapping[str, ColumnKind] = {}
# Of a file with the first head's scores alone.
_SCORES: Mapping[str, ColumnKind] = {P: "float", CALLED: "call", CALL: "word", PERCENTILE: "word"}
# Of pairs, in the place of `sequence`: names that are found again if the file is read.
PAIR_COLUMNS = ("heavy", "light")
# With --trim domain: which residues of the record were scored, FIRST-LAST from 1; empty = no domain to trim to.
PLACE_COLUMN = "domain"
# What a TSV file, which knows no quotes across lines, cannot hold in a cell.
_LINE_ENDS = re.compile("[\r\n]")


@dataclass(frozen=True)
class Format:
    """How the rows of a run become bytes, of one file or more.

    Attributes:
        head: what each file begins with.
        encode: the number of the first row and a window's columns -> what each file gets.
        convert: where a file cannot be appended to: makes it of what was gathered; None = nothing is left to do.
    """

    head: tuple[bytes, ...]
    encode: Callable[[int, Columns], tuple[bytes, ...]]
    convert: Callable[[IO[bytes], Sink], None] | None = None

    def beside(self, whole: bytes) -> Format:
        """The same, behind a file that is whole from the start."""
        return Format((whole, *self.head), lambda start, columns: (b"", *self.encode(start, columns)), self.convert)


def score_columns(
    ids: Sequence[str],
    sequences: Sequence[str],
    p: Float32Array,
    nonspecific: Sequence[int | None],
    call: Sequence[str | None],
    flags: Sequence[str],
    extra: Sequence[Sequence[str]] = (),
    percentile: Sequence[str | None] | None = None,
) -> Columns:
    """A window of k scores.

    Args:
        p: (k,) float32 and finite.
        nonspecific: 0, 1, or None for a score that has a flag and no call.
        call: a word of band.CALL_WORDS, None as in `nonspecific`.
        flags: why a score should not be trusted, "" = nothing is wrong.
        extra: the columns that results_format has besides, of k cells each.
        percentile: intervals, None as in `nonspecific`; None = no panel.
    """
    percentiles = [None] * len(ids) if percentile is None else percentile
    leading = {P: p, CALLED: nonspecific, CALL: call, PERCENTILE: percentiles}
    return value_columns(ids, sequences, leading, flags, {}, extra)


def value_columns(
    ids: Sequence[str],
    sequences: Sequence[str],
    leading: Mapping[str, Cells],
    flags: Sequence[str],
    following: Mapping[str, Cells],
    extra: Sequence[Sequence[str]] = (),
    light: Sequence[str] | None = None,
) -> Columns:
    """A window of k records with the columns of some heads: float32 and finite values, and calls.

    Args:
        leading, following: name -> column of k cells, those before and behind the flags.
        flags, extra: as score_columns has them.
        light: of pairs the light chains, whose heavy chains are `sequences`.
    """
    chains = [sequences] if light is None else [sequences, light]
    scores = dict(leading) | dict(following)
    counts = {"ids": len(ids), "sequences": len(sequences)} | ({} if light is None else {"light": len(light)})
    counts |= {name: len(column) for name, column in scores.items()}
    counts |= {"flags": len(flags)} | {f"extra {at}": len(column) for at, column in enumerate(extra)}
    numbers = {name: column for name, column in scores.items() if isinstance(column, np.ndarray)}
    if any(column.dtype != np.float32 for column in numbers.values()) or len(set(counts.values())) > 1:
        kinds = {name: str(column.dtype) for name, column in numbers.items()}
        raise ValueError(f"a window needs one float32 value a row, not {kinds} and {counts}")
    for name, column in numbers.items():
        for at in np.flatnonzero(~np.isfinite(column)).tolist():
            raise ValueError(f"{name} of {ids[at]!r} is {column[at]}, which is not finite")
    return (ids, *chains, *leading.values(), flags, *following.values(), *extra)


def embedding_columns(
    ids: Sequence[str], embedding: Float32Array, width: int, flags: Sequence[str], extra: Sequence[Sequence[str]] = ()
) -> Columns:
    """A window of k embeddings, (k, width) float32; flags and extra as score_columns has them."""
    wanted = (len(ids), width)
    if embedding.shape != wanted or embedding.dtype != np.float32:
        raise ValueError(f"a window needs {wanted} float32, not {embedding.shape} {embedding.dtype}")
    return (ids, embedding, flags, *extra)


def results_format(
    kind: ScoreKind,
    metadata: Mapping[str, str],
    extra: Sequence[str] = (),
    leading: Mapping[str, ColumnKind] = _SCORES,
    following: Mapping[str, ColumnKind] = _NO_COLUMNS,
    chains: tuple[str, ...] = ("sequence",),
) -> Format:
    """The format of a file of scores, whose columns come as value_columns gives them.

    Args:
        kind: Parquet holds values as float32, the others as the shortest decimal that reads back as the same float32.
        metadata: stored in Parquet's schema under keys `abonyx.KEY`; the others have no place for it.
        extra: names of the columns behind all others.
        leading, following: the heads' columns before and behind `flag`; behind it also those on request.
        chains: names of the columns of sequences; of pairs PAIR_COLUMNS.

    Raises:
        ConfigError: Parquet without pyarrow, or two columns of one name.
    """
    names = _distinct(("id", *chains, *leading, "flag", *following), extra)
    kinds = dict(leading) | dict(following)
    if kind == "parquet":
        return _parquet(names, metadata, kinds=kinds)
    at_numbers = {at for at, name in enumerate(names) if kinds.get(name) == "float"}
    delimiter = "\t" if kind.startswith("tsv") else ","
    # A window is a gzip member of its own: with a time stamp, or state kept between windows, no run could be resumed.
    packed = functools.partial(gzip.compress, mtime=0) if kind.endswith(".gz") else bytes

    def text(_start: int, columns: Columns) -> tuple[bytes]:
        cells = [map(shortest_decimal, each) if at in at_numbers else each for at, each in enumerate(columns)]
        if kind == "jsonl":
            # msgspec writes a float64; the one nearest to the float32's shortest decimal prints as that decimal.
            cells = [map(float, each) if at in at_numbers else each for at, each in enumerate(cells)]
        rows = zip(*cells, strict=True)
        return (packed(_json_lines(rows, names) if kind == "jsonl" else csv_bytes(rows, delimiter)),)

    return Format((b"" if kind == "jsonl" else packed(csv_bytes([names], delimiter)),), text)


def refuse_line_ends(kind: ScoreKind, columns: Mapping[str, Sequence[str]]) -> None:
    """Refuse, by a ConfigError, cells with line ends in a TSV file. columns: name -> cells."""
    if not kind.startswith("tsv"):
        return
    for name, cells in columns.items():
        for at, cell in enumerate(cells, 1):
            if _LINE_ENDS.search(cell):
                what = f"{option('output')}: TSV holds no line end in a cell; column {name!r} of record {at} has one"
                raise ConfigError(what, "Write .csv, .jsonl or .parquet.")


def embeddings_format(
    kind: Literal["npy", "parquet"], n: int, width: int, metadata: Mapping[str, str], extra: Sequence[str] = ()
) -> Format:
    """The format of a file of embeddings; of a .npy the ids and flags of its rows are a first file, for `ids_path`.

    Args:
        kind: npy is one (n, width) float32 array; parquet has the columns id, embedding, flag.
        n: rows in all.
        width: columns of the embedding.
        metadata: stored in Parquet's schema under keys `abonyx.KEY`; .npy has no place for it.
        extra: names of the columns behind `flag`.

    Raises:
        ConfigError: Parquet without pyarrow, or two columns of one name.
    """
    if kind == "parquet":
        return _parquet(_distinct(("id", "embedding", "flag"), extra), metadata, width)
    names = _distinct(("row", "id", "flag"), extra)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (n, width)})

    def encode(start: int, columns: Columns) -> tuple[bytes, bytes]:
        ids, embedding, *rest = columns
        rows = zip(range(start, start + len(ids)), ids, *rest, strict=True)
        return csv_bytes(rows), embedding.astype("<f4", copy=False).tobytes()

    return Format((csv_bytes([names]), header.getvalue()), encode)


def rejected_bytes(problems: Iterable[RejectedRecord]) -> bytes:
    """The records that were not scored as CSV with the columns id, line, reason; options in the command's words."""
    worded = ((id_, line, in_words(reason, Interface.COMMAND_LINE)) for id_, line, reason in problems)
    return csv_bytes([("id", "line", "reason"), *worded])


def write_rejected(path: Path, problems: Iterable[RejectedRecord]) -> None:
    """Write a file of rejected_bytes."""
    with replacing(path) as sink:
        sink.write(rejected_bytes(problems))


def write_table(path: Path, header: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> None:
    """Write a CSV file."""
    with replacing(path) as sink:
        sink.write(csv_bytes([header, *rows]))


def _distinct(columns: tuple[str, ...], extra: Sequence[str]) -> tuple[str, ...]:
    """All names, each once."""
    names = (*columns, *extra)
    for name in extra:
        if names.count(name) > 1:
            what = f"{option('keep')} {printable(name)}: the output has a column of this name"
            raise ConfigError(what, "Rename it in the input, or leave it out.")
    return names


def csv_bytes(rows: Iterable[tuple[object, ...]], delimiter: str = ",") -> bytes:
    """Rows as CSV, without a header of its own; None is an empty cell."""
    table = list(rows)
    lines = _csv_lines(table, delimiter)
    # Before CPython 3.11.9 and 3.12.3 a lone \r is left unquoted (gh-67044), and its row would not read back.
    if "\r" in lines:
        lines = "".join(_csv_lines([row], delimiter, quote_all="\r" in "".join(map(str, row))) for row in table)
    return lines.encode("utf-8", "backslashreplace")


def _csv_lines(rows: Iterable[tuple[object, ...]], delimiter: str, quote_all: bool = False) -> str:
    text = io.StringIO(newline="")
    quoting: Literal[0, 1] = csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL
    csv.writer(text, delimiter=delimiter, quoting=quoting, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _json_lines(rows: Iterable[tuple[Any, ...]], names: tuple[str, ...]) -> bytes:
    return msgspec.json.Encoder().encode_lines([dict(zip(names, row, strict=True)) for row in rows])


def _parquet(
    names: Sequence[str],
    metadata: Mapping[str, str],
    width: int = 1,
    kinds: Mapping[str, ColumnKind] = _NO_COLUMNS,
) -> Format:
    """Parquet keeps its index at its end, so windows are gathered as an Arrow stream; each becomes one row group."""
    pa, pq = load("Parquet", "pyarrow"), load("Parquet", "pyarrow.parquet")
    types = {"float": pa.float32(), "call": pa.int8(), "word": pa.string(), "number": pa.float32(), "count": pa.int32()}
    stored = {name: types[kind] for name, kind in kinds.items()}
    stored["embedding"] = pa.list_(pa.float32(), width)
    fields = [(name, stored.get(name, pa.string())) for name in names]
    schema = pa.schema(fields, {f"abonyx.{key}": text for key, text in metadata.items()})

    def encode(_start: int, columns: Columns) -> tuple[bytes]:
        arrays = [pa.array(list(column), kind) for column, kind in zip(columns, schema.types, strict=True)]
        return (pa.record_batch(arrays, schema=schema).serialize().to_pybytes(),)

    def convert(gathered: IO[bytes], sink: Sink) -> None:
        # The writer is closed in any case: its finaliser would otherwise write to a file that is gone.
        with (
            pa.ipc.open_stream(gathered) as batches,
            pq.ParquetWriter(pa.PythonFile(sink, mode="w"), schema) as writer,
        ):
            for batch in batches:
                writer.write_batch(batch)

    return Format((schema.serialize().to_pybytes(),), encode, convert)
