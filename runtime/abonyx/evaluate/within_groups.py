"""Agreement of a score with labels within groups of rows, as a function of how often each row counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from abonyx.arrays import Float64Array, Int64Array

# Weights (block, n) of the rows -> the agreement (block,); NaN where it is not defined.
Statistic = Callable[[Float64Array], Float64Array]


class Question(NamedTuple):
    """A score (n,), which is compared with the labels within each group (n,) int64."""

    score: Float64Array
    group: Int64Array


def auc(y: Float64Array, asked: Question) -> Statistic:
    """The share of pairs that the score orders correctly; ties count half.

    A pair is one row of each class, both in the same group.
    """
    order = np.lexsort((asked.score, asked.group))
    positive, score, group = y[order] > 0, asked.score[order], asked.group[order]
    new_group = np.append(True, group[1:] != group[:-1])
    ties = np.flatnonzero(np.append(True, new_group[1:] | (score[1:] != score[:-1])))
    groups = np.flatnonzero(new_group)
    group_of_tie = np.cumsum(new_group)[ties] - 1

    def compute(weights: Float64Array) -> Float64Array:
        drawn = weights[:, order]
        of_ties = [np.add.reduceat(drawn * rows, ties, axis=1) for rows in (positive, ~positive)]
        of_groups = [np.add.reduceat(drawn * rows, groups, axis=1) for rows in (positive, ~positive)]
        before_group = (np.cumsum(of_groups[1], axis=1) - of_groups[1])[:, group_of_tie]
        below = np.cumsum(of_ties[1], axis=1) - of_ties[1] - before_group
        ordered = (of_ties[0] * (below + of_ties[1] / 2)).sum(axis=1)
        pairs = (of_groups[0] * of_groups[1]).sum(axis=1)
        with np.errstate(invalid="ignore"):
            found: Float64Array = ordered / pairs
        return found

    return compute


def spearman(y: Float64Array, asked: Question) -> Statistic:
    """Correlation of ranks within groups. A rank is divided by the rows of its group; resamples keep the ranks."""
    ranks = [_ranks(values, asked.group) for values in (y, asked.score)]
    order = np.argsort(asked.group, kind="stable")
    group = asked.group[order]
    starts = np.flatnonzero(np.append(True, group[1:] != group[:-1]))
    sizes = np.diff(np.append(starts, len(group)))
    a, b = (rank[order] for rank in ranks)

    def compute(weights: Float64Array) -> Float64Array:
        drawn = weights[:, order]
        totals = np.add.reduceat(drawn, starts, axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            centred = []
            for rank in (a, b):
                means = np.nan_to_num(np.add.reduceat(drawn * rank, starts, axis=1) / totals)
                centred.append(rank - np.repeat(means, sizes, axis=1))
            products = (drawn * centred[0] * centred[1]).sum(axis=1)
            squares = [(drawn * each * each).sum(axis=1) for each in centred]
            found: Float64Array = products / np.sqrt(squares[0] * squares[1])
        return found

    return compute


def _ranks(values: Float64Array, group: Int64Array) -> Float64Array:
    """Mean rank of each value in its group, from 0 to 1."""
    ranks = np.empty(len(values), np.float64)
    for number in np.unique(group):
        rows = np.flatnonzero(group == number)
        _, place, counts = np.unique(values[rows], return_inverse=True, return_counts=True)
        ends = np.cumsum(counts)
        ranks[rows] = (ends - counts / 2)[place.ravel()] / len(rows)
    return ranks
