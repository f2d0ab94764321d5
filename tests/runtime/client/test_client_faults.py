"""The client with services that are full, stopped, restarted, slow, disconnected, or not abonyx."""

from __future__ import annotations

import contextlib
import datetime
import email.utils
import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

for _name in ("fastapi", "uvicorn", "prometheus_client", "httpx"):
    pytest.importorskip(_name, reason="the serve or the client extra is not installed")

from abonyx.client import Client, transport  # noqa: E402
from abonyx.client.parts import Limits  # noqa: E402
from abonyx.errors import ConfigError, InputTooLarge, RequestRefused, ServiceError  # noqa: E402

from ..domain.proteins import VH  # noqa: E402
from ..serve.serving import PATIENCE_S, TOKEN, Running, service  # noqa: E402
from ..serve.test_command import ended, process  # noqa: E402

PROBLEM = {"type": "urn:abonyx:RequestRefused", "title": "x", "status": 503, "detail": "full", "fix": "Wait."}
LIMITS = {
    **{"max_body_bytes": 10_000, "max_sequences": 2, "max_explained_sequences": 2},
    "max_residues_per_request": 1_000,
}


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A list that gets the client's waiting times, without waiting."""
    found: list[float] = []
    monkeypatch.setattr(transport.time, "sleep", found.append)
    return found


def answer(status: int, kind: str, body: str | bytes, *headers: str) -> bytes:
    data = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status} X", f"Content-Type: {kind}", f"Content-Length: {len(data)}", "Connection: close"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + data


def problem(status: int, *headers: str, **more: Any) -> bytes:
    return answer(status, "application/problem+json", json.dumps(PROBLEM | {"status": status} | more), *headers)


MODEL = answer(200, "application/json", json.dumps({"limits": LIMITS}))


@contextlib.contextmanager
def scripted(*answers: bytes | Callable[[socket.socket], None]) -> Iterator[tuple[str, list[bytes]]]:
    """A server that gives these answers, one per connection, and then stops; yields its address and the requests."""
    heads: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            for each in answers:
                with contextlib.suppress(OSError):
                    connection = listener.accept()[0]
                    with connection:
                        heads.append(_request(connection))
                        each(connection) if callable(each) else connection.sendall(each)
            listener.close()  # one that asks again is refused and does not wait

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        host, port = listener.getsockname()
        yield f"http://{host}:{port}", heads
    thread.join(PATIENCE_S)


def _request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
    while len(body) < length:
        body += connection.recv(65536)
    return head


def test_a_full_service_is_asked_again_after_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    sleep, waited = time.sleep, list[float]()
    with service(max_requests_per_client=1) as running, Client(url(running)) as client:
        client.model()
        with running.engine.held():
            other = threading.Thread(target=running.score, args=(["EVQL"],))
            other.start()
            assert running.engine.inside.wait(PATIENCE_S)

            def wait(seconds: float) -> None:
                if threading.current_thread() is not threading.main_thread():
                    return sleep(seconds)
                waited.append(seconds)
                running.engine.go_on.set()
                other.join(PATIENCE_S)

            with monkeypatch.context() as patch:
                patch.setattr(transport.time, "sleep", wait)  # this is time.sleep of every thread
                found = client.score([VH])
        assert len(found.rows) == 1
        assert len(waited) == 1 and 1 <= waited[0] <= 1.25  # Retry-After: 1
        assert running.value("abonyx_rejected_requests_total", reason="client_requests") == 1


def url(running: Running) -> str:
    return f"http://{running.host}:{running.port}"


def test_attempts_and_time_have_an_end(waits: list[float]) -> None:
    with service(max_requests_per_client=1) as running, Client(url(running), attempts=3) as client:
        client.model()
        with running.engine.held():
            other = threading.Thread(target=running.score, args=(["EVQL"],))
            other.start()
            assert running.engine.inside.wait(PATIENCE_S)
            with pytest.raises(
                RequestRefused, match=r"429: 1 requests of .*; tried 3 times, which is the limit"
            ) as caught:
                client.score([VH])
            running.engine.go_on.set()
            other.join(PATIENCE_S)
    assert len(waits) == 2 and all(1 <= wait <= 1.25 for wait in waits)
    assert (caught.value.status, caught.value.retry_after_s) == (429, 1)
    assert caught.value.request_id and caught.value.request_id in caught.value.what


def test_a_wait_beyond_the_time_is_not_begun(waits: list[float]) -> None:
    with (
        scripted(problem(503, "Retry-After: 30")) as (address, _),
        Client(address, timeout_s=20) as client,
        pytest.raises(RequestRefused, match=r"timeout_s, 20 s, ends before another attempt in 3\d"),
    ):
        client.model()
    assert not waits


def test_a_503_without_a_time_is_final(waits: list[float]) -> None:
    with (
        scripted(problem(503)) as (address, heads),
        Client(address) as client,
        pytest.raises(RequestRefused, match="503: full"),
    ):
        client.model()
    assert len(heads) == 1 and not waits


def test_a_date_is_a_time_too(waits: list[float]) -> None:
    at = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=7)
    again = problem(429, f"Retry-After: {email.utils.format_datetime(at, usegmt=True)}")
    past = problem(429, "Retry-After: Thu, 01 Jan 1970 00:00:00 GMT")
    wrong = problem(429, "Retry-After: soon")
    with scripted(again, past, wrong) as (address, heads), Client(address) as client, pytest.raises(RequestRefused):
        client.model()
    assert len(heads) == 3 and 5 < waits[0] < 9 and 0 < waits[1] < 0.1 and len(waits) == 2


def test_a_proxy_without_a_service_behind_it_is_asked_again_and_then_named(waits: list[float]) -> None:
    page = "<html>\n<title>503 Service Temporarily Unavailable</title>"
    with (
        scripted(*[answer(503, "text/html; charset=utf-8", page)] * 3) as (address, heads),
        Client(address, attempts=3) as client,
        pytest.raises(ServiceError, match="tried 3 times") as caught,
    ):
        client.score([VH])
    assert len(heads) == 3 and waits == [1, 2]
    assert "503 (Service Unavailable), text/html: '<html>': not an answer of abonyx" in caught.value.what


@pytest.mark.parametrize(
    ("given", "part"),
    [
        (answer(200, "text/html", "<html>Please log in</html>"), "200 (OK), text/html: '<html>Please log in"),
        (answer(200, "text/plain", "{}"), "200 (OK), text/plain"),
        (answer(502, "text/html", "<html>"), "502 (Bad Gateway)"),
        (answer(404, "text/html", ""), "404 (Not Found), text/html: 'empty'"),
        (answer(302, "text/html", "", "Location: http://elsewhere.example/"), "302 (Found)"),
        (answer(799, "text/html\x7f", b"\xff\x1b[31m"), "799"),
        (answer(422, "application/problem+json", "not json"), "422"),
        (answer(422, "application/problem+json", '{"type": "urn:abonyx:first_line", "detail": "x"}'), "422"),
        (answer(422, "application/problem+json", '{"type": "urn:other:Thing", "detail": "x"}'), "422"),
        (answer(200, "application/json", "[1"), "the answer cannot be read"),
        (answer(200, "application/json", "{}"), "the answer cannot be read"),
        (answer(200, "application/json", '{"limits": 3}'), "the answer cannot be read"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "the connection ended before"),
        (b"", "the connection ended before"),
        (answer(200, "application/json", "{}")[:-1], "the connection ended before"),
        (answer(200, "application/json", "{}", "Content-Encoding: gzip"), "the connection ended before"),
    ],
)
def test_what_is_not_an_answer_of_abonyx(given: bytes, part: str, waits: list[float]) -> None:
    with scripted(given) as (address, heads), Client(address) as client:
        with pytest.raises(ServiceError) as caught:
            client.model()
        assert part in caught.value.what and address in caught.value.what and caught.value.fix
        assert caught.value.what.isprintable()
    assert len(heads) == 1 and not waits


def test_an_answer_that_ends_in_its_middle_is_not_asked_for_again(waits: list[float]) -> None:
    whole = answer(200, "application/json", json.dumps({"results": [0] * 1_000}))
    with (
        scripted(MODEL, whole[:-500]) as (address, heads),
        Client(address) as client,
        pytest.raises(ServiceError, match="the connection ended before the answer was complete"),
    ):
        client.score([VH])
    assert [head.split()[1] for head in heads] == [b"/v1/model", b"/v1/score"] and not waits


def test_a_service_that_is_not_there_is_tried_again(waits: list[float]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (
        Client(f"http://127.0.0.1:{port}", attempts=4) as client,
        pytest.raises(ServiceError, match=r"no connection: .*refused.*; tried 4 times"),
    ):
        client.score([VH])
    assert waits == [1, 2, 4]


def test_a_service_that_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The old connection is closed, and the service starts again at the same port while the client waits."""
    monkeypatch.setattr(transport, "_FIRST_WAIT_S", 0.05)
    with process() as old, Client(f"http://127.0.0.1:{old.port}", attempts=12) as client:
        before = client.score([VH]).p_nonspecific
        old.running.send_signal(signal.SIGTERM)
        assert ended(old) == 0
        found: list[Any] = []
        asking = threading.Thread(target=lambda: found.append(client.score([VH]).p_nonspecific))
        asking.start()
        with process("--port", str(old.port)) as new:
            assert new.port == old.port
            asking.join(PATIENCE_S)
    assert found[0].tolist() == before.tolist()


def test_another_model_between_two_parts_is_an_error() -> None:
    def part(name: str, number: int) -> bytes:
        result = {
            "id": str(number),
            "p_nonspecific": 0.5,
            "nonspecific": 0,
            "call": None,
            "percentile": None,
            "flag": "",
        }
        model = {"name": name, "sha256": "0" * 64, "variant": "fp32", "provider": "cpu"}
        none: dict[str, Any] = dict.fromkeys(("threshold", "band", "assay", "panel", "labels", "trim"))
        lists: dict[str, Any] = {name: [] for name in ("heads", "chains", "rejected", "notes")}
        body = none | lists | {"model": model, "domain": "check", "flags": {}, "results": [result]}
        return answer(200, "application/json", json.dumps(body))

    limits = answer(200, "application/json", json.dumps({"limits": LIMITS | {"max_sequences": 1}}))
    with (
        scripted(limits, part("one", 1), part("two", 2)) as (address, _),
        Client(address) as client,
        pytest.raises(ServiceError, match=r"the model changed .*: one \(0{12}\), fp32, then two"),
    ):
        client.score(["EVQL", "QVQL"])
    with (
        scripted(limits, part("one", 1), part("one", 1)) as (address, _),
        Client(address) as client,
        pytest.raises(ServiceError, match="1 results and 0 rejected, or its ids differ"),
    ):
        client.score(["EVQL", "QVQL"])
    with scripted(limits, part("one", 1), part("one", 2)) as (address, _), Client(address) as client:
        assert client.score(["EVQL", "QVQL"]).p_nonspecific.tolist() == [0.5, 0.5]


def test_a_service_that_does_not_answer_in_time() -> None:
    with service() as running, Client(url(running), timeout_s=2) as client:
        client.model()
        with running.engine.held():
            began = time.monotonic()
            with pytest.raises(ServiceError, match=r"no complete answer within timeout_s, 2 s"):
                client.score([VH])
            assert time.monotonic() - began < 10


def test_an_answer_that_trickles_ends_with_the_time() -> None:
    def trickle(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n")
        for _ in range(200):
            connection.sendall(b" ")
            time.sleep(0.05)

    with scripted(trickle) as (address, _), Client(address, timeout_s=0.5) as client:
        began = time.monotonic()
        with pytest.raises(ServiceError, match=r"no complete answer within timeout_s, 0\.5 s"):
            client.model()
        assert time.monotonic() - began < 5


def test_a_token_is_sent_and_never_shown() -> None:
    with service(token=TOKEN) as running:
        with Client(url(running), token=TOKEN) as client:
            assert len(client.score([VH]).rows) == 1
            assert TOKEN not in repr(client)
        for wrong in (None, "another-token-of-clients"):
            with Client(url(running), token=wrong) as client, pytest.raises(RequestRefused) as caught:
                client.score([VH])
            assert caught.value.status == 401 and "another-token" not in str(caught.value)


def test_a_proxy_of_the_environment_is_not_asked_for_localhost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    with service() as running:
        for host in ("127.0.0.1", "localhost"):
            with Client(f"http://{host}:{running.port}", attempts=1) as client:
                assert client.model().ready
    with Client("http://abonyx.example", attempts=1) as client, pytest.raises(ServiceError, match="no connection"):
        client.model()


def test_limits_that_became_smaller_are_the_services_to_refuse() -> None:
    with service(max_sequences=2) as running, Client(url(running)) as client:
        client._limits = Limits(**(LIMITS | {"max_sequences": 100}))
        with pytest.raises(InputTooLarge, match="max_sequences"):
            client.score(["EVQL"] * 3)
        client.model()
        assert len(client.score(["EVQL"] * 3, domain="off").rows) == 3


def test_a_path_below_which_a_proxy_serves_it_is_kept() -> None:
    with scripted(MODEL) as (address, heads), Client(address + "/abonyx/") as client, pytest.raises(ServiceError):
        client.model()  # MODEL has the limits alone
    assert heads[0].startswith(b"GET /abonyx/v1/model ")


def test_threads_share_a_client() -> None:
    with service() as running, Client(url(running)) as client:
        found: list[Any] = []
        threads = [threading.Thread(target=lambda: found.append(client.score([VH]).p_nonspecific[0])) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert len(found) == 8 and max(found) - min(found) < 1e-5


def test_a_scan() -> None:
    with service() as running, Client(url(running)) as client:
        found = client.scan(VH, id="mine", positions=["105-106"], exclude=["C", "M"])
        assert found.mutants == len(found.columns["p_nonspecific"]) == 34
        assert found.parent.id == "mine" and found.parent.sequence == VH
        with pytest.raises(ConfigError, match="CDR9"):
            client.scan(VH, positions="cdr9")
