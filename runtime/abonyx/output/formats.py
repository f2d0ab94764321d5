"""Turn scores, embeddings and rejected records into the bytes of a file."""

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
# A column of a window: a float32 array, or a list of calls or texts.
Cells = Any

_NO_COLUMNS: Mapping[str, ColumnKind] = {}
# The columns of a file with only the first head's scores.
_SCORES: Mapping[str, ColumnKind] = {P: "float", CALLED: "call", CALL: "word", PERCENTILE: "word"}
# The columns that replace `sequence` for pairs. abonyx recognises these names when it reads the file.
PAIR_COLUMNS = ("heavy", "light")
# With --trim domain: the residues that were scored, FIRST-LAST from 1; empty if no domain was found.
PLACE_COLUMN = "domain"
# A cell of a TSV file cannot have line ends, because TSV does not quote them.
_LINE_ENDS = re.compile("[\r\n]")


@dataclass(frozen=True)
class Format:
    """Functions that turn the rows of a run into the bytes of one or more files.

    Attributes:
        head: the first bytes of each file.
        encode: (number of the first row, columns of a window) -> the bytes for each file.
        convert: for Parquet, which cannot be written window by window: makes the file from the gathered bytes. None for
            other formats.
    """

    head: tuple[bytes, ...]
    encode: Callable[[int, Columns], tuple[bytes, ...]]
    convert: Callable[[IO[bytes], Sink], None] | None = None

    def beside(self, whole: bytes) -> Format:
        """The same format with one more file before the others. All bytes of that file are known at the start."""
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
    """The columns of a window of k scores by one head.

    Args:
        ids, sequences: k texts each.
        p: (k,) float32, all finite.
        nonspecific: 0 or 1; None for a score that has a flag and no call.
        call: words of band.CALL_WORDS; None as in `nonspecific`.
        flags: why a score should not be trusted; "" if nothing is wrong.
        extra: further columns of k cells each, as for results_format.
        percentile: intervals; a cell is None as in `nonspecific`. None = there is no panel.
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
    """The columns of a window of k records with the values and calls of some heads. Values are finite float32.

    Args:
        ids, sequences: k texts each.
        leading: name -> k cells, for the columns before the flags.
        following: name -> k cells, for the columns after the flags.
        flags, extra: as for score_columns.
        light: for pairs, the light chains; then `sequences` are the heavy chains.
    """
    chains = [sequences] if light is None else [sequences, light]
    scores = dict(leading) | dict(following)
    counts = {"ids": len(ids), "sequences": len(sequences)} | ({} if light is None else {"light": len(light)})
    counts |= {name: len(column) for name, column in scores.items()}
    counts |= {"flags": len(flags)} | {f"extra {at}": len(column) for at, column in enumerate(extra)}
    numbers = {name: column for name, column in scores.items() if isinstance(column, np.ndarray)}
    if any(column.dtype != np.float32 for column in numbers.values()) or len(set(counts.values())) > 1:
        kinds = {name: str(column.dtype) for name, column in numbers.items()}
        raise ValueError(f"a window needs one float32 value for each row, not {kinds} and {counts}")
    for name, column in numbers.items():
        for at in np.flatnonzero(~np.isfinite(column)).tolist():
            raise ValueError(f"{name} of {ids[at]!r} is {column[at]}, which is not finite")
    return (ids, *chains, *leading.values(), flags, *following.values(), *extra)


def embedding_columns(
    ids: Sequence[str], embedding: Float32Array, width: int, flags: Sequence[str], extra: Sequence[Sequence[str]] = ()
) -> Columns:
    """The columns of a window of k embeddings, (k, width) float32. flags and extra are as for score_columns."""
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
    """The format of a file of scores, for columns from value_columns.

    Args:
        kind: Parquet stores values as float32. The others store the shortest decimal that reads back as the same
            float32.
        metadata: stored in Parquet's schema under keys `abonyx.KEY`; ignored by the others.
        extra: names of the last columns.
        leading: kinds of the columns before `flag`.
        following: kinds of the columns after `flag`: those of heads, and those on request.
        chains: names of the columns of sequences; for pairs PAIR_COLUMNS.

    Raises:
        ConfigError: pyarrow is missing for Parquet, or two columns have the same name.
    """
    names = _distinct(("id", *chains, *leading, "flag", *following), extra)
    kinds = dict(leading) | dict(following)
    if kind == "parquet":
        return _parquet(names, metadata, kinds=kinds)
    at_numbers = {at for at, name in enumerate(names) if kinds.get(name) == "float"}
    delimiter = "\t" if kind.startswith("tsv") else ","
    # Each window is its own gzip member, without a time stamp, so that a run can be resumed.
    packed = functools.partial(gzip.compress, mtime=0) if kind.endswith(".gz") else bytes

    def text(_start: int, columns: Columns) -> tuple[bytes]:
        cells = [map(shortest_decimal, each) if at in at_numbers else each for at, each in enumerate(columns)]
        if kind == "jsonl":
            # msgspec writes float64. float() of the float32's shortest decimal is written as that decimal.
            cells = [map(float, each) if at in at_numbers else each for at, each in enumerate(cells)]
        rows = zip(*cells, strict=True)
        return (packed(_json_lines(rows, names) if kind == "jsonl" else csv_bytes(rows, delimiter)),)

    return Format((b"" if kind == "jsonl" else packed(csv_bytes([names], delimiter)),), text)


def refuse_line_ends(kind: ScoreKind, columns: Mapping[str, Sequence[str]]) -> None:
    """Raise a ConfigError if a cell has a line end and the format is TSV. columns: name -> cells."""
    if not kind.startswith("tsv"):
        return
    for name, cells in columns.items():
        for at, cell in enumerate(cells, 1):
            if _LINE_ENDS.search(cell):
                what = f"{option('output')}: column {name!r} of record {at} has a line end, which TSV cannot store"
                raise ConfigError(what, "Write .csv, .jsonl or .parquet.")


def embeddings_format(
    kind: Literal["npy", "parquet"], n: int, width: int, metadata: Mapping[str, str], extra: Sequence[str] = ()
) -> Format:
    """The format of a file of embeddings. For a .npy, the first file has the ids and flags of its rows (`ids_path`).

    Args:
        kind: "npy" is one (n, width) float32 array; "parquet" has the columns id, embedding and flag.
        n: number of all rows.
        width: number of columns of the embedding.
        metadata: stored in Parquet's schema under keys `abonyx.KEY`; ignored for .npy.
        extra: names of the columns after `flag`.

    Raises:
        ConfigError: pyarrow is missing for Parquet, or two columns have the same name.
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
    """The rejected records as CSV with the columns id, line and reason. Reasons have the command line's words."""
    worded = ((id_, line, in_words(reason, Interface.COMMAND_LINE)) for id_, line, reason in problems)
    return csv_bytes([("id", "line", "reason"), *worded])


def write_rejected(path: Path, problems: Iterable[RejectedRecord]) -> None:
    """Write the file of rejected records."""
    with replacing(path) as sink:
        sink.write(rejected_bytes(problems))


def write_table(path: Path, header: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> None:
    """Write a CSV file."""
    with replacing(path) as sink:
        sink.write(csv_bytes([header, *rows]))


def _distinct(columns: tuple[str, ...], extra: Sequence[str]) -> tuple[str, ...]:
    """All names. Raises a ConfigError if a name appears twice."""
    names = (*columns, *extra)
    for name in extra:
        if names.count(name) > 1:
            what = f"{option('keep')} {printable(name)}: the output already has a column with this name"
            raise ConfigError(what, "Rename it in the input, or leave it out.")
    return names


def csv_bytes(rows: Iterable[tuple[object, ...]], delimiter: str = ",") -> bytes:
    """Rows as CSV. None is an empty cell."""
    table = list(rows)
    lines = _csv_lines(table, delimiter)
    # Before CPython 3.11.9 and 3.12.3, csv does not quote a single \r (gh-67044), so the row could not be read back.
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
    """Parquet. A file cannot be appended to, so windows are gathered as an Arrow stream. Each becomes a row group."""
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
        # The writer must be closed even after an error, or its finaliser writes to a file that no longer exists.
        with (
            pa.ipc.open_stream(gathered) as batches,
            pq.ParquetWriter(pa.PythonFile(sink, mode="w"), schema) as writer,
        ):
            for batch in batches:
                writer.write_batch(batch)

    return Format((schema.serialize().to_pybytes(),), encode, convert)
