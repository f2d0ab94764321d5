"""Judging in child processes gives the same judgements and leaves no process."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from abonyx.domain import judge, judge_in_children, pool
from abonyx.errors import EngineError

from . import proteins

RECORDS = [
    *(proteins.VH, proteins.KAPPA, proteins.SCFV, proteins.NANOBODY, proteins.VH, proteins.GFP, proteins.DNA),
    *("", "nan", "\ud800" + proteins.VH, "é" * 40, proteins.VH[9:], f" {proteins.VH.lower()}", "X" + proteins.VH),
]


@pytest.mark.parametrize("children", [None, 0, 1, 2, 50])
def test_the_same_judgements_in_order(children: int | None) -> None:
    assert judge_in_children(RECORDS, children=children) == judge(RECORDS)
    assert judge_in_children(RECORDS, ("K", "L"), children) == judge(RECORDS, ("K", "L"))
    assert judge_in_children([], children=children) == []
    assert not psutil.Process().children()


def test_unknown_chains_start_nothing() -> None:
    with pytest.raises(ValueError, match="Z"):
        judge_in_children(RECORDS, ("Z",), 2)


def test_children_only_for_many_records_on_many_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "usable_processors", lambda: 16)
    assert pool.chosen_children(pool.MIN_POOLED - 1) == 0
    assert pool.chosen_children(pool.MIN_POOLED) == 4
    assert pool.chosen_children(141_021) == 8
    monkeypatch.setattr(pool, "usable_processors", lambda: 2)
    assert pool.chosen_children(141_021) == 0


@pytest.mark.parametrize(
    ("code", "words"), [("raise SystemExit(3)", "code 3"), ("raise ValueError('no room')", "no room"), ("", "code 0")]
)
def test_a_child_that_fails_is_an_error_with_its_words(monkeypatch: pytest.MonkeyPatch, code: str, words: str) -> None:
    monkeypatch.setattr(pool, "_CHILD", code)
    with pytest.raises(EngineError, match=words):
        judge_in_children(RECORDS, children=2)
    assert not psutil.Process().children()


def test_a_child_whose_parent_has_ended_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stdin:
        buffer = io.BytesIO()

    monkeypatch.setattr(sys, "stdin", Stdin)
    before = signal.getsignal(signal.SIGINT)
    try:
        pool.serve(os.getpid())
    finally:
        signal.signal(signal.SIGINT, before)


JUDGING = """
import sys
from abonyx.domain import judge_in_children
letters = "ACDEFGHIKLMNPQRSTVWY"
texts = [letters[i % 20] * 3 + letters * 20 + str(i) + letters for i in range(200_000)]
print("start", flush=True)
judge_in_children([text.translate(str.maketrans("0123456789", "ACDEFGHIKL")) for text in texts], children=2)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_children_do_not_outlive_a_stopped_parent(number: signal.Signals) -> None:
    command = [sys.executable, "-c", JUDGING]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as parent,
        contextlib.ExitStack() as stack,
    ):
        stack.callback(parent.kill)
        assert parent.stdout is not None and parent.stderr is not None
        assert parent.stdout.readline() == b"start\n"
        children: list[psutil.Process] = []
        until = time.monotonic() + 60
        while len(children) < 2 and time.monotonic() < until:
            children = psutil.Process(parent.pid).children()
            time.sleep(0.01)
        assert len(children) == 2
        time.sleep(1)
        if number == signal.SIGINT:
            os.killpg(parent.pid, number)  # what a terminal does
        else:
            parent.kill()
        message = parent.stderr.read()
        parent.wait(60)
        assert message.count(b"Traceback") == (number == signal.SIGINT)
        assert b"KeyboardInterrupt" in message or number != signal.SIGINT
        _, alive = psutil.wait_procs(children, timeout=60)
        assert alive == []
