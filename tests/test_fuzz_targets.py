"""The fuzz targets in a short form: every seed, and seeds with a few changed bytes. tests/fuzz/run.py is longer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("onnx", reason="the export extra is not installed")

from .conftest import MINI
from .fuzz import targets

CORPUS = Path(__file__).parent / "fuzz" / "corpus"
SEEDS = [path for path in sorted(CORPUS.rglob("*")) if path.is_file()]


@pytest.mark.parametrize("seed", SEEDS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_seeds(seed: Path) -> None:
    targets.TARGETS[seed.parent.name](seed.read_bytes())


def test_every_target_has_seeds() -> None:
    assert {seed.parent.name for seed in SEEDS} == targets.TARGETS.keys()


@pytest.mark.parametrize("name", targets.TARGETS)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_seeds_with_bytes_changed(name: str, data: st.DataObject) -> None:
    seeds = [seed for seed in SEEDS if seed.parent.name == name]
    whole = data.draw(st.sampled_from(seeds)).read_bytes()
    at = data.draw(st.integers(0, len(whole)))
    changed = whole[:at] + data.draw(st.binary(max_size=6)) + whole[at + data.draw(st.integers(0, 6)) :]
    targets.TARGETS[name](changed)


@pytest.mark.slow
@pytest.mark.parametrize("name", targets.TARGETS)
def test_a_million_executions(name: str, tmp_path: Path) -> None:
    """Takes minutes for each target, and needs tests/fuzz/requirements.txt."""
    pytest.importorskip("atheris")
    command = [sys.executable, CORPUS.parent / "run.py", name, "--runs", "1000000", "--work", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "number_of_executed_units: 1000000" in done.stderr


def test_a_target_detects_missing_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each target fails if the reader's own check is removed."""
    with monkeypatch.context() as patch, pytest.raises(AssertionError, match="weights in"):
        patch.setattr(targets.graph_file._Reader, "_place", lambda *_: ("../secret", 0, 4))
        targets.graph((CORPUS / "graph" / "whole").read_bytes())
    monkeypatch.setattr(targets.alphabet, "letter_problem", lambda *_: None)
    with pytest.raises(AssertionError, match="accepted"):
        targets.fasta(b"a\nEV-QB\n")
    manifest = json.loads((MINI / "manifest.json").read_text()) | {"notice": "\x1b[2J"}
    monkeypatch.setattr("abonyx.bundle.manifest._check_text", lambda *_: None)
    with pytest.raises(AssertionError, match="label"):
        targets.manifest(json.dumps(manifest).encode())


def test_the_pickle_target_detects_code_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    import pickle

    monkeypatch.setattr(targets.unpickle, "parse_pickle", lambda data, _: pickle.loads(data))
    with pytest.raises(SystemError, match="audit event"):
        targets.pickle(b"cposix\nsystem\n(Vtrue\ntR.")
