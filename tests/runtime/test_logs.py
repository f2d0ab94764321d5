"""The log goes to stderr, as text or JSON; results go to stdout only with -o -."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import abonyx
from abonyx.logs import LOGGER, to_stderr
from abonyx.model import OpenModel

from ..conftest import EXAMPLES

HEADER = "id,sequence,p_nonspecific,nonspecific"


def parsed(text: str) -> list[dict[str, str]]:
    lines: list[dict[str, str]] = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        assert datetime.fromisoformat(line["time"]).tzinfo is not None
    return lines


def test_stdout_is_empty_but_for_results(run: Any, tmp_path: Path) -> None:
    done = run("score", EXAMPLES, "-o", tmp_path / "out.csv", "-v", "--table")
    assert done.out == ""
    done = run("score", EXAMPLES, "-o", "-", "-v", "--table")
    assert done.out == (tmp_path / "out.csv").read_text()
    assert done.out.startswith(HEADER)


def test_verbose_logs_each_step(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABONYX_WINDOW_SIZE", "5")
    steps = (
        "12 records to score",
        "opened in",
        "batches of 512 tokens",
        "rows 1 to 5 of 12 written",
        "rows 11 to 12 of",
    )
    for options, expected in (([], False), (["-v"], True), (["--verbose"], True)):
        err = run("score", EXAMPLES, "-o", tmp_path / "out.csv", *options).err
        assert [step in err for step in steps] == [expected] * len(steps)
        assert "12 sequences scored" in err


def test_json_lines(run: Any, tmp_path: Path) -> None:
    lines = parsed(run("score", EXAMPLES, "-o", tmp_path / "out.csv", "--log-json", "-v").err)
    assert {line["level"] for line in lines} == {"debug", "info"}
    assert any("12 sequences scored" in line["message"] for line in lines)


def test_the_engines_own_errors_are_lines_of_the_log_too(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = OpenModel.run_batch

    def beyond(self: OpenModel, rows: Any, *rest: Any) -> Any:
        return real(self, [row + 10**6 for row in rows], *rest)  # no such tokens: ONNX Runtime fails, and logs it

    monkeypatch.setattr(OpenModel, "run_batch", beyond)
    done = run("score", EXAMPLES, "-o", tmp_path / "out.csv", "--log-json")
    assert done.code == 5
    assert "out of data bounds" in parsed(done.err)[-1]["message"]


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["score", "none.csv", "-o", "out.csv", "--log-json"], 3, "none.csv: cannot be read"),
        (["score", str(EXAMPLES), "-o", "out.csv", "--log-json", "--nonsense"], 2, "No such option"),
        (["verify-nothing", "--log-json"], 2, "No such command"),
    ],
)
def test_errors_as_json(run: Any, arguments: list[str], code: int, part: str) -> None:
    done = run(*arguments)
    assert done.code == code
    (line,) = parsed(done.err)
    assert line["level"] == "error"
    assert part in line["message"]


def test_debug_adds_the_traceback(run: Any) -> None:
    arguments = ("score", "none.csv", "-o", "out.csv")
    (line,) = parsed(run("--debug", *arguments, "--log-json").err)
    assert line["traceback"].startswith("Traceback")
    assert "Traceback" in run("--debug", *arguments).err
    assert run(*arguments).err.startswith("abonyx: none.csv")


def test_every_command_takes_the_options(run: Any) -> None:
    for command in ("score", "embed", "evaluate", "export", "fit"):
        for _ in range(2):
            out = run(command, "--help").out
            assert (out.count("--verbose"), out.count("--log-json")) == (1, 1)


def test_a_reader_that_leaves_ends_the_run_quietly() -> None:
    command = [sys.executable, "-m", "abonyx", "score", str(EXAMPLES), "-o", "-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.close()
        _, err = process.communicate(timeout=120)
    assert (process.returncode, "Traceback" in err) == (1, False), err


def test_a_terminal_that_is_gone_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        def write(self, _: str) -> None:
            raise OSError(5, "Input/output error")

    for stream in (Gone(), None):
        monkeypatch.setattr(sys, "stderr", stream)
        with to_stderr(as_json=False):
            LOGGER.info("said to nobody")


def test_the_library_leaves_logging_alone(sequences: list[str], caplog: pytest.LogCaptureFixture) -> None:
    with to_stderr(as_json=True):
        assert LOGGER.level == logging.INFO
    assert (LOGGER.handlers, LOGGER.level) == ([], logging.NOTSET)
    with abonyx.open_session() as session:
        session.score(sequences)
    assert caplog.records == []
