"""The commands of docs/heads.md, on a made-up assay."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shlex
from pathlib import Path

import pytest

pytest.importorskip("sklearn", reason="the fit extra is not installed")
pytest.importorskip("onnx", reason="the fit extra is not installed")

from click.testing import CliRunner

from abonyx.cli import cli

from .conftest import EXAMPLES, SHARED_DATA
from .export.fit.test_values import made_rows, write

PAGE = Path(__file__).parents[1] / "docs" / "heads.md"


def quick(command: list[str]) -> list[str]:
    """A command of the page with a short cross-validation, and with so few draws that the card gives no verdict."""
    if command[0] == "evaluate":
        return [*command, "--bootstrap", "20"]
    if command[0] != "fit":
        return command
    strengths = [] if "regression" in command else ["--C", "0.1"]
    return [*command, "--cv", "3", "--cv-seeds", "1", *strengths]


def write_assays(folder: Path) -> None:
    """Write assays.csv and candidates.csv of the page's first part: complete domains with made-up values."""
    with EXAMPLES.open(newline="") as file:
        examples = [(row["id"], row["sequence"]) for row in csv.DictReader(file)]
    changed = [
        (f"{name}{at}", sequence[:at] + "ST"[at % 2] + sequence[at + 1 :])
        for at in (6, 9, 14)
        for name, sequence in examples
    ]
    with (folder / "assays.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "sequence", "psr", "hic"])
        table.writerows((*row, at * 7 % 10 / 10, 9 + at * 3 % 11 / 5) for at, row in enumerate(changed))
    (folder / "candidates.csv").write_text(EXAMPLES.read_text(encoding="utf-8"), encoding="utf-8")


def test_every_command_of_the_page(mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABONYX_BUNDLE", str(mini))  # the bundle without --bundle, which `fit` links to
    monkeypatch.chdir(tmp_path)
    write(made_rows(), tmp_path / "hic.csv")
    write_assays(tmp_path)
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.splitlines() if line.strip()]
    assert len(lines) == 10 and all(line.startswith("abonyx ") for line in lines)
    for line in lines:
        command = quick(shlex.split(line)[1:])
        result = CliRunner().invoke(cli, command, catch_exceptions=False)
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
    record = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    assert record["values"]["unit"] == "min" and record["metrics"]["mae"]["value"] > 0


def test_the_hashes_of_the_published_head_are_those_of_its_files() -> None:
    folder = SHARED_DATA / "heads" / "esm1v_logreg"
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside this clone")
    listed = re.findall(r"^([0-9a-f]{64})  (boughter_\S+)$", PAGE.read_text(encoding="utf-8"), flags=re.M)
    assert [name for _, name in listed] == ["boughter_vh_esm1v_logreg.npz", "boughter_vh_esm1v_logreg_config.json"]
    for expected, name in listed:
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == expected
