"""Several processes, forks and exits: right numbers, clear errors, and no process that aborts or hangs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from abonyx import cache

from ...conftest import EXAMPLES, MINI

# Only a hanging process takes longer.
PATIENCE_S = 300

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")

START = """
import os, sys, threading, time
import abonyx
sequences = [line.split(",")[1] for line in open(sys.argv[1], encoding="utf-8").read().splitlines()[1:]]
"""
# Prints the bits of the scores. It starts when the file in the second argument exists.
ONE_OF_TWO = (
    START
    + """
open(sys.argv[2] + f".{os.getpid()}", "w").close()
while not os.path.exists(sys.argv[2]):
    time.sleep(0.001)
with abonyx.open_session() as session:
    print(session.score(sequences).tobytes().hex())
"""
)


def _run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, str(EXAMPLES), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


@pytest.mark.parametrize("attempt", [0, *(pytest.param(number, marks=pytest.mark.slow) for number in range(1, 20))])
def test_two_processes_open_one_bundle_for_the_first_time_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, attempt: int
) -> None:
    # A file that another test links meanwhile is another fact of the cache.
    shutil.copytree(MINI, tmp_path / "bundle")
    monkeypatch.setenv("ABONYX_BUNDLE", str(tmp_path / "bundle"))
    monkeypatch.setenv("ABONYX_CACHE_DIR", str(tmp_path / "cache"))
    go = tmp_path / "go"
    command = [sys.executable, "-c", ONE_OF_TWO, str(EXAMPLES), str(go)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    while len(list(tmp_path.glob("go.*"))) < 2:
        assert all(process.poll() is None for process in started)
    go.touch()
    ended = [(process.communicate(timeout=PATIENCE_S), process.returncode) for process in started]
    assert [(error, code) for (_, error), code in ended] == [("", 0)] * 2
    assert ended[0][0][0] == ended[1][0][0] != ""
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["hashes.json", "self_tests.json"]
    assert len(cache.remembered("hashes")) == 3
    assert list(cache.remembered("self_tests").values()) == ["passed"]


WRITER = """
import sys
from abonyx import cache
for number in range(int(sys.argv[3])):
    key = f"{sys.argv[2]}/{number}"
    cache.remember("facts", {key: key[::-1]})
"""


@pytest.mark.parametrize("times", [60, pytest.param(1_000, marks=pytest.mark.slow)])
def test_a_cache_that_processes_write_at_once_is_whole_and_true_at_every_moment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, times: int
) -> None:
    monkeypatch.setenv("ABONYX_CACHE_DIR", str(tmp_path))
    command = [sys.executable, "-c", WRITER, str(EXAMPLES)]
    writers = [subprocess.Popen([*command, str(number), str(times)]) for number in range(4)]
    file, seen = tmp_path / "facts.json", 0
    while any(writer.poll() is None for writer in writers):
        if file.exists():
            facts = json.loads(file.read_bytes())  # half a file would not parse
            assert all(value == key[::-1] for key, value in facts.items())
            seen += 1
    assert [writer.returncode for writer in writers] == [0] * 4
    assert seen
    assert cache.remembered("facts")
    assert [path.name for path in tmp_path.iterdir()] == ["facts.json"]


FORK = (
    START
    + """
session = abonyx.open_session()
before = session.score(sequences)
child = os.fork()
if child == 0:
    how = sys.argv[2]
    if how == "exits":
        sys.exit(3)
    if how == "closes":
        session.close()
    session.score(sequences)
status = os.waitpid(child, 0)[1]
assert (session.score(sequences) == before).all()
session.close()
print(os.waitstatus_to_exitcode(status))
"""
)


@needs_fork
@pytest.mark.parametrize(("how", "code"), [("uses", 1), ("closes", 1), ("exits", 3)])
def test_a_bare_fork_s_child_gets_a_clear_error_and_ends(how: str, code: int) -> None:
    # Before the fix, it hung in ONNX Runtime's exit handlers, and its parent in waitpid.
    done = _run(FORK, how)
    assert (done.returncode, done.stdout.strip()) == (0, str(code)), done.stderr
    if how == "uses":
        assert "SessionForked" in done.stderr
        assert "spawn" in done.stderr


# The scoring thread holds the session's lock at the fork, but does not exist in the child.
FORK_WHILE_SCORING = (
    START
    + """
session = abonyx.open_session()
from abonyx.model import OpenModel
unopened = OpenModel(session._model.config)
expected = session.score(sequences)
over, wrong = threading.Event(), []
def work():
    while not over.is_set():
        if (session.score(sequences) != expected).any():
            wrong.append(1)
scorer = threading.Thread(target=work)
scorer.start()
codes = []
for _ in range(int(sys.argv[2])):
    child = os.fork()
    if child == 0:
        refused = 0
        uses = [abonyx.open_session, unopened.open, lambda: session.score(sequences)]
        uses.append(lambda: session.reload(session._model.config))
        for use in uses:
            try:
                use()
            except abonyx.errors.SessionForked:
                refused += 1
        session.close()
        sys.exit(refused)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
over.set()
scorer.join()
session.close()
print(set(codes), wrong)
"""
)


@needs_fork
@pytest.mark.parametrize("times", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_forks_while_another_thread_scores(times: int) -> None:
    done = _run(FORK_WHILE_SCORING, str(times))
    assert (done.returncode, done.stdout) == (0, "{4} []\n"), done.stderr


FORK_UNDER_LOCK = (
    START
    + """
from abonyx.engine import slot as module
session = abonyx.open_session()
held, over = threading.Event(), threading.Event()
def hold():
    with module._lock:
        held.set()
        over.wait()
threading.Thread(target=hold, daemon=True).start()
held.wait()
child = os.fork()
if child == 0:
    signal.alarm(20)
    sys.exit(3)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
over.set()
session.close()
print(code)
"""
)


@needs_fork
def test_a_child_forked_while_another_thread_held_the_lock_ends() -> None:
    done = _run("import signal" + FORK_UNDER_LOCK, "fork")
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr


EXIT = (
    START
    + """
session = abonyx.open_session()
scoring = threading.Event()
def work():
    while True:
        session.score(sequences)
        scoring.set()
threading.Thread(target=work, daemon=True).start()
scoring.wait()
time.sleep(float(sys.argv[2]))
sys.exit(int(sys.argv[3]))
"""
)


@pytest.mark.parametrize("times", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_exit_while_a_daemon_thread_scores(times: int) -> None:
    # Before the fix, ONNX Runtime returned to an interpreter that was ending, and the process aborted with "terminate
    # called without an active exception".
    for number in range(times):
        done = _run(EXIT, f"{0.003 * number}", str(number % 2))
        assert done.returncode == number % 2, (number, done.stderr)
        assert "terminate called" not in done.stderr


EXIT_BUSY = (
    START
    + """
from abonyx.model import OpenModel
session = OpenModel(abonyx.RuntimeConfig()) if sys.argv[2] == "opening" else abonyx.open_session()
begun = threading.Event()
def work():
    begun.set()
    if sys.argv[2] == "opening":
        session.open()
    print(session.score(sequences * 20).shape, flush=True)
threading.Thread(target=work, daemon=sys.argv[2] == "opening").start()
begun.wait()
"""
)


EXIT_IN_IMPORT = (
    """
import atexit
atexit.register(lambda: print(session.state.value, flush=True))  # the last to run
"""
    + START
    + """
importing = threading.Event()
class Slow:
    def find_spec(self, name, path, target=None):
        if name == "onnxruntime":
            importing.set()
            time.sleep(0.3)
sys.meta_path.insert(0, Slow())
from abonyx.model import OpenModel
session = OpenModel(abonyx.RuntimeConfig())
threading.Thread(target=session.open, daemon=True).start()
importing.wait()
"""
)


def test_exit_while_a_daemon_thread_imports_the_engine() -> None:
    done = _run(EXIT_IN_IMPORT, "import")
    assert (done.returncode, done.stdout) == (0, "closed\n"), done.stderr


OPEN_AT_EXIT = (
    """
import atexit
def late():
    try:
        abonyx.open_session()
    except abonyx.errors.SessionClosed as error:
        print(error, flush=True)
atexit.register(late)  # the last to run
"""
    + START
    + "import abonyx.session"
)


def test_nothing_opens_once_the_interpreter_ends() -> None:
    done = _run(OPEN_AT_EXIT, "late")
    assert done.returncode == 0, done.stderr
    assert "the interpreter is ending" in done.stdout


def test_exit_waits_for_a_thread_that_is_no_daemon() -> None:
    done = _run(EXIT_BUSY, "scoring")
    assert (done.returncode, done.stdout, done.stderr) == (0, "(240,)\n", "")


def test_exit_while_a_daemon_thread_opens() -> None:
    done = _run(EXIT_BUSY, "opening")
    assert done.returncode == 0, done.stderr
    assert "terminate called" not in done.stderr
