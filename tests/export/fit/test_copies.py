"""fit --vary-ends: copies have the weight of one row, stay in its fold, and are never scored."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler

import abonyx
from abonyx.bundle import open_bundle
from abonyx.cli.bundle import inspect
from abonyx.errors import ConfigError, InputError
from abonyx.wording import Interface
from abonyx_export import cli
from abonyx_export.fit.copies import COPIES
from abonyx_export.fit.cross_validation import cross_validate, fit_once

from ...conftest import EXAMPLES, MINI


def rows_with_copies(count: int = 60, copies: int = 3, width: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Rows (n, copies, D) whose copies are close to the original row, and labels (n,)."""
    rng = np.random.default_rng(5)
    labels = rng.integers(2, size=count)
    whole = rng.normal(size=(count, 1, width)) + labels[:, None, None]
    return whole + 0.3 * rng.normal(size=(count, copies, width)), labels


@pytest.mark.parametrize("balanced", [False, True])
def test_copies_have_the_weight_of_one_row(balanced: bool) -> None:
    rows, labels = rows_with_copies()
    fitted = fit_once(rows, labels, 0.7, scale=True, balanced=balanced)
    flat = rows.reshape(-1, rows.shape[-1])
    scaler = StandardScaler().fit(flat)
    weights = np.full(len(flat), 1 / rows.shape[1])
    theirs = LogisticRegression(C=0.7, max_iter=5_000, class_weight="balanced" if balanced else None, tol=1e-8)
    theirs.fit(scaler.transform(flat), np.repeat(labels, rows.shape[1]), sample_weight=weights)
    assert np.allclose(fitted.decision(rows), theirs.decision_function(scaler.transform(rows[:, 0])), atol=5e-3)
    assert not np.allclose(
        fitted.decision(rows),
        fit_once(flat, np.repeat(labels, 3), 0.7, scale=True, balanced=balanced).decision(rows[:, 0]),
        atol=5e-3,
    )


def test_a_fold_leaves_a_row_out_with_its_copies() -> None:
    rows, labels = rows_with_copies()

    def fit(training: np.ndarray, classes: np.ndarray, c: float) -> object:
        return fit_once(training, classes, c, scale=False, balanced=False)

    (found,) = cross_validate(rows, labels, [1.0], folds=3, seeds=[4], fit=fit)  # type: ignore[arg-type]
    areas = []
    for training, test in StratifiedKFold(3, shuffle=True, random_state=4).split(labels, labels):
        flat = rows[training].reshape(-1, rows.shape[-1])
        theirs = LogisticRegression(C=1 / 3, max_iter=5_000, tol=1e-8).fit(flat, np.repeat(labels[training], 3))
        areas.append(roc_auc_score(labels[test], theirs.decision_function(rows[test, 0])))
    assert found.roc_auc_mean == pytest.approx(np.mean(areas), abs=1e-9)


def labelled(path: Path, longest: int | None = None) -> tuple[Path, list[str], list[int]]:
    with EXAMPLES.open(newline="") as file:
        sequences = [row["sequence"] for row in csv.DictReader(file)]
    sequences = [sequence[:length] for length in (60, 70, 80) for sequence in sequences]
    if longest is not None:
        sequences[4] = (sequences[4] * 3)[:longest]
    labels = [index * 7 % 5 % 2 for index in range(len(sequences))]
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerows([("id", "sequence", "label")])
        table.writerows((f"m{index}", *row) for index, row in enumerate(zip(sequences, labels, strict=True)))
    return path, sequences, labels


def fit(source: Path, bundle: Path, output: Path, *more: str) -> str:
    arguments = [str(source), "-o", str(output), "--bundle", str(bundle), "--cv", "3", "--cv-seeds", "1", "--C", "0.01"]
    result = CliRunner().invoke(cli.fit, [*arguments, "--scale", "--vary-ends", "--domain", "off", *more])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stderr


def test_the_head_is_that_of_the_rows_and_their_copies(mini: Path, tmp_path: Path) -> None:
    source, sequences, labels = labelled(tmp_path / "rows.csv")
    fit(source, mini, tmp_path / "new", "--embedding-cache", str(tmp_path / "cache"))
    training = open_bundle(tmp_path / "new").manifest.head.training
    assert training is not None
    assert (training.rows, training.copies) == (len(sequences), list(COPIES))
    changed = [change(each) for each in sequences for change in (str, *COPIES.values())]
    with abonyx.open_session(MINI) as session:
        embedded = session.embed(changed).astype(np.float64)
    scaler = StandardScaler().fit(embedded)
    theirs = LogisticRegression(C=0.01 / 7, max_iter=5_000).fit(scaler.transform(embedded), np.repeat(labels, 7))
    expected = theirs.predict_proba(scaler.transform(embedded[::7]))[:, 1]
    with abonyx.open_session(tmp_path / "new") as session:
        assert np.allclose(session.score(sequences), expected, atol=2e-5)
    shown = CliRunner().invoke(inspect, [str(tmp_path / "new")])
    assert "each with 6 copies (start cut or lengthened)" in shown.output


def test_a_row_that_cannot_be_longer_is_named(mini: Path, tmp_path: Path) -> None:
    limit = open_bundle(MINI).manifest.max_residues
    source, *_ = labelled(tmp_path / "rows.csv", longest=limit)
    with pytest.raises(InputError) as caught:
        fit(source, mini, tmp_path / "new")
    text = caught.value.text(Interface.COMMAND_LINE)
    assert "--vary-ends: m4, copy 'M':" in text and f"{limit + 1} residues" in text
    assert list(tmp_path.iterdir()) == [source]


def test_values_are_not_fitted_on_copies(tmp_path: Path) -> None:
    source, *_ = labelled(tmp_path / "rows.csv")
    values = ("--task", "regression", "--unit", "h", "--direction", "higher-is-worse", "--head-name", "hic")
    with pytest.raises(ConfigError) as caught:
        arguments = [str(source), "-o", str(tmp_path / "new"), "--bundle", str(MINI), "--vary-ends", *values]
        result = CliRunner().invoke(cli.fit, arguments)
        assert result.exception is not None
        raise result.exception
    assert "--vary-ends with --task regression" in caught.value.text(Interface.COMMAND_LINE)
