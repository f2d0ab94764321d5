"""Remove the effect of charge from changes whose parts are known."""

from __future__ import annotations

import numpy as np
import pytest

from abonyx.explain.scan_charge import fit_charge

CHARGE = np.array([-1.0, -1, 0, 0, 0, 1, 1, 0.1, 2, -2])


def test_changes_that_are_charge_alone_leave_nothing() -> None:
    fit = fit_charge(0.2 + 0.4 * CHARGE, CHARGE)
    assert fit is not None
    assert (fit.slope, fit.intercept, fit.r2, fit.n) == pytest.approx((0.4, 0.2, 1.0, 10))
    assert np.abs(fit.rest(0.2 + 0.4 * CHARGE, CHARGE)).max() < 1e-12


def test_a_part_that_has_nothing_to_do_with_charge_is_left() -> None:
    other = np.array([1.0, -1, 1, -2, 1, 1, -1, 0, 0, 0])
    assert other @ CHARGE == other.sum() == 0
    fit = fit_charge(0.4 * CHARGE + other, CHARGE)
    assert fit is not None and fit.slope == pytest.approx(0.4)
    assert np.allclose(fit.rest(0.4 * CHARGE + other, CHARGE), other)
    assert 0 < fit.r2 < 1


def test_it_is_the_least_squares_line() -> None:
    change = np.random.default_rng(0).standard_normal(len(CHARGE))
    fit = fit_charge(change, CHARGE)
    assert fit is not None
    slope, intercept = np.polyfit(CHARGE, change, 1)
    assert (fit.slope, fit.intercept) == pytest.approx((slope, intercept))
    assert fit.r2 == pytest.approx(np.corrcoef(CHARGE, change)[0, 1] ** 2)
    assert fit.rest(change, CHARGE) @ CHARGE == pytest.approx(0, abs=1e-12)


def test_equal_changes_have_nothing_to_explain() -> None:
    fit = fit_charge(np.zeros(len(CHARGE)), CHARGE)
    assert fit is not None and (fit.slope, fit.r2) == (0, 0)


@pytest.mark.parametrize("charge", [[], [1.0, -1.0], [0.0, 0.0, 0.0], [0.0, 0.11, -0.002]])
def test_charge_cannot_be_taken_out_of_mutants_that_do_not_differ_in_it(charge: list[float]) -> None:
    assert fit_charge(np.arange(float(len(charge))), np.array(charge)) is None
