"""The commands and the Python of docs/pairs.md, on made-up pairs."""

from __future__ import annotations

import csv
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sklearn", reason="the fit extra is not installed")
pytest.importorskip("onnx", reason="the fit extra is not installed")
pytest.importorskip("matplotlib", reason="the evaluate extra is not installed")

from click.testing import CliRunner

import abonyx
from abonyx.cli import cli

from .export.fit.test_pairs import CLASSES, write
from .test_docs_heads import quick

PAGE = Path(__file__).parents[1] / "docs" / "pairs.md"


def test_every_command_of_the_page(mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABONYX_BUNDLE", str(mini))  # the bundle without --bundle, which `fit` links to
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ABONYX_CACHE_DIR", str(tmp_path / "cache"))
    write(tmp_path / "pairs.csv", CLASSES)
    (block,) = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    lines = block.splitlines()
    assert len(lines) == 4 and all(line.startswith("abonyx ") for line in lines)
    outputs = []
    for line in lines:
        result = CliRunner().invoke(cli, quick(shlex.split(line)[1:]), catch_exceptions=False)
        assert result.exit_code == 0, (line, result.output)
        outputs.append(result.output)
    headers = {}
    for name in ("scores", "heavy"):
        with (tmp_path / f"{name}.csv").open(newline="") as file:
            headers[name] = next(csv.reader(file))
    assert headers["scores"] == [
        *("id", "heavy", "light", "p_nonspecific", "nonspecific", "call", "percentile", "flag"),
        *("both_p", "both_nonspecific", "both_call", "both_percentile"),
    ]
    assert headers["heavy"][:2] == ["id", "sequence"]
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["p"].shape == names["first"].shape == (1,)
    abonyx.close_session()
