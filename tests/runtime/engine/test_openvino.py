"""Provider openvino: its options on every machine, its numbers if the OpenVINO wheel is installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from abonyx.bundle import open_bundle, selftest, tolerances
from abonyx.config import OpenVinoOptions, RuntimeConfig
from abonyx.engine import providers
from abonyx.engine.process import usable_processors
from abonyx.errors import ConfigError, ProviderUnavailable
from abonyx.run.request import RunRequest
from abonyx.session import open_session

from ...conftest import EXAMPLES, MINI

here = pytest.mark.skipif(
    "OpenVINOExecutionProvider" not in onnxruntime.get_available_providers(),
    reason="the installed engine is not onnxruntime-openvino",
)


def _config(**options: Any) -> RuntimeConfig:
    return RuntimeConfig(provider="openvino", openvino=OpenVinoOptions(**options))


def test_options_of_float32() -> None:
    assert providers.provider_options(_config()) == {
        "device_type": "CPU",
        "precision": "FP32",
        "num_of_threads": str(usable_processors()),
        "num_streams": "1",
    }


def test_options_of_bfloat16() -> None:
    options = providers.provider_options(_config(precision="bf16", threads=1))
    assert json.loads(options.pop("load_config")) == {"CPU": {"INFERENCE_PRECISION_HINT": "bf16"}}
    assert options == {"device_type": "CPU", "precision": "FP32", "num_of_threads": "1", "num_streams": "1"}


def test_threads_are_of_the_cpu_device() -> None:
    assert "num_of_threads" not in providers.provider_options(_config(device="GPU"))


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"precision": "FP16"}, ["openvino.precision", "FP16", "f32, bf16"]),
        ({"precision": "bf16", "device": "GPU"}, ["bf16", "GPU"]),
        ({"threads": 0}, ["openvino.threads", "0"]),
        ({"streams": 0}, ["openvino.streams", "0"]),
    ],
)
def test_options_that_are_not_allowed(options: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        OpenVinoOptions(**options)
    for part in parts:
        assert part in str(caught.value)


def test_more_threads_or_streams_than_there_are() -> None:
    usable = usable_processors()
    with pytest.raises(ConfigError, match=rf"openvino\.threads is {usable + 1}, but this process may use {usable}"):
        providers.provider_options(_config(threads=usable + 1))
    with pytest.raises(ConfigError, match=r"openvino\.streams is 2, but there are 1 threads"):
        providers.provider_options(_config(threads=1, streams=2))


def test_bfloat16_is_named_in_the_metadata() -> None:
    bundle = open_bundle(MINI)
    for precision, named in (("f32", "fp16-weights"), ("bf16", "bf16")):
        run = RunRequest(_config(precision=precision), bundle)
        assert run.metadata()["precision"] == named
    # another provider keeps the table, but ignores it
    config = RuntimeConfig(openvino=OpenVinoOptions(precision="bf16"))
    assert RunRequest(config, bundle).metadata()["precision"] == "fp16-weights"


def test_bfloat16_that_comes_out_as_float32_is_refused() -> None:
    golden = open_bundle(MINI).golden()
    row = int(golden.lengths.argmin())

    def run(by: float) -> selftest.RunRows:
        return lambda tokens: (golden.embedding[[row]] + np.float32(by), np.zeros((1, 1), np.float32))

    with pytest.raises(ProviderUnavailable, match="precision is bf16, but the engine used float32"):
        selftest.refuse_exact(golden, run(1e-6), "here")
    selftest.refuse_exact(golden, run(1e-2), "here")


@here
def test_float32_is_float32_and_every_node_is_openvinos(sequences: list[str]) -> None:
    with open_session() as session:
        on_cpu = session.score(sequences)
    with open_session(_config(), self_test="full") as session:
        assert list(session.placement) == ["OpenVINOExecutionProvider"]
        p = session.score(sequences)
    assert np.abs(p - on_cpu).max() <= tolerances.FP32_GOAL_P


@here
def test_bfloat16_takes_effect_within_its_limits(sequences: list[str]) -> None:
    with open_session() as session:
        on_cpu = session.score(sequences)
    try:
        session = open_session(_config(precision="bf16"), self_test="full")
    except ProviderUnavailable as error:
        pytest.skip(str(error))
    with session:
        difference = np.abs(session.score(sequences) - on_cpu).max()
    assert tolerances.FP32_GOAL_P < difference <= tolerances.BF16.p


@here
@pytest.mark.skipif(usable_processors() < 2, reason="one processor: no second stream")
def test_two_streams_give_the_scores_of_one(sequences: list[str]) -> None:
    mixed = [sequence[: 20 + 3 * index] for index, sequence in enumerate(sequences * 3)]
    with open_session(_config()) as session:
        one = session.score(mixed)
    with open_session(_config(streams=2)) as session:
        assert session._model.streams == 2
        two = session.score(mixed)
    assert np.abs(one - two).max() <= tolerances.BATCH_NEIGHBOURS


@here
# OpenVINO lists GPU only if there is one. "cpu" is not OpenVINO's spelling: it starts, but runs no node.
@pytest.mark.parametrize("device", ["GPU.7", "cpu"])
@pytest.mark.parametrize("allow_cpu_nodes", [False, True])
def test_a_device_that_is_not_there(device: str, allow_cpu_nodes: bool) -> None:
    config = RuntimeConfig(
        provider="openvino", allow_cpu_nodes=allow_cpu_nodes, openvino=OpenVinoOptions(device=device)
    )
    with pytest.raises(ProviderUnavailable) as caught:
        open_session(config)
    assert caught.value.exit_code == 5
    for part in (repr(device), "devices here: CPU"):
        assert part in str(caught.value)


@here
def test_the_command_line_says_bf16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    from abonyx import cli

    monkeypatch.setenv("ABONYX_OPENVINO_PRECISION", "bf16")
    output = tmp_path / "scores.jsonl"
    monkeypatch.setattr("sys.argv", ["abonyx", "score", str(EXAMPLES), "-o", str(output), "--provider", "openvino"])
    try:
        cli.main()
    except SystemExit as exit_:
        assert exit_.code in (None, 0), capfd.readouterr().err
    assert "on openvino (bf16)" in capfd.readouterr().err
