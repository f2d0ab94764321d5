"""Standard output as the output of a run. It cannot be read back, so such a run cannot be resumed."""

from __future__ import annotations

import sys
import tempfile
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from abonyx.errors import ConfigError
from abonyx.output.files import failing_as
from abonyx.wording import option

if TYPE_CHECKING:
    from collections.abc import Iterator

    from abonyx.output.files import Sink
    from abonyx.output.formats import Columns, Format
    from abonyx.output.journal import Header


class StandardOutput:
    """Standard output, flushed after every write."""

    closed = False

    def write(self, data: bytes) -> int:
        with failing_as("to standard output"):
            sys.stdout.flush()
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        return len(data)


class TemporaryFile:
    """A temporary file whose errors name it."""

    closed = False

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, data: bytes) -> int:
        rest = memoryview(data)
        with _failing_to_gather():
            while rest:
                rest = rest[self._file.write(rest) :]
        return len(data)


class Stream:
    """Standard output to which windows are appended. open_stream makes it."""

    def __init__(self, format: Format, sink: Sink, header: Header) -> None:
        self._format, self._sink = format, sink
        self._begun = False
        self.rows, self.rows_done = header.rows, 0
        self.token_budget, self.window_size = header.token_budget, header.window_size
        self.notes: list[str] = []

    def append(self, stop: int, columns: Columns) -> None:
        (data,) = self._format.encode(self.rows_done, columns)
        self.begin()
        self._sink.write(data)
        self.rows_done = stop

    def begin(self) -> None:
        """Write the head once. It is not written before the first rows, because opening the model may fail."""
        if not self._begun:
            self._sink.write(*self._format.head)
            self._begun = True

    def halved(self, token_budget: int, note: str) -> None:
        """Do nothing: there is no journal."""


@contextmanager
def open_stream(format: Format, header: Header) -> Iterator[Stream]:
    """Yield standard output to append to. Parquet is gathered in a temporary file first.

    Raises:
        ConfigError: standard output or the temporary file cannot be written, or Parquet would go to a terminal.
    """
    if format.convert is None:
        stream = Stream(format, StandardOutput(), header)
        yield stream
        stream.begin()
        return
    if sys.stdout.isatty():
        raise ConfigError(
            "standard output is a terminal, but Parquet is not text", f"Name a file with {option('output')}."
        )
    with _failing_to_gather():
        # Unbuffered, so that nothing can fail when it is read or closed.
        gathered = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
    with gathered:
        stream = Stream(format, TemporaryFile(gathered), header)
        yield stream
        stream.begin()
        gathered.seek(0)
        format.convert(gathered, StandardOutput())


@contextmanager
def _failing_to_gather() -> Iterator[None]:
    """Turn a failure to write the temporary file into a ConfigError."""
    try:
        yield
    except OSError as error:
        where = f" in {tempfile.tempdir}" if tempfile.tempdir else ""
        what = f"output -: the temporary file{where} for Parquet cannot be written: {error.strerror}"
        fix = f"Set TMPDIR to a directory with space, or name a file with {option('output')}."
        raise ConfigError(what, fix) from error
