"""The panels of a bundle when its heads change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the fit extra is not installed")
pytest.importorskip("onnx", reason="the fit extra is not installed")

import abonyx
from abonyx.bundle import open_bundle
from abonyx.bundle.panel import panel_file
from abonyx.run.reference import ReferenceRequest, add_panel
from abonyx.run.request import prepare

from ...conftest import EXAMPLES
from ...runtime.run.test_reference import changed
from ...runtime.run.test_reference import write as write_panel
from ..calibrate.test_calibrate import SEQUENCES, calibrate, classes
from .test_values import REGRESSION, fit, made_rows, write


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory, bare: Path) -> Path:
    """The shipped bundle with a panel of 24 rows."""
    folder = tmp_path_factory.mktemp("panel")
    lines = EXAMPLES.read_text(encoding="utf-8").splitlines()[1:]
    rows = write_panel(folder / "known.csv", changed([line.split(",")[1] for line in lines]))
    run = prepare(flags={"bundle": str(bare)})
    add_panel(ReferenceRequest(run=run, source=rows, output=folder / "parent", name="known"), lambda line: None)
    return folder / "parent"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("embeddings")


def test_a_new_head_alone_has_no_panel_and_one_beside_leaves_them(parent: Path, cache: Path, tmp_path: Path) -> None:
    rows = write(made_rows(), tmp_path / "rows.csv")
    fit(rows, tmp_path / "alone", *REGRESSION, bundle=parent, cache=cache)
    assert open_bundle(tmp_path / "alone").manifest.panels == []
    assert not (tmp_path / "alone" / panel_file("known")).exists()
    fit(rows, tmp_path / "beside", "--add", *REGRESSION, bundle=parent, cache=cache)
    beside = open_bundle(tmp_path / "beside")
    assert beside.manifest.panels == open_bundle(parent).manifest.panels
    first, *_ = abonyx.score_file(EXAMPLES, config=tmp_path / "beside", heads="all").rows
    assert first.percentile and {name: cell for name, cell in first.heads.items() if name.endswith("percentile")} == {
        f"{beside.manifest.heads[1].name}_percentile": None
    }
    run, known = prepare(flags={"bundle": str(tmp_path / "beside")}), parent.parent / "known.csv"
    add_panel(ReferenceRequest(run=run, source=known, output=tmp_path / "both", name="known"), lambda line: None)
    (panel,) = open_bundle(tmp_path / "both").manifest.panels
    assert [scores.head for scores in panel.scores] == [head.name for head in beside.manifest.heads]
    assert panel.scores[:1] == open_bundle(parent).manifest.panels[0].scores


def test_percentiles_stay_when_a_head_is_calibrated(parent: Path, cache: Path, tmp_path: Path) -> None:
    labels = classes(parent, "nonspecificity", 0.5, -2.0)
    calibrate(parent, labels, tmp_path / "new", "--embedding-cache", str(cache))
    source = write_panel(tmp_path / "in.csv", SEQUENCES)
    before, after = (abonyx.score_file(source, config=bundle).rows for bundle in (parent, tmp_path / "new"))
    pairs = [(row.percentile, other.percentile) for row, other in zip(before, after, strict=True)]
    bands = [[list(map(int, band.split("-"))) for band in pair if band] for pair in pairs]
    assert all(len(each) != 1 for each in bands), "a row has both percentiles or none"
    found = np.array([each for each in bands if each])
    assert len(found) > 20
    # Ranks between two scores of the panel are interpolated in p, and the scaling is not linear in p.
    assert np.abs(found[:, 0] - found[:, 1]).max() <= 2
    assert [row.p_nonspecific for row in after] != [row.p_nonspecific for row in before]
