"""HTTP parsed by h11, a little at a time and with limits on header lines and tiny chunks.

The service parses in the thread that answers everybody, and parses before any token is looked at.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable

import h11
from h11._receivebuffer import ReceiveBuffer

from abonyx.errors import RequestRefused

# The most header lines of a head, or of the trailers of a body in chunks.
HEAD_LINES = 100
# A body may have so many chunks of any size; if it has more, they must have so many bytes on average.
CHUNKS, CHUNK_BYTES = 1_000, 16
# Parsed of one connection in one go: about a millisecond's worth.
EVENTS_AT_ONCE = 32
# After a go, before the next one of any connection that has more to parse.
PAUSE_S = 0.001
_BLANK_LINE = re.compile(rb"\n\r?\n")


class _OverLimit(h11.RemoteProtocolError):
    """HTTP beyond a limit of this module."""

    def __init__(self, refusal: RequestRefused) -> None:
        super().__init__(refusal.what, refusal.status)
        self.refusal = refusal


class _Buffer(ReceiveBuffer):
    """What has come and is not parsed yet. h11 takes the lines of a head, and of trailers, from here."""

    def maybe_extract_lines(self) -> list[bytearray] | None:
        """The lines up to a blank one, if that has come.

        Raises:
            _OverLimit: more than HEAD_LINES.
        """
        most = HEAD_LINES + 2  # and the request line, and the blank one
        if self._data.count(b"\n") > most:
            blank = _BLANK_LINE.search(self._data)
            if self._data.count(b"\n", 0, blank.end() if blank else len(self._data)) > most:
                what = f"request: more than {HEAD_LINES} header lines, the most that are taken"
                raise _OverLimit(RequestRefused(431, "header_lines", what, "Send fewer headers."))
        return super().maybe_extract_lines()


class Parser(h11.Connection):
    """The server's side of one connection.

    Args:
        head_bytes: the most of a head, or of a chunk's.

    Attributes:
        left: how many events are still given in this go; after them it says PAUSED.
        refusal: which limit was exceeded, if one was.
    """

    def __init__(self, head_bytes: int) -> None:
        super().__init__(h11.SERVER, head_bytes)
        self._receive_buffer = _Buffer()
        self.left = EVENTS_AT_ONCE
        self.refusal: RequestRefused | None = None
        self._chunks = self._bytes = 0

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """The next event, within the limits.

        Raises:
            h11.RemoteProtocolError: not HTTP, or over a limit.
        """
        if not self.left:
            return h11.PAUSED
        self.left -= 1
        try:
            event = super().next_event()
            if isinstance(event, h11.Request):
                self._chunks = self._bytes = 0
            elif isinstance(event, h11.Data):
                self._count(event)
        except _OverLimit as error:
            self.refusal = error.refusal
            raise
        return event

    def _count(self, data: h11.Data) -> None:
        self._chunks += data.chunk_end
        self._bytes += len(data.data)
        if self._chunks > CHUNKS and self._bytes < CHUNK_BYTES * self._chunks:
            what = f"request: {self._bytes} bytes in {self._chunks} chunks"
            least = f"above {CHUNKS} chunks, {CHUNK_BYTES} bytes a chunk are the least"
            fix = "Send larger chunks, or the whole body with its Content-Length."
            raise _OverLimit(RequestRefused(413, "chunks", f"{what}; {least}", fix))


class Lane:
    """Turns of connections that have more to parse than fits into one turn, with a pause after each.

    However many connections have more, the event loop is held for one go at a time.
    """

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()

    def wait(self, loop: asyncio.AbstractEventLoop, go: Callable[[], None]) -> None:
        """Have a go after those who wait already; it may wait again."""
        self._waiting.append(go)
        if len(self._waiting) == 1:
            loop.call_later(PAUSE_S, self._next, loop)

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        go = self._waiting.popleft()
        if self._waiting:
            loop.call_later(PAUSE_S, self._next, loop)
        go()
