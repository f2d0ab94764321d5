"""The choice of C if the bundle has int8: the smallest |w| among the values that are as good as the best."""

from __future__ import annotations

import pytest

from abonyx.bundle.manifest import Candidate, Difference, ScoreGate
from abonyx_export.fit.int8_error import Int8Error, cell, choose_for_int8

NONE = Difference(max=0.0, mean=0.0)


def candidate(c: float, area: float, accuracy: float = 0.7) -> Candidate:
    """A candidate with an sd of 0.03, so that its standard error over 9 folds is 0.0146."""
    return Candidate(
        c=c,
        accuracy_mean=accuracy,
        accuracy_sd=0.03,
        accuracy_seed_sd=None,
        roc_auc_mean=area,
        roc_auc_sd=0.03,
        roc_auc_seed_sd=None,
    )


def error(norm: float, passes: bool = True) -> Int8Error:
    p = Difference(max=0.0123, mean=0.0012)
    gate = ScoreGate(rows=9, p=p, logit=NONE, label_flips={"0.5": 0.0025}, spearman=1.0)
    return Int8Error(norm, gate, passes)


ERRORS = {0.1: error(1.0), 1.0: error(5.0), 10.0: error(20.0)}


@pytest.mark.parametrize(
    ("areas", "chosen"),
    [
        ({0.1: 0.695, 1.0: 0.700, 10.0: 0.704}, 0.1),
        ({0.1: 0.680, 1.0: 0.700, 10.0: 0.704}, 1.0),
        ({0.1: 0.680, 1.0: 0.689, 10.0: 0.704}, 10.0),
    ],
)
def test_the_smallest_weights_within_one_standard_error_are_taken(areas: dict[float, float], chosen: float) -> None:
    candidates = [candidate(c, area) for c, area in areas.items()]
    assert choose_for_int8(candidates, ERRORS, folds=9).c == chosen


def test_a_head_of_lower_accuracy_is_not_as_good() -> None:
    # The weights are so small that p stays near the majority's share. The ranks are as good, but not the calls.
    candidates = [candidate(0.1, 0.70, accuracy=0.6), candidate(1.0, 0.70)]
    assert choose_for_int8(candidates, ERRORS, folds=9).c == 1.0


def test_a_head_that_passes_is_preferred_to_a_smaller_one_that_fails() -> None:
    candidates = [candidate(c, 0.70) for c in ERRORS]
    errors = ERRORS | {0.1: error(1.0, passes=False)}
    assert choose_for_int8(candidates, errors, folds=9).c == 1.0
    errors = {c: error(each.norm, passes=False) for c, each in ERRORS.items()}
    assert choose_for_int8(candidates, errors, folds=9).c == 0.1  # none passes, so the gate will refuse it


def test_the_table_shows_the_error_and_the_verdict() -> None:
    assert cell(error(5.0)) == "|w| 5, int8 max |dp| 0.0123, mean 0.0012, flips 0.25%: passes"
    assert cell(error(5.0, passes=False)).endswith(": fails the gate")
