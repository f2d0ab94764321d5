"""The first line of a card: what the data say about the head, in plain words."""

from __future__ import annotations

from abonyx.card.record import STATISTICS
from abonyx.card.statistics import Estimate

# statistic -> its value for a predictor that knows nothing.
CHANCE = {"auc": 0.5, "spearman": 0.0}

_BETTER, _WORSE = "Better than", "Worse than"


def sentence(
    statistic: str,
    head: Estimate,
    difference: Estimate,
    baseline: str,
    accuracy: tuple[float, float, str] | None = None,
    shared: tuple[int, int] | None = None,
    *,
    fitted: bool,
    comparisons: int = 1,
    apart: bool = True,
) -> str:
    """The line.

    Args:
        statistic: "auc" or "spearman".
        head: the statistic of the head.
        difference: the head minus the best baseline.
        baseline: the best baseline's name.
        accuracy: of the head, of calling every row the same, and the word for that class; None for values.
        shared: rows that the head was trained on, and all rows; None = not known.
        fitted: the head was fitted to these labels, so their direction is right.
        comparisons: how many head and difference are corrected for.
        apart: similar sequences are kept in one fold, not only identical ones.
    """
    verdict = _verdict(statistic, head, difference, baseline, fitted, comparisons)
    parts = [verdict]
    if shared is not None and shared[0]:
        # This comes first: on its own training rows, any head looks better.
        parts.insert(0, f"Trained on {shared[0]:,} of these {shared[1]:,} rows, so the figures are too good.")
    elif not apart and verdict.startswith((_BETTER, _WORSE)):
        parts.insert(
            0,
            "No folds could keep similar sequences together: the figures may be too good, "
            "and the interval is too narrow.",
        )
    if accuracy is not None and accuracy[1] >= accuracy[0]:
        often = "more often" if accuracy[1] > accuracy[0] else "as often"
        alike = accuracy[1] > accuracy[0] and f"{accuracy[1]:.2f}" == f"{accuracy[0]:.2f}"
        constant, own = (f"{value:.{4 if alike else 2}f}" for value in (accuracy[1], accuracy[0]))
        parts.append(f"Calling every row {accuracy[2]} is right {often}: {constant} against {own}.")
    if shared is None and not fitted and verdict.startswith(_BETTER):
        parts.append("Whether the head was trained on these rows is not recorded.")
    return " ".join(parts)


def _verdict(
    statistic: str, head: Estimate, difference: Estimate, baseline: str, fitted: bool, comparisons: int
) -> str:
    word = STATISTICS["classes" if statistic == "auc" else "values"][statistic]
    chance = CHANCE[statistic]
    if head.value is None or head.low is None or head.high is None:
        return f"Not judged: {word} is not defined on these rows."
    if head.low <= chance <= head.high:
        return f"No signal: {word} {interval(head, comparisons)}, which contains chance ({chance:g})."
    if head.high < chance and fitted:
        return f"No signal: {word} {interval(head, comparisons)}, which is not above chance ({chance:g})."
    if head.high < chance:
        return f"{_WORSE} chance: {word} {interval(head, comparisons)}. Check the direction of the labels."
    text = f"difference in {word} {interval(difference, comparisons)}"
    if difference.low is None or difference.high is None or difference.low <= 0 <= difference.high:
        return f"Not distinguishable from {baseline}: {text}."
    if difference.high < 0:
        return f"{_WORSE} {baseline}: {text}."
    return f"{_BETTER} {baseline}, the best baseline: {text}; {word} {number(head.value)}."


def interval(estimate: Estimate, comparisons: int = 1) -> str:
    """Such as `0.02, 95 % interval -0.03 to 0.07`; with three decimals if a bound would be shown as 0.

    Args:
        comparisons: how many the interval is corrected for.
    """
    if estimate.value is None:
        return "not defined"
    if estimate.low is None or estimate.high is None:
        return f"{number(estimate.value)}, no interval"
    places = 3 if any(bound and abs(bound) < 0.005 for bound in (estimate.low, estimate.high)) else 2
    value, low, high = (number(each, places) for each in (estimate.value, estimate.low, estimate.high))
    if comparisons == 1:
        return f"{value}, 95 % interval {low} to {high}"
    return f"{value}, interval {low} to {high} (95 % for all {comparisons} comparisons together)"


def number(value: float | None, places: int = 2) -> str:
    """A number with so many decimals, and no minus on a zero; "-" for None."""
    return "-" if value is None else f"{round(value, places) + 0.0:.{places}f}"
