"""Stopped and resumed runs of `score` and `embed`, as a user sees them. Kills and full disks: tests/test_faults.py."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import abonyx
from abonyx import scoring
from abonyx.bundle import open_bundle
from abonyx.errors import ConfigError, OutOfDeviceMemory
from abonyx.input.checked import Input
from abonyx.model import OpenModel, State
from abonyx.run import windows as pipeline
from abonyx.run.interrupts import Stop, handled
from abonyx.scoring import Tokenized

from ...conftest import EXAMPLES
from ..cli.test_commands import rows
from ..conftest import Done
from ..output.written import contents

# Four windows: 0 to 3, 3 to 6, 6 to 9, 9 to 12.
WINDOW = "3"


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABONYX_WINDOW_SIZE", WINDOW)


Call = Callable[..., Done]
Stopping = Callable[..., Done]


@pytest.fixture
def stopped(run: Call, monkeypatch: pytest.MonkeyPatch) -> Stopping:
    """Run the command, and call `act` once in the second window. No window may be scored twice."""

    def call(act: Callable[[], None], *arguments: object, at: int = 1) -> Done:
        original, calls = pipeline.run_sequences, iter(range(100))

        def scored(*positional: Any, **named: Any) -> Any:
            if next(calls) == at:
                act()
            return original(*positional, **named)

        with monkeypatch.context() as patch:
            patch.setattr(pipeline, "run_sequences", scored)
            return run(*arguments)

    return call


def send(*numbers: int) -> Callable[[], None]:
    return lambda: [os.kill(os.getpid(), number) for number in numbers] and None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_finishes_the_window_and_says_how_to_resume(
    run: Call,
    stopped: Stopping,
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    whole, output = tmp_path / "whole.csv", tmp_path / "out.csv"
    assert run("score", EXAMPLES, "-o", whole).code == 0
    output.write_text("earlier work")
    done = stopped(send(number), "score", EXAMPLES, "-o", output)
    assert done.code == 130, done.err
    for part in (
        f"{number.name}: finishing the current window",
        f"abonyx: {number.name}: stopped after 6 of 12 rows",
        "6 of 12 rows are kept; the same command resumes the run, --restart starts it again",
    ):
        assert part in done.err
    assert output.read_text() == "earlier work"
    assert sorted(contents(tmp_path)) == ["out.csv", "out.csv.journal", "out.csv.partial", "whole.csv"]
    done = run("score", EXAMPLES, "-o", output, "--table")
    assert done.code == 0
    assert "resuming after row 6 of 12" in done.err
    assert "6 sequences scored after 6 of an interrupted run" in done.err
    assert "... and 6 more" in done.err
    assert output.read_bytes() == whole.read_bytes()
    assert sorted(contents(tmp_path)) == ["out.csv", "whole.csv"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_signal_ends_at_once(run: Call, stopped: Stopping, tmp_path: Path) -> None:
    output = tmp_path / "out.csv"
    done = stopped(send(signal.SIGTERM, signal.SIGINT), "score", EXAMPLES, "-o", output)
    assert done.code == 130
    assert "a second SIGINT: stopped at once" in done.err
    assert "3 of 12 rows are kept" in done.err
    assert "resuming after row 3" in run("score", EXAMPLES, "-o", output).err


def test_a_signal_in_the_last_window_loses_nothing(run: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABONYX_WINDOW_SIZE", "12")
    original = pipeline.run_sequences

    def scored(*positional: Any, **named: Any) -> Any:
        send(signal.SIGTERM)()
        return original(*positional, **named)

    monkeypatch.setattr(pipeline, "run_sequences", scored)
    assert run("score", EXAMPLES, "-o", tmp_path / "out.csv").code == 0
    assert sorted(contents(tmp_path)) == ["out.csv"]


def test_an_ignored_signal_stays_ignored() -> None:
    """As with nohup, or SIGINT in a background job of a shell."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stop = Stop()
        with handled(stop):
            send(signal.SIGHUP)()
        assert stop.asked == ""
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def fail() -> None:
    raise RuntimeError("as any error of a window")


def half(stopped: Stopping, *arguments: object, at: int = 1) -> None:
    with pytest.raises(RuntimeError):
        stopped(fail, *arguments, at=at)


def test_another_command_is_refused_by_name_and_restart_starts_again(
    run: Call,
    stopped: Stopping,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = tmp_path / "out.csv"
    half(stopped, "score", EXAMPLES, "-o", output)
    kept = contents(tmp_path)
    for arguments, part in (
        (["--threshold", "0.6"], "threshold: 0.5 then, 0.6 now"),
        (["--format", "jsonl"], "--format: 'csv' then, 'jsonl' now"),
        (["--on-invalid", "skip"], "--on-invalid: 'fail' then, 'skip' now"),
        (["--pooling", "upstream-batch", "--batch-size", "8"], "config: batch_size: None then, 8 now"),
    ):
        done = run("score", EXAMPLES, "-o", output, *arguments)
        assert (done.code, part in done.err) == (2, True), done.err
        assert "left 3 of 12 rows" in done.err
    for variable, value, part in (
        ("ABONYX_WINDOW_SIZE", "4", "config: window_size: 3 then, 4 now"),
        ("ABONYX_TOKEN_BUDGET", "99", "config: token_budget: None then, 99 now"),
        ("ABONYX_CPU_THREADS", "1", "config: cpu.threads: None then, 1 now"),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(variable, value)
            assert part in run("score", EXAMPLES, "-o", output).err
    with monkeypatch.context() as patch:
        patch.setattr("abonyx.run.resumed.__version__", "9.9")
        assert f"abonyx: '{abonyx.__version__}' then, '9.9' now" in run("score", EXAMPLES, "-o", output).err
    assert contents(tmp_path) == kept
    assert run("score", EXAMPLES, "-o", output, "--threshold", "0.6", "--restart").code == 0
    assert sorted(contents(tmp_path)) == ["out.csv"]


def test_another_input_is_refused_and_the_same_records_from_elsewhere_are_not(
    run: Call,
    stopped: Stopping,
    tmp_path: Path,
) -> None:
    whole, output, other = tmp_path / "whole.csv", tmp_path / "out.csv", tmp_path / "other.csv"
    run("score", EXAMPLES, "-o", whole)
    half(stopped, "score", EXAMPLES, "-o", output)
    text = EXAMPLES.read_text()
    other.write_text(text.replace("adalimumab", "adalimumab2"))
    done = run("score", other, "-o", output)
    assert (done.code, "input, sha256 of its records: " in done.err) == (2, True)
    assert "records to score" not in done.err
    other.write_text("\n".join(text.splitlines()[:-1]))
    assert "records to score: 12 then, 11 now" in run("score", other, "-o", output).err
    command = [sys.executable, "-m", "abonyx", "score", "-", "-o", str(output)]
    piped = subprocess.run(command, input=text.replace("\n", "\r\n"), capture_output=True, text=True, check=False)
    assert "resuming after row 3 of 12" in piped.stderr
    assert output.read_bytes() == whole.read_bytes()


def test_journal_says_what_the_run_is(stopped: Stopping, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text(EXAMPLES.read_text() + "bad,EV*\n")
    half(stopped, "embed", source, "-o", tmp_path / "out.npy", "--on-invalid", "skip")
    head, *lines = map(json.loads, (tmp_path / "out.npy.journal").read_text().splitlines())
    assert (head["rows"], head["rejected"], head["token_budget"], head["window_size"]) == (12, 1, 512, 3)
    assert len(head["config_sha256"]) == 64
    assert {"input, sha256 of its records", "bundle, sha256", "config: pooling", "engine"} <= set(head["identity"])
    assert [line["type"] for line in lines] == ["window", "started", "window"]
    assert lines[1]["process"] == os.getpid()
    assert lines[2]["rows_done"] == 3


def test_all_scored_and_only_the_renames_left(run: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, output = tmp_path / "whole.csv", tmp_path / "out.csv"
    run("score", EXAMPLES, "-o", whole)
    with monkeypatch.context() as patch:
        patch.setattr("abonyx.output.resumable.ResumableOutput._place", lambda *_: fail())
        with pytest.raises(RuntimeError):
            run("score", EXAMPLES, "-o", output)
    monkeypatch.setattr("abonyx.model.open_model", lambda *_: pytest.fail("the model was opened"))
    done = run("score", EXAMPLES, "-o", output)
    assert (done.code, "an interrupted run had scored every row" in done.err) == (0, True)
    assert output.read_bytes() == whole.read_bytes()


def test_a_halving_is_journalled_and_the_end_is_that_of_a_run_that_never_stopped(
    run: Call,
    stopped: Stopping,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A device with memory for 150 tokens per batch. The journal keeps this, and no batch of 300 is tried again."""
    monkeypatch.setenv("ABONYX_TOKEN_BUDGET", "300")
    tried: list[int] = []
    original = OpenModel.run_batch

    def small(self: OpenModel, rows_: Any, *rest: Any) -> Any:
        if self.state is State.OPEN:  # scoring, not the self-test
            tried.append(len(rows_) * max(map(len, rows_)))
            if len(rows_) > 1:
                raise OutOfDeviceMemory(f"no room for {tried[-1]} tokens", "")
        return original(self, rows_, *rest)

    monkeypatch.setattr(OpenModel, "run_batch", small)
    whole, output = tmp_path / "whole.csv", tmp_path / "out.csv"
    assert "token_budget went from 300 to" in run("score", EXAMPLES, "-o", whole).err
    half(stopped, "score", EXAMPLES, "-o", output, at=2)
    journal = [json.loads(line) for line in (tmp_path / "out.csv.journal").read_text().splitlines()]
    assert [line["type"] for line in journal] == ["header", "window", "started", "halved", "window"]
    halved = journal[3]
    assert halved["token_budget"] < 150
    assert "token_budget went from 300 to" in halved["note"]  # the first of several
    tried.clear()
    done = run("score", EXAMPLES, "-o", output)
    assert max(tried) < 150
    assert halved["note"] in done.err
    assert output.read_bytes() == whole.read_bytes()


def test_a_halving_in_the_self_test_is_journalled(
    run: Call, stopped: Stopping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next process knows that the self-test passed, and scores with the budget of the process before."""
    monkeypatch.setenv("ABONYX_TOKEN_BUDGET", "1000")
    monkeypatch.setenv("ABONYX_CACHE_DIR", str(tmp_path / "cache"))
    budgets: list[int] = []
    original = OpenModel.run_batch

    def small(self: OpenModel, rows_: Any, *rest: Any) -> Any:
        if self.state is not State.OPEN and len(rows_) * max(map(len, rows_)) > 600:
            raise OutOfDeviceMemory("no room", "")
        return original(self, rows_, *rest)

    monkeypatch.setattr(OpenModel, "run_batch", small)
    planned = scoring.plan_batches
    monkeypatch.setattr(
        scoring,
        "plan_batches",
        lambda n, most, grid: (budgets.append(most), planned(n, most, grid))[1],
    )
    output = tmp_path / "out.csv"
    half(stopped, "score", EXAMPLES, "-o", output)
    lines = [json.loads(line) for line in (tmp_path / "out.csv.journal").read_text().splitlines()]
    (budget,) = [line["token_budget"] for line in lines if line["type"] == "halved"]
    assert 300 <= budget < 600
    budgets.clear()
    assert f"to {budget}" in run("score", EXAMPLES, "-o", output).err
    assert set(budgets) == {budget}


def test_a_window_is_of_one_token_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sequences: list[str]) -> None:
    """The window in which the budget was halved is scored again with the halved budget."""
    budgets: list[int] = []

    def scored(_: Any, window: Tokenized, __: str, budget: scoring.TokenBudget, **___: Any) -> Any:
        if not budgets:
            budget.halve(400, budget.tokens)
        budgets.append(budget.tokens)
        return np.full(len(window.place), len(budgets), np.float32)

    monkeypatch.setattr(pipeline, "run_sequences", scored)
    halved: list[int] = []

    class Sink(pipeline.ArraySink):
        def halved(self, token_budget: int, note: str) -> None:
            halved.append(token_budget)

    found = np.zeros(12, np.float32)
    config = abonyx.RuntimeConfig(window_size=6)
    job = pipeline.Job(Input(sequences, sequences), Sink(found))
    pipeline.run_windows(open_bundle(None), [job], config, ["nonspecificity"])
    assert (budgets, halved) == ([200, 200, 200], [200])
    assert found.tolist() == [2] * 6 + [3] * 6


def test_a_window_is_written_while_the_next_is_scored(monkeypatch: pytest.MonkeyPatch, sequences: list[str]) -> None:
    """The first write ends only when the second window is being scored. A failure of the second write ends the run."""
    began, original, calls = threading.Event(), pipeline.run_sequences, iter(range(100))
    written: list[int] = []

    def scored(*positional: Any, **named: Any) -> Any:
        if next(calls) == 1:
            began.set()
        return original(*positional, **named)

    class Sink(pipeline.ArraySink):
        def write(self, start: int, stop: int, values: Any) -> None:
            assert began.wait(60)
            if start:
                raise ConfigError("disk full", "Free some.")
            written.append(start)

    monkeypatch.setattr(pipeline, "run_sequences", scored)
    job = pipeline.Job(Input(sequences, sequences), Sink(np.zeros(12, np.float32)))
    with pytest.raises(ConfigError, match="disk full"):
        pipeline.run_windows(open_bundle(None), [job], abonyx.RuntimeConfig(window_size=4), ["nonspecificity"])
    assert written == [0]


def test_a_run_to_standard_output_cannot_be_resumed_and_says_so(stopped: Stopping) -> None:
    done = stopped(send(signal.SIGTERM), "score", EXAMPLES, "-o", "-")
    assert done.code == 130
    assert "standard output has 6 of 12 rows; such a run cannot be resumed" in done.err
    assert len(done.out.splitlines()) == 7


def test_the_partial_file_is_no_input(run: Call, stopped: Stopping, tmp_path: Path) -> None:
    output = tmp_path / "out.csv"
    half(stopped, "score", EXAMPLES, "-o", output)
    for name in ("out.csv.partial", "out.csv.journal"):
        kept = contents(tmp_path)
        done = run("score", tmp_path / name, "-o", output)
        assert (done.code, f"is the input {tmp_path / name} itself" in done.err) == (2, True)
        assert contents(tmp_path) == kept


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_embeddings_are_resumed(run: Call, stopped: Stopping, tmp_path: Path, suffix: str) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    (tmp_path / "whole").mkdir()
    (tmp_path / "out").mkdir()
    assert run("embed", EXAMPLES, "-o", tmp_path / "whole" / f"e{suffix}").code == 0
    half(stopped, "embed", EXAMPLES, "-o", tmp_path / "out" / f"e{suffix}")
    assert "resuming after row 3" in run("embed", EXAMPLES, "-o", tmp_path / "out" / f"e{suffix}").err
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_output_that_is_read_again_row_by_row_is_what_was_scored(run: Call, stopped: Stopping, tmp_path: Path) -> None:
    """p is the shortest decimal of its float32, before and after an interruption."""
    output = tmp_path / "out.csv"
    half(stopped, "score", EXAMPLES, "-o", output)
    run("score", EXAMPLES, "-o", output)
    for row in rows(output):
        p = np.float32(row["p_nonspecific"])
        assert str(p) == row["p_nonspecific"]
