"""How well variants of one parent are ranked: by the model, by charge alone, and by the model at equal charge.

Only rows of the same parent are compared: across parents, a model can look good only because it tells parents apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec
import numpy as np

from abonyx.arrays import Float64Array, Int64Array
from abonyx.errors import InputError, printable
from abonyx.evaluate.bootstrap import interval
from abonyx.evaluate.equal_charge import AUC, FEWEST_DRAWS, FEWEST_ROWS, SPEARMAN, Figure, conclusion
from abonyx.evaluate.metrics import Metric
from abonyx.evaluate.within_groups import Question, Statistic, auc, spearman
from abonyx.wording import option

# If a figure is based on at least this many parents, its interval draws parents. Otherwise it draws rows within each
# parent: draws of parents hardly move a figure that rests on a few of them.
PARENTS_TO_DRAW = 20
PARENTS_CSV = "parents.csv"
# Cells of (resample, row) held at a time, as in bootstrap.
_BLOCK_CELLS = 1 << 20


class Parent(msgspec.Struct, frozen=True):
    """The figures of one parent; None = not defined: fewer than two classes, or values that are all equal.

    Attributes:
        rows: its variants that have a label.
        charges: how many formal charges they have.
    """

    parent: str
    rows: int
    charges: int
    model: float | None
    charge: float | None
    model_at_equal_charge: float | None

    @property
    def figures(self) -> tuple[float | None, float | None, float | None]:
        """The figures of the model, of charge alone, and of the model at equal charge."""
        return self.model, self.charge, self.model_at_equal_charge


class ByParent(msgspec.Struct, frozen=True, kw_only=True):
    """Agreement with the measurement among rows of one parent.

    Attributes:
        column: the column that names the parent.
        metric: AUC for classes, SPEARMAN for values.
        rows: how many rows are compared: they have a label, a parent and no flag.
        left_out: how many rows have a label and no parent.
        flagged: how many rows with a label and a parent are left out because they are flagged; None = flags were not
            looked for.
        model: of the head's score.
        charge: of the formal charge alone (K and R minus D and E).
        model_at_equal_charge: of the score among rows of one parent and one formal charge.
        drawn: what the resamples of the intervals draw.
        concluded: whether the sentence has a conclusion.
        compared: how many parents have rows that can be compared.
        sentence: what is known of the ranking at equal charge; `abonyx scan --validated` says the same.
        parents: one entry for each, in the order of their first row.
    """

    column: str
    metric: str
    rows: int
    left_out: int
    flagged: int | None
    model: Metric
    charge: Metric
    model_at_equal_charge: Metric
    drawn: str
    sentence: str
    concluded: bool
    compared: int
    parents: list[Parent]

    def line(self) -> str:
        """The line in the summary, the card and the report."""
        rows = [f"{self.left_out:,} row{'s' * (self.left_out > 1)} without a parent"] * (self.left_out > 0)
        if self.flagged:
            rows.append(f"{self.flagged:,} flagged row{'s' * (self.flagged > 1)}")
        count, out = self.compared, f" ({' and '.join(rows)} left out)" if rows else ""
        within = f"among the variants of {'one parent' if count == 1 else f'each of {count:,} parents'}{out}"
        figures = f"{self.metric} {self.model.text()} of the model, {self.charge.text()} of net charge alone"
        return f"{within}: {figures}, {self.model_at_equal_charge.text()} of the model at equal charge. {self.sentence}"


def _comparable(y: Float64Array, strata: Int64Array) -> int:
    """How many rows have a row with another label in their group."""
    lowest, highest = np.full(strata.max() + 1, np.inf), np.full(strata.max() + 1, -np.inf)
    np.minimum.at(lowest, strata, y)
    np.maximum.at(highest, strata, y)
    return int((lowest < highest)[strata].sum())


def _weighing_parents(y: Float64Array, group: Int64Array, strata: Int64Array) -> float:
    """The effective number of parents (Kish): so many of equal weight would support the figure equally well.

    The weight of a parent is the number of pairs of its rows with the same stratum and different labels.
    """
    rows_of = np.bincount(strata)
    alike = np.unique(np.stack([strata, np.unique(y, return_inverse=True)[1].ravel()]), axis=1, return_counts=True)
    pairs = (rows_of**2 - np.bincount(alike[0][0], weights=alike[1] ** 2)) / 2
    parents = np.bincount(group[np.unique(strata, return_index=True)[1]], weights=pairs)
    return float(parents.sum() ** 2 / (parents**2).sum()) if parents.any() else 0.0


def _sentence(told: str | None, shared: int | None) -> str:
    """Whether variants of one parent and one charge are ranked better than by chance."""
    if shared:
        return f"The head was trained on {shared:,} of these rows: the figures say nothing about other variants."
    return told or "These rows cannot show whether the model ranks variants at equal charge better than chance."


def formal_charge(sequences: Sequence[str]) -> Int64Array:
    """Lysines and arginines minus aspartates and glutamates, (n,) int64: rows with the same value have equal charge."""
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
    flagged: Sequence[bool] | None = None,
) -> ByParent:
    """Measure n rows that have a label.

    Args:
        column: the column of the parents, for messages.
        parents: name of each row's parent, "" = none.
        sequences: what was scored; both chains of a pair.
        labels: (n,) 0/1, or measured values.
        scores: (n,) logits, probabilities or values.
        classes: whether labels are classes.
        resamples, seed: of the intervals.
        shared: rows that the head was trained on; None = not known.
        flagged: whether each row is flagged, and so left out; None = flags were not looked for.

    Raises:
        InputError: no parent has rows with different labels.
    """
    parents = [parent.strip() for parent in parents]
    named = [index for index, parent in enumerate(parents) if parent]
    kept = [index for index in named if not (flagged and flagged[index])]
    n_flagged = len(named) - len(kept)
    if not kept:
        raise _nothing_left(column, len(named))
    names = list(dict.fromkeys(parents[index] for index in kept))
    numbers = {name: number for number, name in enumerate(names)}
    group = np.array([numbers[parents[index]] for index in kept], np.int64)
    y, x = labels[kept].astype(np.float64), scores[kept].astype(np.float64)
    charge = formal_charge([sequences[index] for index in kept])
    strata = np.unique(np.stack([group, charge]), axis=1, return_inverse=True)[1].ravel()
    questions = {
        "model": Question(x, group),
        "charge": Question(charge.astype(np.float64), group),
        "model_at_equal_charge": Question(x, strata),
    }
    statistic = auc if classes else spearman
    whole = np.ones((1, len(kept)))
    values = {name: _number(statistic(y, asked)(whole)[0]) for name, asked in questions.items()}
    if values["model"] is None:
        what = ("rows of both classes" if classes else "rows of different values") + " without a flag" * (n_flagged > 0)
        raise InputError(
            f"{option('by')} {printable(column)}: none of {len(names)} parents has {what}",
            "Name the column that has the same text for all variants of one parent.",
        )
    rows = [_of_parent(name, group == number, y, questions, charge, statistic) for name, number in numbers.items()]
    compared = [parent for parent in rows if parent.model is not None]
    # For each figure separately: one parent can dominate one figure and count little in another.
    by_parents = {
        name: _weighing_parents(y, group, asked.group) >= PARENTS_TO_DRAW for name, asked in questions.items()
    }
    metrics = {}
    for name, asked in questions.items():
        compute = statistic(y, asked)
        weights_drawn = _weights(group, len(names), resamples, seed, by_parents=by_parents[name])
        drawn = [compute(weights) for weights in weights_drawn]
        low, high, _ = interval(np.concatenate(drawn))
        metrics[name] = _metric(values[name], _number(low), _number(high))
    metric = AUC if classes else SPEARMAN
    enough = resamples >= FEWEST_DRAWS and _comparable(y, strata) >= FEWEST_ROWS
    at_equal_charge = metrics["model_at_equal_charge"]
    figure = Figure(metric, at_equal_charge.value, at_equal_charge.low, at_equal_charge.high)
    told = conclusion(figure, "these variants") if enough else None
    return ByParent(
        column=column,
        metric=metric,
        sentence=_sentence(told, shared),
        concluded=told is not None and not shared,
        compared=len(compared),
        rows=len(kept),
        left_out=len(parents) - len(named),
        flagged=None if flagged is None else n_flagged,
        drawn="parents" if by_parents["model_at_equal_charge"] else "rows of each parent",
        parents=rows,
        **metrics,
    )


def _metric(value: float | None, low: float | None, high: float | None) -> Metric:
    """A figure with its interval, unless the interval does not contain the figure.

    A draw often leaves only one row of a parent that has two. So large parents weigh more in the draws, and with many
    small parents the interval can miss the figure.
    """
    if value is None or low is None or high is None or not low <= value <= high:
        return Metric(value, None, None)
    return Metric(value, low, high)


def _nothing_left(column: str, flagged: int) -> InputError:
    """The error if none of the labelled rows can be compared."""
    if not flagged:
        return InputError(f"{option('by')} {printable(column)}: no labelled row has a parent", "Name another column.")
    rows = (
        "the only labelled row with a parent is" if flagged == 1 else f"all {flagged:,} labelled rows with a parent are"
    )
    what = f"{option('by')} {printable(column)}: {rows} flagged, and flagged rows are not compared"
    fix = f"Give whole variable domains of the head's chains, or leave {option('by')} out. See docs/domain.md."
    return InputError(what, fix)


def _of_parent(
    name: str,
    rows: np.ndarray[tuple[int], np.dtype[np.bool_]],
    y: Float64Array,
    questions: dict[str, Question],
    charge: Int64Array,
    statistic: Callable[[Float64Array, Question], Statistic],
) -> Parent:
    whole = np.ones((1, int(rows.sum())))
    figures = {
        key: _number(statistic(y[rows], Question(asked.score[rows], asked.group[rows]))(whole)[0])
        for key, asked in questions.items()
    }
    return Parent(name, int(rows.sum()), len(np.unique(charge[rows])), **figures)


def _weights(group: Int64Array, parents: int, resamples: int, seed: int, *, by_parents: bool) -> Iterator[Float64Array]:
    """How often each row is drawn, (block, n): together with its parent, or among the rows of its parent."""
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
