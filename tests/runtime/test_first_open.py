"""A bundle that is new on this machine is opened in a child process first."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import abonyx
from abonyx import cache, errors, first_open
from abonyx.bundle import open_bundle, operators
from abonyx.config import RuntimeConfig
from abonyx.errors import BundleError, ChecksumMismatch, OutOfDeviceMemory, SelfTestError, SessionClosed
from abonyx.first_open import MINI_SHA256, open_in_child

from ..conftest import MINI
from .hostile import FOLDER, MODEL, edit, field, node, relist, shift_head

pytestmark = pytest.mark.usefixtures("child_first")
SEQUENCE = "EVQLVESGGGLVQPGGSLRLSCAASGFTFSSYAMS"
posix = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle that is not the shipped one and is new on this machine."""
    monkeypatch.setenv("ABONYX_CACHE_DIR", str(tmp_path / "cache"))
    path = Path(shutil.copytree(MINI, tmp_path / "bundle"))
    edit(path, notice="another")
    return path


def child_after(code: str) -> str:
    """Replace the child's program by one that runs this code first."""
    start, _, end = first_open._CHILD.partition("from abonyx import first_open")
    return f"{start.rstrip('; ')}\n{code}\nfrom abonyx import first_open{end}"


def divide(directory: Path) -> None:
    """INT64_MIN / -1, which ends a process with SIGFPE, before the rest of the graph."""
    low, one = (
        field(1, 1) + field(2, 7) + field(8, name) + field(9, np.int64(value).tobytes())
        for name, value in (("low", -(2**63)), ("minus", -1))
    )
    divided = node("Div", inputs=("low", "minus")) + field(2, "quotient")
    # "quotient" is used as a shape, because an engine removes nodes whose output is not used.
    body = field(1, divided) + field(5, low) + field(5, one)
    path = directory / MODEL
    path.write_bytes(path.read_bytes() + field(7, body))
    relist(directory)


def test_the_shipped_bundle_needs_no_child(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert open_bundle(MINI).sha256 == MINI_SHA256
    monkeypatch.setenv("ABONYX_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("abonyx.model.open_in_child", lambda *_, **__: pytest.fail("a child was started"))
    abonyx.open_session(RuntimeConfig()).close()


def test_a_bundle_that_passed_in_a_child_is_not_tried_again(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = RuntimeConfig(bundle=str(copy))
    with abonyx.open_session(config) as session:
        scores = session.score([SEQUENCE])
        assert set(session._model.differences) == {"embedding", "logit", "p"}
        assert session._model.opening_notes == []
    assert len(cache.remembered("self_tests")) == 1
    monkeypatch.setattr("abonyx.model.open_in_child", lambda *_, **__: pytest.fail("a child was started"))
    with abonyx.open_session(config) as session:
        assert np.array_equal(session.score([SEQUENCE]), scores)
    with abonyx.open_session(config, self_test="full") as session:
        assert session._model.differences


def test_no_model_is_in_memory_while_the_child_runs(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[bool] = []
    with abonyx.open_session(RuntimeConfig()) as session:

        def looked(config: RuntimeConfig, **others: Any) -> first_open.FirstOpen | None:
            loaded.append(session._model._native is not None)
            return open_in_child(config, **others)

        monkeypatch.setattr("abonyx.model.open_in_child", looked)
        session.reload(RuntimeConfig(bundle=str(copy)))
        assert session.score([SEQUENCE]).shape == (1,)
    assert loaded == [False]


@pytest.mark.parametrize("self_test", ["auto", "full"])
def test_a_graph_that_ends_the_process_ends_the_child_alone(
    copy: Path, monkeypatch: pytest.MonkeyPatch, self_test: abonyx.model.SelfTest
) -> None:
    divide(copy)
    with pytest.raises(BundleError, match="operator Div with inputs of types 'ii'"):
        abonyx.open_session(RuntimeConfig(bundle=str(copy)), self_test=self_test)
    # The graph's check would refuse it, so the check is removed here.
    monkeypatch.setitem(operators.OPERATORS[""], "Div", "ii|ff")
    allow = "from abonyx.bundle import operators; operators.OPERATORS[''].update(Div='ii|ff')"
    monkeypatch.setattr(first_open, "_CHILD", child_after(allow))
    with pytest.raises(BundleError, match="the trial process that opened it first ended with SIGFPE"):
        abonyx.open_session(RuntimeConfig(bundle=str(copy)), self_test=self_test)
    abonyx.open_session(RuntimeConfig()).close()  # the slot is free


@posix
@pytest.mark.parametrize(
    ("number", "kind", "named"),
    [(signal.SIGSEGV, BundleError, "SIGSEGV"), (signal.SIGKILL, OutOfDeviceMemory, "SIGKILL: out of memory?")],
)
def test_a_child_that_a_signal_ends(
    copy: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, kind: type[Exception], named: str
) -> None:
    monkeypatch.setattr(first_open, "_CHILD", f"import os; os.kill(os.getpid(), {int(number)})")
    with pytest.raises(kind, match=named):
        abonyx.open_session(RuntimeConfig(bundle=str(copy)))
    assert cache.remembered("self_tests") == {}


def test_an_error_of_the_child_is_raised_as_it_is(copy: Path) -> None:
    with np.load(copy / "golden.npz") as arrays:
        golden = dict(arrays)
    golden["embedding"] = golden["embedding"] + np.float32(1)
    np.savez(copy / "golden.npz", **golden)
    relist(copy)
    with pytest.raises(SelfTestError, match=r"self-test failed: max \|difference\| of embedding is 1") as caught:
        abonyx.open_session(RuntimeConfig(bundle=str(copy)))
    assert "Try another variant or provider" in caught.value.fix  # the child's marks, in this interface's words
    (copy / "golden.npz").write_bytes(b"x")
    with pytest.raises(ChecksumMismatch):
        open_in_child(RuntimeConfig(bundle=str(copy)))


def test_an_error_that_is_no_error_of_abonyx(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = "import abonyx.model; abonyx.model.open_model = lambda *_, **__: 1 / 0"
    monkeypatch.setattr(first_open, "_CHILD", child_after(broken))
    with pytest.raises(BundleError, match=r"division by zero \(<string>:2\) \(ZeroDivisionError\)"):
        abonyx.open_session(RuntimeConfig(bundle=str(copy)))
    assert isinstance(first_open._raised("EngineError", "what", "fix"), errors.EngineError)


def test_the_child_opens_with_the_same_config(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = (
        "import abonyx.model\n"
        "def tell(config, **_): raise abonyx.errors.ConfigError(repr(config))\n"
        "abonyx.model.open_model = tell"
    )
    monkeypatch.setattr(first_open, "_CHILD", child_after(told))
    config = RuntimeConfig(bundle=str(copy), token_budget=77, cpu=abonyx.config.CpuOptions(threads=1))
    with pytest.raises(errors.ConfigError) as caught:
        open_in_child(config)
    assert caught.value.what == repr(config)


def test_without_an_interpreter_to_start(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "")
    with abonyx.open_session(RuntimeConfig(bundle=str(copy))) as session:
        assert session._model.opening_notes == [
            "note: the first open of this bundle did not run in a separate process: Python is embedded or frozen"
        ]
        assert session._model.differences  # the whole self-test was run here


def test_a_frozen_program_is_no_interpreter_to_start(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert open_in_child(RuntimeConfig(bundle=str(copy))) is None
    monkeypatch.delattr(sys, "frozen")
    monkeypatch.setenv("ABONYX_FIRST_OPEN", "1")  # what a child has
    assert open_in_child(RuntimeConfig(bundle=str(copy))) is None


def test_a_child_that_hangs_ends_when_the_session_is_closed(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_open, "_CHILD", "import time; time.sleep(600)")
    with abonyx.open_session(RuntimeConfig()) as session:
        errors_seen: list[Exception] = []

        def reload() -> None:
            try:
                session.reload(RuntimeConfig(bundle=str(copy)))
            except SessionClosed as error:
                errors_seen.append(error)

        thread = threading.Thread(target=reload)
        thread.start()
        while session._model.state is not abonyx.model.State.CLOSED:
            time.sleep(0.01)
        time.sleep(0.5)
        session.close()
        thread.join(30)
        assert not thread.is_alive() and len(errors_seen) == 1


def test_a_child_that_takes_too_long(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_open, "_CHILD", "import time; time.sleep(600)")
    monkeypatch.setattr(first_open, "MAX_SECONDS", 0.5)
    with pytest.raises(BundleError, match="the trial process that opened it first did not end within 0 s"):
        abonyx.open_session(RuntimeConfig(bundle=str(copy)))


def test_a_cache_that_cannot_be_written_is_told(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ABONYX_CACHE_DIR", str(tmp_path / "file"))
    with abonyx.open_session(RuntimeConfig(bundle=str(copy))) as session:
        (note,) = session._model.opening_notes
    assert note.startswith("note: the model was loaded twice, and every later open will load it twice too")


def test_what_the_child_opened_is_what_is_opened(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def another(config: RuntimeConfig, **_: Any) -> first_open.FirstOpen:
        return first_open.FirstOpen("0" * 64, FOLDER, {})

    monkeypatch.setattr("abonyx.model.open_in_child", another)
    with pytest.raises(BundleError, match="is now bundle 0000000"):
        abonyx.open_session(RuntimeConfig(bundle=str(copy)))


def test_the_child_does_not_look_where_the_parent_does_not(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = tmp_path / "evil"
    evil.mkdir()
    for name in ("json.py", "sitecustomize.py"):
        (evil / name).write_text("raise SystemExit(3)")
    monkeypatch.setenv("PYTHONPATH", str(evil))
    monkeypatch.setattr(sys, "path", ["", None, 1, *sys.path])
    monkeypatch.chdir(evil)
    assert open_in_child(RuntimeConfig(bundle=str(copy))) is not None


@posix
def test_ctrl_c_ends_the_child(copy: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    waiting = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    code = (
        "import sys, abonyx; from abonyx import first_open; "
        f"first_open._CHILD = {waiting!r}; abonyx.open_session(abonyx.RuntimeConfig(bundle=sys.argv[1]))"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(copy)], stderr=subprocess.PIPE) as parent:
        for _ in range(300):
            if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
                break
            time.sleep(0.1)
        child = int((tmp_path / "pid").read_text())
        parent.send_signal(signal.SIGINT)
        _, message = parent.communicate(timeout=30)
    assert b"KeyboardInterrupt" in message
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


@posix
def test_the_child_ends_with_its_parent(copy: Path, tmp_path: Path) -> None:
    slow = child_after(
        f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
        "import abonyx.model; abonyx.model.open_model = lambda *_, **__: time.sleep(60)"
    )
    code = (
        "import sys, abonyx; from abonyx import first_open; "
        f"first_open._CHILD = {slow!r}; abonyx.open_session(abonyx.RuntimeConfig(bundle=sys.argv[1]))"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(copy)]) as parent:
        for _ in range(300):
            if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
                break
            time.sleep(0.1)
        child = int((tmp_path / "pid").read_text())
        time.sleep(1)
        parent.kill()
    for _ in range(100):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        pytest.fail("the child outlived its parent")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_verify_deep_says_what_the_open_model_holds(copy: Path) -> None:
    command = [sys.executable, "-m", "abonyx", "verify", str(copy), "--deep"]
    found = json.loads(subprocess.run([*command, "--json"], capture_output=True, check=True).stdout)
    assert found["use"]["sockets"] == found["use"]["children"] == 0
    assert found["use"]["files"] == []
    shown = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    assert "open model holds 0 files, 0 sockets, 0 child processes" in " ".join(shown.split())


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_what_is_held_is_seen(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    holding = (
        "import socket, subprocess, atexit; import abonyx.model; first = abonyx.model.open_model\n"
        "def holding(*a, **k):\n"
        "    global s, f, p\n"
        f"    s = socket.socket(); f = open({str(copy / 'manifest.json')!r})\n"
        "    p = subprocess.Popen(['sleep', '20']); atexit.register(p.kill)\n"
        "    return first(*a, **k)\n"
        "abonyx.model.open_model = holding\n"
    )
    monkeypatch.setattr(first_open, "_CHILD", child_after(holding))
    found = open_in_child(RuntimeConfig(bundle=str(copy)), deep=True)
    assert found is not None and found.use is not None
    assert found.use.files == [str(copy / "manifest.json")]
    assert (found.use.sockets, found.use.children) == (1, 1)


def test_the_first_open_of_a_moved_head_costs_once(copy: Path) -> None:
    shift_head(copy, 0.5)
    with abonyx.open_session(RuntimeConfig(bundle=str(copy))) as session:
        moved = session.score([SEQUENCE])[0]
    with abonyx.open_session(RuntimeConfig()) as session:
        assert session.score([SEQUENCE])[0] < moved
