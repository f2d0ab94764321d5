"""The commands and the example of docs/scan.md."""

from __future__ import annotations

import csv
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from abonyx.cli.commands import cli

from .conftest import EXAMPLES

pytest.importorskip("matplotlib", reason="the explain extra is not installed")

PAGE = (Path(__file__).parents[1] / "docs" / "scan.md").read_text(encoding="utf-8")
# Options for fewer mutants per position than in the page's commands.
QUICK = ["--exclude", "A,F,G,H,I,L,M,N,P,Q,S,T,V,W"]


def test_every_command_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "candidates.csv").write_text(EXAMPLES.read_text(encoding="utf-8"), encoding="utf-8")
    (block,) = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    commands = [shlex.split(line)[1:] for line in block.splitlines()]
    assert [command[0] for command in commands] == ["scan"] * 3
    for command in commands:
        result = CliRunner().invoke(cli, [*command, *QUICK], catch_exceptions=False)
        assert result.exit_code == 0, (command, result.output)
    assert (tmp_path / "scan" / "trastuzumab.scan.svg").is_file()
    assert {path.name for path in (tmp_path / "ranked").iterdir()} == {"scan.csv", "parents.csv", "scan.json"}
    with (tmp_path / "ranked" / "scan.csv").open(newline="") as file:
        columns = next(csv.reader(file))
    named = set(re.findall(r"`(\w+)`", PAGE)) | {"nonspecificity_change", "nonspecificity_without_charge"}
    assert set(columns) - named == {"nonspecificity_rank"}


def test_the_example(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    command = [sys.executable, "-W", "error", "-c", example]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == re.findall(r"# prints: (.*)$", example, flags=re.M)
