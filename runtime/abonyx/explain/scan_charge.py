"""Which part of a head's changes the change of net charge explains: ordinary least squares over one scan."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from abonyx.arrays import Float64Array

# Any two points lie on a line.
FEWEST = 3
# In elementary charges. If no mutant gains or loses a whole charge, only His and Tyr change it, by 0.11 and 0.002.
LEAST_SPREAD = 0.5


class ChargeFit(NamedTuple):
    """change = intercept + slope x change of net charge, over the n mutants of a scan.

    Attributes:
        slope: the head's change for one elementary charge.
        intercept: the head's change at equal charge.
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
    """Fit a line to the changes (n,) of a head over the changes of charge (n,).

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
