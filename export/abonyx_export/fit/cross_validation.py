"""Logistic regression on embeddings: stratified cross-validation over a grid of C, and the final fit."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from abonyx.arrays import Float64Array, Int64Array
from abonyx.bundle.heads import sigmoid
from abonyx.bundle.manifest import Candidate, ScoreCounts
from abonyx.errors import ConfigError
from abonyx.wording import option
from abonyx_export.fit.copies import flatten_copies, original_rows

# lbfgs needs some hundred iterations on 914 unscaled embeddings at C = 10.
MAX_ITERATIONS = 5_000
# Bins of the recorded histogram of p, each 0.05 wide.
BINS = 20
Labels = Int64Array


@dataclass(frozen=True)
class Fitted:
    """A fitted regression: decision = ((x - mean) / scale) . coef + intercept.

    Attributes:
        coef: weights, (D,).
        mean, scale: the scaler's mean and scale, (D,); None without a scaler.
        iterations: number of lbfgs iterations.
    """

    coef: Float64Array
    intercept: float
    mean: Float64Array | None
    scale: Float64Array | None
    iterations: int

    def decision(self, rows: Float64Array) -> Float64Array:
        """Log-odds (n,) of rows (n, D), or of the original rows in (n, copies, D)."""
        rows = original_rows(rows)
        scaled = rows if self.mean is None or self.scale is None else (rows - self.mean) / self.scale
        return scaled @ self.coef + self.intercept


def fit_once(rows: Float64Array, labels: Labels, c: float, *, scale: bool, balanced: bool) -> Fitted:
    """Fit one logistic regression with lbfgs.

    Args:
        rows: (n, D), or (n, copies, D), where all copies of a row together have the weight of one row.
        labels: (n,) 0 or 1.
        c: inverse strength of regularisation.
        scale: put a StandardScaler before the regression.
        balanced: weigh the classes by the inverse of their frequency.

    Raises:
        ConfigError: the regression does not converge.
    """
    rows, labels, copies = flatten_copies(rows, labels)
    scaler = StandardScaler().fit(rows) if scale else None
    estimator = LogisticRegression(C=c / copies, max_iter=MAX_ITERATIONS, class_weight="balanced" if balanced else None)
    # One thread, so that sums have a fixed order and the same rows give the same bytes on any number of cores. With so
    # few rows, more threads would not be faster.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            estimator.fit(rows if scaler is None else scaler.transform(rows), labels)
        except ConvergenceWarning as warning:
            line = str(warning).partition("\n")[0]
            what = f"{option('grid')} {c:g}: the regression did not converge in {MAX_ITERATIONS} iterations: {line}"
            fix = "Replace this C by a smaller one" + (
                "." if scale else f", or scale the embedding with {option('scale')}."
            )
            raise ConfigError(what, fix) from warning
    return Fitted(
        coef=estimator.coef_[0],
        intercept=float(estimator.intercept_[0]),
        mean=None if scaler is None else scaler.mean_,
        scale=None if scaler is None else scaler.scale_,
        iterations=int(estimator.n_iter_[0]),
    )


def cross_validate(
    rows: Float64Array,
    labels: Labels,
    grid: Sequence[float],
    *,
    folds: int,
    seeds: Sequence[int],
    fit: Callable[[Float64Array, Labels, float], Fitted],
) -> list[Candidate]:
    """Evaluate each C by stratified k-fold cross-validation. All C use the same folds.

    Args:
        rows: (n, D), or (n, copies, D).
        labels: (n,) 0 or 1.
        grid: values of C.
        folds: number of folds.
        seeds: seeds of the shuffled cross-validations.
        fit: fits one regression, like fit_once. It only gets the training folds, so they also set the scaler.

    Returns:
        One candidate for each C, in ascending order of C.
    """
    splits = [list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels, labels)) for seed in seeds]
    candidates = []
    for c in sorted(grid):
        accuracy, area = np.empty((2, len(seeds), folds))
        for index in np.ndindex(len(seeds), folds):
            training, test = splits[index[0]][index[1]]
            decision = fit(rows[training], labels[training], c).decision(rows[test])
            # log-odds above 0 is p above 0.5, the bundle's default threshold
            accuracy[index] = np.mean((decision > 0) == labels[test])
            area[index] = roc_auc_score(labels[test], decision)
        candidates.append(_candidate(c, accuracy, area))
    return candidates


def _candidate(c: float, accuracy: Float64Array, area: Float64Array) -> Candidate:
    """The candidate for one C, from its scores (seeds, folds)."""

    def seed_sd(scores: Float64Array) -> float | None:
        return float(scores.mean(axis=1).std(ddof=1)) if len(scores) > 1 else None

    return Candidate(
        c=c,
        accuracy_mean=float(accuracy.mean()),
        accuracy_sd=float(accuracy.std(ddof=1)),
        accuracy_seed_sd=seed_sd(accuracy),
        roc_auc_mean=float(area.mean()),
        roc_auc_sd=float(area.std(ddof=1)),
        roc_auc_seed_sd=seed_sd(area),
    )


def count_scores(
    rows: Float64Array,
    labels: Labels,
    c: float,
    *,
    folds: int,
    seed: int,
    fit: Callable[[Float64Array, Labels, float], Fitted],
) -> ScoreCounts:
    """Histogram of out-of-fold p for each class. The arguments are those of cross_validate."""
    decision = np.empty(len(labels))
    for training, test in StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels, labels):
        decision[test] = fit(rows[training], labels[training], c).decision(rows[test])
    edges = [index / BINS for index in range(BINS + 1)]
    counts = [np.histogram(sigmoid(decision[labels == label]), edges)[0].tolist() for label in (0, 1)]
    return ScoreCounts(bin_edges=edges, specific=counts[0], nonspecific=counts[1])


def choose(candidates: Sequence[Candidate]) -> Candidate:
    """The candidate with the highest mean ROC AUC. If several are equal, the smallest C (most regularised)."""
    return max(candidates, key=lambda candidate: (candidate.roc_auc_mean, -candidate.c))


def table(candidates: Sequence[Candidate]) -> list[str]:
    """The candidates as lines of text: mean +- sd over folds (sd of the seeds' means)."""

    def cell(mean: float, sd: float, seed_sd: float | None) -> str:
        return f"{mean:.4f} +- {sd:.4f}" + (f" ({seed_sd:.4f})" if seed_sd is not None else "")

    lines = [f"  {'C':>8}  {'accuracy':<26}  ROC AUC"]
    for each in candidates:
        accuracy = cell(each.accuracy_mean, each.accuracy_sd, each.accuracy_seed_sd)
        area = cell(each.roc_auc_mean, each.roc_auc_sd, each.roc_auc_seed_sd)
        lines.append(f"  {each.c:>8g}  {accuracy:<26}  {area}")
    return lines
