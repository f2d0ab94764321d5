"""benchmarks/soak.py in its short form: memory does not grow, nothing stays open, and faults are found."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import soak

from .conftest import EXAMPLES


def test_short_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    record, picture = tmp_path / "record.json", tmp_path / "picture.png"
    options = ["--rows", "240", "--window", "24", "--reloads", "5", "--interval", "0.02"]
    monkeypatch.setattr(sys, "argv", ["soak.py", "-o", str(record), "--picture", str(picture), *options])
    with pytest.raises(SystemExit) as ended:
        soak.main()
    found = json.loads(record.read_text())
    assert found["faults"] == []
    assert not ended.value.code
    assert found["score"]["rows_written"] == 240
    assert len(found["reload"]["resident_bytes"]) == 5
    assert found["reload"]["after"] == found["reload"]["before"]
    assert not found["reload"]["after"]["resource_tracker"]
    assert {sample["rows"] for sample in found["score"]["samples"]} >= {0, 120}
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_figures_over_their_limits_are_reported() -> None:
    held = {"open_files": 5, "threads": 1, "semaphores": 0}
    run = {"memory_ratio": 1.02, "rows": 10, "rows_written": 10, "stderr": ""}
    reloaded = {"before": held, "after": held, "highest_over_second_bytes": 1e6, "stderr": ""}
    assert soak.faults(run, reloaded) == []
    worse = {"after": held | {"threads": 3}, "highest_over_second_bytes": 4e7, "stderr": "resource_tracker: leaked"}
    said = soak.faults(run | {"memory_ratio": 1.06, "rows_written": 9}, reloaded | worse)
    assert [line.split()[0] for line in said] == ["memory", "9", "a", "threads:", "reload"]


def test_memory_is_compared_at_a_tenth_and_at_the_end() -> None:
    samples = [{"rows": row, "resident_bytes": 100.0 + row} for row in range(0, 1001, 10)]
    closed = [{"rows": 1000, "resident_bytes": 1.0}, {"rows": 0, "resident_bytes": 0.0}]
    assert soak._resident(samples + closed, 1000) == (210, 1080)


def test_rows_repeat_the_sequences_with_more_substitutions_each_time(tmp_path: Path) -> None:
    soak.write_input(tmp_path / "in.csv", 30, EXAMPLES)
    sequences = [line.split(",")[1] for line in (tmp_path / "in.csv").read_text().splitlines()[1:]]
    originals = [line.split(",")[1] for line in EXAMPLES.read_text().splitlines()[1:]]
    assert sequences[:12] == originals
    assert len(set(sequences)) == 30
    differ = [sum(a != b for a, b in zip(sequences[row], originals[row % 12], strict=True)) for row in range(30)]
    assert max(differ[12:24]) == 1
    assert max(differ[24:]) == 2
