"""The first line, case by case."""

from __future__ import annotations

import pytest

from abonyx.card.sentence import interval, number, sentence
from abonyx.card.statistics import Estimate

CLEAR, NOTHING = Estimate(0.74, 0.69, 0.79), Estimate(0.54, 0.45, 0.62)


@pytest.mark.parametrize(
    ("statistic", "head", "difference", "expected"),
    [
        (
            "auc",
            CLEAR,
            Estimate(0.02, -0.03, 0.07),
            "Not distinguishable from length and charge: difference in AUC 0.02, 95 % interval -0.03 to 0.07.",
        ),
        (
            "auc",
            CLEAR,
            Estimate(0.08, 0.03, 0.13),
            "Better than length and charge, the best baseline: difference in AUC 0.08, 95 % interval 0.03 to 0.13; "
            "AUC 0.74.",
        ),
        (
            "auc",
            CLEAR,
            Estimate(-0.08, -0.13, -0.03),
            "Worse than length and charge: difference in AUC -0.08, 95 % interval -0.13 to -0.03.",
        ),
        (
            "auc",
            NOTHING,
            Estimate(0.08, 0.03, 0.13),
            "No signal: AUC 0.54, 95 % interval 0.45 to 0.62, which contains chance (0.5).",
        ),
        (
            "auc",
            Estimate(0.3, 0.2, 0.4),
            Estimate(-0.3, -0.4, -0.2),
            "Worse than chance: AUC 0.30, 95 % interval 0.20 to 0.40. Check the direction of the labels.",
        ),
        (
            "spearman",
            Estimate(0.3, 0.1, 0.5),
            Estimate(0.004, -0.1, 0.1),
            "Not distinguishable from length and charge: difference in Spearman 0.00, 95 % interval -0.10 to 0.10.",
        ),
        (
            "spearman",
            Estimate(0.1, -0.1, 0.3),
            Estimate(0.0, -0.1, 0.1),
            "No signal: Spearman 0.10, 95 % interval -0.10 to 0.30, which contains chance (0).",
        ),
        ("auc", Estimate(None), Estimate(None), "Not judged: AUC is not defined on these rows."),
    ],
)
def test_verdict(statistic: str, head: Estimate, difference: Estimate, expected: str) -> None:
    assert sentence(statistic, head, difference, "length and charge", None, (0, 200), fitted=False) == expected


def test_one_class_for_all_is_named_if_it_is_right_as_often() -> None:
    def line(own: float, same: float) -> str:
        return sentence("auc", CLEAR, Estimate(0.08, 0.03, 0.13), "x", (own, same, "specific"), fitted=True)

    assert line(0.59, 0.98).endswith("Calling every row specific is right more often: 0.98 against 0.59.")
    assert line(0.6, 0.6).endswith("Calling every row specific is right as often: 0.60 against 0.60.")
    assert "Calling" not in line(0.61, 0.6)


def test_training_rows_are_named() -> None:
    line = sentence("auc", CLEAR, Estimate(0.08, 0.03, 0.13), "x", None, (1200, 2000), fitted=False)
    assert line.startswith("Trained on 1,200 of these 2,000 rows, so the figures are too good. Better than x")
    unknown = sentence("auc", CLEAR, Estimate(0.08, 0.03, 0.13), "x", fitted=False)
    assert unknown.endswith("Whether the head was trained on these rows is not recorded.")
    assert "trained" not in sentence("auc", CLEAR, Estimate(0.08, 0.03, 0.13), "x", None, (0, 2000), fitted=False)


def test_numbers_have_no_negative_zero_and_a_bound_is_never_shown_as_zero() -> None:
    assert number(-0.001) == "0.00"
    assert number(None) == "-"
    assert interval(Estimate(0.05, 0.004, 0.1)) == "0.050, 95 % interval 0.004 to 0.100"
    assert interval(Estimate(0.05)) == "0.05, no interval"
    assert interval(Estimate(0.05, 0.01, 0.1), 5) == "0.05, interval 0.01 to 0.10 (95 % for all 5 comparisons together)"


def test_a_fitted_head_below_chance_shows_no_signal() -> None:
    """The head was fitted to these labels, in whatever direction, so the reader has nothing to check."""
    line = sentence("auc", Estimate(0.3, 0.2, 0.4), Estimate(-0.3, -0.4, -0.2), "x", fitted=True)
    assert line == "No signal: AUC 0.30, 95 % interval 0.20 to 0.40, which is not above chance (0.5)."
