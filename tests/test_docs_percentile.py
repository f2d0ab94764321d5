"""The commands of docs/percentile.md, with a made-up panel."""

from __future__ import annotations

import csv
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from abonyx.bundle import open_bundle
from abonyx.cli.commands import cli

from .conftest import EXAMPLES

PAGE = Path(__file__).parents[1] / "docs" / "percentile.md"


def test_every_command_of_the_page(tmp_path: Path, bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    header, *lines = EXAMPLES.read_text(encoding="utf-8").splitlines()
    changed = [f"{name}2,{sequence[:9]}T{sequence[10:]}" for name, sequence in (line.split(",")[:2] for line in lines)]
    (tmp_path / "known.csv").write_text("\n".join([header, *lines, *changed]) + "\n", encoding="utf-8")
    (tmp_path / "candidates.csv").write_text("\n".join([header, *lines[:3]]) + "\n", encoding="utf-8")
    (block,) = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    commands = [shlex.split(line)[1:] for line in block.splitlines()]
    assert [command[0] for command in commands] == ["reference", "score", "score"]
    for command in commands:
        words = [str(bare) if word == "BUNDLE" else word for word in command]
        result = CliRunner().invoke(cli, words, catch_exceptions=False)
        assert result.exit_code == 0, (command, result.output)
    (panel,) = open_bundle(tmp_path / "NEW_BUNDLE").manifest.panels
    assert (panel.name, panel.rows, panel.source) == ("clinical", 2 * len(lines), "our 60 clinical antibodies")
    with (tmp_path / "scores.csv").open(newline="") as file:
        assert all(row["percentile"].endswith("(in panel)") for row in csv.DictReader(file))
