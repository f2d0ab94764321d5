"""How many connections are open at once, how one is read, and what the log says of those that are not: a line a second.

Anybody who can connect could open connections until the process has no file descriptor left: a token is checked later.
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

# The most of a request's head, or of a chunk's.
HEAD_BYTES = 1 << 16
# asyncio accepts so many before any of them is counted, and tries so often again when no descriptor is left.
ACCEPTED_AT_ONCE = 4
# Descriptors that the service needs for itself: a bundle's files in a reload, a child, those accepted and not counted.
_KEPT_FILES = 24
_ACCEPT_FAILED = "socket.accept() out of system resource"


class Seldom(logging.Filter):
    """Lets a text pass once a second, and says then how many were left out; what has a traceback always passes."""

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
    """Reading that stays paused until the bytes that have come are parsed."""

    held = False

    def resume_reading(self) -> None:
        if not self.held:
            super().resume_reading()


class Connection(H11Protocol):
    """One connection. If there are more than uvicorn's limit_concurrency allows, the longest idle one is closed.

    Idle is one without a request in hand: half a head, sent slowly, does not keep its place. What comes is parsed a
    little at a time (parsing.py).
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
        """Parse what has come, as much as fits into one go."""
        if self.flow.held:  # uvicorn has resumed the transport itself
            self.transport.pause_reading()
        self._grant()
        super().data_received(data)
        self._wait()

    def on_response_complete(self) -> None:
        """Be idle from now on."""
        self._grant()
        super().on_response_complete()
        self.idle_since = self.loop.time()
        self._wait()

    def _grant(self) -> None:
        if not self.flow.held:
            self._parser.left = EVENTS_AT_ONCE

    def _wait(self) -> None:
        """Read no more, and wait for the next go, if this one did not suffice."""
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
        """Answer what cannot be parsed, or is over a limit of parsing.py, and close."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):  # it has its answer, or the beginning of one
            self.transport.close()
            return
        if self.scope is not None and self.scope["method"] == "HEAD":  # h11 refuses to send it a body
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
        """Whether no request is in hand."""
        return self.cycle is None or self.cycle.response_complete

    def abort(self) -> None:
        """Close at once, whatever is still to be sent, and count no more."""
        self.connections.discard(self)
        self.transport.abort()

    def _make_room(self, most: int) -> None:
        others = [one for one in self.connections if isinstance(one, Connection) and one.idle]
        # An answer that a client does not read keeps its place a little longer than one that is sent.
        order = {one: (one.transport.get_write_buffer_size() > 0, one.idle_since) for one in others}
        min(others, key=lambda one: order[one], default=self).abort()
        text = f"{most} connections are open, the most that are taken: the longest idle one was closed"
        record = LOGGER.makeRecord(LOGGER.name, logging.WARNING, __file__, 0, text, (), None)
        if _LIMIT_LOG.filter(record):
            LOGGER.handle(record)


def connections_for(most: int) -> int:
    """How many connections the process has file descriptors for, at most the setting.

    Args:
        most: the setting.

    Raises:
        ConfigError: there are descriptors for none.
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
    LOGGER.warning(f"{what}: at most {fit} connections are taken, not the {most} of {option('max_connections')}")
    return fit
