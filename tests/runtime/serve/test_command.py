"""`abonyx serve` as a process: refusals, output, and how it ends."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

for _name in ("fastapi", "uvicorn", "prometheus_client"):
    pytest.importorskip(_name, reason="the serve extra is not installed")

from abonyx.config import RuntimeConfig  # noqa: E402
from abonyx.errors import BundleError, ConfigError  # noqa: E402
from abonyx.serve import server  # noqa: E402
from abonyx.serve.settings import Settings, read_token  # noqa: E402

from ..domain import proteins  # noqa: E402
from .serving import CSV, PATIENCE_S, TOKEN, until  # noqa: E402

VH = proteins.VH.encode()
# Number of residues in one request of these tests: enough that a signal comes while they are scored.
LONG = b"sequence\n" + b"\n".join(VH[:30] + bytes([letter]) * number for letter in b"ACDEF" for number in range(12))


class Process(NamedTuple):
    running: subprocess.Popen[str]
    port: int
    log: list[str]

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        with contextlib.closing(connection):
            connection.request(method, path, body, CSV)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def waiting(self) -> float:
        """Number of sequences that wait."""
        return self._metric("abonyx_queue_sequences")

    def in_hand(self) -> float:
        """Number of requests that wait or are being scored."""
        return self._metric("abonyx_queue_requests")

    def _metric(self, name: str) -> float:
        found = re.search(rb"^%s (\S+)" % name.encode(), self.ask("GET", "/metrics")[1], re.M)
        assert found
        return float(found[1])


@contextlib.contextmanager
def process(*arguments: str, **environment: str) -> Iterator[Process]:
    command = [sys.executable, "-W", "error", "-m", "abonyx", "serve", "--port", "0", "--log-json", *arguments]
    started = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | environment)
    log: list[str] = []
    try:
        assert started.stderr
        for line in started.stderr:
            log.append(json.loads(line)["message"])
            if found := re.search(r"listening at http://[\d.]+:(\d+)$", log[-1]):
                break
        else:
            raise AssertionError(log)
        yield Process(started, int(found[1]), log)
    finally:
        started.kill()
        started.wait()
        assert started.stderr
        started.stderr.close()


def ended(one: Process) -> int:
    assert one.running.stderr
    one.log.extend(json.loads(line)["message"] for line in one.running.stderr)
    return one.running.wait(PATIENCE_S)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_service_once_the_queue_is_done(number: signal.Signals) -> None:
    with process("--max-requests-per-client", "8") as one:
        answers: list[tuple[int, Any]] = []
        clients = [
            threading.Thread(target=lambda: answers.append(one.ask("POST", "/v1/score", LONG))) for _ in range(4)
        ]
        for client in clients:
            client.start()
        until(lambda: one.in_hand() == 4 or len(answers) == 4)
        one.running.send_signal(number)
        until(lambda: not _accepts(one.port))
        assert one.running.poll() is None or answers  # it was still at it, unless the machine is very fast
        for client in clients:
            client.join(PATIENCE_S)
        assert ended(one) == 0, one.log
        assert [status for status, _ in answers] == [200] * 4
        assert all(len(json.loads(body)["results"]) == 60 for _, body in answers)
    assert one.log[-1] == "every request was answered; the model is closed"


def _accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def test_what_the_grace_time_does_not_suffice_for_is_cut_off_and_said() -> None:
    body = b"sequence\n" + b"\n".join(VH + b"ACDEF"[n % 5 : n % 5 + 1] * (n // 5 % 20) for n in range(9_000))
    with process("--grace-s", "1", "--max-residues-per-request", "9000000") as one:
        left: list[Exception] = []

        def client() -> None:
            try:
                one.ask("POST", "/v1/score", body.replace(b"A", b"Q"))
            except (http.client.HTTPException, OSError) as error:
                left.append(error)

        asking = threading.Thread(target=client)
        asking.start()
        until(lambda: one.waiting() > 100)
        one.running.send_signal(signal.SIGTERM)
        assert ended(one) == 130, one.log
        asking.join(PATIENCE_S)
    assert any("requests without an answer: 1; they were cut off 1 s after the signal" in line for line in one.log)


def test_the_log_is_json_and_names_the_model_and_the_address() -> None:
    with process("-v", ABONYX_SERVE_TOKEN=TOKEN) as one:
        assert any("opened abonyx-mini" in line for line in one.log)
        assert any("this is the small model that ships with abonyx" in line for line in one.log)
        assert one.ask("GET", "/v1/model")[0] == 401
        assert one.ask("GET", "/healthz")[0] == 200
        one.running.send_signal(signal.SIGTERM)
        assert ended(one) == 0
    assert any(
        re.fullmatch(r"GET /v1/model 401 in [\d.]+ s, request [0-9a-f]{32}, client 127.0.0.1", line) for line in one.log
    )
    assert TOKEN not in "".join(one.log)


def test_what_is_refused_before_a_model_is_opened(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pooled = tmp_path / "pooled.toml"
    pooled.write_text('pooling = "upstream-batch"\nbatch_size = 8\n')
    short = tmp_path / "short"
    short.write_text("secret\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for arguments, part in (
            (["--workers", "2"], "run several services behind a load balancer"),
            (["--workers", "0"], "--workers is 0"),
            (["--config", str(pooled)], "depend on the other sequences of its request"),
            (["--port", str(port)], f"cannot listen on 127.0.0.1 port {port}: Address already in use"),
            (["--host", "203.0.113.1"], "cannot listen on 203.0.113.1 port 8000"),
            (["--token-file", str(tmp_path / "none")], "the token cannot be read: No such file"),
            (["--token-file", str(short)], "is not a token (6 characters)"),
            (["--port", "70000"], "port is 70000"),
            (["--max-sequences", "0"], "max_sequences is 0"),
            (["--validated", str(short)], "--validated"),
            (["--max-sequences", "60000"], "max_queued_sequences is 50000 and max_sequences 60000"),
        ):
            done = run("serve", *arguments)
            assert (done.code, done.out) == (2, ""), done
            assert part in done.err and "secret" not in done.err
    done = run("serve", "--bundle", tmp_path / "none")
    assert done.code == 4 and "no such bundle directory" in done.err
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    done = run("serve")
    assert done.code == 2 and "serve needs uvicorn" in done.err and "Install the extra serve: pip install " in done.err


def test_nobody_can_connect_before_the_model_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    def opening(_config: RuntimeConfig) -> Any:
        assert not _accepts(port)
        raise BundleError("as far as this test goes")

    monkeypatch.setattr(server, "open_model", opening)
    with pytest.raises(BundleError, match="as far as"):
        server.serve(RuntimeConfig, Settings(port=port))


def test_a_service_that_others_can_reach_without_a_token_says_so() -> None:
    for environment, said in (({}, True), ({"ABONYX_SERVE_TOKEN": TOKEN}, False)):
        with process("--host", "0.0.0.0", **environment) as one:
            assert any("no token is set: whoever reaches 0.0.0.0:" in line for line in one.log) == said


def test_tokens_come_from_a_file_or_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    assert read_token("T", file, {}) == read_token("T", None, {"T": TOKEN}) == TOKEN
    assert read_token("T", None, {}) is read_token("T", None, {"T": ""}) is None
    with pytest.raises(ConfigError, match="T is set and"):
        read_token("T", file, {"T": TOKEN})
    for bad in ("too short", "with a space in it, long", "nön-ascii-but-long-enough", "x" * 1001):
        with pytest.raises(ConfigError, match="is not a token") as refused:
            read_token("T", None, {"T": bad})
        assert bad not in str(refused.value)
    assert TOKEN not in repr(Settings(token=TOKEN))


def test_answers_are_sent_without_delay() -> None:
    with server.bound(Settings(port=0)) as listener:
        assert listener.proto == socket.IPPROTO_TCP  # asyncio sets TCP_NODELAY on connections of such a socket alone
