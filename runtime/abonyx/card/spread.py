"""How far measured values lie apart, and how wide an interval around predicted values is in comparison."""

from __future__ import annotations

import numpy as np

from abonyx.arrays import BoolArray, Float64Array
from abonyx.bundle.band import ValueBand
from abonyx.card.record import IntervalRecord, SpreadRecord


def spread_record(labels: Float64Array) -> SpreadRecord:
    """The spread of measured labels (n,)."""
    p10, p90 = np.percentile(labels, (10, 90))
    return SpreadRecord(sd=float(labels.std(ddof=1)), p10=float(p10), p90=float(p90))


def interval_record(
    interval: ValueBand | None, labels: Float64Array, covered: float | None = None
) -> IntervalRecord | None:
    """An interval, with the width that holds the same share of labels (n,); None if nearly all labels are equal."""
    if interval is None:
        return None
    tail = 50 * (1 - interval.confidence)
    low, high = np.percentile(labels, (tail, 100 - tail))
    if not high > low:
        return None
    return IntervalRecord(
        confidence=interval.confidence,
        low=interval.low,
        high=interval.high,
        spread=float(high - low),
        covered=covered,
    )


def share_covered(interval: ValueBand, labels: Float64Array, values: Float64Array, trusted: BoolArray) -> float | None:
    """The share of trusted rows whose label (n,) lies in the interval around its value (n,); None without such rows."""
    if not trusted.any():
        return None
    off = (labels - values)[trusted]
    return float(((interval.low <= off) & (off <= interval.high)).mean())
