"""A service in this process at a free local port, an engine that can be paused, and a client."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from abonyx.config import RuntimeConfig
from abonyx.model import OpenModel, open_model
from abonyx.serve.app import create_app
from abonyx.serve.gate import Gate
from abonyx.serve.judging import Judging
from abonyx.serve.metrics import Metrics
from abonyx.serve.scheduler import Scheduler
from abonyx.serve.server import bound, running, uvicorn_server, wide_fields
from abonyx.serve.service import Service
from abonyx.serve.settings import Settings

# Only a hanging test takes longer.
PATIENCE_S = 120
JSON = {"Content-Type": "application/json"}
CSV = {"Content-Type": "text/csv"}
NDJSON = {"Accept": "application/x-ndjson"}
PROBLEM = "application/problem+json"
TOKEN, ADMIN = "a-token-of-clients-", "an-admins-own-token"


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Held:
    """An engine that counts batches and their rows. While it is paused, the next batch waits."""

    def __init__(self, native: Any) -> None:
        self.native, self.batches, self.rows = native, 0, 0
        self.inside, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def run(self, outputs: list[str], feed: Any) -> Any:
        self.inside.set()
        assert self.go_on.wait(PATIENCE_S)
        self.batches += 1
        self.rows += len(feed["input_ids"])
        return self.native.run(outputs, feed)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        self.inside.clear()
        self.go_on.clear()
        try:
            yield
        finally:
            self.go_on.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.native, name)


@contextlib.contextmanager
def held_session(config: RuntimeConfig | None = None) -> Iterator[tuple[OpenModel, Held]]:
    with open_model(config or RuntimeConfig()) as session:
        engine: Any = Held(session._native)
        session._native = engine
        yield session, engine


@dataclass
class Running:
    host: str
    port: int
    session: OpenModel
    engine: Held
    scheduler: Scheduler
    gate: Gate
    metrics: Metrics

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        """Send one request on a new connection; a dict or list is sent as JSON."""
        if isinstance(body, dict | list):
            body, headers = json.dumps(body), JSON | (headers or {})
        connection = http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE_S)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())

    def score(self, sequences: list[str], **more: Any) -> Answer:
        items = [{"id": f"s{number}", "sequence": sequence} for number, sequence in enumerate(sequences)]
        return self.ask("POST", "/v1/score", {"sequences": items, **more})

    def value(self, name: str, **labels: str) -> float:
        return self.metrics._registry.get_sample_value(name, labels) or 0.0


@contextlib.contextmanager
def service(
    config: RuntimeConfig | None = None,
    load: Callable[[], RuntimeConfig] | None = None,
    judging: int = 0,
    validated: Path | None = None,
    **limits: Any,
) -> Iterator[Running]:
    """The parts of server.serve in a thread. Tests of signals start a process. judging: number of processes."""
    settings = Settings(port=0, **limits)
    config = config or RuntimeConfig()
    with (
        bound(settings) as listener,
        wide_fields(),
        Judging(judging) as judges,
        held_session(config) as (session, engine),
    ):
        metrics = Metrics()
        queue = Scheduler(session, settings.max_queued_sequences, metrics, validated, settings.request_timeout_s)
        with running(queue) as scheduler:
            gate = create_app(Service(scheduler, settings, metrics, load or (lambda: config), judges))
            listener.listen()
            server = uvicorn_server(gate, settings, settings.max_connections)
            thread = threading.Thread(target=server.run, args=([listener],))
            thread.start()
            host, port = listener.getsockname()
            try:
                yield Running(host, port, session, engine, scheduler, gate, metrics)
            finally:
                engine.go_on.set()
                server.should_exit = True
                thread.join(PATIENCE_S)
                assert not thread.is_alive()


def refused(answer: Answer, status: int, part: str) -> None:
    assert (answer.status, answer.headers["content-type"]) == (status, PROBLEM), answer.body
    found = answer.json
    assert set(found) - {"columns", "rejected"} == {"type", "title", "status", "detail", "fix", "request_id"}
    assert found["request_id"] == answer.headers["x-request-id"]
    assert found["status"] == status and part in found["detail"], found


def until(true: Callable[[], Any]) -> None:
    """Wait until a condition holds that another thread makes true."""
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def at_once(work: Callable[[int], Any], count: int) -> list[Any]:
    """The results of `work` in several threads; an error in one thread is raised here."""
    found: list[Any] = [None] * count

    def run(number: int) -> None:
        try:
            found[number] = work(number)
        except BaseException as error:
            found[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return found


def made_up(count: int, seed: int, longest: int = 40) -> list[str]:
    """Short sequences of many lengths, almost all different."""
    draw = random.Random(seed)
    return ["".join(draw.choices("ACDEFGHIKLMNPQRSTVWY", k=draw.randint(5, longest))) for _ in range(count)]
