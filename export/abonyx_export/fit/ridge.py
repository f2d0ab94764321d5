"""Ridge regression on embeddings. Alpha is chosen inside each fold, so that no test row influences it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from abonyx.arrays import Float64Array
from abonyx.bundle.manifest import RidgeTraining
from abonyx.wording import option
from abonyx_export.fit.cross_validation import Fitted


def fit_ridge(
    rows: Float64Array, values: Float64Array, alphas: Sequence[float], *, scale: bool
) -> tuple[Fitted, float]:
    """Fit one regression; returns it with its alpha, which has the smallest leave-one-out squared error.

    Args:
        rows: (n, D).
        values: (n,).
        alphas: strengths of regularisation to choose from.
        scale: put a StandardScaler before the regression.
    """
    scaler = StandardScaler().fit(rows) if scale else None
    estimator = RidgeCV(alphas=sorted(alphas))
    # One thread, for the same reason as in cross_validation.fit_once.
    with threadpool_limits(1):
        estimator.fit(rows if scaler is None else scaler.transform(rows), values)
    fitted = Fitted(
        coef=estimator.coef_,
        intercept=float(estimator.intercept_),
        mean=None if scaler is None else scaler.mean_,
        scale=None if scaler is None else scaler.scale_,
        iterations=0,
    )
    return fitted, float(estimator.alpha_)


def cross_validate_ridge(
    rows: Float64Array,
    values: Float64Array,
    alphas: Sequence[float],
    *,
    folds: int,
    seeds: Sequence[int],
    scale: bool,
) -> RidgeTraining:
    """Measure regressions on rows that they were not fitted on. Each fold chooses alpha from its training rows.

    Args:
        rows, values, alphas, scale: see fit_ridge.
        folds: number of folds.
        seeds: seeds of the shuffled cross-validations.

    Returns:
        The record, with the alpha of a fit on all rows.
    """
    from scipy.stats import spearmanr

    measured = np.empty((len(seeds), 4))
    in_folds: dict[float, int] = dict.fromkeys(sorted(alphas), 0)
    for seed, row in zip(seeds, measured, strict=True):
        # The training mean of each fold is subtracted. Otherwise this mean alone would correlate with the left-out
        # values over all folds.
        found, centred = np.empty((2, len(values)))
        for training, test in KFold(folds, shuffle=True, random_state=seed).split(rows):
            fitted, alpha = fit_ridge(rows[training], values[training], alphas, scale=scale)
            in_folds[alpha] += 1
            mean = values[training].mean()
            found[test], centred[test] = fitted.decision(rows[test]) - mean, values[test] - mean
        off, without = found - centred, centred
        rank = 0.0 if np.ptp(found) == 0 else float(spearmanr(found, values).statistic)
        row[:] = rank, 1 - (off @ off) / (without @ without), np.abs(off).mean(), np.abs(without).mean()
    spearman, r2, mae, mean_mae = measured.mean(axis=0).tolist()
    return RidgeTraining(
        alpha=fit_ridge(rows, values, alphas, scale=scale)[1],
        alphas=sorted(alphas),
        alphas_of_folds=[in_folds[alpha] for alpha in sorted(alphas)],
        spearman_mean=spearman,
        spearman_seed_sd=float(measured[:, 0].std(ddof=1)) if len(seeds) > 1 else None,
        r2_mean=r2,
        mae_mean=mae,
        mae_of_mean=mean_mae,
    )


def ridge_lines(found: RidgeTraining, unit: str) -> list[str]:
    """Lines about a cross-validation, for the command's output."""
    sd = "" if found.spearman_seed_sd is None else f" ({found.spearman_seed_sd:.4f})"
    folds = ", ".join(f"{a:g} in {n}" for a, n in zip(found.alphas, found.alphas_of_folds, strict=True) if n)
    lines = [
        f"  on left-out rows of random folds: Spearman {found.spearman_mean:.4f}{sd}, R2 {found.r2_mean:.4f}, "
        f"mean |error| {found.mae_mean:.4g} {unit} ({found.mae_of_mean:.4g} {unit} if every prediction is the mean)",
        f"  alpha chosen inside the folds: {folds}",
    ]
    if len(found.alphas) > 1 and found.alpha in (found.alphas[0], found.alphas[-1]):
        lines.append(f"  note: alpha {found.alpha:g} is at the end of the range; widen it with {option('alphas')}")
    return lines
