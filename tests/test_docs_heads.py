"""The commands of docs/heads.md, on a made-up assay."""

from __future__ import annotations

import csv
import re
import shlex
from pathlib import Path

import pytest

pytest.importorskip("sklearn", reason="the fit extra is not installed")
pytest.importorskip("onnx", reason="the fit extra is not installed")

from click.testing import CliRunner

from abonyx.cli import cli

from .export.fit.test_values import made_rows, write

PAGE = Path(__file__).parents[1] / "docs" / "heads.md"


def test_every_command_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(made_rows(), tmp_path / "hic.csv")
    lines = [
        line for block in re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL) for line in block.splitlines()
    ]
    assert len(lines) == 4 and all(line.startswith("abonyx ") for line in lines)
    for line in lines:
        result = CliRunner().invoke(cli, [*shlex.split(line)[1:]], catch_exceptions=False)
        assert result.exit_code == 0, (line, result.output)
    with (tmp_path / "scores.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert list(found[0]) == [
        "id",
        "sequence",
        "p_nonspecific",
        "nonspecific",
        "call",
        "percentile",
        "flag",
        "hic_value",
        "hic_percentile",
    ]
    assert len({row["hic_value"] for row in found}) > 30
