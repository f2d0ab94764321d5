"""The metrics of one labelled set of classes, by scikit-learn, with bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec
import numpy as np
from sklearn import metrics as sk

from abonyx.arrays import Float32Array, Float64Array, Int64Array
from abonyx.bundle.threshold import is_nonspecific
from abonyx.evaluate.bootstrap import interval, resampled_metrics

Ints = Int64Array

# Key of metrics.json -> name in the report, in the order of both.
NAMES = {
    "accuracy": "accuracy",
    "precision": "precision",
    "recall": "recall (sensitivity)",
    "f1": "F1",
    "roc_auc": "ROC AUC",
    "pr_auc": "PR AUC (average precision)",
    "mcc": "Matthews correlation (MCC)",
    "brier": "Brier score",
}


class Metric(msgspec.Struct, frozen=True):
    """A value and its 95 % bootstrap interval; None = not defined on these rows."""

    value: float | None
    low: float | None
    high: float | None

    def text(self, form: str = ".3f") -> str:
        """Such as `0.663 [0.570, 0.756]`, with each number in the format `form`, or `undefined`."""
        if self.value is None:
            return "undefined"
        if self.low is None or self.high is None:
            return f"{self.value:{form}} [no interval]"
        return f"{self.value:{form}} [{self.low:{form}}, {self.high:{form}}]"


@dataclass(frozen=True)
class Measured:
    """What was measured on the labelled rows.

    Attributes:
        notes: why a metric is None, and which resamples were left out.
        confusion: [[TN, FP], [FN, TP]]; None for values.
    """

    metrics: dict[str, Metric]
    notes: list[str]
    confusion: list[list[int]] | None = None


@dataclass(frozen=True)
class MeasuredClasses(Measured):
    """The same for classes, which always have a confusion matrix."""

    confusion: list[list[int]]


def measure(y: Ints, p: Float32Array, threshold: float, resamples: int, seed: int) -> MeasuredClasses:
    """Measure p against labels.

    Args:
        y: (n,) labels 0/1, n at least 1.
        p: (n,) float32 probabilities of label 1.
        threshold: p strictly above it, compared as float32, is called 1.
        resamples: bootstrap resamples, at least 1.
        seed: of the bootstrap.
    """
    calls = is_nonspecific(p, threshold).astype(np.int64)
    confusion = sk.confusion_matrix(y, calls, labels=[0, 1]).tolist()
    reasons = _undefined(confusion)
    exact = p.astype(np.float64)
    order = np.argsort(-exact, kind="stable")
    drawn = resampled_metrics(y[order], p[order], int(calls.sum()), resamples, seed)
    values = {name: None if name in reasons else compute(y, calls, exact) for name, compute in _METRICS.items()}
    found = with_intervals(values, drawn, reasons, resamples)
    return MeasuredClasses(found.metrics, found.notes, confusion)


def with_intervals(
    values: Mapping[str, float | None], drawn: Mapping[str, Float64Array], reasons: dict[str, str], resamples: int
) -> Measured:
    """Metrics with their intervals, and the notes on what is undefined.

    Args:
        values: name -> value of the rows, without resampling; None = undefined, and `reasons` says why.
        drawn: name -> (resamples,) values; NaN = undefined.
    """
    metrics: dict[str, Metric] = {}
    left_out: dict[int, list[str]] = {}
    for name, value in values.items():
        if value is None:
            metrics[name] = Metric(None, None, None)
            continue
        low, high, undefined = interval(drawn[name])
        metrics[name] = Metric(float(value), _finite(low), _finite(high))
        if undefined:
            left_out.setdefault(undefined, []).append(name)
    notes = _grouped(reasons)
    notes += [
        f"{', '.join(names)}: undefined on {count} of {resamples} resamples, which are left out of the interval"
        for count, names in left_out.items()
    ]
    return Measured(metrics, notes)


Compute = Callable[[Ints, Ints, Float64Array], float]

# Functions of labels, calls and probabilities; not called for a metric that _undefined gives a reason for.
_METRICS: dict[str, Compute] = {
    "accuracy": lambda y, calls, p: sk.accuracy_score(y, calls),
    "precision": lambda y, calls, p: sk.precision_score(y, calls, zero_division=np.nan),
    "recall": lambda y, calls, p: sk.recall_score(y, calls, zero_division=np.nan),
    "f1": lambda y, calls, p: sk.f1_score(y, calls, zero_division=np.nan),
    "roc_auc": lambda y, calls, p: sk.roc_auc_score(y, p),
    "pr_auc": lambda y, calls, p: sk.average_precision_score(y, p),
    "mcc": lambda y, calls, p: sk.matthews_corrcoef(y, calls),
    "brier": lambda y, calls, p: sk.brier_score_loss(y, p, pos_label=1),
}


def _undefined(confusion: list[list[int]]) -> dict[str, str]:
    """Why a metric is not defined; scikit-learn would return 0 or 1 for it."""
    (tn, fp), (fn, tp) = confusion
    reasons: dict[str, str] = {}
    if tp + fn == 0 or tn + fp == 0:
        only = "specific (0)" if tp + fn == 0 else "non-specific (1)"
        reason = f"undefined, every label is {only}; the ROC and precision-recall pictures are left out"
        reasons |= dict.fromkeys(("roc_auc", "pr_auc", "mcc"), reason)
    elif tp + fp == 0 or tn + fn == 0:
        reasons["mcc"] = "undefined, every row is called the same"
    if tp + fp == 0:
        reasons["precision"] = "undefined, no row is called non-specific"
    if tp + fn == 0:
        reasons["recall"] = "undefined, no label is non-specific (1)"
    if tp + fp + fn == 0:
        reasons["f1"] = "undefined, no row is labelled or called non-specific"
    return {name: reasons[name] for name in _METRICS if name in reasons}


def _grouped(reasons: dict[str, str]) -> list[str]:
    texts = dict.fromkeys(reasons.values())
    return [f"{', '.join(name for name in reasons if reasons[name] == text)}: {text}" for text in texts]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
