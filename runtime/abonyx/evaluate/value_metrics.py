"""The metrics of one labelled set of measured values, with bootstrap intervals."""

from __future__ import annotations

import numpy as np

from abonyx.arrays import Float32Array, Float64Array
from abonyx.card.statistics import rank_correlation
from abonyx.evaluate.bootstrap import row_weights
from abonyx.evaluate.metrics import Measured, with_intervals

# Key of metrics.json -> name in the report, in the order of both.
NAMES = {"spearman": "Spearman correlation", "r2": "R2", "mae": "mean absolute error"}
# In the unit of the values.
OF_UNIT = frozenset({"mae"})


def measure_values(y: Float64Array, predicted: Float32Array, resamples: int, seed: int) -> Measured:
    """Measure predicted values against measured ones.

    Args:
        y: (n,) measured, n at least 1.
        predicted: (n,) float32, in the same unit.
        resamples: bootstrap resamples, at least 1.
        seed: of the bootstrap.
    """
    exact = predicted.astype(np.float64)
    once = _statistics(y, exact, np.ones((1, len(y))))
    blocks = [_statistics(y, exact, each.astype(np.float64)) for each in row_weights(len(y), resamples, seed)]
    drawn = {name: np.concatenate([block[name] for block in blocks]) for name in NAMES}
    reasons: dict[str, str] = {}
    if np.ptp(y) == 0:
        reasons = dict.fromkeys(("spearman", "r2"), f"undefined, every measured value is {y[0]:g}")
    elif np.ptp(exact) == 0:
        reasons["spearman"] = f"undefined, every predicted value is {exact[0]:g}"
    values = {name: None if name in reasons else float(once[name][0]) for name in NAMES}
    return with_intervals(values, drawn, reasons, resamples)


def _statistics(y: Float64Array, predicted: Float64Array, weights: Float64Array) -> dict[str, Float64Array]:
    """Name -> (draws,) statistics of rows that count `weights` (draws, n) times; NaN = undefined."""
    total = weights.sum(axis=1)
    centred = y - y.mean()  # without it, sums of squares of values far from 0 would lose digits
    spread = weights @ centred**2 - (weights @ centred) ** 2 / total
    # If all drawn rows have the same value, only a rounding error is left.
    same = spread <= 1e-12 * total * max(float((centred**2).mean()), np.finfo(np.float64).tiny)
    off = y - predicted
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "spearman": np.where(same, np.nan, rank_correlation(predicted, y, weights)),
            "r2": np.where(same, np.nan, 1 - weights @ off**2 / np.where(same, 1, spread)),
            "mae": weights @ np.abs(off) / total,
        }
