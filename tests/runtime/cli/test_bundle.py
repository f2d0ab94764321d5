"""doctor, verify and inspect: their output and their exit codes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from abonyx.bundle import open_bundle
from abonyx.cli import doctor
from abonyx.engine import onnx as onnx_module
from abonyx.engine import process, providers
from abonyx.engine.cuda_driver import CudaDevice, CudaDriver
from abonyx.extras import install_command

from ...conftest import MINI
from ..hostile import FOLDER, MODEL, WEIGHTS, edit, graph, model, node, relist


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(MINI, tmp_path / "bundle"))


def test_doctor_tries_each_variant_on_each_provider(run: Any) -> None:
    code, out, _ = run("doctor", "--json")
    report = json.loads(out)
    assert code == report["exit_code"] == 0
    assert report["engine"]["version"] == onnxruntime.__version__
    assert report["engine"]["providers"] == onnxruntime.get_available_providers()
    assert any(device.startswith("CPUExecutionProvider: CPU") for device in report["engine"]["devices"])
    assert report["engine"]["missing_libraries"] == {}
    assert report["machine"]["threads"] == process.usable_processors()
    assert "abonyx-mini" in report["bundle"] and report["bundle_error"] == ""
    trials = {(trial["variant"], trial["provider"]): trial for trial in report["trials"]}
    assert set(trials) == {(FOLDER, provider) for provider in ("cpu", "cuda", "coreml", "openvino")}
    cpu = trials[FOLDER, "cpu"]
    assert cpu["default"] and cpu["error"] == "" and cpu["placement"]["CPUExecutionProvider"] > 100
    for provider, name in (("cuda", "CUDA"), ("coreml", "CoreML"), ("openvino", "OpenVINO")):
        if f"{name}ExecutionProvider" not in onnxruntime.get_available_providers():
            assert trials[FOLDER, provider]["exit_code"] == 5
            assert f"provider {provider} is not available" in trials[FOLDER, provider]["error"]


def test_doctor_as_a_table(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    card = CudaDevice(name="NVIDIA H100", uuid="0" * 32, total_bytes=80 * 10**9, free_bytes=79 * 10**9)
    monkeypatch.setattr(doctor, "read_cuda_driver", lambda: CudaDriver(version="12.4", devices=[card]))
    monkeypatch.setattr(doctor, "processor_quota", lambda: 1.5)
    monkeypatch.setattr(doctor, "memory_bytes", lambda: process.Memory(2 * 10**9, 10**9, "container"))
    code, out, err = run("doctor")
    assert code == 0 and err == ""
    for said in (
        "quota 1.5",
        "2.0 GB (container), available 1.0 GB",
        "NVIDIA H100, 79.0 GB free of 80.0 GB",
        "CUDA up to 12.4",
        "abonyx-mini",
        "yes (",
    ):
        assert said in out


def test_doctor_without_an_engine_or_with_two(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(providers, "_installed", lambda name: name in ("onnxruntime", "onnxruntime-gpu"))
        code, out, _ = run("doctor", "--json")
        report = json.loads(out)
        assert code == 5 and report["trials"] == []
        assert report["engine"]["distributions"] == ["onnxruntime", "onnxruntime-gpu"]
        assert "are both installed" in report["engine"]["error"]
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    code, out, _ = run("doctor")
    assert code == 5 and install_command("cpu") in out


def test_doctor_of_a_bundle_that_cannot_be_used(run: Any, copy: Path, tmp_path: Path) -> None:
    code, out, _ = run("doctor", tmp_path / "nowhere", "--json")
    report = json.loads(out)
    assert code == 4 and "no such bundle directory" in report["bundle_error"] and report["engine"]["version"]
    (copy / "fp16-weights" / WEIGHTS).write_bytes(b"")
    code, out, _ = run("doctor", copy)
    assert code == 4 and "manifest says" in out


@pytest.mark.parametrize(
    "library",
    ["libonnxruntime_providers_cuda.so", "onnxruntime_providers_cuda.dll", "libonnxruntime_providers_openvino.dylib"],
)
def test_doctor_names_libraries_that_are_missing(library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "capi").mkdir()
    for name in (library, "libonnxruntime_providers_tensorrt.so", "onnxruntime_providers_cuda.lib"):
        (tmp_path / "capi" / name).write_bytes(b"no library")
    monkeypatch.setattr(onnxruntime, "__path__", [str(tmp_path)])
    found = onnx_module.describe_engine().missing_libraries
    assert list(found) == [library]
    assert library in found[library]


def test_verify_reads_every_byte_and_runs_every_golden_row(run: Any, copy: Path) -> None:
    code, out, err = run("verify", copy, "--json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert found["files"] == len(open_bundle(copy).manifest.files)
    assert found["golden_rows"] == 44 and found["schema_version"] == 2
    assert found["operators"][FOLDER]["LayerNormalization"] == 13
    assert set(found["differences"]) == set(found["limits"]) == {"p", "logit", "embedding"}
    assert all(0 < found["differences"][metric] < limit for metric, limit in found["limits"].items())
    assert found["provider"] == "cpu" and found["placement"]["CPUExecutionProvider"] > 100
    code, out, _ = run("verify", copy)
    assert code == 0 and "all as the manifest says" in out and "max |difference|" in out


def test_verify_catches_a_bit_that_open_trusts(run: Any, copy: Path) -> None:
    path = copy / "fp16-weights" / WEIGHTS
    assert run("verify", copy)[0] == 0
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[5000] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    code, out, err = run("verify", copy)
    assert code == 4 and out == "" and "sha256" in err and WEIGHTS in err


@pytest.mark.parametrize("arguments", [(), ("--provider", "openvino"), ("--variant", "int8")])
def test_verify_finds_what_is_not_listed_and_what_is_not_there(
    run: Any, copy: Path, arguments: tuple[str, ...]
) -> None:
    (copy / "sitecustomize.py").write_text("")
    code, _, err = run("verify", copy, *arguments)
    if "int8" in arguments:
        assert code == 2 and "no variant 'int8'" in err
    else:
        assert code == 4 and "sitecustomize.py" in err
    (copy / "sitecustomize.py").unlink()
    if "openvino" in arguments and "OpenVINOExecutionProvider" not in onnxruntime.get_available_providers():
        code, _, err = run("verify", copy, *arguments)
        assert code == 5 and "provider openvino is not available" in err


def test_verify_reads_the_graph_of_every_variant(run: Any, copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    other = copy / "fp32"
    shutil.copytree(copy / FOLDER, other)
    (other / "model.onnx").write_bytes(model(graph(node("Loop"))))
    variant = manifest["variants"][FOLDER] | {"model": "fp32/model.onnx"}
    edit(copy, variants=manifest["variants"] | {"fp32": variant})
    relist(copy)
    code, _, err = run("verify", copy)
    assert code == 4 and "'Loop'" in err and "fp32" in err


def test_verify_fails_where_numbers_are_wrong(run: Any, copy: Path) -> None:
    with np.load(copy / "golden.npz") as arrays:
        values = dict(arrays)
    values["value"] = values["value"] + 0.05
    np.savez(copy / "golden.npz", **values)
    relist(copy)
    code, _, err = run("verify", copy)
    assert code == 6 and "max |difference| of logit is 0.05" in err


def test_inspect_reads_the_manifest_alone(run: Any, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = run("inspect")
    assert code == 0
    for said in ("abonyx-mini", "Apache-2.0", "6 layers of 320", "148 residues", "cpu*", "15.2 MB", "abonyx verify"):
        assert said in out
    for path in copy.rglob("*"):
        if path.is_file() and path.name != "manifest.json":
            path.unlink()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    code, out, _ = run("inspect", copy)
    assert code == 0 and "abonyx-mini" in out
    (copy / "manifest.json").unlink()
    assert run("inspect", copy)[0] == 4


def test_inspect_shows_the_card_and_where_it_is(run: Any, copy: Path, bare: Path) -> None:
    assert "whole card" not in run("inspect", bare).out
    (copy / "metrics.json").write_text(
        json.dumps({"schema_version": 1, "card": {"sentence": "No signal: [red]x[/red]."}})
    )
    relist(copy)
    out = run("inspect", copy).out
    assert "No signal: [red]x[/red]." in out and "card.html" in out
    (copy / "metrics.json").write_text("{}")
    code, out, _ = run("inspect", copy)
    assert code == 0 and "cannot be shown" in out and "abonyx-mini" in out
    relist(copy)
    assert "contains no card" in run("inspect", copy).out
    (copy / "metrics.json").unlink()
    (copy / "metrics.json").symlink_to("/dev/zero")
    assert "is not a plain file" in " ".join(run("inspect", copy).out.split())  # a long path wraps the line


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (("doctor",), {"ABONYX_BUNDEL": "x"}, "Did you mean ABONYX_BUNDLE?"),
        (("doctor",), {"ABONYX_CPU_THREADS": "9999"}, "cpu.threads is 9999"),  # of every trial
        (("verify",), {"ABONYX_BUNDEL": "x"}, "Did you mean ABONYX_BUNDLE?"),
        (("verify", "--config", "nowhere.toml"), {}, "nowhere.toml: cannot be read"),
        (("verify", "--provider", "tpu"), {}, "provider is 'tpu'"),
        (("verify",), {"ABONYX_STATIC_ROWS": "1", "ABONYX_STATIC_TOKENS": "3"}, "static_tokens is 3"),
        (("inspect",), {"ABONYX_BUNDEL": "x"}, "Did you mean ABONYX_BUNDLE?"),
        *(((name, "--nope"), {}, "No such option") for name in ("doctor", "verify", "inspect")),
    ],
)
def test_command_line_and_environment_exit_with_2(
    arguments: tuple[str, ...], environment: dict[str, str], said: str, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    code, out, err = run(*arguments)
    assert code == 2 and said in out + err


@pytest.mark.parametrize("command", ["doctor", "verify", "inspect"])
def test_the_environments_bundle_counts(command: str, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABONYX_BUNDLE", "/nowhere")
    code, out, err = run(command)
    assert code == 4 and "/nowhere: no such bundle directory" in out + err
    assert run(command, MINI)[0] == 0


def test_the_home_of_nobody_is_a_path_like_any_other(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run("inspect", "~nobody-of-that-name/bundle")
    assert code == 4 and "~nobody-of-that-name/bundle: no such bundle directory" in err
    monkeypatch.setenv("ABONYX_CACHE_DIR", "~nobody-of-that-name/cache")
    assert run("verify")[0] == 0


def test_inspect_prints_no_markup_of_the_bundles(run: Any, copy: Path) -> None:
    edit(copy, licence="[red]MIT[/red] [link=file:///etc/passwd]x[/link]")
    assert "[red]MIT[/red] [link=file:///etc/passwd]x[/link]" in run("inspect", copy)[1]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("arguments", [["doctor"], ["verify", "--json"], ["inspect"]])
def test_standard_output_that_is_full_is_one_error(arguments: list[str]) -> None:
    """This runs in a separate process, because Python flushes standard output again at exit."""
    command = [sys.executable, "-m", "abonyx", *arguments]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    first = done.stderr.partition("\n")[0]
    assert first == "abonyx: output to standard output: cannot be written: No space left on device"
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 2)


def test_hostile_graph_by_the_command_line(run: Any, copy: Path) -> None:
    (copy / MODEL).write_bytes(model(graph(node("Loop"))))
    relist(copy)
    for command in ("verify", "doctor"):
        assert run(command, copy)[0] == 4


def test_memory_and_processors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text(
        "MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:    400 kB\nHugePages_Total: 0\n"
    )
    monkeypatch.setattr(process, "_MEMINFO", tmp_path / "meminfo")
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(process, "_memory_limits", lambda: limits)
    assert process.memory_bytes() == (1_024_000, 409_600, "machine")
    limits[:] = [(2**63 - 4096, 2**63 - 4096)]
    assert process.memory_bytes() == (1_024_000, 409_600, "machine")
    limits[:] = [(800_000, 700_000), (900_000, 300_000)]
    assert process.memory_bytes() == (800_000, 300_000, "container")
    monkeypatch.setattr(process, "_MEMINFO", tmp_path / "none")
    assert process.memory_bytes() == (800_000, 300_000, "container")
    limits.clear()
    assert process.memory_bytes() == (None, None, "machine")
    assert 1 <= process.usable_processors() <= process.allowed_processors()


@pytest.mark.parametrize("command", ["doctor", "verify", "inspect"])
def test_the_bundle_is_an_argument_or_an_option(run: Any, tmp_path: Path, command: str) -> None:
    (tmp_path / "a").mkdir()
    for arguments in ([tmp_path / "a"], ["--bundle", tmp_path / "a"]):
        done = run(command, *arguments)
        assert done.code == 4 and str(tmp_path / "a") in done.out + done.err  # it has no manifest
    code, _, err = run(command, tmp_path / "a", "--bundle", tmp_path / "b")
    assert code == 2 and f"BUNDLE is {tmp_path / 'a'} and --bundle is {tmp_path / 'b'}" in err
    assert run(command, tmp_path / "a", "--bundle", f"{tmp_path}/./a").code == 4


def test_a_bundle_without_a_name_has_its_directorys(run: Any, copy: Path) -> None:
    edit(copy, name="")
    assert " bundle (" in run("inspect", copy).out
    moved = copy.rename(copy.with_name("moved"))
    (copy.parent / "link").symlink_to(moved)
    assert "moved (" in run("inspect", copy.parent / "link").out


def test_inspect_as_json_is_the_manifest_and_what_the_text_says(run: Any, copy: Path) -> None:
    code, out, err = run("inspect", copy, "--json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert set(found) == {"name", "sha256", "path", "notes", "cards", "variant_bytes", "manifest"}
    manifest = json.loads((copy / "manifest.json").read_text())
    assert found["manifest"]["files"] == manifest["files"] and found["manifest"]["name"] == found["name"]
    assert found["sha256"] == hashlib.sha256((copy / "manifest.json").read_bytes()).hexdigest()
    (card,) = found["cards"]
    assert card["sentence"] in " ".join(run("inspect", copy).out.split()) and (copy / card["file"]).is_file()
    sizes = {name: sum(file.stat().st_size for file in (copy / name).iterdir()) for name in manifest["variants"]}
    assert found["variant_bytes"] == sizes
    (copy / "metrics.json").write_text("{}")
    assert json.loads(run("inspect", copy, "--json").out)["cards"][0]["problem"]
