"""Two quantiles of what a fit had not seen: a band of uncertain calls, or the interval around a value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np

from abonyx.arrays import Float32Array, Float64Array, Int64Array, shortest_decimal

SPECIFIC, UNCERTAIN, NONSPECIFIC = 0, -1, 1
# As the column `call` has them.
Word = Literal["specific", "uncertain", "non-specific"]
CALL_WORDS: dict[int, Word] = {SPECIFIC: "specific", UNCERTAIN: "uncertain", NONSPECIFIC: "non-specific"}


class CallBand(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The two quantiles.

    Attributes:
        confidence: the share of each class that its quantile keeps.
        low, high: p; low is at most high.
    """

    confidence: float
    low: float
    high: float

    def calls(self, p: Float32Array | Float64Array) -> Int64Array:
        """SPECIFIC below `low`, NONSPECIFIC above `high`, else UNCERTAIN, of each p (n,).

        Both sides are float32, as every output shows them.
        """
        shown, low, high = p.astype(np.float32), np.float32(self.low), np.float32(self.high)
        return np.where(shown > high, NONSPECIFIC, np.where(shown < low, SPECIFIC, UNCERTAIN)).astype(np.int64)

    def is_sound(self) -> bool:
        """Whether the values are such as a fit writes."""
        return 0 < self.confidence < 1 and 0 <= self.low <= self.high <= 1


class ValueBand(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Around a linear head's value: two quantiles of measured minus predicted, of rows that the fit had not seen.

    Attributes:
        confidence: the share of rows between them.
        low, high: in the head's unit, what is added to a value; low is at most high.
    """

    confidence: float
    low: float
    high: float

    def ends(self, values: Float32Array, trusted: Sequence[bool]) -> tuple[list[float | None], list[float | None]]:
        """The interval of n values, as float32 shows it: two columns, None for one that is not to be trusted."""

        def column(end: float) -> list[float | None]:
            moved = (values.astype(np.float64) + end).astype(np.float32)
            return [
                float(shortest_decimal(value)) if trust else None for value, trust in zip(moved, trusted, strict=True)
            ]

        return column(self.low), column(self.high)

    def is_sound(self) -> bool:
        """Whether the values are such as a fit writes."""
        return (
            0 < self.confidence < 1 and math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high
        )
