"""The commands of docs/calibrate.md, on made-up controls."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the fit extra is not installed")
pytest.importorskip("onnx", reason="the fit extra is not installed")

from click.testing import CliRunner

import abonyx
from abonyx_export.cli import calibrate

from .export.fit.test_values import made_rows, write
from .runtime.several import make_several

PAGE = Path(__file__).parents[1] / "docs" / "calibrate.md"


def test_every_command_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the commands through the package's entry point."""
    monkeypatch.chdir(tmp_path)
    make_several(tmp_path / "bundle", ("nonspecificity", "hic"))
    rows = made_rows(30)
    with abonyx.open_session("bundle") as session:
        found = session.score([sequence for _, sequence, _ in rows], heads="all")
    labels = {
        "": (found["nonspecificity"] > np.median(found["nonspecificity"])).astype(int),
        "hic": found["hic"] * 2 + 1,
    }
    (block,) = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    lines = block.splitlines()
    assert len(lines) == 2 and all(line.startswith("abonyx calibrate bundle controls.csv -o ") for line in lines)
    for line, values in zip(lines, labels.values(), strict=True):
        controls = [(name, sequence, str(value)) for (name, sequence, _), value in zip(rows, values, strict=True)]
        write(controls, tmp_path / "controls.csv")
        result = CliRunner().invoke(calibrate, shlex.split(line)[2:], catch_exceptions=False)
        assert result.exit_code == 0, (line, result.output)
    assert (tmp_path / "calibrated" / "manifest.json").is_file()
    assert (tmp_path / "calibrated-hic" / "manifest.json").is_file()
