"""Judging in child processes gives the same judgements and leaves no process."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import psutil
import pytest

from abonyx.domain import Judgement, Judges, child, judge, judge_in_children, later, pool
from abonyx.errors import EngineError

from . import proteins

RECORDS = [
    *(proteins.VH, proteins.KAPPA, proteins.SCFV, proteins.NANOBODY, proteins.VH, proteins.GFP, proteins.DNA),
    *("", "nan", "\ud800" + proteins.VH, "é" * 40, proteins.VH[9:], f" {proteins.VH.lower()}", "X" + proteins.VH),
]
PATIENCE_S = 60


def children() -> list[psutil.Process]:
    return psutil.Process().children()


def until(true: Any) -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("children_", [None, 0, 1, 2, 50])
def test_the_same_judgements_in_order(children_: int | None) -> None:
    assert judge_in_children(RECORDS, children=children_) == judge(RECORDS)
    assert judge_in_children(RECORDS, ("K", "L"), children_) == judge(RECORDS, ("K", "L"))
    assert judge_in_children([], children=children_) == []
    assert not children()


def test_unknown_chains_start_nothing() -> None:
    with pytest.raises(ValueError, match="Z"):
        judge_in_children(RECORDS, ("Z",), 2)


def test_children_only_for_many_records_on_many_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "usable_processors", lambda: 16)
    assert pool.chosen_children(pool.MIN_POOLED - 1) == 0
    assert pool.chosen_children(pool.MIN_POOLED) == 4
    assert pool.chosen_children(141_021) == 8
    pool.share_processors(4)
    try:
        assert pool.chosen_children(10**6) == later.children_beside(10**6) == 2
    finally:
        pool.share_processors(1)
    monkeypatch.setattr(pool, "usable_processors", lambda: 2)
    assert pool.chosen_children(141_021) == 0


@pytest.mark.parametrize(
    ("code", "words"), [("raise SystemExit(3)", "code 3"), ("raise ValueError('no room')", "no room"), ("", "code 0")]
)
def test_a_child_that_fails_twice_is_an_error_with_its_words(
    monkeypatch: pytest.MonkeyPatch, code: str, words: str
) -> None:
    monkeypatch.setattr(child, "_CHILD", code)
    with pytest.raises(EngineError, match=words):
        judge_in_children(RECORDS, children=2)
    assert not children()


# A child that ends at one sequence, or answers one judgement too few for it; any other is judged.
POISONED = """
import sys; sys.path[:] = sys.argv[2:]
from abonyx.domain import child
right = child.judge
def judge(sequences, chains):
    if any(text.startswith("{poison}") for text in sequences):
        {does}
    return right(sequences, chains)
child.judge = judge
child.serve(int(sys.argv[1]))
"""


@pytest.mark.parametrize("does", ["import os; os._exit(9)", "return right(sequences, chains)[1:]"])
def test_one_bad_task_fails_alone(monkeypatch: pytest.MonkeyPatch, does: str) -> None:
    monkeypatch.setattr(child, "_CHILD", POISONED.format(poison="POISN", does=does))
    good = [[proteins.VH[at:]] for at in range(20)]
    with Judges(1) as judges:
        first = judges.submit(RECORDS[:2], ("H",))
        futures = [judges.submit(texts, ("H",)) for texts in good]
        bad = judges.submit(["POISN" + proteins.VH], ("H",))
        after = judges.submit([proteins.KAPPA], ("K", "L"))
        assert first.result(PATIENCE_S) == judge(RECORDS[:2])
        assert [future.result(PATIENCE_S) for future in futures] == [judge(texts) for texts in good]
        with pytest.raises(EngineError, match="two processes ended while they judged the same records: code "):
            bad.result(PATIENCE_S)
        assert after.result(PATIENCE_S) == judge([proteins.KAPPA], ("K", "L"))
    assert not children()


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_what_a_killed_child_had_is_judged_by_another(caplog: pytest.LogCaptureFixture) -> None:
    texts = [proteins.VH[:at] + "A" + proteins.VH[at:] for at in range(100)] * 20
    with Judges(2) as judges:
        judges.submit([proteins.VH], ("H",)).result(PATIENCE_S)
        until(lambda: len(children()) == 2)
        futures = [judges.submit(texts[start : start + 50], ("H",)) for start in range(0, len(texts), 50)]
        for one in children():
            one.kill()
        found = [judgement for future in futures for judgement in future.result(PATIENCE_S)]
        assert len(children()) == 2
    assert found == judge(texts)
    assert not children()
    assert "ended with code -9; another one is started" in caplog.text


def test_closed_judges_leave_nobody_waiting() -> None:
    judges = Judges(1)
    judges.submit([proteins.VH], ("H",)).result(PATIENCE_S)
    futures = [judges.submit([proteins.VH] * 200, ("H",)) for _ in range(200)]
    cancelled = futures[-1].cancel()
    closing = threading.Thread(target=judges.close)
    closing.start()
    closing.join(PATIENCE_S)
    assert not closing.is_alive() and not children() and cancelled
    late = judges.submit([proteins.VH], ("H",))
    judges.close()
    for future in (*futures[-3:-1], late):
        with pytest.raises(EngineError, match="were ended"):
            future.result(PATIENCE_S)


def test_without_child_processes_this_process_judges(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none(_: str) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(pool, "Child", none)
    with Judges(2) as judges:
        futures = [judges.submit(RECORDS[:2], ("H",)) for _ in range(50)]
        bad = judges.submit(["A"], ("Z",))
        assert all(future.result(PATIENCE_S) == judge(RECORDS[:2]) for future in futures)
        with pytest.raises(EngineError, match="unexpected ValueError while records were judged"):
            bad.result(PATIENCE_S)
    words = "cannot be started ([Errno 11] Resource temporarily unavailable); this process judges them"
    assert caplog.text.count(words) == 1


def test_a_system_that_starts_no_thread_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    start, started = threading.Thread.start, []

    def start_one(self: threading.Thread) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(self)
        start(self)

    monkeypatch.setattr(threading.Thread, "start", start_one)
    with pytest.raises(EngineError, match="a thread that judges records cannot be started: can't start new thread"):
        Judges(3)
    assert not started[0].is_alive() and not children()


def test_a_child_that_judges_by_other_rules_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "judged_by", lambda: "immunum 0.0.1, rules 0")
    words = (
        r"by immunum 0.0.1, rules 0 in this process, immunum \S+, rules \d+ in a new process\nStart this process again"
    )
    with pytest.raises(EngineError, match=words):
        judge_in_children(RECORDS, children=1)
    assert not children()


def test_a_child_finds_the_modules_of_its_parent_after_a_change_of_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "abonyx").mkdir()
    (tmp_path / "abonyx" / "__init__.py").write_text("raise SystemExit('another abonyx')\n")
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    monkeypatch.chdir(tmp_path)
    assert judge_in_children(RECORDS, children=1) == judge(RECORDS)


def test_without_a_folder_for_its_text_a_child_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(child.tempfile, "TemporaryFile", none)
    assert judge_in_children(RECORDS, children=1) == judge(RECORDS)


def test_an_error_does_not_quote_what_a_child_printed_about_other_records(monkeypatch: pytest.MonkeyPatch) -> None:
    code = POISONED.format(poison="POISN", does="import os; os._exit(9)")
    monkeypatch.setattr(child, "_CHILD", "import sys; print('old text', file=sys.stderr, flush=True);" + code)
    one = child.Child(pool.judged_by())
    try:
        assert one.judge([child.Share([proteins.VH], ("H",))]) == [judge([proteins.VH])]
        with pytest.raises(child.ChildEnded, match="code 9: without a message"):
            one.judge([child.Share(["POISN" + proteins.VH], ("H",))])
    finally:
        one.end()


def test_any_other_fault_is_an_error_and_the_next_task_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    right = child.Child.judge

    def judge_or_fail(self: child.Child, shares: Any) -> Any:
        if shares[0].sequences == ["bad"]:
            raise MemoryError("no room")
        return right(self, shares)

    monkeypatch.setattr(child.Child, "judge", judge_or_fail)
    with Judges(1) as judges:
        bad = judges.submit(["bad"], ("H",))
        with pytest.raises(EngineError, match="no room"):
            bad.result(PATIENCE_S)
        assert judges.submit([proteins.VH], ("H",)).result(PATIENCE_S) == judge([proteins.VH])


def test_a_child_may_print_much_to_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_CHILD", "import sys; sys.stderr.write('warning ' * 50_000); " + child._CHILD)
    assert judge_in_children(RECORDS, children=1) == judge(RECORDS)


def test_what_a_hook_prints_before_the_first_answer_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_CHILD", "print('abonyx: hello', flush=True); print('more'); " + child._CHILD)
    assert judge_in_children(RECORDS, children=1) == judge(RECORDS)


def test_a_child_that_prints_much_to_standard_output_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_CHILD", "print('hello' * 50_000, flush=True); " + child._CHILD)
    with pytest.raises(EngineError, match=r"standard output must contain only judgements.*hello"):
        judge_in_children(RECORDS, children=1)
    assert not children()


def test_a_python_that_does_not_know_its_program_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "usable_processors", lambda: 16)
    assert pool.chosen_children(pool.MIN_POOLED) and later.children_beside(pool.MIN_POOLED)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "")
        assert not pool.chosen_children(pool.MIN_POOLED) and not later.children_beside(pool.MIN_POOLED)
    monkeypatch.setattr(sys, "frozen", True, raising=False)  # the executable of a frozen program starts the program
    assert not pool.chosen_children(pool.MIN_POOLED) and not later.children_beside(pool.MIN_POOLED)


def test_small_tasks_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    held = threading.Event()

    class Counted:
        def __init__(self, judged_by: str) -> None: ...

        def judge(self, shares: list[child.Share]) -> list[list[Judgement]]:
            assert held.wait(PATIENCE_S)
            calls.append(len(shares))
            return [judge(share.sequences, share.chains) for share in shares]

        def end(self) -> None: ...

        kill = end

    monkeypatch.setattr(pool, "Child", Counted)
    with Judges(1) as judges:
        futures: list[Future[list[Judgement]]] = [judges.submit([proteins.VH], ("H",)) for _ in range(64)]
        held.set()
        assert all(future.result(PATIENCE_S) == judge([proteins.VH]) for future in futures)
    assert sum(calls) == 64 and len(calls) <= 6


def test_a_child_whose_input_ends_ends() -> None:
    numbers = [getattr(signal, name) for name in child._IGNORED if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    target = io.BytesIO()
    try:
        with Path(os.devnull).open("rb") as source:
            child.serve(os.getppid(), source, target)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert target.getvalue() == b""


@pytest.mark.skipif(os.name != "posix", reason="process groups")
def test_a_child_of_another_parent_ends() -> None:
    reading, writing = os.pipe()  # its input does not end
    code = f"from abonyx.domain import child; child._LOOK_S = 0.1; child.serve({os.getpid() + 10**6})"
    with os.fdopen(reading), os.fdopen(writing, "w"):
        done = subprocess.run([sys.executable, "-c", code], stdin=reading, timeout=PATIENCE_S, check=False)
    assert done.returncode == 1


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
        started: list[psutil.Process] = []
        end = time.monotonic() + PATIENCE_S
        while len(started) < 2 and time.monotonic() < end:
            started = psutil.Process(parent.pid).children()
            time.sleep(0.01)
        assert len(started) == 2
        time.sleep(1)
        if number == signal.SIGINT:
            os.killpg(parent.pid, number)  # what a terminal does
        else:
            parent.kill()
        message = parent.stderr.read()
        parent.wait(PATIENCE_S)
        assert message.count(b"Traceback") == (number == signal.SIGINT)
        assert b"KeyboardInterrupt" in message or number != signal.SIGINT
        _, alive = psutil.wait_procs(started, timeout=PATIENCE_S)
        assert alive == []
