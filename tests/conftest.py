"""Fixtures for every test: no network, no cache outside tmp, no session left open."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

# Set before NumPy and PyTorch are imported, here and in the processes that tests start. The tests' encoders are so
# small that two threads of one product mostly wait for each other, even more if two tests run at the same time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Some tests import ONNX Runtime before abonyx does, and abonyx would print a note about that.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

from abonyx.bundle.manifest import RESIDUES
from abonyx.engine import onnx, process, slot
from abonyx.model import OpenModel

REPOSITORY = Path(__file__).resolve().parents[1]
MINI = REPOSITORY / "artifacts" / "mini"
EXAMPLES = REPOSITORY / "examples" / "therapeutic_vh.csv"
SHARED_DATA = REPOSITORY.parent / "shared" / "data"


_TRY_FIRST = OpenModel._try_first


def _one_thread(asked: int | None, key: str) -> int:
    """One thread of ONNX Runtime by default: for few sequences a second thread costs 50 % more processor time."""
    return process.thread_count(1 if asked is None else asked, key)


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """abonyx-mini without stored quantiles, panels, card and training rows. Tests must not change it."""
    from .bare import bare_mini

    return bare_mini(tmp_path_factory.mktemp("bare") / "mini")


@pytest.fixture
def child_first(isolated: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Open new bundles in a child process first, as outside the tests."""
    monkeypatch.setattr(OpenModel, "_try_first", _TRY_FIRST)


@pytest.fixture
def all_threads(isolated: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use as many threads of ONNX Runtime as outside the tests."""
    monkeypatch.setattr(onnx, "thread_count", process.thread_count)


@pytest.fixture(autouse=True)
def isolated(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Use one cache for the whole run (each self-test passes once) and no hub. An open session fails the test."""
    monkeypatch.setenv("ABONYX_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # The child process of a first open takes half a second, and hundreds of tests open a new bundle.
    monkeypatch.setattr(OpenModel, "_try_first", lambda self, fact: False)
    monkeypatch.setattr(onnx, "thread_count", _one_thread)
    yield
    left = slot.holder()
    if left is not None:
        left.close()
        pytest.fail(f"the test left a session open, opened at {left.opened_at}")


@pytest.fixture(autouse=True, scope="session")
def interruptible() -> None:
    """Restore SIGINT and SIGHUP. A background job ignores SIGINT (with nohup also SIGHUP), and so do its children."""
    for number, usual in (
        (signal.SIGINT, signal.default_int_handler),
        (getattr(signal, "SIGHUP", None), signal.SIG_DFL),
    ):
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)


@pytest.fixture(autouse=True, scope="module")
def old_garbage_aside() -> None:
    """Freeze the objects of imports and collected tests, because every close collects garbage."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


@pytest.fixture
def shared_data() -> Path:
    """Real data beside the repository; tests skip without it."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no ../shared/data beside this clone")
    return SHARED_DATA


@pytest.fixture
def sequences() -> list[str]:
    """The examples' sequences."""
    lines = EXAMPLES.read_text(encoding="utf-8").splitlines()[1:]
    found = [line.split(",")[1] for line in lines]
    assert all(set(sequence) <= set(RESIDUES) for sequence in found)
    return found
