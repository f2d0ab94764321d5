"""What the change of net charge explains of a head's changes over one scan: ordinary least squares with intercept."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from abonyx.arrays import Float64Array

# Two points lie on a line whatever they are.
FEWEST = 3
# In elementary charges: without a mutant that gains or loses a whole one, only His and Tyr differ, by 0.11 and 0.002.
LEAST_SPREAD = 0.5


class ChargeFit(NamedTuple):
    """change = intercept + slope x change of net charge, over the n mutants of a scan.

    Attributes:
        slope: of the head's change for one elementary charge.
        intercept: of the head's change at equal charge.
        r2: the share of the changes' variance that the line explains; 0 if all changes are equal.
        n: mutants that it was fitted to.
    """

    slope: float
    intercept: float
    r2: float
    n: int

    def rest(self, change: Float64Array, charge: Float64Array) -> Float64Array:
        """The part (n,) of the changes that the line does not explain."""
        left: Float64Array = change - (self.intercept + self.slope * charge)
        return left


def fit_charge(change: Float64Array, charge: Float64Array) -> ChargeFit | None:
    """The line through the changes (n,) of a head by those of charge (n,).

    None if charge cannot be taken out: fewer than FEWEST mutants, or changes of charge less than LEAST_SPREAD apart.
    """
    if len(change) < FEWEST or np.ptp(charge) < LEAST_SPREAD:
        return None
    away, centred = charge - charge.mean(), change - change.mean()
    slope = float(away @ centred) / float(away @ away)
    intercept = float(change.mean() - slope * charge.mean())
    variance = float(centred @ centred)
    left = centred - slope * away
    r2 = 1 - float(left @ left) / variance if variance else 0.0
    return ChargeFit(slope, intercept, r2, len(change))
