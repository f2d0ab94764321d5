"""What a head has to beat: predictors that need no encoder, cross-validated on the same folds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from abonyx.arrays import Float64Array, Int64Array
from abonyx.card.charge import isoelectric_point, net_charge
from abonyx.card.folds import OutOfFold, cross_fit, log_odds, training_means
from abonyx.card.identity import Numbered, identity_blocks
from abonyx.card.linear import GRIDS, Task, fit_standardised, one_thread

RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
COMPOSITION = "residue composition"
LENGTH_AND_CHARGE = "length and charge"
NEAREST = "nearest training row"
MAJORITY: dict[Task, str] = {"classes": "majority class", "values": "mean of the training rows"}


def cross_validate_baselines(
    chains: Sequence[Sequence[str]], numbered: Numbered, labels: Float64Array, fold: Int64Array, task: Task
) -> dict[str, OutOfFold]:
    """Name -> out-of-fold scores of n rows, in the order of the card.

    Args:
        chains: for each chain, n cleaned sequences.
        numbered: the same sequences, numbered.
        labels: (n,) 0 and 1, or values.
        fold: (n,) the fold of each row.
    """
    fit, grid = fit_standardised(task), GRIDS[task]
    with one_thread():  # entered only once, because it searches the process's libraries each time
        regressions = {
            COMPOSITION: cross_fit(composition(chains), labels, fold, grid, fit, task),
            LENGTH_AND_CHARGE: cross_fit(length_and_charge(chains), labels, fold, grid, fit, task),
        }
    return regressions | {
        NEAREST: nearest_values(numbered, labels, fold, task),
        MAJORITY[task]: constant(labels, fold, task),
    }


def composition(chains: Sequence[Sequence[str]]) -> Float64Array:
    """Share of each of the 20 residues in each chain: (n, 20 * chains)."""
    return np.hstack(
        [
            np.array([[sequence.count(letter) / len(sequence) for letter in RESIDUES] for sequence in chain])
            for chain in chains
        ]
    )


def length_and_charge(chains: Sequence[Sequence[str]]) -> Float64Array:
    """Residues, net charge at pH 7.4 and isoelectric point of each chain: (n, 3 * chains)."""
    columns = [
        column
        for chain in chains
        for column in (np.array([len(each) for each in chain], float), net_charge(chain), isoelectric_point(chain))
    ]
    return np.column_stack(columns)


def constant(labels: Float64Array, fold: Int64Array, task: Task) -> OutOfFold:
    """The majority class of all rows, also those of the fold; or the mean of the training rows. It ranks nothing."""
    raw = np.full(len(labels), log_odds(labels)) if task == "classes" else training_means(labels, fold)
    return OutOfFold(raw, raw.copy())


def nearest_values(numbered: Numbered, labels: Float64Array, fold: Int64Array, task: Task) -> OutOfFold:
    """The label of the training row with the highest identity; if several have it, the mean of their labels.

    For classes the score is that label minus 0.5, so that above 0 it is called 1. The mean label of the training rows
    is not subtracted: this mean is lower for folds with more positives, so equal scores would become unequal.
    """
    half = 0.5 if task == "classes" else 0.0
    raw = np.empty(len(labels))
    for block, percent in identity_blocks(numbered):
        in_block = (numbered.distinct >= block.start) & (numbered.distinct < block.stop)
        for left_out in np.unique(fold[in_block]):
            test, training = np.flatnonzero(in_block & (fold == left_out)), np.flatnonzero(fold != left_out)
            near = percent[np.ix_(numbered.distinct[test] - block.start, numbered.distinct[training])]
            nearest = (
                near >= near.max(axis=1, keepdims=True) - 1e-4
            )  # as in clusters.py: different percents differ by more than 1e-4
            raw[test] = nearest @ labels[training] / nearest.sum(axis=1) - half
    return OutOfFold(raw, np.zeros(len(labels)))
