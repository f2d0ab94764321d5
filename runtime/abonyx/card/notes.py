"""What a reader must know of a card's numbers."""

from __future__ import annotations

from dataclasses import dataclass

from abonyx.card.calls import CallCounts
from abonyx.card.charge import PKA_SOURCE
from abonyx.card.clusters import Clusters

# With fewer clusters, percentile intervals over whole clusters are too narrow.
_FEW_CLUSTERS = 20
# Rows of the smaller class.
_FEW_OF_CLASS = 20
# Draws beyond a bound of an interval. With fewer, the bound is hardly more than the outermost draw.
_FEW_BEYOND = 5


@dataclass(frozen=True, kw_only=True)
class SetFacts:
    """What notes need to know of a set.

    Attributes:
        rows: how many are judged.
        all_rows: how many there were before sampling.
        flagged: how many of the rows have no call.
        fewest: rows of the smaller class; None for values.
        contradicted: how many sequences have both labels.
        left_out: notes on records that are not among the rows.
        comparisons: how many the intervals of the first line are corrected for.
        shared_known: whether the bundle records its training rows.
    """

    rows: int
    all_rows: int
    flagged: int
    fewest: int | None
    contradicted: int
    left_out: tuple[str, ...]
    seed: int
    draws: int
    comparisons: int
    shared_known: bool
    clusters: Clusters


def notes(facts: SetFacts, calls: CallCounts | None, *, fitted: bool) -> list[str]:
    """The notes, in the order of the page."""
    return [*_of_rows(facts, fitted), *_of_intervals(facts), *_of_calls(facts, calls, fitted), *_of_fits(facts, fitted)]


def _of_rows(facts: SetFacts, fitted: bool) -> list[str]:
    found, without = list(facts.left_out), facts.clusters.without_domain
    if facts.clusters.note:
        found.append(facts.clusters.note)
    if facts.all_rows > facts.rows:
        drawn = f"{facts.rows:,} of {facts.all_rows:,} rows were drawn with seed {facts.seed}"
        found.append(f"{drawn}: all figures are from these rows")
    if facts.contradicted:
        both = "1 sequence has" if facts.contradicted == 1 else f"{facts.contradicted:,} sequences have"
        found.append(f"{both} both labels: no predictor is right on all of their rows")
    if facts.fewest is not None and facts.fewest < _FEW_OF_CLASS:
        found.append(f"{facts.fewest} rows of one class are few: one row more or less moves every figure")
    if without:
        found.append(f"{_rows(without)} without a domain that could be numbered: linked only to identical ones")
    if not facts.shared_known and not fitted:
        found.append("the bundle does not record what its head was trained on: these rows may be training rows")
    return found


def _of_intervals(facts: SetFacts) -> list[str]:
    found, clusters = [], facts.clusters.level.clusters
    if clusters < _FEW_CLUSTERS:
        found.append(f"{clusters} clusters are few: the intervals are likely too narrow")
    if facts.comparisons > 1:
        found.append(
            f"{facts.comparisons} sets were compared: of so many, one can look better by chance. So the intervals in "
            "the first line are wider (Bonferroni), but those in the table are not"
        )
    if facts.draws * 0.025 / facts.comparisons < _FEW_BEYOND:
        found.append(f"{facts.draws:,} draws are few for these intervals: their bounds are rough")
    return found


def _of_calls(facts: SetFacts, calls: CallCounts | None, fitted: bool) -> list[str]:
    found = []
    if facts.flagged:
        values = "counted in all figures" if fitted else "not counted for the interval, but in all other figures"
        where = values if facts.fewest is None else "without a call, but counted in all other figures"
        found.append(f"{_rows(facts.flagged)} flagged: {where}")
    if calls is not None and calls.against:
        found.append(f"{_rows(calls.against)} called differently by the threshold: `nonspecific` and `call` disagree")
    return found


def _of_fits(facts: SetFacts, fitted: bool) -> list[str]:
    if fitted:
        learns = "the head and the baselines are fitted, and C or alpha is chosen, without the rows that they score"
    else:
        learns = "the baselines learn from the labels of this set, in folds; the head does not"
    charge = f"charge is at pH 7.4, with the pKa values of {PKA_SOURCE}; cysteines are taken as bonded"
    # Without this note, R2 here and R2 over the whole set would seem to contradict each other.
    beside = "R2 compares the head, too, with the mean of the rows outside each fold; R2 over all rows at once differs"
    return [learns, charge, *([beside] if facts.fewest is None and not fitted else [])]


def _rows(count: int) -> str:
    return f"{count:,} " + ("row is" if count == 1 else "rows are")
