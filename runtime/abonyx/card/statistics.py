"""Statistics of pooled scores, on all rows once and on draws of whole clusters.

A draw only changes how often each row counts, so every statistic of a draw is a sum over those counts. All predictors
share the same draws, so their differences are paired.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import msgspec
import numpy as np

from abonyx.arrays import BoolArray, Float64Array, Int64Array

CONFIDENCE_LEVEL = 0.95
# Cells of (draw, row) held at a time: small enough to stay in a processor's cache.
_BLOCK_CELLS = 1 << 18


class Estimate(msgspec.Struct, frozen=True):
    """A value and its 95 % interval; None = not defined on these rows."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class ClassScores:
    """The scores of one predictor for n rows of classes.

    Attributes:
        ranked: (n,) comparable across folds; higher = class 1.
        called: (n,) whether a row is called 1.
    """

    ranked: Float64Array
    called: BoolArray

    def measure(self, labels: Float64Array, weights: Float64Array) -> dict[str, Float64Array]:
        """Statistic -> (draws,); NaN if it is not defined for a draw.

        Args:
            labels: (n,) 0 and 1.
            weights: (draws, n) how often each row counts.
        """
        positive, negative = weights * labels, weights * (1 - labels)
        tp, fp = positive[:, self.called].sum(axis=1), negative[:, self.called].sum(axis=1)
        positives, negatives = positive.sum(axis=1), negative.sum(axis=1)
        fn, tn = positives - tp, negatives - fp
        margins = (tp + fp) * positives * negatives * (tn + fn)
        with np.errstate(divide="ignore", invalid="ignore"):
            return {
                "auc": _area(self.ranked, positive, negative),
                "balanced_accuracy": (tp / positives + tn / negatives) / 2,
                # 0 for constant calls, as in scikit-learn
                "mcc": np.where(margins > 0, (tp * tn - fp * fn) / np.sqrt(np.maximum(margins, 1)), 0),
                "accuracy": (tp + tn) / (positives + negatives),
            }


@dataclass(frozen=True)
class ValueScores:
    """The scores of one predictor for n rows of measured values.

    Attributes:
        ranked: (n,) comparable across folds.
        predicted: (n,) in the labels' unit.
        mean: (n,) mean label of the training rows: the prediction without a predictor.
    """

    ranked: Float64Array
    predicted: Float64Array
    mean: Float64Array

    def measure(self, labels: Float64Array, weights: Float64Array) -> dict[str, Float64Array]:
        """As ClassScores.measure, for measured labels (n,)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            left = weights @ (labels - self.predicted) ** 2
            nothing = weights @ (labels - self.mean) ** 2
            return {
                "spearman": rank_correlation(self.ranked, labels, weights),
                "r2": 1 - left / nothing,
                "mae": weights @ np.abs(labels - self.predicted) / weights.sum(axis=1),
            }


Scores = ClassScores | ValueScores


@dataclass(frozen=True)
class Measurement:
    """Statistics of all predictors on the same draws.

    Attributes:
        estimates: predictor -> statistic -> estimate.
        drawn: predictor -> statistic -> (draws,).
    """

    estimates: dict[str, dict[str, Estimate]]
    drawn: dict[str, dict[str, Float64Array]]

    def estimate(self, predictor: str, statistic: str, comparisons: int = 1) -> Estimate:
        """The estimate of a predictor, with its interval corrected (Bonferroni) for so many comparisons."""
        value = self.estimates[predictor][statistic].value
        return Estimate(None) if value is None else _estimate(value, self.drawn[predictor][statistic], comparisons)

    def difference(self, predictor: str, other: str, statistic: str, comparisons: int = 1) -> Estimate:
        """Predictor minus other, paired; comparisons as in `estimate`."""
        values = [self.estimates[name][statistic].value for name in (predictor, other)]
        if values[0] is None or values[1] is None:
            return Estimate(None)
        drawn = self.drawn[predictor][statistic] - self.drawn[other][statistic]
        return _estimate(values[0] - values[1], drawn, comparisons)


def measure(
    predictors: Mapping[str, Scores], labels: Float64Array, clusters: Int64Array, draws: int, seed: int
) -> Measurement:
    """Measure predictors on n rows.

    Args:
        labels: (n,).
        clusters: (n,) 0 to k - 1; a draw takes k clusters with replacement, each with all of its rows.
        draws: how many.
        seed: of the draws.
    """
    once = {name: scores.measure(labels, np.ones((1, len(labels)))) for name, scores in predictors.items()}
    blocks = [
        {name: scores.measure(labels, weights) for name, scores in predictors.items()}
        for weights in _weights(clusters, draws, seed)
    ]
    drawn = {
        name: {key: np.concatenate([block[name][key] for block in blocks]) for key in once[name]} for name in predictors
    }
    estimates = {
        name: {key: _estimate(float(values[0]), drawn[name][key]) for key, values in once[name].items()}
        for name in predictors
    }
    return Measurement(estimates, drawn)


def point_auc(labels: Float64Array, ranked: Float64Array) -> float:
    """The AUC of n rows; NaN if all labels are the same."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(_area(ranked, labels[None], 1 - labels[None])[0])


def _estimate(value: float, drawn: Float64Array, comparisons: int = 1) -> Estimate:
    """The value, and the percentiles over the draws that define it."""
    beyond = 100 * (1 - CONFIDENCE_LEVEL) / 2 / comparisons
    defined = drawn[np.isfinite(drawn)]
    if not np.isfinite(value):
        return Estimate(None)
    if not defined.size:
        return Estimate(value)
    low, high = np.percentile(defined, (beyond, 100 - beyond))
    return Estimate(value, float(low), float(high))


def _weights(clusters: Int64Array, draws: int, seed: int) -> Iterator[Float64Array]:
    """How often each of n rows is drawn, by blocks of draws."""
    generator, count = np.random.default_rng(seed), int(clusters.max()) + 1
    size = max(1, _BLOCK_CELLS // len(clusters))
    for start in range(0, draws, size):
        rows = min(size, draws - start)
        drawn = generator.integers(0, count, size=(rows, count)) + count * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)
        yield times[:, clusters].astype(np.float64)


def _area(ranked: Float64Array, positive: Float64Array, negative: Float64Array) -> Float64Array:
    """AUC (draws,), from how often each row counts as positive and as negative: (draws, n) each; a tie counts half."""
    order = np.argsort(ranked, kind="stable")
    ends = _ends(ranked[order])
    below = np.cumsum(negative[:, order], axis=1)[:, ends]
    positives = np.diff(np.cumsum(positive[:, order], axis=1)[:, ends], prepend=0)
    tied = np.diff(below, prepend=0)
    area: Float64Array = (positives * (below - tied / 2)).sum(axis=1)
    area /= positives.sum(axis=1) * below[:, -1]
    return area


def _ends(ordered: Float64Array) -> Int64Array:
    """The last place of each run of equal values."""
    return np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))


def _ranks(values: Float64Array, weights: Float64Array) -> Float64Array:
    """Mean ranks (draws, n) of rows that count `weights` times."""
    order = np.argsort(values, kind="stable")
    ends = _ends(values[order])
    upto = np.cumsum(weights[:, order], axis=1)[:, ends]
    middle = upto - np.diff(upto, prepend=0) / 2  # half a rank below the mean rank, for every row
    run = np.searchsorted(ends, np.arange(len(values)))
    ranks = np.empty_like(weights)
    ranks[:, order] = middle[:, run]
    return ranks


def rank_correlation(ranked: Float64Array, labels: Float64Array, weights: Float64Array) -> Float64Array:
    """Spearman correlation (draws,); 0 if all scores are equal, NaN if all labels are equal."""
    one, other = _ranks(ranked, weights), _ranks(labels, weights)
    total = weights.sum(axis=1, keepdims=True)
    one = one - (weights * one).sum(axis=1, keepdims=True) / total
    other = other - (weights * other).sum(axis=1, keepdims=True) / total
    spread, spread_of_labels = (weights * one**2).sum(axis=1), (weights * other**2).sum(axis=1)
    together = (weights * one * other).sum(axis=1)
    none = spread <= 1e-9 * spread_of_labels  # rounding errors remain
    known: Float64Array = together / np.sqrt(np.where(none, 1, spread) * spread_of_labels)
    return np.where(none & (spread_of_labels > 0), 0, known)
