"""Calls with a band of uncertainty: two quantiles of scores of rows that the fit had not seen.

A share `confidence` of the non-specific rows has a score of `low` or above; the same share of the specific rows has
`high` or below. A score below `low` is called specific, above `high` non-specific; between them the class is uncertain.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np

from abonyx.arrays import BoolArray, Float64Array, Int64Array
from abonyx.bundle.band import UNCERTAIN, CallBand, ValueBand

CONFIDENCE = 0.8


class CallCounts(msgspec.Struct, frozen=True, kw_only=True):
    """How good the calls of labelled rows are.

    Attributes:
        confidence: of the band; None = the calls are made by the threshold, and no row is uncertain.
        band: of the head.
        by_fold: the band was chosen from these rows, and each row was called by a band of the other folds' scores.
        rows: how many rows can have a call.
        flagged: how many rows cannot, and are left out.
        uncertain: share of the rows that are uncertain.
        covered: share of the rows that are uncertain or called correctly.
        right: share of the calls that are correct; None without a call.
        against: how many calls differ from the call by the threshold.
    """

    confidence: float | None
    band: CallBand | None
    rows: int
    flagged: int
    uncertain: float
    covered: float
    right: float | None
    against: int
    by_fold: bool = False


def choose_band(p: Float64Array, labels: Float64Array, confidence: float = CONFIDENCE) -> CallBand:
    """The band of out-of-fold scores.

    Args:
        p: (n,) out-of-fold probabilities.
        labels: (n,) 0 and 1.
        confidence: between 0 and 1.

    If a class has too few rows for the quantile, no row is ever called the other class.
    """
    low = 1 - _upper_quantile(1 - p[labels == 1], confidence)
    high = _upper_quantile(p[labels == 0], confidence)
    if low > high:  # the classes hardly overlap: a threshold between the two quantiles keeps both shares
        low = high = (low + high) / 2
    return CallBand(confidence=confidence, low=low, high=high)


def choose_interval(residuals: Float64Array, confidence: float = CONFIDENCE) -> ValueBand | None:
    """The interval around a predicted value that holds this share of (n,) out-of-fold residuals.

    A residual is measured minus predicted. Equal shares of n + 1 residuals lie beyond both ends: the residual of a
    future row is counted, too. None if there are too few rows.
    """
    beyond = math.floor((len(residuals) + 1) * (1 - confidence) / 2 + 1e-9)
    if beyond < 1:
        return None
    ordered = np.sort(residuals)
    return ValueBand(confidence=confidence, low=float(ordered[beyond - 1]), high=float(ordered[-beyond]))


def _upper_quantile(scores: Float64Array, confidence: float) -> float:
    """The smallest score such that a share `confidence` of n + 1 rows is at or below it; 1 if there is none.

    The share is of n + 1 rows, not of n. So a new row of this kind is at or below the score with at least this
    probability.
    """
    place = math.ceil((len(scores) + 1) * confidence - 1e-9)
    return float(np.sort(scores)[place - 1]) if place <= len(scores) else 1.0


def count_calls(
    p: Float64Array, labels: Float64Array, band: CallBand, called: BoolArray, trusted: BoolArray
) -> CallCounts | None:
    """The calls of a fixed band on rows that were not used to choose it; None if no row has a call.

    Args:
        p, labels: as in choose_band.
        called: (n,) bool, calls by the threshold.
        trusted: (n,) bool, rows that have a call because they are not flagged.
    """
    return _counts(band.calls(p), called, labels, trusted, band.confidence, band)


def count_called(called: BoolArray, labels: Float64Array, trusted: BoolArray) -> CallCounts | None:
    """As count_calls, for (n,) calls by the threshold."""
    return _counts(called.astype(np.int64), called, labels, trusted, None, None)


def count_calls_by_fold(
    p: Float64Array, labels: Float64Array, fold: Int64Array, band: CallBand, called: BoolArray, trusted: BoolArray
) -> CallCounts | None:
    """The calls on each fold of (n,) rows by a band that is chosen from the scores of the other folds.

    Args:
        fold: (n,).
        band: chosen from the scores of all rows. The others are as in count_calls.
    """
    calls = np.empty(len(p), np.int64)
    for left_out in range(int(fold.max()) + 1):
        others, test = fold != left_out, fold == left_out
        calls[test] = choose_band(p[others], labels[others], band.confidence).calls(p[test])
    found = _counts(calls, called, labels, trusted, band.confidence, band)
    return None if found is None else msgspec.structs.replace(found, by_fold=True)


def _counts(
    calls: Int64Array,
    called: BoolArray,
    labels: Float64Array,
    trusted: BoolArray,
    confidence: float | None,
    band: CallBand | None,
) -> CallCounts | None:
    if not trusted.any():
        return None
    flagged = int((~trusted).sum())
    calls, called, labels = calls[trusted], called[trusted], labels[trusted]
    made = calls != UNCERTAIN
    right = calls == labels
    return CallCounts(
        confidence=confidence,
        band=band,
        rows=len(calls),
        flagged=flagged,
        uncertain=float(1 - made.mean()),
        covered=float((right | ~made).mean()),
        right=float(right[made].mean()) if made.any() else None,
        against=int((made & (calls != called)).sum()),
    )
