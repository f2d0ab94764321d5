"""Percentile intervals of every metric, from one set of resampled rows.

Resampling only changes how often each row counts. If the rows are sorted by p once, every metric of a resample is a sum
over those counts. So 2,000 resamples of 141,021 rows take seconds to minutes; scikit-learn's ranking metrics would sort
again for each resample.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from abonyx.arrays import Float32Array, Float64Array, Int64Array

Ints = Int64Array

PERCENTILES = (2.5, 97.5)
# Cells of (resample, row) held at a time: small enough to stay in a processor's cache.
_BLOCK_CELLS = 1 << 18


def resampled_metrics(y: Ints, p: Float32Array, called: int, resamples: int, seed: int) -> dict[str, Float64Array]:
    """Every metric on every resample of rows, with replacement; NaN where a resample leaves it undefined.

    Args:
        y: (n,) labels 0/1, in the order of p.
        p: (n,) probabilities, the highest first.
        called: how many rows, from the first, are called non-specific.
        resamples: how many.
        seed: of the generator.
    """
    ends = np.flatnonzero(np.append(p[1:] != p[:-1], True))  # last row of each run of equal p
    error = (p.astype(np.float64) - y) ** 2
    blocks: list[dict[str, Float64Array]] = []
    # 0 / 0 gives NaN, which means that the metric is not defined.
    with np.errstate(divide="ignore", invalid="ignore"):
        for weights in row_weights(len(y), resamples, seed):
            below, positives = np.cumsum(weights, axis=1), np.cumsum(weights * y, axis=1)
            found = _confusion_metrics(below, positives, called)
            found |= _ranking_metrics(positives[:, ends], below[:, ends] - positives[:, ends])
            found["brier"] = weights @ error / len(y)
            blocks.append(found)
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def interval(values: Float64Array) -> tuple[float, float, int]:
    """The percentiles over the resamples that define the metric (NaN if none does), and how many do not define it."""
    defined = values[~np.isnan(values)]
    if not defined.size:
        return float("nan"), float("nan"), len(values)
    low, high = np.percentile(defined, PERCENTILES)
    return float(low), float(high), len(values) - len(defined)


def row_weights(n: int, resamples: int, seed: int) -> Iterator[Ints]:
    """How often each of n rows is drawn, by blocks of resamples."""
    generator = np.random.default_rng(seed)
    size = max(1, _BLOCK_CELLS // n)
    for start in range(0, resamples, size):
        rows = min(size, resamples - start)
        drawn = generator.integers(0, n, size=(rows, n)) + n * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)


def _confusion_metrics(below: Ints, positives: Ints, called: int) -> dict[str, Float64Array]:
    """Metrics of the calls, from the cumulative counts of rows and of positives, the highest p first."""
    zero = np.zeros(len(below), np.int64)
    tp = (positives[:, called - 1] if called else zero).astype(np.float64)
    fp = (below[:, called - 1] if called else zero) - tp
    fn = positives[:, -1] - tp
    tn = below[:, -1] - tp - fp - fn
    margins = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return {
        "accuracy": (tp + tn) / below[:, -1],
        "precision": tp / (tp + fp),
        "recall": tp / (tp + fn),
        "f1": 2 * tp / (2 * tp + fp + fn),
        "mcc": (tp * tn - fp * fn) / np.sqrt(margins),
    }


def _ranking_metrics(tp: Ints, fp: Ints) -> dict[str, Float64Array]:
    """ROC AUC and average precision, from the counts at or above each distinct p; rows of equal p are one step."""
    new_tp, new_fp = np.diff(tp, prepend=0), np.diff(fp, prepend=0)
    total_tp, total_fp = tp[:, -1].astype(np.float64), fp[:, -1].astype(np.float64)
    # Trapezoids under the ROC curve; a positive and a negative of equal p count as half a correct pair.
    area = (new_fp * (tp - new_tp / 2)).sum(axis=1) / (total_tp * total_fp)
    # Steps without a drawn row add nothing; their precision could be 0 / 0.
    precision = tp / np.maximum(tp + fp, 1)
    average = (new_tp * precision).sum(axis=1) / total_tp
    return {"roc_auc": area, "pr_auc": np.where(total_fp > 0, average, np.nan)}
