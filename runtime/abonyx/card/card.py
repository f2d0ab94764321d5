"""From arrays to a card: clusters, folds, baselines, statistics, calls and the first line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from abonyx.arrays import BoolArray, Float64Array, Int64Array
from abonyx.bundle.band import CallBand, ValueBand
from abonyx.bundle.heads import sigmoid
from abonyx.card.baselines import MAJORITY, cross_validate_baselines
from abonyx.card.calls import (
    CONFIDENCE,
    CallCounts,
    choose_band,
    choose_interval,
    count_called,
    count_calls,
    count_calls_by_fold,
)
from abonyx.card.clusters import IDENTICAL, Clusters, cluster_folds, cluster_rows, random_folds, sample_rows
from abonyx.card.folds import MIN_FOLDS, OutOfFold, cross_fit, training_means
from abonyx.card.identity import number_rows
from abonyx.card.labelled import CLASS_WORDS, LabelledSet, related, unjudged
from abonyx.card.linear import Fit, Task
from abonyx.card.notes import SetFacts, notes
from abonyx.card.record import (
    STATISTICS,
    Card,
    DifferenceRecord,
    FoldsRecord,
    LevelRecord,
    PredictorRecord,
)
from abonyx.card.sentence import sentence
from abonyx.card.spread import interval_record, share_covered, spread_record
from abonyx.card.statistics import ClassScores, Measurement, Scores, ValueScores, measure

HEAD = "this head"


@dataclass(frozen=True)
class _Judged:
    """What is the same for a fitted and a fixed head.

    Attributes:
        all_rows: how many rows the set had before it was sampled.
        by_cluster, at_random: (n,) folds.
        baselines: name -> scores with folds by cluster.
        random_baselines: name -> scores with random folds.
    """

    set: LabelledSet
    all_rows: int
    clusters: Clusters
    by_cluster: Int64Array
    at_random: Int64Array
    baselines: dict[str, OutOfFold]
    random_baselines: dict[str, OutOfFold]

    @property
    def facts(self) -> SetFacts:
        """What the notes need of the set."""
        return SetFacts(
            rows=len(self.set.labels),
            all_rows=self.all_rows,
            flagged=int((~self.set.has_call).sum()),
            fewest=self.set.fewest if self.set.task == "classes" else None,
            contradicted=self.set.contradicted,
            left_out=self.set.left_out,
            seed=self.set.seed,
            draws=self.set.draws,
            comparisons=self.set.comparisons,
            shared_known=self.set.shared is not None,
            clusters=self.clusters,
        )


def card_of_fit(
    labelled: LabelledSet,
    embeddings: Float64Array,
    grid: Sequence[float],
    fit: Fit,
    confidence: float = CONFIDENCE,
    strength: float | None = None,
) -> tuple[Card, CallBand | ValueBand | None]:
    """The card of a head that is fitted on these rows and judged out of fold, and the band for its calls.

    Args:
        labelled: the rows.
        embeddings: (n, D), or any (n, ...) that `fit` accepts.
        grid: C or alpha to choose from inside the folds, the most regularised first.
        fit: how the head is fitted.
        confidence: of the band or interval.
        strength: C or alpha of the head itself, for the band, the calls and the interval; None = as the folds choose.

    Returns:
        The card, and the band of the out-of-fold scores, or the interval around values; None if nothing could be
        judged, or there are too few rows for an interval.

    Raises:
        InputError: fewer different sequences than folds.
    """
    if why := unjudged(labelled):
        return _without_judgement(labelled, why, fitted=True), None
    rows = sample_rows(len(labelled.labels), labelled.seed)
    judged, embeddings, task = _judge(labelled, rows), embeddings[rows], labelled.task
    if why := related(judged.set, judged.clusters.of_row):
        return _without_judgement(labelled, why, fitted=True), None
    labels = judged.set.labels
    own, own_random = (
        cross_fit(embeddings, labels, fold, grid, fit, task) for fold in (judged.by_cluster, judged.at_random)
    )
    scores = _scores({HEAD: own} | judged.baselines, labels, judged.by_cluster, task)
    random = _scores({HEAD: own_random} | judged.random_baselines, labels, judged.at_random, task)
    # Calls are those of the head that is shipped: another strength gives other scores.
    shipped, said = own, []
    if strength is not None and list(grid) != [strength]:
        shipped = cross_fit(embeddings, labels, judged.by_cluster, [strength], fit, task)
        name, of = ("alpha", "the interval is") if task == "values" else ("C", "calls are")
        said = [
            f"{of} from folds with the head's own {name}, {strength:g}; "
            f"for the other figures, {name} is chosen inside each fold"
        ]
    if task == "values":
        interval = choose_interval(labels - shipped.raw, confidence)
        card = _noted(_card(judged, scores, random, None, fitted=True), said)
        return msgspec.structs.replace(card, interval=interval_record(interval, labels)), interval
    p = sigmoid(shipped.raw)
    band = choose_band(p, labels, confidence)
    calls = count_calls_by_fold(p, labels, judged.by_cluster, band, shipped.raw > 0, judged.set.has_call)
    return _noted(_card(judged, scores, random, calls, fitted=True), said), band


def _noted(card: Card, more: list[str]) -> Card:
    return msgspec.structs.replace(card, notes=[*card.notes, *more])


def card_of_scores(labelled: LabelledSet, p: Float64Array, called: BoolArray, band: CallBand | None = None) -> Card:
    """The card of a head of classes that was fitted before. Only the baselines learn from these rows.

    Args:
        labelled: the rows, of classes.
        p: (n,) probabilities of class 1.
        called: (n,) whether the head calls a row 1.
        band: of the head; None = it has none.
    """

    def judge(judged: _Judged, rows: Int64Array) -> Card:
        labels, trusted = judged.set.labels, judged.set.has_call
        own = ClassScores(p[rows], called[rows])
        if band is None:
            return _fixed_card(judged, own, count_called(own.called, labels, trusted))
        return _fixed_card(judged, own, count_calls(own.ranked, labels, band, own.called, trusted))

    return _card_of_fixed(labelled, judge)


def card_of_values(labelled: LabelledSet, values: Float64Array, interval: ValueBand | None = None) -> Card:
    """As card_of_scores, for a head of values.

    Args:
        labelled: the rows, of values.
        values: (n,) predicted, in the labels' unit.
        interval: of the head, around a value; None = it has none.
    """

    def judge(judged: _Judged, rows: Int64Array) -> Card:
        labels, own = judged.set.labels, values[rows]
        # As for the baselines, R2 compares with the mean of the rows outside the fold.
        card = _fixed_card(judged, ValueScores(own, own, training_means(labels, judged.by_cluster)), None)
        if interval is None:
            return card
        covered = share_covered(interval, labels, own, judged.set.has_call)
        return msgspec.structs.replace(card, interval=interval_record(interval, labels, covered))

    return _card_of_fixed(labelled, judge)


def _card_of_fixed(labelled: LabelledSet, judge: Callable[[_Judged, Int64Array], Card]) -> Card:
    """The card that `judge` makes of the rows, unless they cannot be judged."""
    if why := unjudged(labelled):
        return _without_judgement(labelled, why, fitted=False)
    rows = sample_rows(len(labelled.labels), labelled.seed)
    judged = _judge(labelled, rows)
    if why := related(judged.set, judged.clusters.of_row):
        return _without_judgement(labelled, why, fitted=False)
    return judge(judged, rows)


def _fixed_card(judged: _Judged, own: Scores, calls: CallCounts | None) -> Card:
    labels, task = judged.set.labels, judged.set.task
    scores: dict[str, Scores] = {HEAD: own}
    scores |= _scores(judged.baselines, labels, judged.by_cluster, task)
    random = _scores(judged.random_baselines, labels, judged.at_random, task)
    return _card(judged, scores, random, calls, fitted=False)


def _without_judgement(labelled: LabelledSet, why: str, *, fitted: bool) -> Card:
    return _first_line(labelled, f"Not judged: {why}.", fitted=fitted)


def _first_line(labelled: LabelledSet, line: str, *, fitted: bool) -> Card:
    """A card with this line and with what is known of a set before it is judged."""
    return Card(
        sentence=line,
        name=labelled.name,
        head=labelled.head,
        task=labelled.task,
        fitted=fitted,
        rows=len(labelled.labels),
        positives=int(labelled.labels.sum()) if labelled.task == "classes" else None,
        shared=None if labelled.shared is None else int(labelled.shared.sum()),
        notes=list(labelled.left_out),
    )


def _judge(labelled: LabelledSet, rows: Int64Array) -> _Judged:
    """Cluster the rows, put them into folds, and cross-validate the baselines."""
    sampled = labelled if len(rows) == len(labelled.labels) else labelled.sample(rows)
    numbered, folds = number_rows(sampled.chains), max(labelled.folds, MIN_FOLDS)
    clusters = cluster_rows(numbered, folds)
    by_cluster = cluster_folds(clusters.of_row, folds, labelled.seed)
    at_random = random_folds(sampled.labels, folds, labelled.seed)

    def baselines(fold: Int64Array) -> dict[str, OutOfFold]:
        return cross_validate_baselines(sampled.chains, numbered, sampled.labels, fold, sampled.task)

    total = len(labelled.labels)
    return _Judged(sampled, total, clusters, by_cluster, at_random, baselines(by_cluster), baselines(at_random))


def _scores(
    predictors: Mapping[str, OutOfFold], labels: Float64Array, fold: Int64Array, task: Task
) -> dict[str, Scores]:
    if task == "classes":
        return {name: ClassScores(each.pooled, each.raw > 0) for name, each in predictors.items()}
    mean = training_means(labels, fold)
    return {name: ValueScores(each.pooled, each.raw, mean) for name, each in predictors.items()}


def _card(
    judged: _Judged,
    scores: Mapping[str, Scores],
    random: Mapping[str, Scores],
    calls: CallCounts | None,
    *,
    fitted: bool,
) -> Card:
    """Measure, and make the card. The first predictor of `scores` is the head; all others are baselines."""
    labelled, clusters = judged.set, judged.clusters
    measured = measure(scores, labelled.labels, clusters.of_row, labelled.draws, labelled.seed)
    beside = measure(random, labelled.labels, np.arange(len(labelled.labels)), 1, labelled.seed).estimates
    statistic = next(iter(STATISTICS[labelled.task]))
    best = max(judged.baselines, key=lambda name: measured.estimates[name][statistic].value or 0)
    comparisons = labelled.comparisons
    difference = measured.difference(HEAD, best, statistic, comparisons)
    line = sentence(
        statistic,
        measured.estimate(HEAD, statistic, comparisons),
        difference,
        best,
        _accuracy(measured, labelled),
        None if labelled.shared is None or fitted else (int(labelled.shared.sum()), len(labelled.labels)),
        fitted=fitted,
        comparisons=comparisons,
        apart=clusters.level.percent != IDENTICAL,
    )
    return msgspec.structs.replace(
        _first_line(labelled, line, fitted=fitted),
        folds=_folds_record(judged),
        predictors=[
            PredictorRecord(
                name=name,
                clusters=estimates,
                random={key: each.value for key, each in beside[name].items()} if name in beside else None,
            )
            for name, estimates in measured.estimates.items()
        ],
        difference=DifferenceRecord(baseline=best, statistic=statistic, estimate=difference, comparisons=comparisons),
        calls=calls,
        spread=spread_record(labelled.labels) if labelled.task == "values" else None,
        notes=notes(judged.facts, calls, fitted=fitted),
    )


def _accuracy(measured: Measurement, labelled: LabelledSet) -> tuple[float, float, str] | None:
    """The accuracy of the head, that of calling every row the same, and the word for that call; None for values."""
    if labelled.task == "values":
        return None
    own, same = (measured.estimates[name]["accuracy"].value for name in (HEAD, MAJORITY["classes"]))
    assert own is not None and same is not None  # defined on any row
    return own, same, CLASS_WORDS[int(labelled.labels.mean() > 0.5)]


def _folds_record(judged: _Judged) -> FoldsRecord:
    total, rows = judged.all_rows, len(judged.set.labels)
    return FoldsRecord(
        folds=int(judged.by_cluster.max()) + 1,
        level=judged.clusters.level.percent,
        tried=[
            LevelRecord(percent=each.percent, clusters=each.clusters, largest=each.largest)
            for each in judged.clusters.tried
        ],
        seed=judged.set.seed,
        draws=judged.set.draws,
        rows_of=total if total > rows else None,
    )
