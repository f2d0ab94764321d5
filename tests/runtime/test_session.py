"""The life cycle: one session per process, closed sessions stay closed, and always the requested provider."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import multiprocessing
import shutil
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException

import abonyx
from abonyx.bundle import Golden, open_bundle, selftest, tolerances
from abonyx.bundle.heads import head_value, sigmoid
from abonyx.config import CpuOptions, OpenVinoOptions
from abonyx.engine import installed as engine
from abonyx.engine import onnx as onnx_module
from abonyx.engine import providers
from abonyx.engine.cuda_driver import CudaDevice
from abonyx.errors import (
    BundleError,
    ChecksumMismatch,
    ConfigError,
    EngineError,
    EngineMissing,
    InputError,
    OutOfDeviceMemory,
    ProviderError,
    ProviderUnavailable,
    ScoreNotFinite,
    SelfTestError,
    SessionClosed,
    SessionForked,
    SessionInUse,
)
from abonyx.extras import install_command
from abonyx.model import OpenModel, State
from abonyx.session import Session, open_session

from ..conftest import MINI
from . import hostile


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A list that gets the arguments of every new InferenceSession."""
    made: list[Any] = []
    real = onnxruntime.InferenceSession

    def counting(*args: Any, **kwargs: Any) -> Any:
        made.append((args, kwargs))
        return real(*args, **kwargs)

    monkeypatch.setattr(onnxruntime, "InferenceSession", counting)
    return made


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(MINI, tmp_path / "bundle"))


def test_scores_and_embeds_in_input_order(sequences: list[str]) -> None:
    with abonyx.open_session() as session:
        p = session.score(sequences)
        embedding = session.embed(sequences)
        again = session.score(sequences[::-1])
        assert session.placement == {"CPUExecutionProvider": sum(session.placement.values())}
    assert p.dtype == np.float32
    assert p.shape == (12,)
    assert embedding.shape == (12, 640)
    assert embedding.dtype == np.float32
    assert np.abs(again[::-1] - p).max() <= tolerances.BATCH_NEIGHBOURS
    assert 0 < p.min() < 0.2 < 0.7 < p.max() < 1


def test_no_sequences_give_no_scores() -> None:
    with open_session() as session:
        assert session.score([]).shape == (0,)
        assert session.embed([]).shape == (0, 640)


@pytest.mark.parametrize("budget", [1, 130, 500, 1_500, 100_000])
def test_a_score_does_not_depend_on_its_batch(budget: int, sequences: list[str]) -> None:
    # Very different lengths, so that the batches have different padding; in one, two and more batches.
    mixed = [sequence[: 20 + 9 * index] for index, sequence in enumerate(sequences)] + sequences[:6]
    with open_session(abonyx.RuntimeConfig(token_budget=budget)) as session:
        p, embedding = session.score(mixed), session.embed(mixed)
        alone = np.concatenate([session.embed([sequence]) for sequence in mixed])
        p_alone = np.concatenate([session.score([sequence]) for sequence in mixed])
    assert np.abs(embedding - alone).max() <= tolerances.BATCH_NEIGHBOURS
    assert np.abs(p - p_alone).max() <= tolerances.BATCH_NEIGHBOURS


def test_the_golden_rows_come_out_as_pytorch_saw_them() -> None:
    golden = open_bundle(MINI).golden()
    with open_session(self_test="full") as session:
        rows = [golden.input_ids[index, :length] for index, length in enumerate(golden.lengths)]
        embedding, sums = session._model.run_batch(rows)
        p = head_value(session._model.manifest.head, sums[:, 0])
    # The weights were rounded to float16 before the export, so float16 storage is exact.
    assert np.abs(embedding - golden.embedding).max() <= tolerances.FP32.embedding
    assert np.abs(p - sigmoid(golden.value[:, 0])).max() <= tolerances.FP32_GOAL_P


def test_one_session_a_process_names_where_the_first_was_opened() -> None:
    with open_session(), pytest.raises(SessionInUse, match=r"test_session\.py:\d+"):
        open_session()
    open_session().close()


def test_another_provider_in_config_makes_no_second_session(opened: list[Any], sequences: list[str]) -> None:
    with open_session() as session:
        session.score(sequences)
        with pytest.raises(SessionInUse):
            open_session(abonyx.RuntimeConfig(provider="cuda"))
        session.score(sequences)
    assert len(opened) == 1


def test_life_cycle(sequences: list[str]) -> None:
    session = OpenModel(abonyx.RuntimeConfig())
    assert session.state is State.UNOPENED
    with pytest.raises(SessionClosed, match="unopened"):
        session.score(sequences)
    session.open()
    assert session.state is State.OPEN
    with pytest.raises(SessionClosed, match=r"(?s)open.*reload"):
        session.open()
    session.close()
    session.close()
    assert session.state is State.CLOSED
    with pytest.raises(SessionClosed, match="closed"):
        session.score(sequences)
    with pytest.raises(SessionClosed):
        session.open()


def test_reload_from_open_and_from_closed(opened: list[Any], sequences: list[str]) -> None:
    with open_session() as session:
        first = session.score(sequences)
        session.reload(abonyx.RuntimeConfig(token_budget=200))
        assert np.abs(session.score(sequences) - first).max() <= tolerances.BATCH_NEIGHBOURS
        session.close()
        session.reload(abonyx.RuntimeConfig())
        assert session._model.state is State.OPEN
    assert len(opened) == 3


def test_a_reload_keeps_no_difference_of_the_model_before() -> None:
    open_session(abonyx.RuntimeConfig(), self_test="full").close()  # remembered
    with open_session(self_test="full") as session:
        assert session._model.differences
        session.reload(abonyx.RuntimeConfig())
        assert session._model.differences == {}


def test_failed_reload_leaves_closed_and_the_slot_free() -> None:
    session = open_session()
    with pytest.raises(ProviderUnavailable):
        session.reload(abonyx.RuntimeConfig(provider="cuda"))
    assert session._model.state is State.CLOSED
    open_session().close()


def test_failed_open_leaves_the_slot_free(tmp_path: Path) -> None:
    with pytest.raises(BundleError):
        open_session(abonyx.RuntimeConfig(bundle=str(tmp_path)))
    with pytest.raises(ConfigError):
        open_session(abonyx.RuntimeConfig(variant="none"))
    open_session().close()


def test_what_a_signal_handler_raises_in_the_engines_load_is_raised(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """ONNX Runtime's fallback treats any RuntimeError as a failing provider, prints that, and loads the model again."""
    create = onnxruntime.InferenceSession._create_inference_session
    calls = iter(range(2))

    def interrupted(self: object, *arguments: object) -> None:
        if next(calls) == 0:
            raise RuntimeError("from a signal handler")
        create(self, *arguments)

    monkeypatch.setattr(onnxruntime.InferenceSession, "_create_inference_session", interrupted)
    with pytest.raises(RuntimeError, match="from a signal handler"):
        open_session()
    open_session().close()
    assert capfd.readouterr() == ("", "")


def test_close_destroys_the_native_session() -> None:
    session = open_session()
    native = weakref.ref(session._model._native)  # type: ignore[arg-type]
    session.close()
    assert native() is None


def test_collected_unclosed_warns_and_frees_the_slot() -> None:
    session = open_session()
    assert session._model.state is State.OPEN
    with pytest.warns(ResourceWarning, match=r"test_session\.py.*never closed"):
        del session
        gc.collect()
    open_session().close()


@pytest.mark.parametrize(("provider", "extra"), [("cuda", "gpu"), ("openvino", "openvino"), ("coreml", "cpu")])
def test_provider_truth(provider: Any, extra: str, opened: list[Any]) -> None:
    if providers.PROVIDERS[provider].execution_provider in onnxruntime.get_available_providers():
        pytest.skip(f"{provider} is available here")
    with pytest.raises(ProviderUnavailable) as caught:
        open_session(abonyx.RuntimeConfig(provider=provider))
    assert opened == []
    assert caught.value.exit_code == 5
    elsewhere = provider == "coreml" and sys.platform != "darwin"
    fix = "Core ML is part of macOS: use it on a Mac" if elsewhere else install_command(extra)
    for part in (provider, "CPUExecutionProvider", fix):
        assert part in str(caught.value)


def test_a_provider_that_does_not_start_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    # If CUDA's libraries are missing, ONNX Runtime lists the provider and then runs on the CPU.
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda path, options, providers, **_: real(path, options, providers=["CPUExecutionProvider"]),
    )
    with pytest.raises(ProviderUnavailable, match="no NVIDIA driver found"):
        open_session(abonyx.RuntimeConfig(provider="cuda"))
    monkeypatch.setattr("abonyx.engine.onnx.chosen_device", lambda number: None)
    with pytest.raises(ProviderUnavailable, match=r"(?s)could not start.*`abonyx doctor` names the libraries"):
        open_session(abonyx.RuntimeConfig(provider="cuda"))


def test_nodes_on_the_cpu_are_refused_unless_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Native:
        def get_provider_graph_assignment_info(self) -> list[Any]:
            return [Subgraph("CUDAExecutionProvider", 9), Subgraph("CPUExecutionProvider", 1)]

    class Subgraph:
        def __init__(self, name: str, count: int) -> None:
            self.ep_name, self.count = name, count

        def get_nodes(self) -> list[Any]:
            return [type("Node", (), {"name": f"node{index}", "op_type": "Add"}) for index in range(self.count)]

    native: Any = Native()
    with pytest.raises(ProviderError, match=r"1 of 10 graph nodes would run on the CPU, not on cuda: node0"):
        onnx_module.placement(onnxruntime, native, abonyx.RuntimeConfig(provider="cuda"))
    config = abonyx.RuntimeConfig(provider="cuda", allow_cpu_nodes=True)
    allowed = onnx_module.placement(onnxruntime, native, config)
    assert allowed == {"CUDAExecutionProvider": 9, "CPUExecutionProvider": 1}


def test_two_engines_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "_installed", lambda name: name in ("onnxruntime", "onnxruntime-gpu"))
    with pytest.raises(EngineMissing, match="onnxruntime and onnxruntime-gpu"):
        open_session()


def test_no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineMissing, match=r"pip install .*\[cpu\]"):
        open_session()


def test_a_folder_without_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", ModuleType("onnxruntime"))
    with pytest.raises(EngineMissing, match=r"does not contain it.*\n.*pip install .*\[cpu\]"):
        open_session()


class _Drifting:
    """An engine whose numbers are finite but slightly wrong, as in onnxruntime#32569."""

    def __init__(self, native: Any, output: int, by: float) -> None:
        self.native, self.output, self.by = native, output, by

    def run(self, outputs: list[str], feed: Any) -> list[Any]:
        values = [np.array(value) for value in self.native.run(outputs, feed)]
        values[self.output] = values[self.output] + np.float32(self.by)
        return values

    def __getattr__(self, name: str) -> Any:
        return getattr(self.native, name)


@pytest.mark.parametrize(
    ("output", "by", "metric"), [(0, 0.06, "embedding"), (0, 0.02, "logit"), (1, 0.021, "logit"), (1, np.nan, "logit")]
)
@pytest.mark.parametrize("kind", ["auto", "full"])
def test_self_test_refuses_slightly_wrong_numbers(
    monkeypatch: pytest.MonkeyPatch, output: int, by: float, metric: str, kind: Any
) -> None:
    open_session(self_test="full").close()  # remembered: "auto" is then the quick test
    golden = open_bundle(MINI).golden()
    real = onnx_module.load
    # Move the embedding along the head's weights: the logit moves, but no element moves by more than its own limit.
    direction = np.float32(by) * np.sign(golden.head_coef[0]) if (output, metric) == (0, "logit") else by

    def create(*args: Any) -> Any:
        return _Drifting(real(*args), output, direction)

    monkeypatch.setattr(onnx_module, "load", create)
    with pytest.raises(SelfTestError, match=rf"max \|difference\| of {metric} is") as caught:
        open_session(self_test=kind)
    assert caught.value.exit_code == 6
    assert "limit" in str(caught.value)


def test_whole_golden_set_once_then_two_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ABONYX_CACHE_DIR", str(tmp_path))
    rows: list[int] = []
    real = OpenModel.run_batch

    def counting(self: OpenModel, batch: Any, *args: Any) -> Any:
        rows.append(len(batch))
        return real(self, batch, *args)

    monkeypatch.setattr(OpenModel, "run_batch", counting)
    open_session().close()
    assert sum(rows) == 2 + 44
    rows.clear()
    open_session().close()
    assert rows == [2]
    rows.clear()
    open_session(abonyx.RuntimeConfig(token_budget=1)).close()
    assert rows == [2]  # always in one batch, so that padding is tested


def test_what_the_engine_prints_while_it_finds_cuda_is_no_result(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    class Engine:
        @staticmethod
        def preload_dlls() -> None:
            sys.stdout.write("Failed to load libcurand.so.10\n")

    with caplog.at_level("DEBUG", "abonyx"):
        engine.preload(Engine)  # type: ignore[arg-type]
    assert capsys.readouterr().out == ""
    assert caplog.messages == ["Failed to load libcurand.so.10"]


def test_another_card_engine_or_system_is_tested_again(monkeypatch: pytest.MonkeyPatch) -> None:
    config = abonyx.RuntimeConfig(provider="cuda")
    first = CudaDevice(name="H100", uuid="1", total_bytes=1, free_bytes=1)

    def fact(card: CudaDevice) -> str:
        return engine.identity(onnxruntime, config, card)

    same = CudaDevice(name="H100", uuid="1", total_bytes=1, free_bytes=0)
    assert fact(first) == fact(same)
    other = {fact(first), fact(CudaDevice(name="H100", uuid="2", total_bytes=1, free_bytes=1))}
    with monkeypatch.context() as patched:
        patched.setattr(engine.platform, "platform", lambda: "macOS-26.1-arm64-arm-64bit")
        other.add(fact(first))
    monkeypatch.setattr(onnxruntime, "__version__", "9.9.9")
    other.add(fact(first))
    assert len(other) == 4


class _Small:
    """An engine with memory for a batch of a given number of tokens."""

    def __init__(self, native: Any, tokens: int) -> None:
        self.native, self.tokens = native, tokens

    def run(self, outputs: list[str], feed: Any) -> Any:
        if feed["input_ids"].size > self.tokens:
            raise RuntimeException("Failed to allocate memory for requested buffer of size 9")
        return self.native.run(outputs, feed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.native, name)


@pytest.mark.parametrize(("budget", "memory", "least"), [(2_000, 500, 250), (2_000, 150, 75), (2, 150, 1), (1, 150, 1)])
def test_out_of_memory_in_the_self_test_halves_the_budget(
    budget: int, memory: int, least: int, monkeypatch: pytest.MonkeyPatch, sequences: list[str]
) -> None:
    real = onnx_module.load
    monkeypatch.setattr(onnx_module, "load", lambda *args: _Small(real(*args), memory))
    with open_session(abonyx.RuntimeConfig(token_budget=budget), self_test="full") as session:
        assert least <= session._model.budget.tokens <= memory
        assert f"token_budget went from {budget} to" in session._model.opening_notes[0]
        assert session._model.differences["p"] <= tolerances.FP32_GOAL_P
        assert session.score(sequences).shape == (12,)


@pytest.mark.parametrize(
    "said",
    ["Failed to allocate memory for requested buffer of size 9", "Exception during initialization: std::bad_alloc"],
)
def test_weights_without_memory_are_no_damaged_bundle(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise RuntimeException(said)

    monkeypatch.setattr(onnxruntime, "InferenceSession", full)
    with pytest.raises(OutOfDeviceMemory, match=r"(?s)cpu: not enough memory to load .*model\.onnx.*smaller variant"):
        open_session()


def test_a_golden_row_without_memory_says_why_the_session_cannot_open(monkeypatch: pytest.MonkeyPatch) -> None:
    real = onnx_module.load
    monkeypatch.setattr(onnx_module, "load", lambda *args: _Small(real(*args), 3))
    said = r"(?s)fp16-weights on cpu\): not enough memory for the self-test: .* batch of 1 rows.*smaller variant"
    with pytest.raises(OutOfDeviceMemory, match=said):
        open_session(self_test="full")


def test_the_quick_self_test_pads_one_row_by_the_next_longer() -> None:
    golden = open_bundle(MINI).golden()
    given: list[list[int]] = []

    def run(tokens: Any) -> Any:
        given.append([len(row) for row in tokens])
        rows = [index for row in tokens for index in np.flatnonzero(golden.lengths == len(row))[:1]]
        return golden.embedding[rows], golden.value[rows] - heads[0].intercept

    heads = open_bundle(MINI).manifest.heads
    selftest.check_quick(golden, heads, run, tolerances.FP32, "here")
    assert given == [np.unique(golden.lengths)[[1, 0]].tolist()]  # one batch, longest first
    same = dataclasses.replace(golden, lengths=np.full_like(golden.lengths, golden.lengths.min()))
    given.clear()
    with contextlib.suppress(SelfTestError):
        selftest.check_quick(same, heads, run, tolerances.FP32, "here")
    assert given == [[golden.lengths.min()]]


@pytest.mark.parametrize("provider", ["cpu", "openvino"])
def test_more_threads_than_processors_are_refused_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch, opened: list[Any], provider: Any
) -> None:
    monkeypatch.setattr("abonyx.engine.process.usable_processors", lambda: 3)
    with open_session(abonyx.RuntimeConfig(cpu=CpuOptions(threads=2))):
        assert opened[0][0][1].intra_op_num_threads == 2
    config = abonyx.RuntimeConfig(
        provider=provider, bundle="nowhere", cpu=CpuOptions(threads=4), openvino=OpenVinoOptions(threads=3)
    )
    with pytest.raises(ConfigError, match=r"cpu\.threads is 4, but this process may use 3.*\n?.*or leave it out"):
        open_session(config)


def test_the_processors_this_process_may_use_are_the_default(
    monkeypatch: pytest.MonkeyPatch, opened: list[Any], all_threads: None
) -> None:
    monkeypatch.setattr("abonyx.engine.process.usable_processors", lambda: 3)
    with open_session():
        assert opened[0][0][1].intra_op_num_threads == 3


def test_not_finite_names_the_records(monkeypatch: pytest.MonkeyPatch, sequences: list[str]) -> None:
    with open_session() as session:
        monkeypatch.setattr(session._model, "_native", _Drifting(session._model._native, 0, np.nan))
        with pytest.raises(ScoreNotFinite, match=r"12 of 12 sequences: sequences\[0\]"):
            session.score(sequences)
        monkeypatch.undo()


def test_a_generator_is_scored_whole(sequences: list[str]) -> None:
    with open_session() as session:
        assert session.score(one for one in sequences).shape == (12,)  # type: ignore[arg-type]


def test_bad_sequences_name_the_first(sequences: list[str]) -> None:
    with open_session() as session:
        with pytest.raises(InputError, match=r"sequences\[1\]: character '\*' at position 4"):
            session.score([sequences[0], "EVQ*"])
        with pytest.raises(InputError, match="one str"):
            session.score("EVQLVESGG")
        with pytest.raises(InputError, match="150 residues; this bundle takes at most 148"):
            session.score(["ACDEFGHIKL" * 15])
        assert session.score([f" {sequences[0].lower()}\n"]) == session.score(sequences[:1])


def test_changed_weights_are_refused_before_loading(copy: Path, opened: list[Any]) -> None:
    path = copy / "fp16-weights" / "model.onnx.data"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ChecksumMismatch):
        open_session(abonyx.RuntimeConfig(bundle=str(copy)))
    assert opened == []


def test_a_variant_without_parity_record_is_refused(copy: Path) -> None:
    path = copy / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["variants"]["fp16-weights"]["parity"] = None
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="never checked"):
        open_session(abonyx.RuntimeConfig(bundle=str(copy)))


def test_a_graph_that_only_the_engine_finds_wrong(copy: Path) -> None:
    (copy / "fp16-weights" / "model.onnx").write_bytes(hostile.model())  # an Add without inputs
    hostile.relist(copy)
    with pytest.raises(BundleError, match="ONNX Runtime cannot load it"):
        open_session(abonyx.RuntimeConfig(bundle=str(copy)))


def _use_in_child(session: Session, sequences: list[str], queue: Any) -> None:
    try:
        session.score(sequences)
    except EngineError as error:
        queue.put((type(error).__name__, str(error)))
    try:
        open_session()
    except EngineError as error:
        queue.put((type(error).__name__, str(error)))
    session.close()


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_may_not_use_it_and_the_parent_is_unharmed(sequences: list[str]) -> None:
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    with open_session() as session:
        before = session.score(sequences)
        child = context.Process(target=_use_in_child, args=(session, sequences, queue))
        child.start()
        child.join(timeout=60)
        assert child.exitcode == 0
        for _ in range(2):
            name, message = queue.get()
            assert name == SessionForked.__name__
            assert "spawn" in message
        assert (session.score(sequences) == before).all()
    queue.close()


MEMORY = """
import abonyx, psutil, sys, threading
sequences = sys.argv[1:]
process = psutil.Process()
resident = []
for _ in range(6):
    with abonyx.open_session() as session:
        session.score(sequences * 8)
    resident.append(process.memory_info().rss)
assert process.children(recursive=True) == []
assert threading.active_count() == 1
print(*resident)
"""


def test_memory_is_given_back(sequences: list[str]) -> None:
    command = [sys.executable, "-W", "error", "-c", MEMORY, *sequences]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stderr == ""  # the resource tracker reports leaked semaphores there
    first, *_, last = (int(value) for value in done.stdout.split())
    assert last <= first * tolerances.MEMORY_RATIO
    assert last - first <= tolerances.MEMORY_BYTES


def test_exit_with_an_open_session_neither_hangs_nor_crashes(sequences: list[str]) -> None:
    code = "import abonyx, sys; s = abonyx.open_session(); print(s.score(sys.argv[1:]).shape)"
    command = [sys.executable, "-c", code, *sequences]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "(12,)\n")


def test_golden_roundtrip(tmp_path: Path) -> None:
    golden = open_bundle(MINI).golden()
    golden.save(tmp_path)
    # Compare arrays and not the archive's bytes, which depend on the version of Python's zipfile.
    with np.load(tmp_path / "golden.npz") as found, np.load(MINI / "golden.npz") as shipped:
        assert found.files == shipped.files
        for name in shipped.files:
            assert found[name].dtype == shipped[name].dtype
            np.testing.assert_array_equal(found[name], shipped[name])
    assert isinstance(golden, Golden)


def test_a_close_that_races_an_open_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    loading, go_on = threading.Event(), threading.Event()
    real = onnx_module.load

    def slow(*args: Any) -> Any:
        loading.set()
        assert go_on.wait(30)
        return real(*args)

    monkeypatch.setattr(onnx_module, "load", slow)
    session = OpenModel(abonyx.RuntimeConfig())
    opener, closer = threading.Thread(target=session.open), threading.Thread(target=session.close)
    opener.start()
    assert loading.wait(30)
    closer.start()
    with pytest.raises(SessionInUse):  # the slot is not free while the first loads
        open_session()
    go_on.set()
    opener.join(30)
    closer.join(30)
    assert session.state is State.CLOSED


@pytest.mark.parametrize("bad", [None, float("nan"), b"EVQ"])
def test_what_is_not_text_is_named(bad: Any, sequences: list[str]) -> None:
    with open_session() as session, pytest.raises(InputError, match=r"sequences\[1\] is .* not text"):
        session.score([sequences[0], bad])


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("head_sums", lambda values: values[:1]),  # NumPy would give every row this one value
        ("head_sums", lambda values: np.concatenate([values, values])),
        ("head_sums", lambda values: np.concatenate([values, values], axis=1)),
        ("head_sums", lambda values: values[:, 0]),
        ("head_sums", lambda values: values.sum()),
        ("head_sums", lambda values: values.astype(np.float64)),
        ("embedding", lambda values: values[:1]),
        ("embedding", lambda values: values[:, :1]),
    ],
)
def test_an_output_of_another_shape_in_one_batch_is_refused(
    monkeypatch: pytest.MonkeyPatch, sequences: list[str], name: str, change: Callable[[Any], Any]
) -> None:
    real = onnx_module.run

    def run(native: Any, outputs: Sequence[str], *rest: Any) -> list[Any]:
        found = dict(zip(outputs, real(native, outputs, *rest), strict=True))
        if len(found[name]) > 2:
            found[name] = change(found[name])
        return list(found.values())

    with open_session() as session:
        monkeypatch.setattr(onnx_module, "run", run)
        call = session.score if name == "head_sums" else session.embed
        with pytest.raises(BundleError, match=f"the graph gives {name} as .*; the manifest says float32"):
            call(sequences)


def test_no_session_without_a_self_test() -> None:
    with pytest.raises(ConfigError, match="self_test is 'off'"):
        open_session(self_test="off")  # type: ignore[arg-type]
