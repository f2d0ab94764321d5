"""Standard output as the destination of a run, which cannot be resumed there."""

from __future__ import annotations

import sys
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

from abonyx.errors import ConfigError
from abonyx.output.files import StandardOutput
from abonyx.wording import option

if TYPE_CHECKING:
    from collections.abc import Iterator

    from abonyx.output.files import Sink
    from abonyx.output.formats import Columns, Format
    from abonyx.output.journal import Header


class Stream:
    """Standard output as a destination: nothing of it can be read back, so nothing of it can be resumed."""

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
        """Write the head, once: not before there are rows, since the model that has to score them may not open."""
        if not self._begun:
            self._sink.write(*self._format.head)
            self._begun = True

    def halved(self, token_budget: int, note: str) -> None:
        """Nothing to note it in."""


@contextmanager
def open_stream(format: Format, header: Header) -> Iterator[Stream]:
    """Give standard output to append to; a format that has to be whole is gathered in a temporary file first.

    Raises:
        ConfigError: it cannot be written to, or is a terminal, and Parquet is not text.
    """
    if format.convert is None:
        stream = Stream(format, StandardOutput(), header)
        yield stream
        stream.begin()
        return
    if sys.stdout.isatty():
        raise ConfigError(
            "standard output is a terminal, and Parquet is not text", f"Name a file with {option('output')}."
        )
    with tempfile.TemporaryFile() as gathered:
        stream = Stream(format, gathered, header)
        yield stream
        stream.begin()
        gathered.seek(0)
        format.convert(gathered, StandardOutput())
