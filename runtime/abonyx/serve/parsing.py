"""HTTP parsed by h11, a little at a time and with limits on header lines and tiny chunks.

The service parses in the thread that answers all requests, before it checks a token.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable

import h11
from h11._receivebuffer import ReceiveBuffer

from abonyx.errors import RequestRefused

# Most header lines of a request's head, or of the trailers of a chunked body.
HEAD_LINES = 100
# A body may have CHUNKS chunks of any size. If it has more, they must have CHUNK_BYTES bytes on average.
CHUNKS, CHUNK_BYTES = 1_000, 16
# Events of one connection that are parsed in one go. They take about a millisecond.
EVENTS_AT_ONCE = 32
# Pause after each go, if any connection has more to parse.
PAUSE_S = 0.001
_BLANK_LINE = re.compile(rb"\n\r?\n")


class _OverLimit(h11.RemoteProtocolError):
    """A request exceeds a limit of this module."""

    def __init__(self, refusal: RequestRefused) -> None:
        super().__init__(refusal.what, refusal.status)
        self.refusal = refusal


class _Buffer(ReceiveBuffer):
    """The received bytes that are not parsed yet. h11 takes the lines of a head, and of trailers, from here."""

    def maybe_extract_lines(self) -> list[bytearray] | None:
        """The lines up to a blank line; None if the blank line has not been received.

        Raises:
            _OverLimit: more than HEAD_LINES.
        """
        most = HEAD_LINES + 2  # plus the request line and the blank line
        if self._data.count(b"\n") > most:
            blank = _BLANK_LINE.search(self._data)
            if self._data.count(b"\n", 0, blank.end() if blank else len(self._data)) > most:
                what = f"request: more than {HEAD_LINES} header lines, which is the limit"
                raise _OverLimit(RequestRefused(431, "header_lines", what, "Send fewer headers."))
        return super().maybe_extract_lines()


class Parser(h11.Connection):
    """The server's side of one connection.

    Args:
        head_bytes: most bytes of the head of a request, or of a chunk.

    Attributes:
        left: how many events next_event still returns in this go; after them it returns PAUSED.
        refusal: the error of the limit that was exceeded; None if none was.
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
            least = f"above {CHUNKS} chunks, chunks need {CHUNK_BYTES} bytes on average"
            fix = "Send larger chunks, or the whole body with its Content-Length."
            raise _OverLimit(RequestRefused(413, "chunks", f"{what}; {least}", fix))


class Lane:
    """The queue of connections that have more to parse than fits into one go, with a pause after each go.

    So the event loop is blocked for one go at a time, no matter how many connections wait.
    """

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()

    def wait(self, loop: asyncio.AbstractEventLoop, go: Callable[[], None]) -> None:
        """Call `go` after those that wait already. `go` may call wait again."""
        self._waiting.append(go)
        if len(self._waiting) == 1:
            loop.call_later(PAUSE_S, self._next, loop)

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        go = self._waiting.popleft()
        if self._waiting:
            loop.call_later(PAUSE_S, self._next, loop)
        go()
