"""Fixtures for every test: no network, no cache outside tmp, no session left open."""

from __future__ import annotations

import gc
import os
import shutil
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
# What tests read and may not change, not even by a link or a chmod: tests of other processes look at it meanwhile.
_READ_ONLY = [path for root in (MINI, EXAMPLES.parent) for path in (root, *sorted(root.rglob("*")))]


def _one_thread(asked: int | None, key: str) -> int:
    """One thread of ONNX Runtime by default: for few sequences a second thread costs 50 % more processor time."""
    return process.thread_count(1 if asked is None else asked, key)


# Files that take longest, the longest first: they start first, so that no worker of xdist ends long after the others.
_LONGEST = [
    "runtime/ray/test_score_ray.py",
    "test_faults.py",
    "runtime/ray/test_store.py",
    "runtime/serve/test_page.py",
    "export/int8/test_variant.py",
    "export/fit/test_fit.py",
    "runtime/test_session.py",
    "export/test_export.py",
    "test_readme.py",
    "runtime/evaluate/test_evaluation.py",
    "export/fit/test_values.py",
    "runtime/test_first_open.py",
    "runtime/run/test_processes.py",
    "runtime/run/test_heads.py",
    "runtime/sklearn/test_estimators.py",
    "export/calibrate/test_calibrate.py",
    "runtime/engine/test_static_shape.py",
    "runtime/bundle/test_hub.py",
    "runtime/sklearn/test_estimator_checks.py",
    "export/encoder/test_coreml_graph.py",
    "runtime/cli/test_bundle.py",
    "test_docs_python.py",
    "test_docs_heads.py",
    "runtime/engine/test_weights.py",
    "test_benchmarks.py",
    "test_docs_scan.py",
    "runtime/serve/test_app.py",
    "runtime/explain/test_scan_files.py",
    "runtime/cli/test_commands.py",
    "test_docs_pairs.py",
]


def pytest_configure(config: pytest.Config) -> None:
    """Files begin in the order of their collection. By default xdist begins with those of most tests."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of _LONGEST in front."""
    rank = {Path(__file__).parent / name: at for at, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


def _changed_at() -> dict[Path, int]:
    """When each of the files and folders was last written, linked, renamed or given another mode, in ns."""
    return {path: path.lstat().st_ctime_ns if path.exists() else 0 for path in _READ_ONLY}


@pytest.fixture(autouse=True, scope="module")
def nothing_shared_changes() -> Iterator[None]:
    """No test of a file changes the shipped bundle or the examples."""
    before = _changed_at()
    yield
    changed = [path.relative_to(REPOSITORY) for path, time in _changed_at().items() if time != before[path]]
    if changed:
        pytest.fail(
            f"changed while the tests of this file ran, by one of them or of a file beside it: {changed}. "
            "A test that links, touches or writes a bundle has a copy: the fixture `mini`, or one below tmp_path"
        )


@pytest.fixture(scope="session")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the shipped bundle: `fit`, `calibrate` and `reference` link files of the bundle that they are given."""
    return Path(shutil.copytree(MINI, tmp_path_factory.mktemp("shipped") / "mini"))


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
