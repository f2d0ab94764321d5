"""evaluate for a head on both chains: metrics, card and predictions are for pairs."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")
sk = pytest.importorskip("sklearn.metrics")

import abonyx  # noqa: E402
from abonyx.bundle.training_rows import TRAINING_ROWS_NAME, write_training_rows  # noqa: E402

from ..hostile import relist  # noqa: E402
from ..input.test_pairs import LIGHT, heavy_chains  # noqa: E402
from ..paired import make_paired  # noqa: E402

PAIRS = [(heavy, LIGHT[:at] + "A" + LIGHT[at + 1 :]) for at, heavy in enumerate(heavy_chains() * 2, 30)]


@pytest.fixture(scope="module")
def paired(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose first head was trained on three of the pairs."""
    bundle = make_paired(tmp_path_factory.mktemp("bundles") / "paired")
    write_training_rows(["|".join(pair) for pair in PAIRS[:3]], bundle / TRAINING_ROWS_NAME)
    relist(bundle)
    return bundle


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    path = tmp_path / "labelled.csv"
    rows = "".join(f"ab{at},{heavy},{light},{at % 2}\n" for at, (heavy, light) in enumerate(PAIRS))
    path.write_text("id,VH,VL,label\n" + rows + f"alone,{PAIRS[0][0]},,1\n")
    return path


def test_metrics_are_of_pairs(run: Any, paired: Path, labelled: Path, tmp_path: Path) -> None:
    usual = ("evaluate", labelled, "--bundle", paired, "--bootstrap", "200", "--on-invalid", "skip")
    code, _, err = run(*usual, "-o", tmp_path / "out")
    assert code == 0, err
    assert f"{len(PAIRS)} pairs scored, 1 rejected" in err
    with abonyx.open_session(paired) as session:
        p = session.score(PAIRS)
    record = json.loads((tmp_path / "out" / "metrics.json").read_text())
    y = [at % 2 for at in range(len(PAIRS))]
    assert record["n"] == len(PAIRS) and record["n_rejected"] == 1
    assert record["metrics"]["roc_auc"]["value"] == pytest.approx(sk.roc_auc_score(y, p))
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["id", "heavy", "light", "y_true", "y_pred", "p_nonspecific", "flag"]
    assert [(row["heavy"], row["light"]) for row in rows] == PAIRS
    assert "no light chain" in (tmp_path / "out" / "rejected.csv").read_text()
    assert "Trained on 3 of these 24 rows" in (tmp_path / "out" / "card.md").read_text()


def test_values_of_pairs(run: Any, paired: Path, tmp_path: Path) -> None:
    path = tmp_path / "assay.csv"
    path.write_text(
        "id,VH,VL,label\n" + "".join(f"ab{at},{','.join(pair)},{at / 4}\n" for at, pair in enumerate(PAIRS))
    )
    code, _, err = run(
        "evaluate", path, "--bundle", paired, "--head", "hic", "--bootstrap", "20", "-o", tmp_path / "out"
    )
    assert code == 0 and f"{len(PAIRS)} pairs scored" in err
    with abonyx.open_session(paired) as session:
        values = session.score(PAIRS, heads="hic")["hic"]
    record = json.loads((tmp_path / "out" / "metrics.json").read_text())
    measured = [at / 4 for at in range(len(PAIRS))]
    assert record["metrics"]["mae"]["value"] == pytest.approx(sk.mean_absolute_error(measured, values), rel=1e-5)
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        assert list(csv.DictReader(file).fieldnames or ()) == ["id", "heavy", "light", "y_true", "hic_value", "flag"]


def test_stability_is_of_single_sequences(run: Any, paired: Path, labelled: Path, tmp_path: Path) -> None:
    usual = ("evaluate", labelled, "--bundle", paired, "-o", tmp_path / "out", "--stability")
    code, _, err = run(*usual)
    assert code == 2 and "--stability: head psr expects both chains of a record" in err
    code, _, err = run(*usual, "--head", "nonspecificity", "--bootstrap", "5")
    assert code == 0 and "'VL') are not scored" in err
