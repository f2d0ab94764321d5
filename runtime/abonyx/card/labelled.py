"""The labelled rows of a card, and why there may be too few of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from abonyx.arrays import BoolArray, Float64Array, Int64Array
from abonyx.bundle.tolerances import CARD_MIN_DRAWS
from abonyx.card.folds import MIN_FOLDS
from abonyx.card.linear import Task

FOLDS = 10
# With fewer rows every interval contains everything.
MIN_ROWS = 20
# With fewer rows of a class, an interval says nothing: a draw only repeats those few.
MIN_OF_CLASS = 5
CLASS_WORDS = ("specific", "non-specific")


@dataclass(frozen=True, kw_only=True)
class LabelledSet:
    """The rows of a card.

    Attributes:
        name: of the set.
        head: what is judged.
        chains: for each chain, n cleaned sequences; one chain, or heavy and light of pairs.
        labels: (n,) float64: 0 and 1, or measured values.
        shared: (n,) bool, rows whose sequence, or its domain, the head was trained on; None = not known.
        trusted: (n,) bool, rows that are not flagged, and so have a call; None = all.
        left_out: notes on records that are not among the rows: how many, and why.
        comparisons: how many are made in all, including this one; intervals of the first line are corrected for them.
        folds, draws, seed: how many folds by cluster and draws of clusters, and the seed of both.
    """

    name: str
    head: str
    chains: tuple[Sequence[str], ...]
    labels: Float64Array
    task: Task = "classes"
    shared: BoolArray | None = None
    trusted: BoolArray | None = None
    left_out: tuple[str, ...] = ()
    comparisons: int = 1
    folds: int = FOLDS
    draws: int = 2_000
    seed: int = 0

    def sample(self, rows: Int64Array) -> LabelledSet:
        """The set with only these rows."""
        chains = tuple([chain[row] for row in rows] for chain in self.chains)
        shared = None if self.shared is None else self.shared[rows]
        return replace(self, chains=chains, labels=self.labels[rows], shared=shared, trusted=self.has_call[rows])

    @property
    def fewest(self) -> int:
        """Rows of the smaller class."""
        positives = int(self.labels.sum())
        return min(positives, len(self.labels) - positives)

    @property
    def contradicted(self) -> int:
        """How many sequences, or pairs, have both labels; 0 for values."""
        if self.task == "values":
            return 0
        labels: dict[tuple[str, ...], set[float]] = {}
        for record, label in zip(zip(*self.chains, strict=True), self.labels.tolist(), strict=True):
            labels.setdefault(record, set()).add(label)
        return sum(len(each) > 1 for each in labels.values())

    @property
    def has_call(self) -> BoolArray:
        """(n,) bool, rows that have a call."""
        return np.ones(len(self.labels), bool) if self.trusted is None else self.trusted


def related(labelled: LabelledSet, of_row: Int64Array) -> str:
    """Why a class cannot be judged: its rows are in too few clusters of similar sequences; "" if both can.

    Args:
        of_row: (n,) cluster of each row.
    """
    if labelled.task == "values":
        return ""
    for label, word in enumerate(CLASS_WORDS):
        own = labelled.labels == label
        count = len(np.unique(of_row[own]))
        if count < MIN_OF_CLASS:
            clusters = f"{count} cluster{'s' if count > 1 else ''} of similar sequences"
            return f"the {int(own.sum())} {word} rows are in {clusters}, at least {MIN_OF_CLASS} are needed"
    return ""


def unjudged(labelled: LabelledSet) -> str:
    """Why a set cannot be judged; "" if it can."""
    count, different = len(labelled.labels), len(set(zip(*labelled.chains, strict=True)))
    if not count:
        return "no row has a label"
    if (labelled.labels == labelled.labels[0]).all():
        shown = CLASS_WORDS[int(labelled.labels[0])] if labelled.task == "classes" else f"{labelled.labels[0]:g}"
        return f"all {count:,} labels are {shown}"
    if count < MIN_ROWS:
        return f"{count} rows are too few, at least {MIN_ROWS} are needed"
    if labelled.task == "classes" and (fewest := labelled.fewest) < MIN_OF_CLASS:
        word = CLASS_WORDS[int(labelled.labels.mean() < 0.5)]
        return f"{fewest} of {count:,} rows {'is' if fewest == 1 else 'are'} {word}, at least {MIN_OF_CLASS} are needed"
    if different < max(labelled.folds, MIN_FOLDS):
        needed = max(labelled.folds, MIN_FOLDS)
        return f"{count} rows hold {different} different sequences, at least {needed} are needed"
    if labelled.draws < CARD_MIN_DRAWS:
        return f"{labelled.draws} draws are too few for a 95 % interval, at least {CARD_MIN_DRAWS} are needed"
    return ""
