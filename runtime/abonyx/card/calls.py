"""Calls with a band of uncertainty: two quantiles of scores of rows that the fit had not seen.

Of the non-specific rows the share `confidence` has a score of `low` or above, of the specific ones as many have `high`
or below. A score below `low` is called specific, above `high` non-specific; between them it could be either.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np

from abonyx.arrays import Float64Array, Int64Array
from abonyx.bundle.band import UNCERTAIN, CallBand

CONFIDENCE = 0.8


class CallCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What a band does on labelled rows.

    Attributes:
        band: None if each fold had its own, of the other folds' scores.
        uncertain: share of the rows.
        covered: share of the rows that are uncertain or called right.
        right: of the calls made, the share that is right; None if none is made.
    """

    confidence: float
    band: CallBand | None
    uncertain: float
    covered: float
    right: float | None


def choose_band(p: Float64Array, labels: Float64Array, confidence: float = CONFIDENCE) -> CallBand:
    """The band of out-of-fold scores.

    Args:
        p: (n,) out-of-fold probabilities.
        labels: (n,) 0 and 1.
        confidence: between 0 and 1.

    A class with too few rows for the quantile keeps all scores: the other call is then never made.
    """
    low = 1 - _upper_quantile(1 - p[labels == 1], confidence)
    high = _upper_quantile(p[labels == 0], confidence)
    if low > high:  # the classes hardly overlap: any threshold between the two keeps both shares
        low = high = (low + high) / 2
    return CallBand(confidence=confidence, low=low, high=high)


def _upper_quantile(scores: Float64Array, confidence: float) -> float:
    """The smallest score with the share of `confidence` at or below it, one future row counted in; 1 if there is none.

    With (n + 1) in place of n, a row like these is at or below it with at least that probability.
    """
    place = math.ceil((len(scores) + 1) * confidence - 1e-9)
    return float(np.sort(scores)[place - 1]) if place <= len(scores) else 1.0


def count_calls(p: Float64Array, labels: Float64Array, band: CallBand) -> CallCounts:
    """What a fixed band does on rows that had no part in it; p and labels as in choose_band."""
    return _counts(band.calls(p), labels, band.confidence, band)


def count_calls_by_fold(
    p: Float64Array, labels: Float64Array, fold: Int64Array, confidence: float = CONFIDENCE
) -> CallCounts:
    """What a band does on each fold of (n,) rows that the scores of the other folds chose."""
    calls = np.empty(len(p), np.int64)
    for left_out in range(int(fold.max()) + 1):
        others, test = fold != left_out, fold == left_out
        calls[test] = choose_band(p[others], labels[others], confidence).calls(p[test])
    return _counts(calls, labels, confidence, None)


def _counts(calls: Int64Array, labels: Float64Array, confidence: float, band: CallBand | None) -> CallCounts:
    made = calls != UNCERTAIN
    right = calls == labels
    return CallCounts(
        confidence=confidence,
        band=band,
        uncertain=float(1 - made.mean()),
        covered=float((right | ~made).mean()),
        right=float(right[made].mean()) if made.any() else None,
    )
