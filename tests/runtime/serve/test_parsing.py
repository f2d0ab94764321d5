"""Floods of chunks and headers are refused or parsed a little at a time; normal chunks are read as before."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

for _name in ("fastapi", "uvicorn", "prometheus_client"):
    pytest.importorskip(_name, reason="the serve extra is not installed")

import h11  # noqa: E402

from abonyx.serve.parsing import CHUNKS, EVENTS_AT_ONCE, HEAD_LINES, PAUSE_S, Lane, Parser  # noqa: E402

from ..domain.proteins import VH  # noqa: E402
from .serving import CSV, PATIENCE_S, Running, service, until  # noqa: E402

GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\nTransfer-Encoding: chunked\r\n"
ONE_BYTE = b"1\r\nE\r\n"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ABONYX_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))
        with service() as running:
            yield running


@pytest.fixture(autouse=True)
def isolated() -> None:
    """Replaces conftest's fixture: the module's service keeps its session open."""


def answer(running: Running, *pieces: bytes) -> tuple[int, dict[str, Any], bool]:
    """Status and JSON of the first answer to these bytes, and whether the connection was closed after it."""
    with socket.create_connection((running.host, running.port), PATIENCE_S) as connection:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(0.02 if len(pieces) > 1 else 0)
        found = http.client.HTTPResponse(connection)
        found.begin()
        body = found.read()
        return found.status, json.loads(body), found.getheader("Connection") == "close"


def headers(count: int) -> bytes:
    return b"a:\r\n" * count


def test_too_many_headers(shared: Running) -> None:
    assert answer(shared, GET + headers(HEAD_LINES - 1) + b"\r\n")[0] == 200
    body = b"\n" * 500  # lines of a body are not counted
    assert answer(shared, GET + b"Content-Length: 500\r\n" + headers(HEAD_LINES - 2) + b"\r\n" + body)[0] == 200
    for pieces in (
        (GET + headers(HEAD_LINES) + b"\r\n",),
        (GET + headers(15_000),),  # no end yet
        (GET, headers(60), headers(60)),
        (POST + b"\r\n0\r\n" + headers(HEAD_LINES + 3) + b"\r\n",),  # trailers
    ):
        status, problem, closed = answer(shared, *pieces)
        assert (status, closed) == (431, True)
        assert problem["detail"] == f"request: more than {HEAD_LINES} header lines, which is the limit"
        assert problem["fix"] == "Send fewer headers."


def test_too_small_chunks(shared: Running) -> None:
    text = b"#" * (CHUNKS - 15) + b"\nsequence\nEVQL\n"
    assert len(text) == CHUNKS
    small = b"".join(b"1\r\n%c\r\n" % letter for letter in text)
    status, found, _ = answer(shared, POST + b"\r\n" + small + b"0\r\n\r\n")
    assert status == 200, found
    status, problem, closed = answer(shared, POST + b"\r\n" + ONE_BYTE * (CHUNKS + 1))
    assert (status, closed) == (413, True)
    assert problem["detail"] == "request: 1001 bytes in 1001 chunks; above 1000 chunks, chunks need 16 bytes on average"
    until(lambda: not shared.gate._in_hand)


@pytest.mark.parametrize("body", [b"zz\r\n", ONE_BYTE * (CHUNKS + 1)])
def test_a_head_request_with_such_a_body_is_closed(
    shared: Running, caplog: pytest.LogCaptureFixture, body: bytes
) -> None:
    with socket.create_connection((shared.host, shared.port), PATIENCE_S) as connection:
        connection.sendall(POST.replace(b"POST", b"HEAD") + b"\r\n" + body)
        while connection.recv(1 << 16):
            pass
    assert not [record for record in caplog.records if record.exc_info]


def test_a_line_a_chunk(shared: Running) -> None:
    """Python's clients send a generator of lines as many chunks. Scores equal those of one chunk."""
    lines = [
        b"id,sequence\n",
        *[b"# a comment line\n"] * CHUNKS,
        *(b"r%d,%s\n" % (row, VH[row:].encode()) for row in range(3)),
    ]
    connection = http.client.HTTPConnection(shared.host, shared.port, timeout=PATIENCE_S)
    for _ in range(2):  # on one connection
        connection.request("POST", "/v1/score?domain=off", iter(lines), CSV, encode_chunked=True)
        found = connection.getresponse()
        results = json.loads(found.read())["results"]
        assert found.status == 200 and [one["id"] for one in results] == [f"r{row}" for row in range(3)]
    connection.close()


def test_requests_one_after_another_in_one_piece(shared: Running) -> None:
    count = 3 * EVENTS_AT_ONCE
    with socket.create_connection((shared.host, shared.port), PATIENCE_S) as connection:
        connection.sendall((GET + b"\r\n") * count)
        found = b""
        while found.count(b'{"status":"ok"}') < count:
            found += connection.recv(1 << 16)
    assert found.count(b"HTTP/1.1 200") == count


def test_a_go_has_so_many_events() -> None:
    parser = Parser(1 << 16)
    parser.receive_data(POST + b"\r\n" + b"10\r\n" + b"E" * 16 + b"\r\n")
    parser.receive_data((b"10\r\n" + b"E" * 16 + b"\r\n") * 3 * EVENTS_AT_ONCE)
    for _ in range(3):
        events = [parser.next_event() for _ in range(EVENTS_AT_ONCE)]
        assert all(isinstance(event, h11.Request | h11.Data) for event in events)
        assert parser.next_event() is h11.PAUSED
        parser.left = EVENTS_AT_ONCE


def test_one_go_at_a_time() -> None:
    """This holds for any number of waiting connections."""
    timers: list[tuple[Callable[..., None], Any]] = []

    class Loop:
        def call_later(self, seconds: float, work: Callable[..., None], loop: Any) -> None:
            assert seconds == PAUSE_S
            timers.append((work, loop))

    lane, loop, order = Lane(), Loop(), ""

    def go(name: str, more: int) -> Callable[[], None]:
        def work() -> None:
            nonlocal order
            order += name
            if more:
                lane.wait(loop, go(name, more - 1))  # type: ignore[arg-type]

        return work

    for name, more in (("a", 2), ("b", 0), ("c", 3)):
        lane.wait(loop, go(name, more))  # type: ignore[arg-type]
    while timers:
        assert len(timers) == 1
        work, given = timers.pop()
        work(given)
    assert order == "abcacacc"
