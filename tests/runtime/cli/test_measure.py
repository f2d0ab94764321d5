"""`abonyx doctor --measure`: its measurements, its cache, what it leaves out, and its suggestions."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from abonyx.bundle import open_bundle
from abonyx.cli import measure, recorded, timing
from abonyx.cli.measure import Measured, fastest
from abonyx.cli.timing import Timing
from abonyx.config import CpuOptions, RuntimeConfig
from abonyx.engine import providers
from abonyx.engine.cuda_driver import CudaDevice, CudaDriver
from abonyx.errors import BundleError, ConfigError, SelfTestError

from ...conftest import MINI, REPOSITORY

RECORDS = REPOSITORY / "benchmarks" / "records"


def figure(found: Any, keys: str) -> Any:
    for key in keys.split("/"):
        found = found[key]
    return found


def test_the_table_is_the_records() -> None:
    rows = recorded.recorded_speeds()
    assert {row.provider for row in rows} == {"cpu", "openvino", "cuda"}
    for row in rows:
        record = json.loads((RECORDS / row.record).read_text())
        assert row.sequences_per_s == float(f"{figure(record, row.place):.3g}"), row
        machine = record["machine"]
        on = (machine["gpu"], 0) if row.provider == "cuda" else (machine["cpu"], machine["threads"])
        assert (row.processor, row.threads) == on
        assert row.variant in row.place
        if "encoders" in record:
            encoder = record["encoders"][row.place.split("/")[1]]["encoder"]
            assert (row.layers, row.hidden) == (encoder["layers"], encoder["hidden"])
            assert row.place.split("/")[3:5] == [row.provider, row.variant]
        else:
            assert (row.layers, row.hidden) == (record["layers"], 1280)
            assert (row.provider in row.place) == (row.provider != "cpu")


def test_suggestions_are_of_the_nearest_encoder_and_of_engines_that_fit() -> None:
    variants = {"int8": ["cpu", "openvino"], "fp32": ["cpu", "cuda", "openvino"]}
    large = recorded.suggestions(["cpu"], ["openvino"], variants, (33, 1280))
    assert {(row.provider, row.variant, row.record) for row in large} == {
        ("cpu", "fp32", "cpu_33_layers.json"),
        ("cpu", "int8", "cpu_33_layers.json"),
        ("openvino", "int8", "cpu_33_layers.json"),
    }
    small = recorded.suggestions(["cpu"], ["cuda"], variants, (6, 320))
    assert {(row.provider, row.layers) for row in small} == {("cpu", 6), ("cuda", 6)}
    assert recorded.suggestions(["cpu"], [], variants, (6, 320)) == []


def test_it_times_the_mini_bundle_and_remembers_it(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABONYX_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(measure, "_shared", lambda *_: None)  # whoever else runs here
    code, out, _ = run("doctor", "--measure", "--json")
    found = json.loads(out)
    assert code == 0 and found["trials"] == []
    (one,) = found["speeds"]["measured"]
    assert (one["variant"], one["provider"], one["default"], one["remembered"]) == ("fp16-weights", "cpu", True, False)
    assert one["sequences_per_s"] > 0 and one["open_s"] > 0 and one["why_not"] == ""
    assert found["speeds"]["config"] == ['provider = "cpu"', 'variant = "fp16-weights"']
    assert not (tmp_path / "cache" / "self_tests.json").exists()  # two golden rows are less than a self-test
    monkeypatch.setattr(measure, "time_in_child", lambda *_: pytest.fail("timed again"))
    code, out, _ = run("doctor", "--measure")
    assert code == 0 and "remembered, 20" in out and 'variant = "fp16-weights"' in out
    monkeypatch.setenv("ABONYX_CPU_THREADS", "1")  # another speed
    monkeypatch.setattr(measure, "time_in_child", lambda *_: Timing(7.0, 0.5, 1.0))
    assert "│ 7 " in run("doctor", "--measure")[1]
    monkeypatch.delenv("ABONYX_CPU_THREADS")
    assert "│ 7 " not in run("doctor", "--measure")[1]
    assert "│ 7 " in run("doctor", "--measure", "--again")[1]


def test_a_rate_of_a_busy_machine_is_said_and_measured_again_if_there_is_time(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ABONYX_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(measure, "usable_processors", lambda: 4)
    monkeypatch.setattr(measure, "time_in_child", lambda *_: Timing(7.0, 0.5, 2.9))
    out = run("doctor", "--measure")[1]
    assert "(got 2.9 of 4 processors)" in " ".join(out.replace("│", " ").split())
    assert "Measure again when they are not" in out
    with monkeypatch.context() as patch:
        patch.setattr(measure, "LIMIT_S", 0.0)
        again = run("doctor", "--measure")[1]
        words = " ".join(again.replace("│", " ").split())
        assert " 7 (remembered, " in words and "(got 2.9 of 4 processors)" in words
    monkeypatch.setattr(measure, "time_in_child", lambda *_: Timing(8.0, 0.5, 3.0))
    assert "│ 8 " in run("doctor", "--measure")[1]
    assert "remembered" in run("doctor", "--measure")[1]


def test_what_there_was_no_time_for_is_named(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABONYX_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(measure, "LIMIT_S", 0.0)
    code, out, _ = run("doctor", "--measure")
    assert code == 0 and "not measured: the limit of 0 s was reached" in out and "In a config file" not in out


def test_a_child_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    started = time.monotonic()
    assert timing.time_in_child(RuntimeConfig(), 0.05) is None
    assert time.monotonic() - started < 5
    monkeypatch.setattr(timing, "_CHILD", "import os; os.kill(os.getpid(), 8)")
    with pytest.raises(BundleError, match="ended with exit code -8"):
        timing.time_in_child(RuntimeConfig(), 60)


def test_what_the_child_raises_is_raised_here(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such bundle directory"):
        timing.time_in_child(RuntimeConfig(bundle=str(tmp_path / "nowhere")), 60)
    with pytest.raises(ConfigError, match=r"cpu\.threads is 9999"):
        timing.time_in_child(RuntimeConfig(cpu=CpuOptions(threads=9999)), 60)


def test_a_variant_that_computes_wrongly_has_no_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    from abonyx.bundle import selftest

    def refused(*_: Any) -> None:
        raise SelfTestError("wrong", "")

    monkeypatch.setattr(selftest, "check_quick", refused)
    with pytest.raises(SelfTestError):
        timing.time_variant(RuntimeConfig(), 0.0)


def test_every_error_has_the_reason_in_its_row(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABONYX_CACHE_DIR", str(tmp_path / "cache"))

    def refused(*_: Any) -> None:
        raise BundleError("the weights are gone", "")

    monkeypatch.setattr(measure, "time_in_child", refused)
    code, out, _ = run("doctor", "--measure")
    assert code == 4 and "the weights are gone" in out
    assert run("doctor", "--again")[0] == 2


def measured(variant: str, rate: float | None, max_dp: float) -> Measured:
    return Measured(variant=variant, provider="cpu", default=False, max_dp=max_dp, sequences_per_s=rate)


def test_of_even_variants_the_more_exact_one_is_chosen() -> None:
    fp32, int8 = measured("fp32", 9.6, 1e-6), measured("int8", 10.0, 1e-2)
    assert fastest([int8, fp32]) == fp32
    slower = measured("fp32", 9.4, 1e-6)
    assert fastest([slower, int8]) == int8
    assert fastest([measured("fp32", None, 1e-6)]) is None


def test_engines_that_could_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    card = CudaDriver(version="13.0", devices=[CudaDevice(name="H100", uuid="0", total_bytes=1, free_bytes=1)])
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert measure._possible(["cpu"], CudaDriver(version="", devices=[])) == []
    assert measure._possible(["cpu"], card) == ["cuda"]
    monkeypatch.setattr("platform.machine", lambda: "AMD64")
    assert measure._possible(["cpu", "openvino"], card) == ["cuda"]
    assert measure._possible(["cpu"], CudaDriver(version="", devices=[])) == ["openvino"]


def test_openvino_beside_provider_cpu_is_said_by_doctor_and_never_by_score(
    run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import onnxruntime

    names = ["OpenVINOExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    monkeypatch.setattr(measure, "time_in_child", lambda *_: Timing(7.0, 0.5, 99.0))
    monkeypatch.setenv("ABONYX_CACHE_DIR", str(tmp_path / "cache"))
    assert "--provider openvino is usually faster" in run("doctor", "--measure")[1]
    monkeypatch.setenv("ABONYX_PROVIDER", "openvino")
    assert "is usually faster" not in run("doctor", "--measure")[1]
    monkeypatch.delenv("ABONYX_PROVIDER")
    (tmp_path / "a.fasta").write_text(">a\n" + "QVQLVQSGAEVKKPGASVKVSCKAS" * 4 + "\n")
    options = ("score", tmp_path / "a.fasta", "-o", tmp_path / "a.csv", "--domain", "off")
    assert "OpenVINO" not in run(*options)[2]
    assert "is usually faster" in run(*options, "--restart", "-v")[2]
    assert providers.openvino_note("cpu", ["CPUExecutionProvider"]) == ""


def test_the_batch_fills_the_budget_with_different_sequences() -> None:
    from abonyx.model import open_model

    with open_model(RuntimeConfig(bundle=str(MINI), token_budget=1000)) as model:
        rows = timing._full_batch(model)
    assert len(rows) == len(set(rows)) == 1000 // 122
    assert {len(row) for row in rows} == {timing.RESIDUES}
    assert open_bundle(MINI).manifest.max_residues >= timing.RESIDUES
