"""Folds that keep similar sequences together: single-linkage clusters, put into folds by size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from abonyx.arrays import BoolArray, Int64Array
from abonyx.card.identity import Numbered, identity_blocks
from abonyx.errors import InputError
from abonyx.wording import option

# Percent identity at which two sequences are linked, tried in this order. If none fits, identical sequences are linked.
LEVELS = (80, 85, 90)
IDENTICAL = 100
# If a cluster has a larger share of the rows, one fold is mostly that cluster, and the fits for all others train on it.
LARGEST_SHARE = 0.25
# The matrix of identities grows with the square of the rows: 4,000 rows take 2.6 CPU seconds, 20,000 about 25 times as
# many.
MAX_ROWS = 20_000


@dataclass(frozen=True)
class Level:
    """The clusters that linking at one identity gives.

    Attributes:
        percent: two records are in one cluster if a chain of records of at least this identity joins them.
        clusters: how many.
        largest: rows of the largest cluster.
    """

    percent: int
    clusters: int
    largest: int


@dataclass(frozen=True)
class Clusters:
    """The clusters of n rows.

    Attributes:
        of_row: (n,) int64, numbered from 0 in order of their first row.
        level: the level that is used.
        tried: all levels up to this one, in order.
        without_domain: rows that could not be numbered; they share a cluster only with identical sequences.
        note: why the first level is not used; "" if it is.
    """

    of_row: Int64Array
    level: Level
    tried: tuple[Level, ...]
    without_domain: int
    note: str


def sample_rows(count: int, seed: int) -> Int64Array:
    """The rows of the card, ascending: all rows, or MAX_ROWS of them, drawn with `seed`."""
    if count <= MAX_ROWS:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, MAX_ROWS, replace=False))


def cluster_rows(numbered: Numbered, folds: int, levels: Sequence[int] = LEVELS) -> Clusters:
    """Cluster at the first level that allows folds; if none does, only identical sequences share a cluster.

    Args:
        numbered: the rows.
        folds: how many folds the clusters are put into.
        levels: percent, ascending.

    Raises:
        InputError: fewer distinct sequences than folds.
    """
    rows, records = len(numbered.distinct), len(numbered)
    if records < folds:
        what = f"{rows} rows hold {records} different sequences, {option('folds')} {folds} needs at least {folds}"
        fix = "Add rows with other sequences" + (f", or ask for {records} folds." if records > 1 else ".")
        raise InputError(what, fix)
    linked = _linked(numbered, levels)
    linked.append(np.arange(records))
    tried: list[Level] = []
    for percent, of_record in zip([*levels, IDENTICAL], linked, strict=True):
        sizes = np.bincount(of_record[numbered.distinct])
        sizes = sizes[sizes > 0]
        tried.append(Level(percent, len(sizes), int(sizes.max())))
        if len(sizes) >= folds and sizes.max() <= LARGEST_SHARE * rows:
            break
    used = of_record[numbered.distinct]
    _, first, inverse = np.unique(used, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))
    without = int(numbered.without_domain[numbered.distinct].sum())
    return Clusters(order[inverse], tried[-1], tuple(tried), without, _note(tried, folds, rows))


def _note(tried: Sequence[Level], folds: int, rows: int) -> str:
    """Why the first level is not used."""
    reasons = [
        f"at {each.percent} % there {_clusters(each.clusters)} for {folds} folds"
        if each.clusters < folds
        else f"at {each.percent} % the largest cluster holds {100 * each.largest / rows:.0f} % of the rows"
        for each in tried[:-1]
    ]
    if not reasons:
        return ""
    used = tried[-1].percent
    if used == IDENTICAL:
        end = "only identical sequences are kept in one fold, not similar ones, so the figures are too good"
    else:
        end = f"sequences are linked at {used} %"
    return f"{'; '.join(reasons)}: {end}"


def _clusters(count: int) -> str:
    return "is 1 cluster" if count == 1 else f"are {count} clusters"


def _linked(numbered: Numbered, levels: Sequence[int]) -> list[Int64Array]:
    """Single linkage at each level, in one pass over the matrix: (u,) cluster numbers for each level, some unused."""
    labels = [np.arange(len(numbered)) for _ in levels]
    for _, percent in identity_blocks(numbered):
        for of_record, level in zip(labels, levels, strict=True):
            # Percents are float32 quotients of counts below 200: different ones differ by at least 1e-3.
            _merge(of_record, percent >= level - 1e-4)
    return labels


def _merge(of_record: Int64Array, near: BoolArray) -> None:
    """Join, in place, the clusters of each record of a block with those of the records near it."""
    for row in near:
        found = of_record[row]
        if (found != found[0]).any():  # otherwise there is nothing to join, as for most rows of a large cluster
            joined = np.unique(found)
            of_record[np.isin(of_record, joined)] = joined[0]


def cluster_folds(of_row: Int64Array, folds: int, seed: int) -> Int64Array:
    """The fold of each row, (n,) 0 to folds - 1. Clusters stay whole; the largest first, each into the smallest fold.

    Args:
        of_row: (n,) clusters, at least as many as folds.
        seed: for the order of clusters of the same size.
    """
    sizes = np.bincount(of_row)
    order = np.random.default_rng(seed).permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    filled, fold_of_cluster = np.zeros(folds, np.int64), np.empty(len(sizes), np.int64)
    for cluster in order:
        fold = int(np.argmin(filled))
        fold_of_cluster[cluster] = fold
        filled[fold] += sizes[cluster]
    return fold_of_cluster[of_row]


def random_folds(labels: np.ndarray[tuple[int], np.dtype[np.float64]], folds: int, seed: int) -> Int64Array:
    """The fold of each row, (n,), whatever its sequence.

    The rows are sorted by label, equal labels in an order drawn with `seed`, and put into the folds in turn.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    fold = np.empty(len(labels), np.int64)
    fold[order] = np.arange(len(labels)) % folds
    return fold
