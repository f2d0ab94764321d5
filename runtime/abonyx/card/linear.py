"""Logistic and ridge regression on standardised columns, by scikit-learn, as the baselines use them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Literal

import numpy as np

from abonyx.arrays import Float64Array

Task = Literal["classes", "values"]
# The result of a fit: a function from rows (m, D) to scores (m,), log-odds of class 1 or values.
Predict = Callable[[Float64Array], Float64Array]
# Rows (n, D), labels (n,) and the strength C or alpha.
Fit = Callable[[Float64Array, Float64Array, float], Predict]
# C of the logistic regression and alpha of the ridge, the most regularised first.
GRIDS: dict[Task, tuple[float, ...]] = {"classes": (0.01, 0.1, 1.0, 10.0), "values": (1000.0, 100.0, 10.0, 1.0)}


def fit_standardised(task: Task) -> Fit:
    """A fit for the task that first scales the columns to mean 0 and standard deviation 1 over its rows."""
    return _logistic if task == "classes" else _ridge


def one_thread() -> AbstractContextManager[Any]:
    """Within this context, sums are added in one order, so the same rows give the same card on any number of cores."""
    from threadpoolctl import threadpool_limits  # scikit-learn's own requirement

    limits: AbstractContextManager[Any] = threadpool_limits(1)
    return limits


def _logistic(rows: Float64Array, labels: Float64Array, c: float) -> Predict:
    from sklearn.linear_model import LogisticRegression

    # For so few columns, Newton's method needs a handful of steps and lbfgs tens.
    return _fitted(LogisticRegression(C=c, solver="newton-cholesky"), rows, labels)


def _ridge(rows: Float64Array, labels: Float64Array, alpha: float) -> Predict:
    from sklearn.linear_model import Ridge

    return _fitted(Ridge(alpha=alpha), rows, labels)


def _fitted(estimator: object, rows: Float64Array, labels: Float64Array) -> Predict:
    mean, scale = rows.mean(axis=0), rows.std(axis=0)
    scale = np.where(scale > 0, scale, 1)
    with warnings.catch_warnings():
        # A baseline that has not quite converged is still a baseline, with its own statistics.
        warnings.simplefilter("ignore")
        estimator.fit((rows - mean) / scale, labels)  # type: ignore[attr-defined]
    coef = np.ravel(estimator.coef_)  # type: ignore[attr-defined]
    intercept = float(np.ravel(estimator.intercept_)[0])  # type: ignore[attr-defined]
    return lambda others: ((others - mean) / scale) @ coef + intercept
