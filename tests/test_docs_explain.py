"""The commands of docs/explain.md."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from abonyx.cli.commands import cli

from .conftest import EXAMPLES

PAGE = Path(__file__).parents[1] / "docs" / "explain.md"


def test_every_command_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="the extra explain is not installed")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").mkdir()
    three = "\n".join(EXAMPLES.read_text(encoding="utf-8").splitlines()[:3])
    (tmp_path / "examples" / EXAMPLES.name).write_text(three + "\n", encoding="utf-8")
    (block,) = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    for line in block.splitlines():
        result = CliRunner().invoke(cli, shlex.split(line)[1:], catch_exceptions=False)
        assert result.exit_code == 0, (line, result.output)
    page = PAGE.read_text(encoding="utf-8")
    written = {path.name for path in (tmp_path / "explained").iterdir()}
    assert written == {name.rstrip("/") for name in re.findall(r"^\| `([a-z./]+)` \|", page, re.MULTILINE)}
    assert {path.name for path in (tmp_path / "tables").iterdir()} == written - {"pictures"}
