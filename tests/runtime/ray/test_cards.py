"""GPUs and nodes that do not fit a run give one message that says where and what to do. No GPU is needed."""

from __future__ import annotations

import dataclasses
import platform
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest

import abonyx
from abonyx.cli.options import prepare
from abonyx.config import RuntimeConfig
from abonyx.domain import pool
from abonyx.engine import cuda_driver, onnx, providers
from abonyx.engine.cuda_driver import CudaDevice, CudaDriver
from abonyx.errors import (
    ConfigError,
    EngineError,
    OutOfDeviceMemory,
    ProviderError,
    ProviderUnavailable,
    ResumeRefused,
    RunInterrupted,
)
from abonyx.run.interrupts import Stop
from abonyx.run.run_file import File, open_run_file, run_facts
from abonyx.run.scorer import DirectoryRequest

from .test_score_ray import OPTIONS, USUAL, Call, Silent

ray = pytest.importorskip("ray", reason="the ray extra is not installed")
pytest.importorskip("ray.data", reason="the ray extra is not installed")

import abonyx.ray  # noqa: E402
from abonyx.ray import cluster  # noqa: E402
from abonyx.ray import files as files_module  # noqa: E402
from abonyx.ray.dataset import Scorer  # noqa: E402
from abonyx.ray.files import RayDispatch  # noqa: E402
from abonyx.ray.worker import Worker  # noqa: E402

CUDA = RuntimeConfig(provider="cuda")
CARD = CudaDevice(name="NVIDIA H100", uuid="0" * 32, total_bytes=80 * 10**9, free_bytes=79 * 10**9)


def request(tmp_path: Path) -> DirectoryRequest:
    """The setup of a run on cuda, as the driver of a run makes it."""
    run = prepare(OPTIONS)
    return DirectoryRequest(dataclasses.replace(run, config=cluster.for_worker(CUDA)), tmp_path, "csv", USUAL)


def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *devices: CudaDevice, problem: str = "") -> EngineError:
    """The answer of a worker to which Ray gave card 3 of a node with these devices. ONNX Runtime has CUDA there."""
    driver = CudaDriver(version="13.0", devices=list(devices), problem=problem)
    for module in (cuda_driver, providers):
        monkeypatch.setattr(module, "read_cuda_driver", lambda **_: driver)
    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    found = Worker(request(tmp_path)).open([])
    assert isinstance(found, EngineError)
    assert found.what.startswith(f"node {platform.node()} (CUDA_VISIBLE_DEVICES 3): ")
    return found


def test_a_card_that_is_too_small_is_named_with_both_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = CudaDevice(name="Small", uuid="0" * 32, total_bytes=10**6, free_bytes=1_000_000)
    found = opened(tmp_path, monkeypatch, small)
    assert isinstance(found, OutOfDeviceMemory)
    assert "the weights need " in found.what and "only 1000000 are free on GPU 0" in found.what


@pytest.mark.parametrize("provider", ["cuda", "cpu"])
def test_only_beside_a_gpu_are_processors_free_to_judge(
    provider: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[bool] = []
    monkeypatch.setattr("abonyx.ray.worker.open_checked", lambda *_: None)
    monkeypatch.setattr("abonyx.ray.worker.run_facts", lambda *_: {})

    def scorer(_request: DirectoryRequest, *, in_children: bool) -> Any:
        found.append(in_children)
        return SimpleNamespace(config=None, use=lambda _: None)

    monkeypatch.setattr("abonyx.ray.worker.FileScorer", scorer)
    monkeypatch.setattr(pool, "_judging_here", 1)
    monkeypatch.setattr(pool, "usable_processors", lambda: 32)
    asked = request(tmp_path)
    run = dataclasses.replace(asked.run, config=RuntimeConfig(provider=provider))
    assert Worker(dataclasses.replace(asked, run=run)).open([], 8) == {}
    assert found == [provider == "cuda"]
    assert pool.judging_processors() == 4  # eight workers share the node


def test_a_card_that_ray_counts_and_the_driver_does_not_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = opened(tmp_path, monkeypatch, problem="the driver sees no GPU")
    assert isinstance(found, ProviderUnavailable) and "the driver sees no GPU" in found.what


def test_an_engine_without_cuda_on_a_node_with_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = Worker(request(tmp_path)).open([])
    assert isinstance(found, ProviderUnavailable)
    assert "CUDA_VISIBLE_DEVICES not set" in found.what and "provider cuda is not available" in found.what
    with pytest.raises(ProviderUnavailable, match=f"node {platform.node()}"):  # of a dataset
        Scorer(cluster.for_worker(CUDA), prepare(OPTIONS).bundle.sha256, USUAL, ("sequence",), prepare(OPTIONS).rule)


def test_a_card_that_another_process_has_to_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    why = "cuDevicePrimaryCtxRetain: error 46 CUDA_ERROR_DEVICE_UNAVAILABLE"
    taken = CudaDevice(name="NVIDIA H100", uuid="0" * 32, total_bytes=1, free_bytes=None, problem=why)
    found = opened(tmp_path, monkeypatch, taken)
    assert isinstance(found, ProviderUnavailable) and why in found.what and "nvidia-smi" in found.fix


class Raising:
    """An engine whose every run fails."""

    def __init__(self, text: str) -> None:
        self._text = text

    def run(self, *_: object) -> list[Any]:
        from onnxruntime.capi.onnxruntime_pybind11_state import Fail

        raise Fail(self._text)


@pytest.mark.parametrize(
    ("text", "kind", "fix"),
    [
        ("CUDA failure 46: CUDA-capable device(s) is/are busy or unavailable", ProviderError, "nvidia-smi"),
        ("CUDA failure 2: out of memory ; GPU=0", OutOfDeviceMemory, "Free memory on the device"),
        ("CUDA failure 700: an illegal memory access was encountered", ProviderError, "lower token_budget"),
    ],
)
def test_a_card_that_is_taken_in_the_middle(text: str, kind: type[EngineError], fix: str) -> None:
    with pytest.raises(kind) as raised:
        onnx.run(Raising(text), ["embedding"], {}, CUDA, "4 rows, longest 122 tokens")
    assert text in raised.value.what and fix in raised.value.fix


def test_a_card_that_is_not_there_is_refused_with_those_that_are(
    run: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/scale.md uses two cards without Ray with two commands, with device_id 0 and 1."""
    two = CudaDriver(version="13.0", devices=[CARD, CARD])
    for module in (cuda_driver, providers):
        monkeypatch.setattr(module, "read_cuda_driver", lambda **_: two)
    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    monkeypatch.setenv("ABONYX_CUDA_DEVICE_ID", "2")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.fasta").write_text(">a\n" + "QVQLVQSGAEVKKPGASVKVSCKAS" * 4 + "\n", encoding="utf-8")
    done = run("score", tmp_path / "in", "-o", tmp_path / "out", "--provider", "cuda")
    assert done.code == 2 and not (tmp_path / "out").exists()
    assert "cuda.device_id is 2; the driver sees 0 (NVIDIA H100), 1 (NVIDIA H100)" in done.err


NODES = [
    {"Alive": True, "Resources": {"CPU": 16.0, "GPU": 2.0}},
    {"Alive": True, "Resources": {"CPU": 64.0}},
]


def test_nodes_of_a_mixed_cluster_that_do_nothing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "nodes", lambda: NODES)
    cuda = cluster.for_worker(CUDA)
    assert (cluster.worker_count(cuda), cluster.idle_nodes(cuda)) == (2, ["64 CPU, 0 GPU"])
    assert cluster.workers_of_node(cuda) == 2
    cpu = cluster.for_worker(RuntimeConfig())
    assert (cluster.worker_count(cpu), cluster.idle_nodes(cpu)) == (80, [])
    assert cluster.workers_of_node(cpu) == 64


class Counting(Silent):
    """A Ray with these nodes, which notes how many workers a worker shares its node with."""

    def __init__(self, stop: Stop) -> None:
        super().__init__(stop)
        self.told: list[int] = []

    def remote(self, **_: object) -> Any:
        opened = SimpleNamespace(remote=lambda _shared, workers: self.told.append(workers) or object())
        return lambda _: SimpleNamespace(remote=lambda _: SimpleNamespace(open=opened))

    def nodes(self) -> list[dict[str, object]]:
        return list(NODES)


@pytest.mark.parametrize(("config", "told"), [(CUDA, [2, 2]), (RuntimeConfig(), [1, 1, 1])])
def test_workers_on_gpus_are_told_how_many_share_their_node(
    config: RuntimeConfig, told: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = Stop()
    counting = Counting(stop)
    for module in (cluster, files_module):
        monkeypatch.setattr(module, "load_ray", lambda: counting)
    asked = request(tmp_path)
    asked = dataclasses.replace(asked, run=dataclasses.replace(asked.run, config=cluster.for_worker(config)))
    files = [File(tmp_path / name, tmp_path / f"{name}.out") for name in ("a.csv", "b.csv", "c.csv")]
    with open_run_file(tmp_path, restart=False) as run_file, pytest.raises(RunInterrupted):
        RayDispatch(asked, run_file, False)._run(files, stop)
    assert counting.told == told


def test_a_dataset_has_no_more_workers_than_cards_and_none_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = list(NODES)
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    dataset = SimpleNamespace(map_batches=lambda _, **options: options["compute"])
    for workers, most in ((None, 2), (1, 1), (8, 2)):
        assert abonyx.ray.score(dataset, CUDA, workers=workers).max_size == most
    del nodes[0]
    with pytest.raises(ConfigError, match="needs 1 CPU and 1 GPU of one node; the cluster's nodes have: 64 CPU, 0 GPU"):
        abonyx.ray.score(dataset, CUDA, workers=1)


def test_nodes_with_different_engines_are_one_error_and_not_another_runs_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = request(tmp_path)
    facts = run_facts(wanted.run, "csv", USUAL)
    other = facts | {"engine": "onnxruntime-gpu 1.31.1"}
    worker = SimpleNamespace(where=SimpleNamespace(remote=lambda: "b (CUDA_VISIBLE_DEVICES 0)"))
    monkeypatch.setattr(files_module, "load_ray", lambda: SimpleNamespace(get=lambda answer: answer))
    with open_run_file(tmp_path, restart=False) as run_file:
        dispatch = RayDispatch(wanted, run_file, False)
        dispatch._settle(worker, facts)
        dispatch._opened = True
        dispatch._settle(worker, facts)
        expected = (
            f"(?s)node b .*opened the model first:\n  engine: {facts['engine']} on the first node, "
            "onnxruntime-gpu 1.31.1 on this node"
        )
        with pytest.raises(ConfigError, match=expected) as raised:
            dispatch._settle(worker, other)
        assert not isinstance(raised.value, ResumeRefused)
        dispatch._opened = False  # the next command: its first worker
        with pytest.raises(ResumeRefused, match="has results of another run"):
            dispatch._settle(worker, other)
