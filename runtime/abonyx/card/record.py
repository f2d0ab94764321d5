"""The card as data: what metrics.json holds, and what card.md and card.html show."""

from __future__ import annotations

import msgspec

from abonyx.card.calls import CallCounts
from abonyx.card.statistics import Estimate

SCHEMA_VERSION = 1
# Key of metrics.json -> name on the page, in the order of both. The card's first line is about the first statistic.
CLASS_STATISTICS = {"auc": "AUC", "balanced_accuracy": "balanced accuracy", "mcc": "MCC", "accuracy": "accuracy"}
VALUE_STATISTICS = {"spearman": "Spearman", "r2": "R2", "mae": "mean absolute error"}
STATISTICS = {"classes": CLASS_STATISTICS, "values": VALUE_STATISTICS}


class LevelRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Single linkage at one identity; fields as in clusters.Level."""

    percent: int
    clusters: int
    largest: int


class FoldsRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How rows were put into folds.

    Attributes:
        folds: how many.
        level: percent identity at which sequences are linked; 100: only identical ones.
        tried: the levels up to this one.
        seed: of the folds and of the draws.
        draws: of whole clusters, for the intervals.
        rows_of: how many rows there were if the card is of a sample; otherwise None.
    """

    folds: int
    level: int
    tried: list[LevelRecord]
    seed: int
    draws: int
    rows_of: int | None = None


class PredictorRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One predictor's statistics.

    Attributes:
        clusters: statistic -> estimate, folds by sequence cluster.
        random: statistic -> value, random folds; None for a head that was not fitted here, and so has no folds.
    """

    name: str
    clusters: dict[str, Estimate]
    random: dict[str, float | None] | None


class DifferenceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The head minus the best baseline, paired on the same draws.

    Attributes:
        comparisons: how many are made in all; the interval is corrected for them (Bonferroni).
    """

    baseline: str
    statistic: str
    estimate: Estimate
    comparisons: int


class SpreadRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How far measured labels lie apart, in their unit: standard deviation, and 10th to 90th percentile."""

    sd: float
    p10: float
    p90: float


class IntervalRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The interval around a predicted value, compared with no prediction.

    Attributes:
        confidence: share of rows whose measured value lies in it.
        low, high: what is added to a predicted value to get the ends of the interval.
        spread: width of the interval that holds the same share of the labels, in their unit.
        covered: for a head that was fitted before, the share of the rows without a flag whose label lies in it.
    """

    confidence: float
    low: float
    high: float
    spread: float
    covered: float | None = None

    @property
    def ratio(self) -> float:
        """The width of the interval divided by `spread`; from 1 on, a prediction does not narrow the range."""
        return (self.high - self.low) / self.spread


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """How far to trust one head on one set.

    Attributes:
        sentence: the first line.
        name: of the set.
        head: what is judged.
        task: "classes" or "values".
        fitted: the head was fitted on these rows and is judged out of fold; False = it was fitted before.
        rows: how many rows the card has.
        positives: how many of them are labelled 1; None for values.
        shared: rows whose sequence, or its domain, the head was trained on; None = not known.
        folds, predictors, difference: None or empty if nothing could be judged; the head is the first predictor.
        calls: how good the calls are; None for values.
        spread: of measured values; None for classes.
        interval: of a head of values: the one that it stores or, if it was fitted here, that of the out-of-fold values.
        notes: what a reader must know of the numbers.
    """

    sentence: str
    name: str
    head: str
    task: str
    fitted: bool
    rows: int
    positives: int | None = None
    shared: int | None = None
    folds: FoldsRecord | None = None
    predictors: list[PredictorRecord] = []
    difference: DifferenceRecord | None = None
    calls: CallCounts | None = None
    spread: SpreadRecord | None = None
    interval: IntervalRecord | None = None
    notes: list[str] = []


class CardFile(msgspec.Struct, frozen=True, kw_only=True):
    """metrics.json of a fitted bundle. The file of `evaluate` has these two fields and more."""

    schema_version: int = SCHEMA_VERSION
    card: Card

    def encode(self) -> bytes:
        """Return the file's bytes."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"
