"""Limit the open connections, read each one in small steps, and log warnings about them at most once a second.

Without a limit, any client could open connections until the process has no file descriptor left, because tokens are
checked later.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from abonyx.errors import ConfigError
from abonyx.logs import LOGGER
from abonyx.serve.parsing import EVENTS_AT_ONCE, Lane, Parser
from abonyx.serve.problems import problem_response
from abonyx.wording import option

# Most bytes of the head of a request, or of a chunk.
HEAD_BYTES = 1 << 16
# asyncio accepts this many connections before any of them is counted. When no descriptor is left, it still tries this
# many times in a row.
ACCEPTED_AT_ONCE = 4
# Descriptors kept for the service itself: for a bundle's files in a reload, for a child process, and for connections
# that are accepted but not counted yet.
_KEPT_FILES = 24
_ACCEPT_FAILED = "socket.accept() out of system resource"


class Seldom(logging.Filter):
    """Lets each text pass at most once a second, with the number of records that were left out before.

    A record with a traceback always passes, unless it says that accept() failed.
    """

    def __init__(self, interval_s: float = 1.0) -> None:
        super().__init__()
        self._interval_s = interval_s
        self._passed: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        text = str(record.msg)
        if text.startswith(_ACCEPT_FAILED):  # thousands a second, each with its traceback
            text, record.exc_info = "no file descriptor is left for a connection: raise `ulimit -n`", None
        elif record.exc_info:
            return True
        last, left_out = self._passed.get(text, (-self._interval_s, 0))
        now = time.monotonic()
        if now - last < self._interval_s:
            self._passed[text] = last, left_out + 1
            return False
        self._passed = {text: (now, 0)} if len(self._passed) > 100 else self._passed | {text: (now, 0)}
        if record.msg != text or left_out:
            record.msg, record.args = text + (f" ({left_out} more before)" if left_out else ""), None
        return True


_LIMIT_LOG = Seldom()


class State(ServerState):
    """What the connections of one server share."""

    def __init__(self) -> None:
        super().__init__()
        self.lane = Lane()


class _Flow(FlowControl):
    """Flow control that keeps reading paused while received bytes wait to be parsed."""

    held = False

    def resume_reading(self) -> None:
        if not self.held:
            super().resume_reading()


class Connection(H11Protocol):
    """One connection. If there are more than uvicorn's limit_concurrency allows, the longest idle one is closed.

    A connection is idle if it has no request in progress; an incomplete request head counts as idle. Received bytes are
    parsed a little at a time (parsing.py).
    """

    idle_since = 0.0
    flow: _Flow

    def __init__(
        self,
        config: Config,
        server_state: State,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._lane = server_state.lane
        self.conn = self._parser = Parser(HEAD_BYTES)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection, and close the longest idle one if there are too many."""
        super().connection_made(transport)
        self.flow = _Flow(transport)
        self.idle_since = self.loop.time()
        most = self.limit_concurrency
        if most is not None and len(self.connections) >= most:
            self._make_room(most - 1)

    def data_received(self, data: bytes) -> None:
        """Parse the received bytes, but no more than EVENTS_AT_ONCE events in one go."""
        if self.flow.held:  # uvicorn has resumed the transport itself
            self.transport.pause_reading()
        self._grant()
        super().data_received(data)
        self._wait()

    def on_response_complete(self) -> None:
        """Count the connection as idle from now on."""
        self._grant()
        super().on_response_complete()
        self.idle_since = self.loop.time()
        self._wait()

    def _grant(self) -> None:
        if not self.flow.held:
            self._parser.left = EVENTS_AT_ONCE

    def _wait(self) -> None:
        """If there is more to parse than fits into this go, pause reading and wait for the next one."""
        if not self._parser.left and not self.flow.held and not self.transport.is_closing():
            self.flow.held = True
            self.flow.pause_reading()
            self._lane.wait(self.loop, self._continue)

    def _continue(self) -> None:
        self.flow.held = False
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        self._grant()
        self.handle_events()
        self._wait()

    def send_400_response(self, msg: str) -> None:
        """Answer a request that cannot be parsed or is over a limit of parsing.py, and close the connection."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):  # an answer has been sent, or its beginning
            self.transport.close()
            return
        if self.scope is not None and self.scope["method"] == "HEAD":  # h11 refuses to answer HEAD with a body
            self.transport.close()
            return
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self._parser.refusal is None:
            super().send_400_response(msg)
            return
        problem = problem_response(self._parser.refusal)
        headers = [*problem.raw_headers, (b"connection", b"close")]
        for event in (
            h11.Response(status_code=problem.status_code, headers=headers),
            h11.Data(data=bytes(problem.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    @property
    def idle(self) -> bool:
        """Whether no request is in progress."""
        return self.cycle is None or self.cycle.response_complete

    def abort(self) -> None:
        """Close the connection at once, even if data is still to be sent, and stop counting it."""
        self.connections.discard(self)
        self.transport.abort()

    def _make_room(self, most: int) -> None:
        others = [one for one in self.connections if isinstance(one, Connection) and one.idle]
        # A connection with an answer that is not fully sent yet is closed after those without one.
        order = {one: (one.transport.get_write_buffer_size() > 0, one.idle_since) for one in others}
        min(others, key=lambda one: order[one], default=self).abort()
        text = f"{most} connections are open, which is the limit: the one that was idle longest was closed"
        record = LOGGER.makeRecord(LOGGER.name, logging.WARNING, __file__, 0, text, (), None)
        if _LIMIT_LOG.filter(record):
            LOGGER.handle(record)


def connections_for(most: int) -> int:
    """The number of connections that the process has file descriptors for, but at most the setting.

    Args:
        most: the setting.

    Raises:
        ConfigError: there is no descriptor for a connection.
    """
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return most
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_files = Path("/dev/fd")
    if allowed == resource.RLIM_INFINITY or not open_files.is_dir():
        return most
    fit = allowed - len(list(open_files.iterdir())) - _KEPT_FILES
    if fit >= most:
        return most
    what = f"the process may open {allowed} files (ulimit -n)"
    if fit < 1:
        raise ConfigError(f"serve: {what}, too few for a connection", "Raise `ulimit -n` to 256 or more.")
    LOGGER.warning(f"{what}: at most {fit} connections are accepted, not {most} ({option('max_connections')})")
    return fit
