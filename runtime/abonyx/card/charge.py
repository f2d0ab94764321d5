"""Length, net charge and isoelectric point of a chain, from its residues alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from abonyx.arrays import Float64Array

# The table of EMBOSS (Epk.dat). Cysteines count as bonded, without a charge: the two of a domain form a disulfide.
PKA_SOURCE = "EMBOSS"
PKA_POSITIVE = {"N-terminus": 8.6, "K": 10.8, "R": 12.5, "H": 6.5}
PKA_NEGATIVE = {"C-terminus": 3.6, "D": 3.9, "E": 4.1, "Y": 10.1}
PHYSIOLOGICAL_PH = 7.4
# How often the interval from pH 0 to 14 is halved: down to 1e-8.
_HALVINGS = 31


def net_charge(sequences: Sequence[str], ph: float = PHYSIOLOGICAL_PH) -> Float64Array:
    """Net charge (n,) of n free chains at one pH, in elementary charges."""
    positive, negative = _counts(sequences)
    return _charge(positive, negative, np.full(len(sequences), ph))


def isoelectric_point(sequences: Sequence[str]) -> Float64Array:
    """The pH (n,) at which each of n free chains has no net charge."""
    positive, negative = _counts(sequences)
    low: Float64Array = np.zeros(len(sequences))
    high: Float64Array = np.full(len(sequences), 14.0)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        above = _charge(positive, negative, middle) > 0  # charge falls with pH
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return (low + high) / 2


def _counts(sequences: Sequence[str]) -> tuple[Float64Array, Float64Array]:
    """How often each group of PKA_POSITIVE and PKA_NEGATIVE occurs: (n, 4) each; a terminus counts once."""

    def count(groups: dict[str, float]) -> Float64Array:
        cells = [[sequence.count(group) if len(group) == 1 else 1 for group in groups] for sequence in sequences]
        counts: Float64Array = np.array(cells, np.float64).reshape(len(sequences), len(groups))
        return counts

    return count(PKA_POSITIVE), count(PKA_NEGATIVE)


def _charge(positive: Float64Array, negative: Float64Array, ph: Float64Array) -> Float64Array:
    """Henderson-Hasselbalch: net charge (n,) at the pH (n,) of each chain."""
    acids, bases = np.array(list(PKA_NEGATIVE.values())), np.array(list(PKA_POSITIVE.values()))
    protonated = 1 / (1 + 10.0 ** (ph[:, None] - bases))
    released = 1 / (1 + 10.0 ** (acids - ph[:, None]))
    total: Float64Array = (positive * protonated).sum(axis=1)
    total -= (negative * released).sum(axis=1)
    return total
