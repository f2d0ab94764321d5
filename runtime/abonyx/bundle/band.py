"""A head's band of uncertain calls: two quantiles of scores of training rows that the fit had not seen."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np

from abonyx.arrays import Float32Array, Float64Array, Int64Array

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
