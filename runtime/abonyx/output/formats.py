"""How scores, embeddings and rejected records become the bytes of a file."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

from abonyx.arrays import shortest_decimal
from abonyx.extras import load
from abonyx.output.files import replacing
from abonyx.wording import Interface, in_words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from abonyx.arrays import Float32Array
    from abonyx.input.records import RejectedRecord
    from abonyx.output.files import Sink


Columns = tuple[Any, ...]

RESULT_COLUMNS = ("id", "sequence", "p_nonspecific", "nonspecific", "flag")
# With --trim domain: which residues of `sequence` were scored, FIRST-LAST from 1; empty = all of them.
TRIMMED_COLUMNS = (*RESULT_COLUMNS, "domain")


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
    flags: Sequence[str],
    places: Sequence[str] | None = None,
) -> Columns:
    """A window of k scores.

    Args:
        p: (k,) float32 and finite.
        nonspecific: 0, 1, or None for a score that has a flag and no call.
        flags: why a score should not be trusted, "" = nothing is wrong.
        places: the column `domain` of trimmed records; None = no such column.
    """
    counts = {"ids": len(ids), "sequences": len(sequences), "p": p.size, "nonspecific": len(nonspecific)}
    counts |= {"flags": len(flags)} | ({} if places is None else {"places": len(places)})
    if p.dtype != np.float32 or len(set(counts.values())) > 1:
        raise ValueError(f"a window needs one float32 p a row, not {p.dtype} and {counts}")
    for at in np.flatnonzero(~np.isfinite(p)).tolist():
        raise ValueError(f"p_nonspecific of {ids[at]!r} is {p[at]}, which is not a probability")
    columns = (ids, sequences, p, nonspecific, flags)
    return columns if places is None else (*columns, places)


def embedding_columns(ids: Sequence[str], embedding: Float32Array, width: int) -> Columns:
    """A window of k embeddings, (k, width) float32."""
    wanted = (len(ids), width)
    if embedding.shape != wanted or embedding.dtype != np.float32:
        raise ValueError(f"a window needs {wanted} float32, not {embedding.shape} {embedding.dtype}")
    return ids, embedding


def results_format(
    format: Literal["csv", "jsonl", "parquet"], metadata: Mapping[str, str], *, trimmed: bool = False
) -> Format:
    """The format of a file of scores.

    Args:
        format: CSV and JSONL hold p as the shortest decimal that reads back as the same float32, Parquet as float32.
        metadata: stored in Parquet's schema under keys `abonyx.KEY`; CSV and JSONL have no place for it.
        trimmed: with the column `domain`.

    Raises:
        ConfigError: Parquet without pyarrow.
    """
    names = TRIMMED_COLUMNS if trimmed else RESULT_COLUMNS
    if format == "parquet":
        return _parquet(names, metadata)

    def text(_start: int, columns: Columns) -> tuple[bytes]:
        ids, sequences, p, *rest = columns
        rows = zip(ids, sequences, map(shortest_decimal, p), *rest, strict=True)
        return (_csv_bytes(rows) if format == "csv" else _json_lines(rows, names),)

    return Format((_csv_bytes([names]) if format == "csv" else b"",), text)


def embeddings_format(format: Literal["npy", "parquet"], n: int, width: int, metadata: Mapping[str, str]) -> Format:
    """The format of a file of embeddings; of a .npy the ids of its rows are a first file, for `outputs.ids_path`.

    Args:
        format: npy is one (n, width) float32 array; parquet has the columns id and embedding.
        n: rows in all.
        width: columns of the embedding.
        metadata: stored in Parquet's schema under keys `abonyx.KEY`; .npy has no place for it.

    Raises:
        ConfigError: Parquet without pyarrow.
    """
    if format == "parquet":
        return _parquet(("id", "embedding"), metadata, width)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (n, width)})

    def encode(start: int, columns: Columns) -> tuple[bytes, bytes]:
        ids, embedding = columns
        return _csv_bytes(enumerate(ids, start)), embedding.astype("<f4", copy=False).tobytes()

    return Format((_csv_bytes([("row", "id")]), header.getvalue()), encode)


def rejected_bytes(problems: Iterable[RejectedRecord]) -> bytes:
    """The records that were not scored as CSV with the columns id, line, reason; options in the command's words."""
    worded = ((id_, line, in_words(reason, Interface.COMMAND_LINE)) for id_, line, reason in problems)
    return _csv_bytes([("id", "line", "reason"), *worded])


def write_rejected(path: Path, problems: Iterable[RejectedRecord]) -> None:
    """Write a file of rejected_bytes."""
    with replacing(path) as sink:
        sink.write(rejected_bytes(problems))


def write_table(path: Path, header: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> None:
    """Write a CSV file."""
    with replacing(path) as sink:
        sink.write(_csv_bytes([header, *rows]))


def _csv_bytes(rows: Iterable[tuple[object, ...]]) -> bytes:
    table = list(rows)
    lines = _csv_lines(table)
    # Before CPython 3.11.9 and 3.12.3 a lone \r is left unquoted (gh-67044), and its row would not read back.
    if "\r" in lines:
        lines = "".join(_csv_lines([row], quote_all="\r" in "".join(map(str, row))) for row in table)
    return lines.encode("utf-8", "backslashreplace")


def _csv_lines(rows: Iterable[tuple[object, ...]], quote_all: bool = False) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _json_lines(rows: Iterable[tuple[Any, ...]], names: tuple[str, ...]) -> bytes:
    # msgspec writes a float64; the one nearest to the float32's shortest decimal prints as that decimal.
    shortest = ((id_, sequence, float(p), *rest) for id_, sequence, p, *rest in rows)
    return msgspec.json.Encoder().encode_lines([dict(zip(names, row, strict=True)) for row in shortest])


def _parquet(names: Sequence[str], metadata: Mapping[str, str], width: int = 1) -> Format:
    """Parquet keeps its index at its end, so windows are gathered as an Arrow stream; each becomes one row group."""
    pa, pq = load("Parquet", "pyarrow"), load("Parquet", "pyarrow.parquet")
    kinds = {"p_nonspecific": pa.float32(), "nonspecific": pa.int8(), "embedding": pa.list_(pa.float32(), width)}
    fields = [(name, kinds.get(name, pa.string())) for name in names]
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
