"""The notebooks of the site run in a clone, and print their stored outputs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import EXAMPLES, REPOSITORY

nbformat = pytest.importorskip("nbformat", reason="the test extra is not installed")
nbclient = pytest.importorskip("nbclient", reason="the test extra is not installed")
pytest.importorskip("ipykernel", reason="the test extra is not installed")

NOTEBOOKS = sorted((REPOSITORY / "docs" / "notebooks").glob("*.ipynb"))
NEEDED = {
    "score_and_shortlist": ("narwhals", "pandas"),
    "fit_five_assays": ("onnx", "sklearn", "scipy", "pandas"),
}
# This notebook has eight commands, which take 40 s on two cores.
SLOW = {"fit_five_assays"}
# Tag of a cell whose text depends on rounding, because figures of small tables are close to their limits.
VARIES = "varies"


@pytest.fixture
def private_jupyter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep the files of IPython and Jupyter out of the home folder."""
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    # The kernel and its commands use the same abonyx as the tests.
    paths = [str(REPOSITORY / "runtime"), str(REPOSITORY / "export"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    yield


def printed(cell: Any) -> list[str]:
    """The cell's text without spaces at line ends; a picture is replaced by its type."""
    text = "".join(output.get("text", str(output.get("data", {}).keys())) for output in cell.outputs)
    return [line.rstrip() for line in text.splitlines()]


@pytest.mark.parametrize(
    "notebook",
    [pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * (path.stem in SLOW)) for path in NOTEBOOKS],
)
def test_a_notebook_prints_what_it_holds(
    notebook: Path, mini: Path, tmp_path: Path, private_jupyter: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in NEEDED[notebook.stem]:
        pytest.importorskip(module)
    if "onnx" in NEEDED[notebook.stem]:
        monkeypatch.setenv("ABONYX_BUNDLE", str(mini))  # the bundle without --bundle, which `fit` links to
    folder = tmp_path / "docs" / "notebooks"
    folder.mkdir(parents=True)
    shutil.copytree(EXAMPLES.parent, tmp_path / "examples")
    stored = nbformat.read(notebook, as_version=4)
    run = nbformat.read(notebook, as_version=4)
    nbclient.NotebookClient(run, timeout=240, resources={"metadata": {"path": str(folder)}}).execute()
    cells = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert all(cell.outputs for cell in cells if "print(" in cell.source), "a cell has no stored output"
    for before, after in zip(cells, (cell for cell in run.cells if cell.cell_type == "code"), strict=True):
        if VARIES in before.metadata.get("tags", ()):
            assert len(printed(before)) == len(printed(after))
        else:
            assert printed(before) == printed(after), before.source


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_no_facts_about_the_machine(notebook: Path) -> None:
    text = notebook.read_text(encoding="utf-8")
    assert set(nbformat.reads(text, as_version=4).metadata) == {"kernelspec", "language_info"}
    for word in (str(Path.home()) + os.sep, str(REPOSITORY), "/tmp/", '"execution": {'):
        assert word not in text, word


def test_every_notebook_is_tested() -> None:
    assert {path.stem for path in NOTEBOOKS} == set(NEEDED)
