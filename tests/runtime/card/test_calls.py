"""The band of uncertain calls: quantiles counted by hand, and its coverage of new rows."""

from __future__ import annotations

import numpy as np
import pytest

from abonyx.bundle.band import NONSPECIFIC, SPECIFIC, UNCERTAIN, CallBand
from abonyx.card.calls import CallCounts, choose_band, choose_interval, count_calls, count_calls_by_fold


def test_quantiles_counted_by_hand() -> None:
    """Nine rows of a class at 0.8: the eighth row from its own end, ceil(10 * 0.8)."""
    specific, nonspecific = np.arange(1, 10) / 20, np.arange(5, 14) / 20
    band = choose_band(np.concatenate([specific, nonspecific]), np.repeat([0.0, 1.0], 9), 0.8)
    assert (band.low, band.high) == (pytest.approx(6 / 20), pytest.approx(8 / 20))
    calls = band.calls(np.array([band.low - 0.001, band.low + 0.001, band.high, band.high + 0.001]))
    assert calls.tolist() == [SPECIFIC, UNCERTAIN, UNCERTAIN, NONSPECIFIC]


def test_a_class_of_too_few_rows_never_gets_the_other_call() -> None:
    band = choose_band(np.array([0.1, 0.2, 0.3, 0.9, 0.95]), np.array([0.0, 0, 0, 1, 1]), 0.8)
    assert (band.low, band.high) == (0, 1)
    assert (band.calls(np.linspace(0, 1, 5)) == UNCERTAIN).all()


def counted(p: np.ndarray, labels: np.ndarray, band: CallBand) -> CallCounts:
    found = count_calls(p, labels, band, p > 0.5, np.ones(len(p), bool))
    assert found is not None
    return found


def test_separated_classes_have_no_band() -> None:
    p = np.concatenate([np.linspace(0, 0.2, 20), np.linspace(0.8, 1, 20)])
    band = choose_band(p, np.repeat([0.0, 1.0], 20), 0.8)
    assert band.low == band.high
    counts = counted(p, np.repeat([0.0, 1.0], 20), band)
    assert (counts.uncertain, counts.covered, counts.right) == (0, 1, 1)


@pytest.mark.parametrize("confidence", [0.8, 0.9])
def test_new_rows_are_covered_at_the_confidence(confidence: float) -> None:
    rng = np.random.default_rng(2)

    def drawn(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = (rng.random(count) < 0.3).astype(float)
        return 1 / (1 + np.exp(-rng.normal(labels - 0.5, 0.8))), labels

    counts = [counted(*drawn(500), choose_band(*drawn(300), confidence)) for _ in range(40)]
    assert abs(np.mean([each.covered for each in counts]) - confidence) < 0.02
    assert 0.1 < np.mean([each.uncertain for each in counts]) < 0.95


def test_shares_counted_by_hand() -> None:
    p, labels = np.array([0.1, 0.2, 0.5, 0.6, 0.9]), np.array([0.0, 1, 0, 1, 1])
    counts = counted(p, labels, CallBand(confidence=0.8, low=0.3, high=0.7))
    assert (counts.uncertain, counts.covered, counts.right) == (
        pytest.approx(2 / 5),
        pytest.approx(4 / 5),
        pytest.approx(2 / 3),
    )
    none = counted(p, labels, CallBand(confidence=0.8, low=0, high=1))
    assert (none.uncertain, none.covered, none.right) == (1, 1, None)


def test_a_fold_is_called_by_the_band_of_the_others() -> None:
    """A fold whose scores have another scale gets wrong calls, although its own quantiles would give right calls."""
    labels = np.tile(np.repeat([0.0, 1.0], 20), 2)
    fold = np.repeat([0, 1], 40)
    rng = np.random.default_rng(0)
    p = np.where(fold == 0, 0.2, 0.6) + 0.2 * labels + rng.uniform(0, 0.01, 80)
    counts = count_calls_by_fold(p, labels, fold, choose_band(p, labels), p > 0.5, np.ones(80, bool))
    assert counts is not None and counts.by_fold
    assert counts.right == pytest.approx(0.5)


def test_an_interval_leaves_a_tenth_of_the_residuals_on_either_side() -> None:
    residuals = np.arange(-9.0, 10.0)  # 19 of them: with one future row counted in, two lie beyond either end
    found = choose_interval(residuals, 0.8)
    assert found is not None and (found.confidence, found.low, found.high) == (0.8, -8.0, 8.0)
    nine = choose_interval(np.arange(9.0), 0.8)
    assert nine is not None and (nine.low, nine.high) == (0.0, 8.0)
    assert choose_interval(np.arange(8.0), 0.8) is None, "too few rows"


def test_an_interval_holds_its_share_of_rows_to_come() -> None:
    random = np.random.default_rng(3)
    inside = []
    for _ in range(400):
        found, new = choose_interval(random.standard_normal(50), 0.8), random.standard_normal(50)
        assert found is not None
        inside.append(np.mean((new > found.low) & (new < found.high)))
    assert 0.78 < np.mean(inside) < 0.86
