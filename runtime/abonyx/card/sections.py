"""The content of both pages of a card: paragraphs and tables, as plain text."""

from __future__ import annotations

from dataclasses import dataclass, field

from abonyx.card.calls import CallCounts
from abonyx.card.clusters import IDENTICAL
from abonyx.card.record import STATISTICS, Card, FoldsRecord, IntervalRecord, PredictorRecord
from abonyx.card.sentence import interval, number
from abonyx.card.statistics import Estimate

# Share of the labels' own spread. An interval wider than this says no more than the labels without a prediction.
_NO_NARROWER = 0.9


@dataclass(frozen=True)
class Section:
    """A heading, paragraphs and a table; the first cell of a row is its name."""

    title: str
    paragraphs: list[str] = field(default_factory=list)
    header: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)


def sections(card: Card) -> list[Section]:
    """The sections of a card below its first line, in order; empty ones are left out."""
    names = STATISTICS[card.task]
    found = [Section("Notes", [*card.notes])] if card.notes else []
    if card.predictors:
        found.append(_clustered(card, names))
        found.append(_random(card, names))
    if card.calls is not None:
        found.append(Section("Calls", _calls(card.calls)))
    if card.interval is not None:
        found.append(Section("Intervals", [_interval(card.interval, fitted=card.fitted)]))
    if card.folds is not None:
        found.append(_folds(card.folds, card.rows))
    return [*found, Section("Set", _set(card))]


def percent(share: float) -> str:
    """Such as `42 %`."""
    return f"{100 * share:.0f} %"


def _clustered(card: Card, names: dict[str, str]) -> Section:
    rows = [[each.name, *(_cell(key, each.clusters[key]) for key in names)] for each in card.predictors]
    paragraphs = []
    if card.difference is not None:
        statistic = names[card.difference.statistic]
        text = f"The best baseline by {statistic} is {card.difference.baseline}. This head minus this baseline"
        paragraphs.append(
            f"{text}, on the same draws: {interval(card.difference.estimate, card.difference.comparisons)}."
        )
    if card.spread is not None:
        spread = card.spread
        ends = f"80 % of the labels lie between {spread.p10:.4g} and {spread.p90:.4g}"
        paragraphs.append(f"The labels' own spread: standard deviation {spread.sd:.4g}; {ends}.")
    return Section("Folds by sequence cluster", paragraphs, ["", *names.values()], rows)


def _random(card: Card, names: dict[str, str]) -> Section:
    """The statistics with random folds, without intervals. They show how much similar sequences matter."""

    def row(each: PredictorRecord) -> list[str]:
        values = ["fixed" for _ in names] if each.random is None else [_figure(key, each.random[key]) for key in names]
        return [each.name, *values]

    paragraph = "Here similar sequences can be in different folds, so these figures are too good."
    return Section("Random folds", [paragraph], ["", *names.values()], [row(each) for each in card.predictors])


def _cell(statistic: str, estimate: Estimate) -> str:
    value, low, high = (_figure(statistic, each) for each in (estimate.value, estimate.low, estimate.high))
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return value
    return f"{value} [{low}, {high}]"


def _figure(statistic: str, value: float | None) -> str:
    """With three decimals; an error has the labels' unit and may have any size, so it has four digits."""
    return number(value, 3) if statistic != "mae" or value is None else f"{value:.4g}"


def _calls(calls: CallCounts) -> list[str]:
    right = "no call is made" if calls.right is None else f"{percent(calls.right)} of the calls made are correct"
    flagged = f" Left out: {calls.flagged:,} of {calls.rows + calls.flagged:,} rows, because of a flag." * bool(
        calls.flagged
    )
    if calls.confidence is None:
        return [f"No row is uncertain: the calls are made by the threshold. {right[0].upper()}{right[1:]}.{flagged}"]
    counts = (
        f"At confidence {percent(calls.confidence)}: {percent(calls.uncertain)} of the rows are uncertain, "
        f"{percent(calls.covered)} are uncertain or called correctly, and {right}.{flagged}"
    )
    assert calls.band is not None  # it has a confidence
    ends = f"p below {calls.band.low:.3f} is called specific, above {calls.band.high:.3f} non-specific."
    if calls.by_fold:
        return [
            counts,
            "For these figures, the two quantiles for each fold are computed from the scores of the other folds. "
            f"In the bundle, {ends}",
        ]
    return [counts, ends]


def _interval(interval: IntervalRecord, *, fitted: bool) -> str:
    share = percent(interval.confidence)
    wide = f"{interval.high - interval.low:.4g} wide, {interval.ratio:.2f} times the {interval.spread:.4g} that {share}"
    verdict = ": no narrower than without a prediction" if interval.ratio > _NO_NARROWER else ""
    if fitted:
        ends = f"by {interval.low:+.4g} to {interval.high:+.4g} from the predicted ones"
        return (
            f"Out of fold, {share} of the measured values differ {ends}. "
            f"The interval is {wide} of the labels span{verdict}."
        )
    held = f"from {interval.low:+.4g} to {interval.high:+.4g} around the predicted value, to hold {share} of the values"
    holds = (
        ""
        if interval.covered is None
        else f" Here it holds the labels of {percent(interval.covered)} of the rows without a flag."
    )
    return f"The head's interval goes {held}.{holds} It is {wide} of these labels span{verdict}."


def _folds(folds: FoldsRecord, rows: int) -> Section:
    kept = "identical sequences" if folds.level == IDENTICAL else f"sequences linked at {folds.level} % identity"
    text = (
        f"The rows are in {folds.folds} folds, and {kept} are in the same fold. Identity is computed over the IMGT "
        "positions that either sequence occupies; clusters are made by single linkage. Intervals are 95 % percentile "
        f"intervals from {folds.draws:,} draws of whole clusters, seed {folds.seed}. Scores are pooled over folds; if "
        "a predictor is fitted in each fold, the mean score of its training rows is subtracted first."
    )
    table = [
        [f"{each.percent} %", f"{each.clusters:,}", f"{each.largest:,} ({percent(each.largest / rows)})"]
        for each in folds.tried
    ]
    return Section("Folds", [text], ["identity", "clusters", "rows of the largest"], table)


def _set(card: Card) -> list[str]:
    classes = (
        "" if card.positives is None else f": {card.rows - card.positives:,} specific, {card.positives:,} non-specific"
    )
    shared = "not known" if card.shared is None else f"{card.shared:,}"
    lines = [f"{card.name}, {card.rows:,} labelled rows{classes}.", f"Judged: {card.head}."]
    return lines if card.fitted else [*lines, f"Rows whose sequence or domain the head was trained on: {shared}."]
