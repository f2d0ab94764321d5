"""Processes that judge beside the service: the same answers, no lost row, and nobody left at the end."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

for _name in ("fastapi", "uvicorn", "prometheus_client"):
    pytest.importorskip(_name, reason="the serve extra is not installed")

from abonyx.config import RuntimeConfig  # noqa: E402
from abonyx.domain import Judge, child, judge  # noqa: E402
from abonyx.errors import ConfigError, EngineError, RequestRefused  # noqa: E402
from abonyx.serve import judging  # noqa: E402
from abonyx.serve import service as serve_service  # noqa: E402
from abonyx.serve.judging import Judging, is_small, judging_processes  # noqa: E402
from abonyx.serve.settings import MAX_DOMAIN_PROCESSES, Settings  # noqa: E402
from abonyx.serve.turns import Turn, Turns  # noqa: E402

from ..domain.proteins import KAPPA, NANOBODY, VH  # noqa: E402
from ..domain.test_pool import POISONED  # noqa: E402
from .serving import PATIENCE_S, Answer, Running, at_once, refused, service, until  # noqa: E402
from .test_command import ended, process  # noqa: E402

KINDS = [VH, KAPPA, NANOBODY, VH[10:], VH + "HHHHHH", VH.replace("GFN", "GXN")]


def _ignores_sigterm(one: psutil.Process) -> bool:
    found = re.search(r"^SigIgn:\s*(\w+)", Path(f"/proc/{one.pid}/status").read_text(), re.M)
    return bool(found and int(found[1], 16) >> (signal.SIGTERM - 1) & 1)


def variants(count: int) -> list[str]:
    """Different sequences of all kinds, each judged by itself."""
    return [kind[:at] + "A" + kind[at + 1 :] for at in range(1, count) for kind in KINDS][:count]


def flags(answer: Answer) -> list[tuple[str, str]]:
    assert answer.status == 200, answer.body
    return [(row["sequence"], row["flag"]) for row in answer.json["results"]]


def expected(sequences: list[str]) -> list[tuple[str, str]]:
    return [(text, judgement.text) for text, judgement in zip(sequences, judge(sequences), strict=True)]


@pytest.mark.parametrize("size", [1, 8, 200])
def test_each_row_has_its_own_flags_while_children_are_killed(size: int) -> None:
    texts = variants(200)
    parts = [texts[start : start + size] for start in range(0, 200, size)][:40]
    stop = threading.Event()

    def killing() -> None:
        while not stop.wait(0.5):
            for one in psutil.Process().children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()

    with service(judging=2, max_requests_per_client=64) as running:
        killer = threading.Thread(target=killing)
        killer.start()
        try:
            # A request may lose two children in a row: then it fails as a whole, and no row of it is answered.
            answers = at_once(lambda number: running.score(parts[number]), len(parts))
        finally:
            stop.set()
            killer.join(PATIENCE_S)
        for part, answer in zip(parts, answers, strict=True):
            if answer.status == 200:
                assert flags(answer) == expected(part)
            else:
                refused(answer, 500, "two processes ended while they judged the same records")
        assert flags(running.score(texts)) == expected(texts)
        assert len(psutil.Process().children()) == 2
    assert not psutil.Process().children()


def test_a_sequence_that_ends_children_fails_its_own_request(monkeypatch: pytest.MonkeyPatch) -> None:
    poisoned = POISONED.format(poison="PQISN", does="import os; os._exit(9)")
    monkeypatch.setattr(child, "_CHILD", poisoned)
    texts = variants(30)
    with service(judging=1) as running:
        ask: Any = lambda number: running.score(["PQISN" + VH] if number == 7 else [texts[number]])  # noqa: E731
        answers = at_once(ask, 30)
        refused(answers.pop(7), 500, "two processes ended while they judged the same records: code 9")
        del texts[7]
        for text, answer in zip(texts, answers, strict=True):
            assert flags(answer) == expected([text])
        assert running.ask("GET", "/readyz").status == 200


def test_small_bodies_need_no_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    with service(judging=1) as running:
        monkeypatch.setattr(serve_service, "Turn", None)  # every reader has one
        assert flags(running.score(KINDS)) == expected(KINDS)
        assert running.score([VH], domain="off").json["results"][0]["flag"] == ""
    assert is_small(b'{"sequences": ["EVQL"]}')
    assert not is_small(b" " * 8_193) and not is_small(b'["A"' + b',"A"' * 300 + b"]")


@pytest.mark.parametrize("more", [{"trim": "domain"}, {"gaps": "strip"}, {"domain": "require", "on_invalid": "skip"}])
def test_what_a_request_asks_for_is_done_whoever_judges(more: dict[str, str]) -> None:
    texts = [*KINDS, f"M{VH}"] + (["EV-" + VH[2:] + "*"] if "gaps" in more else [])
    answers = []
    for processes in (0, 1):
        with service(judging=processes) as running:
            answers.append(running.score(texts, **more).json)
    assert answers[0]["results"] and answers[0] == answers[1]


def test_readers_read_while_another_waits_for_its_judgements(monkeypatch: pytest.MonkeyPatch) -> None:
    inside, free = threading.Event(), threading.Event()
    right = judging._result

    def waiting(*given: Any) -> Any:
        inside.set()
        assert free.wait(PATIENCE_S)
        return right(*given)

    monkeypatch.setattr(judging, "_result", waiting)
    many = [VH] * 100  # too many for the thread that answers
    with service(judging=1) as running:
        answers: list[Answer] = []
        first = threading.Thread(target=lambda: answers.append(running.score(many)))
        first.start()
        try:
            assert inside.wait(PATIENCE_S)
            assert running.score(many, domain="off").status == 200 and not answers
        finally:
            free.set()
        first.join(PATIENCE_S)
    assert flags(answers[0]) == expected(many)


def test_a_stopped_request_waits_for_no_judgements() -> None:
    with Judging(1) as held:
        turn = Turn(Turns(lambda: False))
        by: Judge = held.of_reader(turn)
        with turn.taken():
            by([VH], ("H",))  # the child has started, so that each part of a request is judged quickly
        with pytest.raises(RequestRefused, match="gone"), turn.taken():
            turn.stop(RequestRefused(499, "client_left", "gone"))
            by([VH[:at] + "W" + VH[at:] for at in range(100)] * 300, ("H",))
        with pytest.raises(RequestRefused, match="gone"):
            turn.step()


def test_a_request_whose_time_is_over_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_CHILD", "import time; time.sleep(600)")
    with service(judging=1, request_timeout_s=1.0) as running:
        refused(running.score([VH]), 503, "the request was not judged in 1 s")
        refused(running.score([VH] * 300), 503, "the request was not read in 1 s")
    assert not psutil.Process().children()


@pytest.mark.skipif(os.name != "posix", reason="process groups")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_process_is_left_behind(number: signal.Signals) -> None:
    with process("--domain-processes", "2") as one:
        children: list[psutil.Process] = []

        def started() -> bool:
            children[:] = psutil.Process(one.running.pid).children()
            return len(children) == 2

        until(started)
        body = ("sequence\n" + "\n".join(variants(20))).encode()
        status, answer = one.ask("POST", "/v1/score", body)
        assert status == 200 and [row["flag"] for row in json.loads(answer)["results"]] == [
            flag for _, flag in expected(variants(20))
        ]
        if sys.platform == "linux":
            until(lambda: all(map(_ignores_sigterm, children)))
        for each in children:  # systemd sends its signal to all of a service
            each.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        assert all(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in children)
        one.running.send_signal(number)
        assert ended(one) == (-signal.SIGKILL if number == signal.SIGKILL else 0), one.log
        assert psutil.wait_procs(children, timeout=PATIENCE_S)[1] == []


def test_processes_by_the_provider_and_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "usable_processors", lambda: 16)
    cpu, cuda = RuntimeConfig(provider="cpu"), RuntimeConfig(provider="cuda")
    assert [judging_processes(Settings(), config) for config in (cpu, cuda)] == [0, 4]
    assert [judging_processes(Settings(domain_processes=2), config) for config in (cpu, cuda)] == [2, 2]
    assert [judging_processes(Settings(domain_processes=0), config) for config in (cpu, cuda)] == [0, 0]
    monkeypatch.setattr(judging, "usable_processors", lambda: 2)
    assert judging_processes(Settings(), cuda) == 1
    for wrong in (-1, MAX_DOMAIN_PROCESSES + 1):
        with pytest.raises(ConfigError, match=f"domain_processes is {wrong}"):
            Settings(domain_processes=wrong)
    monkeypatch.setattr(sys, "executable", "")
    assert judging_processes(Settings(), cuda) == 0
    with pytest.raises(ConfigError, match="domain_processes is 2, but this Python cannot start another"):
        judging_processes(Settings(domain_processes=2), cpu)


def test_a_fault_is_answered_and_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("abonyx.serve.bodies.score_answer", broken)
    with service() as running:
        for path in ("/v1/score", "/v1/score?domain=off"):
            body = "id,sequence\na," + VH + "\n"
            answer = running.ask("POST", path, body, {"Content-Type": "text/csv"})
            refused(answer, 500, "a fault in abonyx; the service's log has its traceback")
        assert running.value("abonyx_rejected_requests_total", reason="fault") == 2


def test_a_choice_of_heads_is_remembered_and_a_threshold_is_not(shared_model: Running) -> None:
    model = shared_model.scheduler.model()
    usual = model.choose_heads(None)
    assert model.choose_heads(None) is usual
    assert model.choose_heads(None, percentiles=False).panel is None
    chosen = [model.choose_heads(None, threshold=value).rule for value in (0.25, 0.75)]
    assert [rule.threshold for rule in chosen if rule] == [0.25, 0.75]
    with pytest.raises(EngineError):
        model.choose_heads(["nobody"])
    assert model.choose_heads(None).rule == usual.rule


@pytest.fixture
def shared_model() -> Any:
    with service() as running:
        yield running
