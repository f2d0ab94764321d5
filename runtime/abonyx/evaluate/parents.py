"""Measured variants of parents: how well the model ranks those of one parent, and charge alone, and it at equal charge.

Only rows of one parent are compared with each other: between parents, a model can look good by telling parents apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from abonyx.arrays import Float64Array, Int64Array
from abonyx.errors import InputError, printable
from abonyx.evaluate.bootstrap import interval
from abonyx.evaluate.metrics import Metric
from abonyx.wording import option

# From this many parents on, parents are drawn for the intervals; of fewer, rows of each parent.
PARENTS_TO_DRAW = 20
PARENTS_CSV = "parents.csv"
# Rows of one parent and one charge with labels that differ, and draws, below which nothing is concluded; as the card.
FEWEST_ROWS, FEWEST_DRAWS = 20, 200
AUC, SPEARMAN = "ROC AUC", "Spearman"
CHANCE = {AUC: 0.5, SPEARMAN: 0.0}
# Cells of (resample, row) held at a time, as in bootstrap.
_BLOCK_CELLS = 1 << 20


class Parent(msgspec.Struct, frozen=True):
    """One parent's figures; None = not defined: of fewer than two classes, or values that are all equal.

    Attributes:
        rows: its variants that have a label; charges: formal charges among them.
    """

    parent: str
    rows: int
    charges: int
    model: float | None
    charge: float | None
    model_at_equal_charge: float | None

    @property
    def figures(self) -> tuple[float | None, float | None, float | None]:
        """Of the model, of charge alone, and of the model at equal charge."""
        return self.model, self.charge, self.model_at_equal_charge


class ByParent(msgspec.Struct, frozen=True, kw_only=True):
    """Agreement with the measurement among rows of one parent.

    Attributes:
        column: that names the parent.
        metric: AUC of classes, SPEARMAN of values.
        rows: with a label and a parent; left_out: with a label and no parent.
        model: of the head's score. charge: of the formal charge alone (K and R less D and E). model_at_equal_charge: of
            the score among rows of one parent and one formal charge.
        drawn: what the intervals' resamples draw.
        concluded: whether it says more than that this cannot be told.
        compared: parents with rows that can be compared.
        sentence: what is known of the ranking at equal charge; `abonyx scan --validated` shows it.
        parents: one each, in the order of their first row.
    """

    column: str
    metric: str
    rows: int
    left_out: int
    model: Metric
    charge: Metric
    model_at_equal_charge: Metric
    drawn: str
    sentence: str
    concluded: bool
    compared: int
    parents: list[Parent]

    def line(self) -> str:
        """What the summary, the card and the report say."""
        rows = f"{self.left_out:,} row{'s' * (self.left_out > 1)} without a parent"
        count, out = self.compared, f" ({rows} left out)" if self.left_out else ""
        within = f"among the variants of {'one parent' if count == 1 else f'each of {count:,} parents'}{out}"
        figures = f"{self.metric} {self.model.text()} of the model, {self.charge.text()} of net charge alone"
        return f"{within}: {figures}, {self.model_at_equal_charge.text()} of the model at equal charge. {self.sentence}"


def _comparable(y: Float64Array, strata: Int64Array) -> int:
    """Rows that share their group with a row of another label."""
    lowest, highest = np.full(strata.max() + 1, np.inf), np.full(strata.max() + 1, -np.inf)
    np.minimum.at(lowest, strata, y)
    np.maximum.at(highest, strata, y)
    return int((lowest < highest)[strata].sum())


def _sentence(metric: str, found: Metric, shared: int | None, *, enough: bool) -> str:
    """Whether variants of one parent and one charge are ranked better than by chance."""
    chance, figure = CHANCE[metric], f"{metric} {found.text()}"
    if shared:
        return f"The head was trained on {shared:,} of these rows: this says nothing of other variants."
    if found.low is None or found.high is None or not enough:
        return "Whether the model ranks variants at equal charge cannot be told from these rows."
    if found.low <= chance <= found.high:
        return f"At equal charge the model's ranking here is not distinguishable from chance ({figure})."
    better = "better" if found.low > chance else "worse"
    return f"At equal charge the model ranks these variants {better} than chance ({figure})."


class _Question(NamedTuple):
    """A score (n,) that is compared with the labels among rows of one group (n,) int64."""

    score: Float64Array
    group: Int64Array


def formal_charge(sequences: Sequence[str]) -> Int64Array:
    """Lysines and arginines less aspartates and glutamates, (n,) int64: rows of one value are of equal charge."""
    counts = [sum(map(sequence.count, "KR")) - sum(map(sequence.count, "DE")) for sequence in sequences]
    return np.array(counts, np.int64)


def measure_by_parent(
    column: str,
    parents: Sequence[str],
    sequences: Sequence[str],
    labels: Float64Array,
    scores: Float64Array,
    *,
    classes: bool,
    resamples: int,
    seed: int,
    shared: int | None = None,
) -> ByParent:
    """Measure n rows that have a label.

    Args:
        column: the parents' column.
        parents: name of each row's parent, "" = none.
        sequences: what was scored; of a pair both chains.
        labels: (n,) 0/1, or measured values; scores: (n,) logits, probabilities or values.
        classes: whether labels are classes.
        resamples, seed: of the intervals.
        shared: rows that the head was trained on; None = not known.

    Raises:
        InputError: no parent has rows that could be told apart.
    """
    parents = [parent.strip() for parent in parents]
    kept = [index for index, parent in enumerate(parents) if parent]
    names = list(dict.fromkeys(parents[index] for index in kept))
    numbers = {name: number for number, name in enumerate(names)}
    group = np.array([numbers[parents[index]] for index in kept], np.int64)
    y, x = labels[kept].astype(np.float64), scores[kept].astype(np.float64)
    charge = formal_charge([sequences[index] for index in kept])
    strata = np.unique(np.stack([group, charge]), axis=1, return_inverse=True)[1].ravel()
    questions = {
        "model": _Question(x, group),
        "charge": _Question(charge.astype(np.float64), group),
        "model_at_equal_charge": _Question(x, strata),
    }
    statistic = _auc if classes else _spearman
    whole = np.ones((1, len(kept)))
    values = {name: _number(statistic(y, asked)(whole)[0]) for name, asked in questions.items()}
    if values["model"] is None:
        what = "rows of both classes" if classes else "rows of different values"
        raise InputError(
            f"{option('by')} {printable(column)}: none of {len(names)} parents has {what}",
            "Name the column in which the variants of one parent have the same cell.",
        )
    rows = [_of_parent(name, group == number, y, questions, charge, statistic) for name, number in numbers.items()]
    compared = [parent for parent in rows if parent.model is not None]
    by_parents = len(compared) >= PARENTS_TO_DRAW
    metrics = {}
    for name, asked in questions.items():
        compute = statistic(y, asked)
        drawn = [compute(weights) for weights in _weights(group, len(names), resamples, seed, by_parents=by_parents)]
        low, high, _ = interval(np.concatenate(drawn))
        metrics[name] = Metric(values[name], _number(low), _number(high))
    metric = AUC if classes else SPEARMAN
    enough = resamples >= FEWEST_DRAWS and _comparable(y, strata) >= FEWEST_ROWS
    return ByParent(
        column=column,
        metric=metric,
        sentence=_sentence(metric, metrics["model_at_equal_charge"], shared, enough=enough),
        concluded=enough and not shared and metrics["model_at_equal_charge"].low is not None,
        compared=len(compared),
        rows=len(kept),
        left_out=len(parents) - len(kept),
        drawn="parents" if by_parents else "rows of each parent",
        parents=rows,
        **metrics,
    )


Statistic = Callable[[Float64Array], Float64Array]


def _of_parent(
    name: str,
    rows: np.ndarray[tuple[int], np.dtype[np.bool_]],
    y: Float64Array,
    questions: dict[str, _Question],
    charge: Int64Array,
    statistic: Callable[[Float64Array, _Question], Statistic],
) -> Parent:
    whole = np.ones((1, int(rows.sum())))
    figures = {
        key: _number(statistic(y[rows], _Question(asked.score[rows], asked.group[rows]))(whole)[0])
        for key, asked in questions.items()
    }
    return Parent(name, int(rows.sum()), len(np.unique(charge[rows])), **figures)


def _auc(y: Float64Array, asked: _Question) -> Statistic:
    """Share of pairs of one group, one row of each class, that the score orders as the classes; ties count half."""
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


def _spearman(y: Float64Array, asked: _Question) -> Statistic:
    """Correlation of ranks within groups, each rank as a share of its group; resamples keep the ranks."""
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


def _weights(group: Int64Array, parents: int, resamples: int, seed: int, *, by_parents: bool) -> Iterator[Float64Array]:
    """How often each row is drawn, (block, n): with its parent, or among the rows of its parent."""
    generator = np.random.default_rng(seed)
    n = len(group)
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(parents))
    sizes = np.diff(np.append(starts, n))
    size = max(1, _BLOCK_CELLS // n)
    for start in range(0, resamples, size):
        count = min(size, resamples - start)
        if by_parents:
            drawn = generator.integers(0, parents, (count, parents)) + parents * np.arange(count)[:, None]
            of_parents = np.bincount(drawn.ravel(), minlength=count * parents).reshape(count, parents)
            yield of_parents[:, group].astype(np.float64)
        else:
            picks = (generator.random((count, n)) * np.repeat(sizes, sizes)).astype(np.int64) + np.repeat(starts, sizes)
            rows = order[picks] + n * np.arange(count)[:, None]
            yield np.bincount(rows.ravel(), minlength=count * n).reshape(count, n).astype(np.float64)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
