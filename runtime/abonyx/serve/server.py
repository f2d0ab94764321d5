"""Listening, signals, and the order in which a service starts and ends."""

from __future__ import annotations

import contextlib
import csv
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import uvicorn

from abonyx.config import RuntimeConfig
from abonyx.errors import ConfigError, EngineError, RunInterrupted
from abonyx.input.tables import FIELD_LIMIT_CHARS
from abonyx.logs import LOGGER
from abonyx.model import open_model
from abonyx.run.interrupts import ENDING, handled
from abonyx.serve.app import create_app
from abonyx.serve.connections import ACCEPTED_AT_ONCE, HEAD_BYTES, Connection, Seldom, State, connections_for
from abonyx.serve.gate import Gate, is_loopback
from abonyx.serve.judging import Judging, judging_processes
from abonyx.serve.metrics import Metrics
from abonyx.serve.model import refuse_upstream_pooling
from abonyx.serve.scheduler import Scheduler
from abonyx.serve.service import Service
from abonyx.serve.settings import Settings
from abonyx.wording import option

# How long a reader may keep the interpreter before the thread that answers gets it. Python's default is 5 ms, and a
# request waits several times: together longer than a score takes.
SWITCH_INTERVAL_S = 0.0005
# Connections that the kernel holds until they are accepted.
BACKLOG = 1_024


def serve(load: Callable[[], RuntimeConfig], settings: Settings, validated: Path | None = None) -> None:
    """Open the model, take requests until SIGINT, SIGTERM or SIGHUP, then finish the requests in progress.

    Args:
        load: returns the config; called again at each reload.
        validated: metrics.json of `abonyx evaluate --by`, whose sentence is in the answers to scans; None = none.

    Raises:
        ConfigError: pooling is upstream-batch, or the service cannot listen on the address.
        RunInterrupted: requests were still in progress when the grace time ended, or at a second signal.
        EngineError: the scoring thread ended by itself.
        BundleError, ProviderError, SelfTestError: the model cannot be opened.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    config = load()
    refuse_upstream_pooling(config)
    # Bind before the model is opened: an address in use is reported at once. Listen only once the model is ready.
    with (
        bound(settings) as listener,
        wide_fields(),
        Judging(judging_processes(settings, config)) as judging,  # its processes start while the model is opened
        open_model(config) as session,
    ):
        LOGGER.info(f"opened {session.bundle.label()}, {session.variant_name} on {config.provider}")
        metrics = Metrics()
        queue = Scheduler(session, settings.max_queued_sequences, metrics, validated, settings.request_timeout_s)
        with running(queue) as scheduler:
            gate = create_app(Service(scheduler, settings, metrics, load, judging))
            _run(gate, listener, settings, scheduler)
            dead = scheduler.dead
            if gate.cut_off:
                scheduler.cut_off()
        if dead:
            fix = "The log has its traceback. Start the service again, and please report it."
            raise EngineError("the scoring thread ended by itself; the service no longer takes requests", fix)
        if gate.cut_off:
            raise RunInterrupted(
                f"requests without an answer: {gate.cut_off}; they were cut off {settings.grace_s} s after the signal, "
                "or by a second signal",
                f"Raise {option('grace_s')}.",
            )
    LOGGER.info("every request was answered; the model is closed")


@contextlib.contextmanager
def running(scheduler: Scheduler) -> Iterator[Scheduler]:
    """Yield the scheduler, and stop it at the end, because its thread would keep the process alive."""
    try:
        yield scheduler
    finally:
        scheduler.stop()


@contextlib.contextmanager
def wide_fields() -> Iterator[None]:
    """Set csv's field limit once, as the reader of tables needs it.

    The limit applies to the whole process. If each reader set and restored it, readers would disturb each other.
    """
    before = csv.field_size_limit(FIELD_LIMIT_CHARS)
    try:
        yield
    finally:
        csv.field_size_limit(before)


@contextlib.contextmanager
def bound(settings: Settings) -> Iterator[socket.socket]:
    """A socket at the settings' address that does not listen yet.

    Raises:
        ConfigError: the address cannot be used.
    """
    with _refusing(settings):
        family, _, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    # If the protocol is not given, asyncio does not set TCP_NODELAY, and each answer on an open connection waits 40 ms.
    with socket.socket(family, socket.SOCK_STREAM, protocol) as listener:
        with _refusing(settings):  # the options of socket.create_server, which would listen at once
            if os.name == "posix":
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(address)
        yield listener


@contextlib.contextmanager
def _refusing(settings: Settings) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = f"serve: cannot listen on {settings.host} port {settings.port}: {error.strerror}"
        raise ConfigError(what, f"Choose another with {option('host')} and {option('port')}.") from error


def _run(gate: Gate, listener: socket.socket, settings: Settings, scheduler: Scheduler) -> None:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    if settings.token is None and not is_loopback(host):
        LOGGER.warning(f"no token is set: whoever reaches {shown}:{port} can use this service")
    with _refusing(settings):  # two processes can bind one address: the second is refused here
        listener.listen(BACKLOG)
    with _uvicorn_log():
        server = uvicorn_server(gate, settings, connections_for(settings.max_connections))
        scheduler.on_death = lambda: server.handle_exit(signal.SIGTERM, None)
        if scheduler.dead:  # it ended before on_death was set
            scheduler.on_death()
        LOGGER.info(f"listening at http://{shown}:{port}")
        # uvicorn handles SIGINT and SIGTERM while it runs, and raises them again after all requests are finished. Here,
        # handle_exit gets these signals too, so they interrupt nothing. uvicorn does not handle SIGHUP (a closed
        # terminal).
        with handled(server.handle_exit, ENDING):
            server.run(sockets=[listener])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.server_state = State()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(BACKLOG)  # asyncio lets only ACCEPTED_AT_ONCE wait


def uvicorn_server(gate: Gate, settings: Settings, max_connections: int) -> uvicorn.Server:
    """The HTTP server of an application.

    Args:
        max_connections: see connections.Connection.
    """
    config = uvicorn.Config(
        gate,
        # Use these even if others are installed: httptools does not limit a head, and uvloop accepts in its own way.
        http=Connection,
        loop="asyncio",
        h11_max_incomplete_event_size=HEAD_BYTES,
        # uvicorn would leave idle connections open. It never gets to this limit, because Connection closes one first.
        limit_concurrency=max_connections + 1,
        backlog=ACCEPTED_AT_ONCE,
        log_config=None,
        access_log=False,
        # A client could name any address in X-Forwarded-For, and so get around the limit of requests of one client.
        proxy_headers=False,
        server_header=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=settings.grace_s,
    )
    return _Server(config)


@contextlib.contextmanager
def _uvicorn_log() -> Iterator[None]:
    """Write warnings and errors of uvicorn and asyncio to our log; those that clients can cause, once a second."""
    with contextlib.ExitStack() as stack:
        for name in ("uvicorn", "asyncio"):
            theirs = logging.getLogger(name)
            stack.callback(theirs.setLevel, theirs.level)
            stack.callback(setattr, theirs, "handlers", theirs.handlers)
            stack.callback(setattr, theirs, "propagate", theirs.propagate)
            theirs.handlers, theirs.propagate = LOGGER.handlers, False
            theirs.setLevel(logging.WARNING)
        for name in ("uvicorn.error", "asyncio"):
            theirs, seldom = logging.getLogger(name), Seldom()
            theirs.addFilter(seldom)
            stack.callback(theirs.removeFilter, seldom)
        yield
