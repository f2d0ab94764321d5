"""benchmarks/: the checks of cpu.py work, every engine exists, and short forms of the scripts run."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from .conftest import EXAMPLES, MINI, REPOSITORY

PEERS = REPOSITORY / "benchmarks" / "peers"


def test_every_engine_has_its_worker_and_environment() -> None:
    import cpu

    for engine in cpu.ENGINES.values():
        assert (PEERS / f"{engine.module}.py").is_file()
        assert (PEERS / f"requirements-{engine.environment}.txt").is_file()


def test_a_flipped_label_fails_int8_and_nothing_fails_itself() -> None:
    pytest.importorskip("scipy", reason="benchmarks/ needs the export extra")
    import cpu

    p = np.linspace(0.1, 0.9, 400)
    same = cpu.compare(p, p, [0.5])
    assert all(cpu.faults(same, precision, {}) == [] for precision in ("fp32", "bf16", "int8"))
    moved = cpu.compare(p + 0.01 * (np.abs(p - 0.5) < 0.006), p, [0.5])
    assert moved["max_dp"] == pytest.approx(0.01)
    assert [text.split()[0] for text in cpu.faults(moved, "int8", {})] == ["flips"]
    assert cpu.faults(moved, "int8", {"int8": 0.02}) == []
    assert cpu.faults(moved | {"max_dp": float("nan")}, "fp32", {})


def test_ratios_say_how_many_times_faster() -> None:
    import cpu

    times_faster = cpu.ratios({"old": 6.0, "abonyx-int8": 2.0})
    assert times_faster == {"abonyx-int8": {"old": 3.0}}
    assert cpu.targets(["abonyx-int8/old=4"], times_faster)["abonyx-int8/old"]["of_target"] == 0.75


def test_the_rates_of_a_product_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnx", reason="benchmarks/ needs the export extra")
    import peaks

    found = peaks.measure_peaks(size=64, seconds=0.0)
    assert found["fp32_gflops"]["onnxruntime"] > 0 and found["fp32_gflops"]["numpy"] > 0
    assert found["int8_gops"]["onnxruntime"] > 0 and found["size"] == 64 and len(found["processors"]) == 3
    assert "float32" in peaks.peaks_line(found) and "64 x 64" in peaks.peaks_line(found)
    # The fastest of the counted runs (2 s, 1 s, 4 s); the first run is not counted.
    clock = iter([0.0, 0.0, 2.0, 2.0, 3.0, 3.0, 7.0])
    monkeypatch.setattr(peaks.time, "perf_counter", lambda: next(clock))
    used = iter([0.0, 14.0])
    monkeypatch.setattr(peaks.time, "process_time", lambda: next(used))
    monkeypatch.setattr(peaks, "REPEATS", 3)
    assert peaks.achieved(lambda: None, 10.0, seconds=100.0) == (10.0, 2.0)


def test_a_machine_is_named_with_its_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    import commands
    from abonyx.engine.processor import Processor

    zen = Processor(name="AMD EPYC", generation="Zen 4", family=25, model=17, instruction_sets=["avx512_vnni"])
    monkeypatch.setattr(commands, "this_processor", lambda: zen)
    found = commands.machine()
    assert found["cpu"] == "AMD EPYC" and found["processor"]["generation"] == "Zen 4"
    assert found["processor"]["instruction_sets"] == ["avx512_vnni"]


def test_heads_are_measured_with_their_parity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnx", reason="benchmarks/ needs the export extra")
    import heads

    record, repeats = tmp_path / "heads.json", ["--rows", "2", "--repeats", "1"]
    monkeypatch.setattr(heads, "COUNTS", (1, 3))
    monkeypatch.setattr(sys, "argv", ["heads.py", str(EXAMPLES), "-o", str(record), *repeats])
    heads.main()
    found = json.loads(record.read_text())
    assert found["sequences"] == 2 and found["max_difference_between_bundles"] == 0
    assert len(found["heads"]["3"]["parity"]["heads"]) == 3 and found["heads"]["1"]["ratio_to_one"] == 1


def test_a_scan_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import scan

    monkeypatch.setattr(scan, "SEQUENCE", EXAMPLES.read_text(encoding="utf-8").splitlines()[1].split(",")[1])
    monkeypatch.setattr(scan, "POSITIONS", "28")
    command = ["scan.py", "-o", str(tmp_path / "scan.json"), "--weights", "trained", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", command)
    scan.main()
    found = json.loads((tmp_path / "scan.json").read_text())
    assert (found["mutants"], found["variant"], len(found["runs"])) == (19, "fp16-weights", 1)


def test_opening_is_measured_in_every_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import opening

    if not hasattr(os, "posix_fadvise"):
        pytest.skip("this system cannot drop a file's pages")
    record = tmp_path / "opening.json"
    command = ["opening.py", str(MINI), "--variant", "fp16-weights", "-o", str(record), "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", command)
    opening.main()
    cases = json.loads(record.read_text())["cases"]
    assert sorted(cases) == sorted(opening.CASES)
    assert all(case["first_score_s"] > case["runs"][0]["open_s"] > 0 for case in cases.values())


def test_a_variant_that_is_refused_is_recorded_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch", reason="benchmarks/ needs the export extra")
    import trained
    from abonyx.bundle import open_bundle
    from abonyx.errors import ParityError
    from abonyx_export.request import ExportRequest

    manifest = open_bundle(MINI).manifest

    def export(request: ExportRequest, report: object) -> object:
        (name,) = request.variants
        if name == "int8":
            raise ParityError("int8 against fp32 on 1024 sequences: max |dp| 0.0800, limit 0.02", "Leave it out.")
        variant = next(iter(manifest.variants.values()))
        return type("Manifest", (), {"variants": {name: variant}})

    monkeypatch.setattr(trained, "export_bundle", export)
    found = trained.export_variants(tmp_path, tmp_path / "head.npz", tmp_path)
    assert [name for name, facts in found.items() if "refused" in facts] == ["int8"]
    p = np.linspace(0.1, 0.9, 40)
    same = trained.compare(p[:, None], p + 1e-3, (p[:, None], p))
    assert same["max_dp"] == pytest.approx(1e-3)
    row = same | {"sequences_per_s": 12.0}
    record = {"encoders": {"esm2": {"optimum": same, "providers": {"cpu": {"fp32": row}}, "variants": found}}}
    lines = list(trained.table(record))
    assert "esm2         cpu       fp32            1.0e-03   1.0e-03     0     12.0" in lines
    assert lines[-1].endswith("refused: int8 against fp32 on 1024 sequences: max |dp| 0.0800, limit 0.02")
