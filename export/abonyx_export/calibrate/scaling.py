"""Fit a slope and an intercept to controls, and measure them on left-out controls.

A logistic head's logit is scaled by Platt's method. This is a logistic regression whose targets are slightly above 0
and below 1, so that the slope is finite even if the head separates the controls perfectly. A linear head's value is
scaled by least squares.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from abonyx.arrays import Float64Array
from abonyx.bundle.heads import sigmoid

# Bins of ECE (expected calibration error), of equal width.
BINS = 10
# Whether the head is logistic -> metrics to record. The first one decides whether the calibration is accepted.
METRICS = {True: ("log_loss", "brier", "ece"), False: ("squared_error", "mae")}


@dataclass(frozen=True)
class Scaling:
    """New logit or value = slope * old + intercept."""

    slope: float
    intercept: float

    def apply(self, old: Float64Array) -> Float64Array:
        """The new logits or values."""
        return self.slope * old + self.intercept


def fit_scaling(old: Float64Array, labels: Float64Array, *, logistic: bool) -> Scaling:
    """The best scaling for these controls.

    Args:
        old: (n,) logits or values.
        labels: (n,) 0 and 1, or measured values.
        logistic: whether `old` has logits.
    """
    centre, spread = float(old.mean()), float(old.std())
    if spread == 0:  # all controls have the same score, so no slope can be fitted
        return Scaling(0.0, _logit(float(_targets(labels).mean())) if logistic else float(labels.mean()))
    unit = (old - centre) / spread
    slope, intercept = _platt(unit, labels) if logistic else _line(unit, labels)
    return Scaling(slope / spread, intercept - slope * centre / spread)


def predict_left_out(old: Float64Array, labels: Float64Array, groups: Sequence[str], *, logistic: bool) -> Float64Array:
    """The new logit or value of each control, (n,), from a scaling that is fitted without this control.

    Args:
        old, labels, logistic: see fit_scaling.
        groups: n names; controls with the same name are left out together.
    """
    new, names = np.empty(len(old)), np.array(groups)
    for name in dict.fromkeys(groups):
        out = names == name
        new[out] = fit_scaling(old[~out], labels[~out], logistic=logistic).apply(old[out])
    return new


def measure(new: Float64Array, labels: Float64Array, *, logistic: bool) -> dict[str, float]:
    """Metric -> its value for logits or values (n,), compared with labels (n,); METRICS has the names."""
    if not logistic:
        off = new - labels
        return {"squared_error": float((off**2).mean()), "mae": float(np.abs(off).mean())}
    p = sigmoid(new)
    # log(1 + exp(x)) without overflow
    loss = np.logaddexp(0, np.where(labels == 1, -new, new)).mean()
    return {"log_loss": float(loss), "brier": float(((p - labels) ** 2).mean()), "ece": _ece(p, labels)}


def _ece(p: Float64Array, labels: Float64Array) -> float:
    """Mean of |share labelled 1 - mean p| over bins of p, weighted by the rows in each bin."""
    at = np.minimum((p * BINS).astype(int), BINS - 1)
    return float(sum(abs((labels[at == bin_] - p[at == bin_]).sum()) for bin_ in range(BINS)) / len(p))


def _targets(labels: Float64Array) -> Float64Array:
    """Platt's targets (n,): slightly above 0 or below 1. The more rows a class has, the closer its target is."""
    positives = labels.sum()
    high, low = (positives + 1) / (positives + 2), 1 / (len(labels) - positives + 2)
    targets: Float64Array = np.where(labels == 1, high, low)
    return targets


def _logit(p: float) -> float:
    return math.log(p) - math.log1p(-p)


def _platt(unit: Float64Array, labels: Float64Array) -> tuple[float, float]:
    """Slope and intercept. A target t becomes two rows: class 1 with weight t, and class 0 with weight 1 - t."""
    from sklearn.linear_model import LogisticRegression

    targets = _targets(labels)
    # C is so large that there is almost no regularisation; Platt's targets keep the slope finite.
    estimator = LogisticRegression(C=1e9, solver="newton-cholesky", tol=1e-8)
    both = np.concatenate([unit, unit])[:, None]
    classes = np.repeat([1, 0], len(unit))
    estimator.fit(both, classes, sample_weight=np.concatenate([targets, 1 - targets]))
    return float(estimator.coef_[0, 0]), float(estimator.intercept_[0])


def _line(unit: Float64Array, labels: Float64Array) -> tuple[float, float]:
    """Slope and intercept of least squares; `unit` has mean 0 and standard deviation 1."""
    return float((unit * labels).mean()), float(labels.mean())
