"""Many connections and few file descriptors: which connections are closed, and the log."""

from __future__ import annotations

import contextlib
import errno
import http.client
import logging
import socket
import sys
import types
from typing import Any

import pytest

for _name in ("fastapi", "uvicorn", "prometheus_client"):
    pytest.importorskip(_name, reason="the serve extra is not installed")

from abonyx.errors import ConfigError  # noqa: E402
from abonyx.serve import connections, server  # noqa: E402
from abonyx.serve.connections import Connection, Seldom, connections_for  # noqa: E402
from abonyx.serve.parsing import CHUNKS, EVENTS_AT_ONCE  # noqa: E402
from abonyx.serve.settings import Settings  # noqa: E402

from .serving import PATIENCE_S, TOKEN, at_once, refused, service, until  # noqa: E402
from .test_command import ended, process  # noqa: E402

CHUNKED = b"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
HALF_A_HEAD = b"POST /v1/score HTTP/1.1\r\nX: "


def lines(caplog: pytest.LogCaptureFixture, part: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if part in record.getMessage()]


def test_idle_connections_make_room(caplog: pytest.LogCaptureFixture) -> None:
    with service(max_connections=5) as running, contextlib.ExitStack() as stack:
        opened = []
        for _ in range(40):
            one = stack.enter_context(socket.create_connection((running.host, running.port), PATIENCE_S))
            one.sendall(HALF_A_HEAD)
            opened.append(one)
        assert running.score(["EVQL"]).status == 200
        opened[0].settimeout(PATIENCE_S)
        with contextlib.suppress(ConnectionResetError):
            assert opened[0].recv(100) == b""  # the longest idle one is closed
        # A connection that waits for its answer keeps its place.
        with running.engine.held():
            busy = http.client.HTTPConnection(running.host, running.port, timeout=PATIENCE_S)
            busy.request("POST", "/v1/score", b"sequence\nEVA\n", {"Content-Type": "text/csv"})
            assert running.engine.inside.wait(PATIENCE_S)
            for _ in range(10):
                stack.enter_context(socket.create_connection((running.host, running.port), PATIENCE_S))
            assert running.ask("GET", "/readyz").status == 200
        assert busy.getresponse().status == 200
        busy.close()
    assert 1 <= len(lines(caplog, "5 connections are open, which is the limit")) <= 4


def test_few_file_descriptors() -> None:
    resource = pytest.importorskip("resource")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (48, hard))  # the child's
    try:
        child = contextlib.ExitStack()
        one = child.enter_context(process())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    with child, contextlib.ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(socket.create_connection(("127.0.0.1", one.port), PATIENCE_S))
        assert one.ask("GET", "/readyz")[0] == 200  # while they are open
        stack.close()
        assert one.ask("GET", "/readyz")[0] == 200
        assert any("may open 48 files" in line for line in one.log)
        one.running.terminate()
        assert ended(one) == 0
        assert len(one.log) < 20, one.log


def test_no_descriptor_left_is_a_line_a_second_and_is_recovered_from(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    accept, failures = socket.socket.accept, []

    def full(self: socket.socket) -> Any:
        if len(failures) < 12:
            failures.append(self)
            raise OSError(errno.EMFILE, "Too many open files")
        return accept(self)

    with server._uvicorn_log(), service() as running:
        monkeypatch.setattr(socket.socket, "accept", full)
        logging.getLogger("asyncio").propagate = True
        assert running.ask("GET", "/readyz").status == 200
    found = lines(caplog, "no file descriptor is left")
    assert len(failures) == 12 and 1 <= len(found) <= 4
    assert all(record.exc_info is None for record in caplog.records)


def test_a_text_passes_once_a_second() -> None:
    seldom = Seldom(0.05)

    def record(text: str, **more: Any) -> logging.LogRecord:
        return logging.makeLogRecord({"msg": text, **more})

    assert [seldom.filter(record("a")) for _ in range(3)] == [True, False, False]
    assert seldom.filter(record("b"))
    fault = record("a", exc_info=(None, None, None))
    assert seldom.filter(fault) and fault.exc_info
    later: list[logging.LogRecord] = []

    def passes() -> bool:
        later.append(record("a"))
        return seldom.filter(later[-1])

    until(passes)
    assert later[-1].getMessage() == f"a ({1 + len(later)} more before)"


def test_no_token_is_needed_for_the_limits(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """If a flood was already answered, the rest is parsed a little at a time, up to the limit."""
    goes: list[int] = []
    handle = Connection.handle_events

    def handle_events(self: Connection) -> None:
        before = self._parser.left
        handle(self)
        goes.append(before - self._parser.left)

    monkeypatch.setattr(Connection, "handle_events", handle_events)
    with service(token=TOKEN) as running:

        def flood(_: int) -> bytes:
            with socket.create_connection((running.host, running.port), PATIENCE_S) as connection:
                connection.sendall(CHUNKED + b"1\r\nE\r\n" * (CHUNKS + 200))
                found = b""
                try:
                    while more := connection.recv(1 << 16):
                        found += more
                except ConnectionResetError:
                    pass
                return found

        for found in at_once(flood, 4):
            assert found.startswith(b"HTTP/1.1 401 ") and found.count(b"HTTP/1.1") == 1
        refused(running.ask("GET", "/v1/model"), 401, "")
        assert running.ask("GET", "/healthz").status == 200
    assert max(goes) == EVENTS_AT_ONCE and sum(goes) >= 4 * CHUNKS
    assert not [record for record in caplog.records if record.exc_info]


def test_too_few_files_for_any_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (30, 30))
    with pytest.raises(ConfigError, match="may open 30 files"):
        connections_for(1_000)
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert connections_for(1_000) == 1_000


def test_what_is_installed_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("httptools", "uvloop", "websockets", "wsproto"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    config = server.uvicorn_server(None, Settings(), 10).config  # type: ignore[arg-type]
    config.load()
    assert config.http_protocol_class is Connection
    assert config.ws_protocol_class is None
    assert config.loop == "asyncio"
    assert config.h11_max_incomplete_event_size == connections.HEAD_BYTES
