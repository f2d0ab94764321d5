"""Out-of-fold scores, with the strength of regularisation chosen inside the folds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from abonyx.arrays import BoolArray, Float64Array, Int64Array
from abonyx.card.linear import Fit, Predict, Task
from abonyx.card.statistics import point_auc

# One fold is left out, another one is for choosing C or alpha, and at least one remains for the fit.
MIN_FOLDS = 3


@dataclass(frozen=True)
class OutOfFold:
    """The scores of n rows, each by a fit without the row's fold.

    Attributes:
        raw: (n,) log-odds of class 1, or values in the labels' unit. Log-odds above 0 are called 1.
        centre: (n,) mean score of the fit's own training rows, which `pooled` subtracts. Without this, a constant
            predictor would be negatively correlated with the labels that it has not seen.
    """

    raw: Float64Array
    centre: Float64Array

    @property
    def pooled(self) -> Float64Array:
        """(n,) scores that can be ranked across folds."""
        return self.raw - self.centre


def training_means(labels: Float64Array, fold: Int64Array) -> Float64Array:
    """(n,) for each row, the mean label of the rows outside its fold."""
    means = np.empty(len(labels))
    for left_out in range(int(fold.max()) + 1):
        means[fold == left_out] = labels[fold != left_out].mean()
    return means


def cross_fit(
    rows: Float64Array, labels: Float64Array, fold: Int64Array, grid: Sequence[float], fit: Fit, task: Task
) -> OutOfFold:
    """Nested cross-validation: the strength for a fold is chosen on the other folds, each of which is left out in turn.

    Args:
        rows: (n, D); labels: (n,); fold: (n,) 0 to MIN_FOLDS - 1 or more.
        grid: strengths, the most regularised first; of equally good ones the first is chosen.
    """
    folds = int(fold.max()) + 1
    chosen = _strengths(rows, labels, fold, grid, fit, task) if len(grid) > 1 else [grid[0]] * folds
    found = OutOfFold(np.empty(len(labels)), np.empty(len(labels)))
    for left_out in range(folds):
        _fill(found, rows, labels, fold != left_out, fold == left_out, _guarded(fit, task), chosen[left_out])
    return found


def _strengths(
    rows: Float64Array, labels: Float64Array, fold: Int64Array, grid: Sequence[float], fit: Fit, task: Task
) -> list[float]:
    """The best strength for each fold. A fit that leaves out two folds is an inner fit for both: it is made once."""
    folds = int(fold.max()) + 1
    quality = np.empty((folds, len(grid)))
    for at, strength in enumerate(grid):
        # Zeros, because the rows of the fold that is left out stay unset, and are subtracted with the others.
        inner = [OutOfFold(np.zeros(len(labels)), np.zeros(len(labels))) for _ in range(folds)]
        for one, other in itertools.combinations(range(folds), 2):
            training = (fold != one) & (fold != other)
            predict = _guarded(fit, task)(rows[training], labels[training], strength)
            centre = predict(rows[training]).mean()
            for outer, test in ((one, fold == other), (other, fold == one)):
                inner[outer].raw[test], inner[outer].centre[test] = predict(rows[test]), centre
        for outer in range(folds):
            kept = fold != outer
            quality[outer, at] = _quality(inner[outer], labels, kept, task)
    return [grid[int(np.argmax(each))] for each in quality]


def _quality(scores: OutOfFold, labels: Float64Array, kept: BoolArray, task: Task) -> float:
    """Higher is better: AUC, or minus the mean squared error."""
    if task == "values":
        return -float(np.mean((scores.raw[kept] - labels[kept]) ** 2))
    area = point_auc(labels[kept], scores.pooled[kept])
    return 0.0 if math.isnan(area) else area


def _fill(
    found: OutOfFold,
    rows: Float64Array,
    labels: Float64Array,
    training: BoolArray,
    test: BoolArray,
    fit: Fit,
    strength: float,
) -> None:
    predict = fit(rows[training], labels[training], strength)
    found.raw[test], found.centre[test] = predict(rows[test]), predict(rows[training]).mean()


def _guarded(fit: Fit, task: Task) -> Fit:
    """The fit, or a constant if all training labels are equal: no regression can be fitted to them."""

    def guarded(rows: Float64Array, labels: Float64Array, strength: float) -> Predict:
        if (labels == labels[0]).all():
            constant = log_odds(labels) if task == "classes" else float(labels[0])
            return lambda others: np.full(len(others), constant)
        return fit(rows, labels, strength)

    return guarded


def log_odds(labels: Float64Array) -> float:
    """The log-odds of class 1 among labels (n,); half a row is added to each class, so that they are finite."""
    positives = float(labels.sum())
    return math.log((positives + 0.5) / (len(labels) - positives + 0.5))
