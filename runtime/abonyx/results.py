"""Results, embeddings and rejected records as files that are either whole or not there.

Each file is written beside its place under a name `.NAME.XXXX.partial`, flushed to the disk, and renamed onto it; a
failure or an interrupt removes it, and what stood there before stays.
"""

from __future__ import annotations

import csv
import io
import os
import secrets
import stat
import sys
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

from abonyx.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import numpy.typing as npt

    from abonyx.records import Problem

    Flags = npt.NDArray[np.bool_] | npt.NDArray[np.uint8]
    Floats = npt.NDArray[np.float32]
    Append = Callable[[Sequence[Any]], object]  # takes one window's columns

RESULT_COLUMNS = ("id", "sequence", "p_nonspecific", "nonspecific")


class ResultsWriter:
    """Takes scores window by window, in the order they are to stand in the file."""

    def __init__(self, append: Append) -> None:
        self._append = append

    def write(self, ids: Sequence[str], sequences: Sequence[str], p: Floats, nonspecific: Flags) -> None:
        """Append k rows; p is (k,) float32 and finite, nonspecific (k,) is 0/1."""
        counts = {"ids": len(ids), "sequences": len(sequences), "p": p.size, "nonspecific": nonspecific.size}
        if p.dtype != np.float32 or len(set(counts.values())) > 1:
            raise ValueError(f"a window needs one float32 p a row, not {p.dtype} and {counts}")
        for at in np.flatnonzero(~np.isfinite(p)).tolist():
            raise ValueError(f"p_nonspecific of {ids[at]!r} is {p[at]}, which is not a probability")
        self._append((ids, sequences, p, nonspecific.astype(np.int8).tolist()))


class EmbeddingsWriter:
    """Takes embeddings window by window, in the order they are to stand in the file."""

    def __init__(self, append: Append, width: int) -> None:
        self._append, self._width, self.rows = append, width, 0

    def write(self, ids: Sequence[str], embedding: Floats) -> None:
        """Append k rows; embedding is (k, D) float32."""
        wanted = (len(ids), self._width)
        if embedding.shape != wanted or embedding.dtype != np.float32:
            raise ValueError(f"a window needs {wanted} float32, not {embedding.shape} {embedding.dtype}")
        self._append((ids, embedding))
        self.rows += len(ids)


@contextmanager
def open_results(
    path: Path | None, format: Literal["csv", "jsonl", "parquet"], metadata: Mapping[str, str]
) -> Iterator[ResultsWriter]:
    """Give a writer of scores; the file stands at `path` once the block has ended without an exception.

    Args:
        path: the file; None is standard output.
        format: CSV and JSONL hold p as the shortest decimal that reads back as the same float32, Parquet as float32.
        metadata: stored in Parquet's schema under keys `abonyx.KEY`; CSV and JSONL have no place for it.

    Raises:
        ConfigError: the file cannot be written.

    """
    if path is None and format == "parquet" and sys.stdout.isatty():
        raise ConfigError("standard output is a terminal, and Parquet is not text", "Name a file with -o.")
    with nullcontext((_StandardOutput(),)) if path is None else _replacing(path) as (sink,), ExitStack() as stack:
        if format == "parquet":
            append = stack.enter_context(_parquet(sink, RESULT_COLUMNS, metadata))
        else:
            append = _text(sink, format)
        yield ResultsWriter(append)


@contextmanager
def open_embeddings(
    path: Path, format: Literal["npy", "parquet"], n: int, width: int, metadata: Mapping[str, str]
) -> Iterator[EmbeddingsWriter]:
    """Give a writer of embeddings; a .npy gets the ids of its rows in a second file, `ids_path(path)`.

    Args:
        path: the file.
        format: npy is one (n, width) float32 array; parquet has the columns id and embedding.
        n: rows that will be written; another number is a ValueError and leaves no file.
        width: columns of the embedding.
        metadata: stored in Parquet's schema under keys `abonyx.KEY`; .npy has no place for it.

    Raises:
        ConfigError: a file cannot be written.

    """
    paths = (ids_path(path), path) if format == "npy" else (path,)  # renamed in this order: no array without its ids
    with _replacing(*paths) as sinks, ExitStack() as stack:
        if format == "npy":
            append = _npy(sinks[1], sinks[0], n, width)
        else:
            append = stack.enter_context(_parquet(sinks[0], ("id", "embedding"), metadata, width))
        writer = EmbeddingsWriter(append, width)
        yield writer
        if writer.rows != n:
            raise ValueError(f"{path}: {writer.rows} embeddings were written, {n} announced")


def ids_path(path: Path) -> Path:
    """Return where the ids of a .npy file's rows stand: a CSV file with the columns row (0-based) and id."""
    return path.with_name(f"{path.stem}.ids.csv")


def rejected_path(path: Path) -> Path:
    """Return where the records that were not scored are listed."""
    return path.with_name(f"{path.name}.rejected.csv")


def write_rejected(path: Path, problems: Iterable[Problem]) -> None:
    """Write the records that were not scored as CSV with the columns id, line, reason."""
    write_table(path, ("id", "line", "reason"), problems)


def write_table(path: Path, header: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> None:
    """Write a CSV file."""
    with _replacing(path) as (sink,):
        sink.write(_csv_bytes([header, *rows]))


def check_output(output: Path | None, source: Path | None) -> None:
    """Refuse, by a ConfigError, an output that cannot be written or is the input itself; None is a standard stream."""
    if output is None:
        if sys.stdout is None:
            raise ConfigError("output -: standard output is closed", "Name a file with -o.")
        return
    target = _resolved(output)
    if not target.parent.is_dir():
        raise ConfigError(f"output {output}: there is no directory {target.parent}", "Create it, or name another one.")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise ConfigError(f"output {output}: directory {target.parent} is not writable", "Name an output elsewhere.")
    # An input that is missing or may not be looked at is reported when it is read.
    with suppress(OSError, ValueError, AttributeError):  # the last two: a standard input that is no file, or closed
        given = os.stat(sys.stdin.fileno() if source is None else source)  # noqa: PTH116  (a descriptor)
        if os.path.samestat(target.stat(), given):
            what = source or "on standard input"
            raise ConfigError(f"output {output} is the input {what} itself", "Name another output.")


def _resolved(path: Path) -> Path:
    """Return what a rename has to replace: a symbolic link stays, as with a shell's `>`, and its target changes."""
    target = Path(os.path.realpath(path))
    if os.path.isdir(target):  # noqa: PTH112 (Path.is_dir raises where a parent is not searchable)
        raise ConfigError(f"output {path}: is a directory", "Name a file in it.")
    # A rename would put a regular file in the place of, for one, /dev/null.
    if os.path.exists(target) and not os.path.isfile(target):  # noqa: PTH110, PTH113
        raise ConfigError(f"output {path}: is a device or a pipe, not a file", "Name a file, or - for standard output.")
    return target


@contextmanager
def _failing_as(name: object) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise  # the reader of standard output has left, which is for the command line to end quietly
    except OSError as error:
        what = f"output {name}: cannot be written: {error.strerror or error}"
        raise ConfigError(what, "Free space or name an output elsewhere, then run again.") from error


class _Output:
    """A file on its way to `path`."""

    closed = False  # pyarrow asks for it

    def __init__(self, path: Path) -> None:
        self._path, self._target = path, _resolved(path)
        self._temporary = self._target.with_name(f".{self._target.name}.{secrets.token_hex(4)}.partial")
        with _failing_as(path):
            # Unbuffered: nothing is left to fail at close. Made by open, not mkstemp, so that the umask holds.
            self._file = self._temporary.open("xb", buffering=0)
        with suppress(OSError):  # nothing there yet, or a file system without modes
            self._temporary.chmod(stat.S_IMODE(self._target.stat().st_mode))

    def write(self, data: bytes) -> int:
        rest = memoryview(data)
        with _failing_as(self._path):
            while rest:
                rest = rest[self._file.write(rest) :]
        return len(data)

    def finish(self) -> None:
        with _failing_as(self._path):
            os.fsync(self._file.fileno())
            self._file.close()

    def rename(self) -> None:
        with _failing_as(self._path):
            self._temporary.replace(self._target)

    def discard(self) -> None:
        for undo in (self._file.close, self._temporary.unlink):
            with suppress(OSError):
                undo()


class _StandardOutput:
    closed = False

    def write(self, data: bytes) -> int:
        with _failing_as("to standard output"):
            sys.stdout.flush()
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        return len(data)


_Sink = _Output | _StandardOutput


@contextmanager
def _replacing(*paths: Path) -> Iterator[tuple[_Sink, ...]]:
    """Give a file for each path; they take their places when the block ends well, and are removed when it does not."""
    outputs: list[_Output] = []
    try:
        for path in paths:
            outputs.append(_Output(path))
        yield tuple(outputs)
        for output in outputs:
            output.finish()
        for output in outputs:
            output.rename()
    except BaseException:
        for output in outputs:
            output.discard()
        raise


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


def _json_lines(rows: Iterable[tuple[str, str, str, int]]) -> bytes:
    # msgspec writes a float64; the one nearest to the float32's shortest decimal prints as that decimal.
    shortest = ((id_, sequence, float(p), call) for id_, sequence, p, call in rows)
    return msgspec.json.Encoder().encode_lines([dict(zip(RESULT_COLUMNS, row, strict=True)) for row in shortest])


def _text(sink: _Sink, format: Literal["csv", "jsonl"]) -> Append:
    sink.write(_csv_bytes([RESULT_COLUMNS]) if format == "csv" else b"")
    encode = _csv_bytes if format == "csv" else _json_lines
    # str of a numpy float32 is the shortest decimal that reads back as it.
    return lambda columns: sink.write(encode(zip(*columns[:2], map(str, columns[2]), *columns[3:], strict=True)))


def _npy(sink: _Sink, ids_sink: _Sink, n: int, width: int) -> Append:
    np.lib.format.write_array_header_1_0(sink, {"descr": "<f4", "fortran_order": False, "shape": (n, width)})
    ids_sink.write(_csv_bytes([("row", "id")]))
    rows = count()

    def append(columns: Sequence[Any]) -> None:
        ids, embedding = columns
        ids_sink.write(_csv_bytes((next(rows), id_) for id_ in ids))
        sink.write(embedding.astype("<f4", copy=False).tobytes())

    return append


@contextmanager
def _parquet(sink: _Sink, names: Sequence[str], metadata: Mapping[str, str], width: int = 1) -> Iterator[Append]:
    """Give what appends a window as one row group."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ConfigError("Parquet cannot be written without pyarrow", 'pip install "abonyx[parquet]"') from error
    kinds = {"p_nonspecific": pa.float32(), "nonspecific": pa.int8(), "embedding": pa.list_(pa.float32(), width)}
    fields = [(name, kinds.get(name, pa.string())) for name in names]
    schema = pa.schema(fields, {f"abonyx.{key}": text for key, text in metadata.items()})

    def append(columns: Sequence[Any]) -> None:
        arrays = [pa.array(list(column), kind) for column, kind in zip(columns, schema.types, strict=True)]
        writer.write_batch(pa.record_batch(arrays, schema=schema))

    # Closed in any case: its finaliser would otherwise write to a file that is gone.
    with pq.ParquetWriter(pa.PythonFile(sink, mode="w"), schema) as writer:
        yield append
