"""Two quantiles from rows that a fit had not seen: the range of uncertain calls, or the interval around a value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np

from abonyx.arrays import Float32Array, Float64Array, Int64Array, shortest_decimal

SPECIFIC, UNCERTAIN, NONSPECIFIC = 0, -1, 1
# The words in the column `call`.
Word = Literal["specific", "uncertain", "non-specific"]
CALL_WORDS: dict[int, Word] = {SPECIFIC: "specific", UNCERTAIN: "uncertain", NONSPECIFIC: "non-specific"}


class CallBand(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The range of p with uncertain calls.

    Attributes:
        confidence: the share of each class that is on the right side of its quantile.
        low, high: the quantiles, as p; low is at most high.
    """

    confidence: float
    low: float
    high: float

    def calls(self, p: Float32Array | Float64Array) -> Int64Array:
        """The call for each p, (n,) int64: SPECIFIC below `low`, NONSPECIFIC above `high`, else UNCERTAIN.

        Both sides are compared as float32, because every output shows float32.
        """
        shown, low, high = p.astype(np.float32), np.float32(self.low), np.float32(self.high)
        return np.where(shown > high, NONSPECIFIC, np.where(shown < low, SPECIFIC, UNCERTAIN)).astype(np.int64)

    def is_sound(self) -> bool:
        """Whether a fit could have written these values."""
        return 0 < self.confidence < 1 and 0 <= self.low <= self.high <= 1


class ValueBand(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The interval around a linear head's value: two quantiles of (measured - predicted) over rows not in the fit.

    Attributes:
        confidence: the share of rows between the quantiles.
        low, high: the quantiles, which are added to a value, in the head's unit; low is at most high.
    """

    confidence: float
    low: float
    high: float

    def ends(self, values: Float32Array, trusted: Sequence[bool]) -> tuple[list[float | None], list[float | None]]:
        """The ends of the intervals of n values: two columns of float32 values. None where `trusted` is false."""

        def column(end: float) -> list[float | None]:
            moved = (values.astype(np.float64) + end).astype(np.float32)
            return [
                float(shortest_decimal(value)) if trust else None for value, trust in zip(moved, trusted, strict=True)
            ]

        return column(self.low), column(self.high)

    def is_sound(self) -> bool:
        """Whether a fit could have written these values."""
        return (
            0 < self.confidence < 1 and math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high
        )
