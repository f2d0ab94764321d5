"""A stopped and resumed export: finished steps are reused if their inputs and bytes are the same."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from abonyx.bundle import tolerances
from abonyx.errors import ConfigError, OutputInUse, ParityError
from abonyx_export import bundle_writer, graphs
from abonyx_export.export import export_bundle
from abonyx_export.int8 import calibration
from abonyx_export.request import ExportRequest
from abonyx_export.unfinished import partial_directory, resumable

from .conftest import CheckpointMaker, HeadMaker

VARIANTS = ("fp32", "fp16-weights", "cuda-fp16")
WIDE = {"fp16-weights": tolerances.TINY_FP16_P, "cuda-fp16": tolerances.TINY_FP16_P}


@pytest.fixture
def ask(checkpoint: CheckpointMaker, spread_head: HeadMaker, tmp_path: Path) -> ExportRequest:
    directory = checkpoint("esm2")
    return ExportRequest(
        encoder=str(directory),
        heads=(("nonspecificity", spread_head(directory)),),
        output=tmp_path / "bundle",
        variants=VARIANTS,
        max_dp=WIDE,
        name="same",
        max_residues=200,  # shorter than the default, because the longest row is slow
    )


def contents(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def stop_at(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, variant: str) -> None:
    """Interrupt the function `name` when it gets this variant."""
    real = getattr(module, name)

    def stopped(first: Any, *arguments: Any) -> Any:
        if variant in (first, getattr(first, "name", None)):
            raise KeyboardInterrupt
        return real(first, *arguments)

    monkeypatch.setattr(module, name, stopped)


@pytest.mark.parametrize(
    ("module", "function", "variant", "finished"),
    [
        (graphs, "_write_float", "fp16-weights", "golden rows, fp32 graph"),
        (
            bundle_writer,
            "_check_variant",
            "fp16-weights",
            "golden rows, fp32 graph, fp16-weights graph, cuda-fp16 graph, fp32 check",
        ),
    ],
)
def test_a_stopped_export_gives_the_same_bytes(
    module: Any, function: str, variant: str, finished: str, ask: ExportRequest, tmp_path: Path, monkeypatch: Any
) -> None:
    export_bundle(dataclasses.replace(ask, output=tmp_path / "undisturbed"))
    with monkeypatch.context() as stopped:
        stop_at(stopped, module, function, variant)
        with pytest.raises(KeyboardInterrupt):
            export_bundle(ask)
    assert not ask.output.exists()
    stray = partial_directory(ask.output) / "bundle" / "fp16" / "model.onnx.data"
    stray.parent.mkdir()
    stray.write_bytes(b"half a file")
    lines: list[str] = []
    export_bundle(ask, lines.append)
    assert f"resumed; already finished: {finished}" in lines
    assert "running 45 golden rows through PyTorch" not in lines
    assert "writing fp32 (1 of 3)" not in lines
    assert contents(ask.output) == contents(tmp_path / "undisturbed")
    assert not partial_directory(ask.output).exists()


def test_another_head_is_refused_and_keeps_what_is_finished(
    ask: ExportRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as stopped:
        stop_at(stopped, bundle_writer, "_check_variant", "fp16-weights")
        with pytest.raises(KeyboardInterrupt):
            export_bundle(ask)
    ((_, file),) = ask.heads
    with np.load(file) as arrays:
        np.savez(file, coef=-arrays["coef"], intercept=-arrays["intercept"], classes=arrays["classes"])
    partial = partial_directory(ask.output)
    kept = contents(partial)
    with pytest.raises(ConfigError, match="holds an unfinished export with other inputs \\(heads: '") as caught:
        export_bundle(ask)
    assert "remove the directory to start again" in str(caught.value.fix)
    assert contents(partial) == kept and kept
    shutil.rmtree(partial)
    export_bundle(ask)
    export_bundle(dataclasses.replace(ask, output=tmp_path / "undisturbed"))
    assert contents(ask.output) == contents(tmp_path / "undisturbed")


def test_a_damaged_file_is_made_again(ask: ExportRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as stopped:
        stop_at(stopped, bundle_writer, "_check_variant", "fp16-weights")
        with pytest.raises(KeyboardInterrupt):
            export_bundle(ask)
    damaged = partial_directory(ask.output) / "bundle" / "fp32" / "model.onnx.data"
    with damaged.open("r+b") as file:
        file.seek(4096)
        file.write(b"\x55")
    lines: list[str] = []
    export_bundle(ask, lines.append)
    assert f"{damaged} has changed since it was written; the step is run again: fp32 graph" in lines
    assert f"{damaged} has changed since it was written; the step is run again: fp32 check" in lines
    assert "resumed; already finished: golden rows, fp16-weights graph, cuda-fp16 graph" in lines
    export_bundle(dataclasses.replace(ask, output=tmp_path / "undisturbed"))
    assert contents(ask.output) == contents(tmp_path / "undisturbed")


def test_finished_int8_is_not_calibrated_again(
    ask: ExportRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "GATE_ROWS", 64)
    monkeypatch.setattr(calibration, "CALIBRATION_ROWS", 32)
    ask = dataclasses.replace(ask, variants=("fp32", "int8"), max_dp={"int8": 0.9})
    with monkeypatch.context() as stopped:
        stop_at(stopped, bundle_writer, "_check_variant", "fp32")
        with pytest.raises(KeyboardInterrupt):
            export_bundle(ask)
    lines: list[str] = []
    manifest = export_bundle(ask, lines.append)
    assert not [line for line in lines if "int8" in line and "calibrat" in line]
    again = export_bundle(dataclasses.replace(ask, output=tmp_path / "undisturbed"))
    assert manifest.variants["int8"] == again.variants["int8"]
    assert contents(ask.output) == contents(tmp_path / "undisturbed")


@pytest.mark.slow
def test_killed(ask: ExportRequest, tmp_path: Path) -> None:
    """SIGKILL at the start of the first check; then the same command runs again."""
    command = [sys.executable, "-m", "abonyx", "export", "--encoder", ask.encoder, "--head", str(ask.heads[0][1])]
    command += [
        "-o",
        str(ask.output),
        "--variants",
        "fp32,fp16-weights",
        "--max-dp",
        f"fp16-weights={tolerances.TINY_FP16_P}",
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr
    seen = []
    for line in process.stderr:
        seen.append(line)
        if line.startswith("checking fp32"):
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    process.stderr.close()
    assert seen[-1].startswith("checking fp32"), seen
    assert not ask.output.exists()
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, env=environment, check=True)
    assert "resumed; already finished: golden rows, fp32 graph, fp16-weights graph" in done.stderr
    assert "\r" not in done.stderr  # no bar without a terminal
    assert (ask.output / "manifest.json").is_file()
    assert not partial_directory(ask.output).exists()


def test_an_error_keeps_nothing(ask: ExportRequest) -> None:
    with pytest.raises(ParityError, match="variant fp16-weights"):
        export_bundle(dataclasses.replace(ask, max_dp=WIDE | {"fp16-weights": 1e-9}))
    assert not ask.output.exists()
    assert not partial_directory(ask.output).exists()


@pytest.mark.parametrize("content", ["", "{}", '{"schema_version": 9, "inputs": {}, "steps": {}}', None])
def test_a_directory_that_is_not_an_unfinished_export_is_not_changed(content: str | None, tmp_path: Path) -> None:
    directory = tmp_path / "bundle.partial"
    directory.mkdir()
    file = directory / ("notes.txt" if content is None else "export.json")
    file.write_text(content or "")
    with (
        pytest.raises(ConfigError, match=r"bundle\.partial: .* so it is not an unfinished export"),
        resumable(tmp_path / "bundle", {}, print),
    ):
        pass
    assert file.exists()


def test_one_export_at_a_time(tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    refused = pytest.raises(OutputInUse, match="another export is writing to it")
    with resumable(output, {}, print), refused, resumable(output, {}, print):
        pass


def test_stopped_before_anything_is_finished_it_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), resumable(tmp_path / "a" / "bundle", {}, print):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_a_step_is_forgotten_if_a_file_that_it_depends_on_is_made_again(tmp_path: Path) -> None:
    with resumable(tmp_path / "out", {"encoder": "a"}, lambda line: None) as unfinished:
        file = unfinished.bundle / "model.onnx"
        file.write_bytes(b"one")
        for step in ("int8 graph", "int8 check", "int8 graph"):
            unfinished.finish(step, 1, [file])
        assert unfinished.value("int8 check", int) == 1
        file.write_bytes(b"two")
        unfinished.finish("int8 graph", 2, [file])
        assert unfinished.value("int8 check", int) is None
