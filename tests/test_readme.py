"""Run every command of the README, word for word, in a directory that looks like a clone."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from .conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
SERVE = "abonyx serve"
HUB_ID = "facebook/esm1v_t33_650M_UR90S_1"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.M | re.S)


COMMANDS = [line for block in blocks("sh") for line in block.splitlines()]


def clone(directory: Path) -> Path:
    """Make what the commands need: a clone's examples, configs and artifacts."""
    for name in ("examples", "configs"):
        shutil.copytree(REPOSITORY / name, directory / name)
    (directory / "artifacts").mkdir()
    return directory


def shell(line: str, directory: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path} | variables
    return subprocess.run(
        ["sh", "-ec", line], cwd=directory, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_is_short_and_its_links_lead_somewhere() -> None:
    assert len(README.splitlines()) < 150
    for path in re.findall(r"`((?:benchmarks|configs|docs|examples|artifacts)/[\w./-]*)`", README):
        assert (REPOSITORY / path).exists() or path == "artifacts/esm1v", path
    assert "RECORD_" not in README
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (REPOSITORY / target).exists(), target
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for listed in re.findall(r'"\.\[([a-z,]+)\]"', README):
        assert set(listed.split(",")) <= set(extras)


@pytest.mark.parametrize("line", [line for line in COMMANDS if not re.match(f"make|{SERVE}|.*esm1v", line)])
def test_commands(line: str, mini: Path, tmp_path: Path) -> None:
    if "parquet" in line:
        pytest.importorskip("pyarrow")
    if "--ray" in line:
        pytest.importorskip("ray")
    for module in {"evaluate": ("sklearn", "matplotlib"), "fit": ("onnx",)}.get(line.split()[1], ()):
        pytest.importorskip(module)
    directory, variables = clone(tmp_path), {}
    if line.startswith("abonyx fit"):
        variables = {"ABONYX_BUNDLE": str(mini)}  # without --bundle, `fit` links to the shipped one
    if line.startswith("abonyx explain"):  # a picture a sequence: three will do
        examples = directory / "examples" / "therapeutic_vh.csv"
        examples.write_text("".join(examples.read_text(encoding="utf-8").splitlines(keepends=True)[:4]))
    done = shell(line, directory, **variables)
    assert done.returncode == 0, done.stderr
    for output in re.findall(r"-o ([\w.]+)", line):
        assert (tmp_path / output).stat().st_size > 100


def test_the_first_command_prints_the_rows_that_the_page_shows(tmp_path: Path) -> None:
    (shown,) = (block for block in blocks("text") if "bevacizumab" in block)
    done = shell(COMMANDS[0], clone(tmp_path), COLUMNS="200")
    assert done.returncode == 0, done.stderr
    printed = {cells(line) for line in (done.stdout + done.stderr).splitlines()}
    assert {cells(line) for line in shown.splitlines()} <= printed


def cells(line: str) -> tuple[str, ...]:
    """The texts of a table's row, without spaces and borders."""
    return tuple(cell.strip() for cell in re.split("[│┃]", line))


def test_serve_answers_at_the_address_and_ends_by_a_signal(tmp_path: Path) -> None:
    pytest.importorskip("uvicorn")
    (line,) = (line for line in COMMANDS if line.startswith(SERVE))
    (address,) = re.findall(r"http://[\d.]+:(\d+)", line)
    with socket.socket() as other:
        if other.connect_ex(("127.0.0.1", int(address))) == 0:
            pytest.skip(f"port {address} is taken on this machine")
    command = [str(Path(sys.executable).parent / "abonyx"), *line.partition("#")[0].split()[1:]]
    with subprocess.Popen(command, cwd=clone(tmp_path), stderr=subprocess.PIPE, text=True) as service:
        try:
            body = b""
            while service.poll() is None and not body:
                with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{address}/") as answer:
                    body = answer.read()
                time.sleep(0.05)
            service.send_signal(signal.SIGTERM)
            _, error = service.communicate(timeout=60)
        finally:
            service.kill()
    assert (service.returncode, b"<html" in body) == (0, True), error


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("make")])
def test_make_targets_exist(line: str) -> None:
    """CI runs `make demo` and `make test`. This test only checks that the targets exist."""
    done = shell(f"{line.partition('#')[0]} --dry-run", REPOSITORY)
    assert done.returncode == 0, done.stderr
    if line == "make demo":
        assert "abonyx score examples/therapeutic_vh.csv -o out/therapeutic_vh_scores.csv" in done.stdout


def test_python_example(tmp_path: Path) -> None:
    (example,) = blocks("python")
    done = subprocess.run([sys.executable, "-W", "error", "-c", example], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "()\n", "a whole heavy-chain domain has no flag"


def test_export_commands_on_a_hub_cache_with_a_small_checkpoint(tmp_path: Path) -> None:
    """Run the README's lines with a hub cache that has a tiny checkpoint under ESM-1v's name."""
    pytest.importorskip("torch", reason="the export extra is not installed")
    from make_checkpoint import Shape, make_checkpoint

    directory = clone(tmp_path / "clone")
    commit = hashlib.sha1(b"a commit").hexdigest()
    cached = tmp_path / "hub" / f"models--{HUB_ID.replace('/', '--')}"
    make_checkpoint(Shape(2, 32, 2), cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    coef = 12 * np.random.default_rng(0).standard_normal((1, 32))
    arrays = {"intercept": np.zeros(1), "classes": np.array([0.0, 1.0])}
    np.savez(directory / "boughter_vh_esm1v_logreg.npz", coef=coef, **arrays)
    config = {"esm_model": HUB_ID, "esm_revision": "main", "batch_size": 8}
    (directory / "boughter_vh_esm1v_logreg_config.json").write_text(json.dumps(config))

    export, score = [line for line in COMMANDS if "esm1v" in line]
    # The random head is centred; the rest is the README's line.
    done = shell(f"{export} --recentre-head", directory, HF_HUB_CACHE=str(tmp_path / "hub"))
    assert done.returncode == 0, done.stderr
    manifest = json.loads((directory / "artifacts" / "esm1v" / "manifest.json").read_text())
    assert (manifest["encoder"]["repo_id"], manifest["encoder"]["revision"]) == (HUB_ID, commit)
    assert manifest["heads"][0]["thresholds"] == {"elisa": 0.5, "psr": 0.5495}
    done = shell(score, directory)
    assert done.returncode == 0, done.stderr
    assert "threshold 0.5 (elisa)" in done.stderr
    assert "the head was trained with pooling upstream-batch (batch 8)" in done.stderr
