"""Services with other settings: number of requests, times, tokens, another page."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

for _name in ("fastapi", "uvicorn", "prometheus_client"):
    pytest.importorskip(_name, reason="the serve extra is not installed")

from abonyx.errors import EngineError  # noqa: E402
from abonyx.serve import app, gate  # noqa: E402
from abonyx.serve import service as service_module  # noqa: E402

from .serving import CSV, NDJSON, PATIENCE_S, TOKEN, Running, at_once, refused, service, until  # noqa: E402


def test_a_failure_after_the_start_is_the_last_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with service() as running:
        run = running.engine.native.run
        nan = type("Native", (), {"run": staticmethod(lambda *given: [np.full_like(run(*given)[0], np.nan)])})()
        monkeypatch.setattr(running.engine, "native", nan)
        body = {"sequences": [{"id": "mine", "sequence": "EVQL"}]}
        *_, last = running.ask("POST", "/v1/score", body, NDJSON).body.splitlines()
        found = json.loads(last)["problem"]
        assert (found["status"], found["type"]) == (500, "urn:abonyx:ScoreNotFinite")
        assert "mine" in found["detail"]
        assert running.value("abonyx_rejected_requests_total", reason="ScoreNotFinite") == 1
        refused(running.ask("POST", "/v1/score", body), 500, "not finite for 1 of 1 sequences: mine")


def test_a_client_that_sends_too_slowly() -> None:
    with service(body_timeout_s=0.2) as running, socket.create_connection((running.host, running.port)) as slow:
        slow.sendall(
            b"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\nContent-Length: 99\r\n\r\nid,se"
        )
        slow.settimeout(PATIENCE_S)
        answer = b""
        while b"}" not in answer:
            answer += slow.recv(65536)
        assert answer.startswith(b"HTTP/1.1 408 ") and b"5 bytes of the body came in 0.2 s" in answer


def test_a_request_that_takes_too_long() -> None:
    with service(request_timeout_s=2) as running, running.engine.held():
        answer = running.score(["EVQL"])
        refused(answer, 503, "had 0 of 1 sequences done in 2 s")
        assert answer.headers["retry-after"] == "1"
        assert running.scheduler._queued_sequences == 0


def test_the_time_of_a_request_begins_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read, free = service_module.check_file, threading.Event()

    def slowly(*given: Any, **more: Any) -> Any:
        assert free.wait(PATIENCE_S)
        return read(*given, **more)

    monkeypatch.setattr(service_module, "check_file", slowly)
    with service(request_timeout_s=0.1) as running:
        try:
            found = at_once(lambda _: running.ask("POST", "/v1/score", b"sequence\nEVQL\n", CSV), 3)
        finally:
            free.set()
    details = sorted(answer.json["detail"] for answer in found)
    assert [answer.status for answer in found] == [503] * 3
    assert all("was not read in 0.1 s" in detail for detail in details), details


def test_too_many_requests_of_one_client_and_of_all() -> None:
    def held_by(running: Running, count: int) -> list[Any]:
        asking = []
        for _ in range(count):
            connection = http.client.HTTPConnection(running.host, running.port, timeout=PATIENCE_S)
            connection.request("POST", "/v1/score", b">a\nEVQL\n", CSV)
            asking.append(connection)
        until(lambda: running.gate._in_hand.total() == count)
        return asking

    for limits, status, reason, part in (
        ({"max_requests_per_client": 2}, 429, "client_requests", "2 requests of 127.0.0.1 are in progress"),
        ({"max_requests": 2}, 503, "requests", "2 requests are in progress"),
    ):
        with service(**limits) as running:
            with running.engine.held():
                asking = held_by(running, 2)
                answer = running.score(["EVQL"])
                refused(answer, status, part)
                assert running.value("abonyx_rejected_requests_total", reason=reason) == 1
                assert answer.headers["retry-after"] == "1"
                assert running.ask("GET", "/readyz").status == 200  # only scoring has so few places
            assert [connection.getresponse().status for connection in asking] == [200, 200]
            for connection in asking:
                connection.close()
            assert running.score(["EVQL"]).status == 200
            until(lambda running=running: not running.gate._in_hand)


def test_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    compare = gate.hmac.compare_digest
    monkeypatch.setattr(gate.hmac, "compare_digest", lambda *pair: compared.append(pair) or compare(*pair))
    with service(token=TOKEN) as running:
        for path in ("/v1/model", "/v1/score", "/v1/nothing", "/metrics", "/v1%2Fmodel"):
            answer = running.ask("GET", path)
            refused(answer, 401, "needs the token, none was sent")
            assert answer.headers["www-authenticate"] == "Bearer"
        for wrong in (f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", "Bearer ", TOKEN, "Bearer \xe4"):
            refused(running.ask("GET", "/v1/model", headers={"Authorization": wrong}), 401, "")
        compared.clear()
        assert running.ask("GET", "/v1/model", headers={"Authorization": f"Bearer {TOKEN}"}).status == 200
        assert compared == [(TOKEN.encode(), TOKEN.encode())]  # in constant time
        for path in ("/healthz", "/readyz", "/openapi.json"):
            assert running.ask("GET", path).status == 200
        named = {"Authorization": f"Bearer {TOKEN}", "Host": "antibodies.example"}  # who knows the token may name it
        assert running.ask("GET", "/v1/model", headers=named).status == 200
        # a token is asked for before the body is read
        refused(running.ask("POST", "/v1/score", bytes(10**7), CSV), 401, "")


def test_the_page_is_the_packages_three_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = tmp_path / "serve" / "page"
    page.mkdir(parents=True)
    files = {"index.html": ("/", "text/html"), "app.js": ("/page/app.js", "text/javascript")}
    files["style.css"] = ("/page/style.css", "text/css")
    for name in (*files, "secret.txt"):
        (page / name).write_text(f"this is {name}")
    with monkeypatch.context() as patch:
        patch.setattr(app.importlib.resources, "files", lambda _package: tmp_path)
        with service(token=TOKEN) as running:
            for name, (path, kind) in files.items():
                answer = running.ask("GET", path)
                assert (answer.status, answer.body.decode()) == (200, f"this is {name}")
                assert answer.headers["content-type"] in (kind, f"{kind}; charset=utf-8")
            refused(running.ask("GET", "/page/secret.txt"), 404, "")
            (page / "app.js").unlink()
            refused(running.ask("GET", "/page/app.js"), 404, "Not Found")


def _slow_readers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make every read endless; the list gets the reason why each one ended."""
    ended: list[str] = []

    def read(_body: bytes, _asked: Any, step: Any, **_more: Any) -> Any:
        try:
            while True:
                time.sleep(0.001)
                step()
        except EngineError as error:
            ended.append(error.what)
            raise

    monkeypatch.setattr(service_module, "check_file", read)
    return ended


def test_reading_ends_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = _slow_readers(monkeypatch)
    with service(request_timeout_s=1) as running:
        refused(running.ask("POST", "/v1/score", b"sequence\nEVQL\n", CSV), 503, "was not read in 1 s")
        until(lambda: ended)


def test_reading_ends_when_the_client_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = _slow_readers(monkeypatch)
    with service() as running:
        with socket.create_connection((running.host, running.port)) as client:
            client.sendall(
                b"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\nContent-Length: 1\r\n\r\na"
            )
            until(lambda: running.gate._in_hand.total() == 1)
        until(lambda: ended)
        assert ended == ["the client left before its answer"]
        until(lambda: not running.gate._in_hand)
        assert running.score(["EVQL"]).status == 200


GZIP_FLOODS = {
    "gzip_header": b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * 4_000_000,
    "gzip_members": gzip.compress(b"", mtime=0) * 100_000,
    "gzip_padding": gzip.compress(b"sequence\nEVQL\n", mtime=0) + bytes(4_000_000),
    "empty_blocks": b"\x1f\x8b\x08" + bytes(7) + b"\0\0\0\xff\xff" * 800_000,
}
FREE = {"max_gzip_members": 10**9, "max_gzip_extra_bytes": 10**9}


def _held_at_a_step(monkeypatch: pytest.MonkeyPatch, go_on: threading.Event) -> tuple[list[int], list[str]]:
    """Make a flood wait in its third step; the lists get the steps of floods, and why their reads ended."""
    steps: list[int] = []
    ended: list[str] = []
    read = service_module.check_file

    def check(body: bytes, asked: Any, step: Any, **more: Any) -> Any:
        def held() -> None:
            steps.append(len(body))
            if len(steps) == 3:
                assert go_on.wait(PATIENCE_S)
            step()

        flood = len(body) > 1_000
        try:
            return read(body, asked, held if flood else step, **more)
        except EngineError as error:
            ended.append(error.what)
            raise

    monkeypatch.setattr(service_module, "check_file", check)
    return steps, ended


@pytest.mark.parametrize("name", GZIP_FLOODS)
def test_reading_gzip_ends_within_a_step(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Data that unpacks to nothing: after its client has left, nobody else waits for it."""
    body, go_on = GZIP_FLOODS[name], threading.Event()
    steps, ended = _held_at_a_step(monkeypatch, go_on)
    with service(**FREE) as running:
        with socket.create_connection((running.host, running.port)) as client:
            head = b"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\nContent-Length: %d\r\n\r\n"
            client.sendall(head % len(body) + body)
            until(lambda: len(steps) == 3 or ended)
        until(lambda: not running.gate._in_hand)  # it is noticed while the reader is at work
        go_on.set()
        assert running.ask("POST", "/v1/score", b"sequence\nEVQL\n", CSV).status == 200
        assert ended == ["the client left before its answer"] and len(steps) == 3


def test_reading_gzip_ends_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    steps, ended = _held_at_a_step(monkeypatch, go_on)
    with service(request_timeout_s=2, **FREE) as running:
        flood = running.ask("POST", "/v1/score", GZIP_FLOODS["empty_blocks"], CSV)
        refused(flood, 503, "was not read in 2 s")
        go_on.set()
        until(lambda: ended)
    assert ended == ["the client left before its answer"] and len(steps) == 3


def test_gzip_over_a_limit() -> None:
    with service(max_gzip_members=20, max_gzip_extra_bytes=5_000) as running:
        for name, part in (("gzip_header", "extra_bytes is 5000"), ("gzip_members", "members is 20")):
            refused(running.ask("POST", "/v1/score", GZIP_FLOODS[name], CSV), 413, f"max_gzip_{part}")
        refused(running.ask("POST", "/v1/score", GZIP_FLOODS["gzip_padding"], CSV), 413, "zeros around members")


def test_a_sequence_of_too_many_characters() -> None:
    with service(max_sequence_chars=1_000) as running:
        what = "a sequence of 1001 characters; max_sequence_chars is 1000"
        refused(running.score(["EVQL", "E" * 1_001], on_invalid="skip"), 413, f"request:2: {what}")
        fasta = b">a\nEVQL\n>b\n" + b"E" * 500 + b"\n" + b"E" * 501 + b"\n"
        refused(running.ask("POST", "/v1/score", fasta, CSV), 413, f"request:3: {what}")
        refused(running.score(["E" * 1_000]), 422, "low complexity")


def test_a_small_file_does_not_wait_for_a_long_one(monkeypatch: pytest.MonkeyPatch) -> None:
    read, inside = service_module.check_file, threading.Event()

    def slowly(body: bytes, asked: Any, step: Any, **more: Any) -> Any:
        while body.startswith(b"#"):
            inside.set()
            time.sleep(0.001)
            step()
        return read(body, asked, step, **more)

    monkeypatch.setattr(service_module, "check_file", slowly)
    with service(request_timeout_s=5) as running:
        long = threading.Thread(target=running.ask, args=("POST", "/v1/score", b"#", CSV))
        long.start()
        assert inside.wait(PATIENCE_S)
        assert running.ask("POST", "/v1/score", b"sequence\nEVQL\n", CSV).status == 200
        assert long.is_alive()
        long.join(PATIENCE_S)
