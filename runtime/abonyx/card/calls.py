"""Calls with a band of uncertainty: two quantiles of scores of rows that the fit had not seen.

Of the non-specific rows the share `confidence` has a score of `low` or above, of the specific ones as many have `high`
or below. A score below `low` is called specific, above `high` non-specific; between them it could be either.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np

from abonyx.arrays import BoolArray, Float64Array, Int64Array
from abonyx.bundle.band import UNCERTAIN, CallBand, ValueBand

CONFIDENCE = 0.8


class CallCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What the calls of labelled rows are worth.

    Attributes:
        confidence: of the band; None = no row is uncertain: the calls are by the threshold.
        band: the head's. by_fold: it is of these rows, and each was called by a band of the other folds' scores.
        rows: that can have a call. flagged: those that cannot, and are left out.
        uncertain: share of the rows.
        covered: share of the rows that are uncertain or called right.
        right: of the calls made, the share that is right; None if none is made.
        against: rows with a call that is not the threshold's.
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

    A class with too few rows for the quantile keeps all scores: the other call is then never made.
    """
    low = 1 - _upper_quantile(1 - p[labels == 1], confidence)
    high = _upper_quantile(p[labels == 0], confidence)
    if low > high:  # the classes hardly overlap: any threshold between the two keeps both shares
        low = high = (low + high) / 2
    return CallBand(confidence=confidence, low=low, high=high)


def choose_interval(residuals: Float64Array, confidence: float = CONFIDENCE) -> ValueBand | None:
    """The interval around a value of which (n,) out-of-fold residuals, measured minus predicted, hold that share.

    As much lies beyond either end, one future row counted in. None if the rows are too few for that.
    """
    beyond = math.floor((len(residuals) + 1) * (1 - confidence) / 2 + 1e-9)
    if beyond < 1:
        return None
    ordered = np.sort(residuals)
    return ValueBand(confidence=confidence, low=float(ordered[beyond - 1]), high=float(ordered[-beyond]))


def _upper_quantile(scores: Float64Array, confidence: float) -> float:
    """The smallest score with the share of `confidence` at or below it, one future row counted in; 1 if there is none.

    With (n + 1) in place of n, a row like these is at or below it with at least that probability.
    """
    place = math.ceil((len(scores) + 1) * confidence - 1e-9)
    return float(np.sort(scores)[place - 1]) if place <= len(scores) else 1.0


def count_calls(
    p: Float64Array, labels: Float64Array, band: CallBand, called: BoolArray, trusted: BoolArray
) -> CallCounts | None:
    """What a fixed band does on rows that had no part in it; None if no row has a call.

    Args:
        p, labels: as in choose_band.
        called: (n,) bool, calls by the threshold.
        trusted: (n,) bool, rows that have a call: those that are not flagged.
    """
    return _counts(band.calls(p), called, labels, trusted, band.confidence, band)


def count_called(called: BoolArray, labels: Float64Array, trusted: BoolArray) -> CallCounts | None:
    """The same of (n,) calls by the threshold."""
    return _counts(called.astype(np.int64), called, labels, trusted, None, None)


def count_calls_by_fold(
    p: Float64Array, labels: Float64Array, fold: Int64Array, band: CallBand, called: BoolArray, trusted: BoolArray
) -> CallCounts | None:
    """What a band like this does on each fold of (n,) rows if the scores of the other folds choose it.

    Args:
        fold: (n,). band: of all rows' scores. The others are as in count_calls.
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
