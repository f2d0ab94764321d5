"""A slope and an intercept from controls, and what they are worth on controls that are left out.

A logistic head's logit is scaled by Platt's method: a logistic regression whose targets are a little inside 0 and 1, so
that controls which the head separates still have a finite slope. A linear head's value is scaled by least squares.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from abonyx.arrays import Float64Array
from abonyx.bundle.heads import sigmoid

# Bins of equal width, of ECE.
BINS = 10
# The loss that decides, first, and what is recorded beside it.
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
    """The best scaling of these controls.

    Args:
        old: (n,) logits or values. labels: (n,) 0 and 1, or measured values.
    """
    centre, spread = float(old.mean()), float(old.std())
    if spread == 0:  # nothing to scale by: every control gets the same
        return Scaling(0.0, _logit(float(_targets(labels).mean())) if logistic else float(labels.mean()))
    unit = (old - centre) / spread
    slope, intercept = _platt(unit, labels) if logistic else _line(unit, labels)
    return Scaling(slope / spread, intercept - slope * centre / spread)


def left_out(old: Float64Array, labels: Float64Array, groups: Sequence[str], *, logistic: bool) -> Float64Array:
    """The new logit or value of each control, (n,), by the others alone.

    Args:
        groups: n names; controls of one name are left out together.
    """
    new, names = np.empty(len(old)), np.array(groups)
    for name in dict.fromkeys(groups):
        out = names == name
        new[out] = fit_scaling(old[~out], labels[~out], logistic=logistic).apply(old[out])
    return new


def measure(new: Float64Array, labels: Float64Array, *, logistic: bool) -> dict[str, float]:
    """METRICS of logits or values (n,) against labels (n,)."""
    if not logistic:
        off = new - labels
        return {"squared_error": float((off**2).mean()), "mae": float(np.abs(off).mean())}
    p = sigmoid(new)
    # log(1 + exp(x)) without overflow
    loss = np.logaddexp(0, np.where(labels == 1, -new, new)).mean()
    return {"log_loss": float(loss), "brier": float(((p - labels) ** 2).mean()), "ece": _ece(p, labels)}


def _ece(p: Float64Array, labels: Float64Array) -> float:
    """Mean |share labelled 1 - mean p| over bins of p, each weighted by its rows."""
    at = np.minimum((p * BINS).astype(int), BINS - 1)
    return float(sum(abs((labels[at == bin_] - p[at == bin_]).sum()) for bin_ in range(BINS)) / len(p))


def _targets(labels: Float64Array) -> Float64Array:
    """Platt's: what a row of a class is told, given how many rows the class has."""
    positives = labels.sum()
    high, low = (positives + 1) / (positives + 2), 1 / (len(labels) - positives + 2)
    targets: Float64Array = np.where(labels == 1, high, low)
    return targets


def _logit(p: float) -> float:
    return math.log(p) - math.log1p(-p)


def _platt(unit: Float64Array, labels: Float64Array) -> tuple[float, float]:
    """A target t is a row of class 1 of weight t and a row of class 0 of weight 1 - t."""
    from sklearn.linear_model import LogisticRegression

    targets = _targets(labels)
    # C: no regularisation to speak of; Platt's targets bound the slope.
    estimator = LogisticRegression(C=1e9, solver="newton-cholesky", tol=1e-8)
    both = np.concatenate([unit, unit])[:, None]
    classes = np.repeat([1, 0], len(unit))
    estimator.fit(both, classes, sample_weight=np.concatenate([targets, 1 - targets]))
    return float(estimator.coef_[0, 0]), float(estimator.intercept_[0])


def _line(unit: Float64Array, labels: Float64Array) -> tuple[float, float]:
    """`unit` has mean 0 and standard deviation 1."""
    return float((unit * labels).mean()), float(labels.mean())
