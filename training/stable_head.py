"""Cross-validate logistic heads on an encoder's features by cluster: AUC, and how often calls flip.

The regression is the one of `abonyx fit --scale`. It uses Newton's method in PyTorch, so that a GPU takes seconds where
scikit-learn takes minutes. A row's changed copies stay in the row's fold; only unchanged rows are scored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from abonyx.evaluate.variations import VARIATIONS
from abonyx_export.fit.copies import COPIES

WHOLE = "whole"
# The versions of a row that an encoder embeds. If a name is in COPIES and in VARIATIONS, it is the same change.
CHANGES: dict[str, Callable[[str], str]] = {WHOLE: lambda sequence: sequence} | COPIES | VARIATIONS
C_GRID = (0.001, 0.003, 0.01, 0.03, 0.1)
SETTINGS = [(copies, c) for copies in (False, True) for c in C_GRID]
MAX_STEPS = 50
# Limit of the gradient's largest entry, for a sum over some hundred rows. At this limit the decision changes by less
# than 1e-8.
CONVERGED = 1e-8


@dataclass(frozen=True)
class Head:
    """decision = ((x - mean) / scale) . coef + intercept; all float64."""

    mean: Tensor
    scale: Tensor
    coef: Tensor
    intercept: Tensor

    def decision(self, rows: Tensor) -> Tensor:
        """Log-odds (n,) of rows (n, D)."""
        return (rows - self.mean) / self.scale @ self.coef + self.intercept


def fit_head(rows: Tensor, labels: Tensor, copies: int, c: float) -> Head:
    """L2-regularised logistic regression on standardised columns, like scikit-learn's with sample weights 1 / copies.

    Args:
        rows: (n, D) float64.
        labels: (n,) float64.
        copies: number of rows that come from one antibody; together they have the weight of one row.
    """
    mean, scale = rows.mean(0), rows.std(0, correction=0)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    x = torch.cat([(rows - mean) / scale, torch.ones_like(rows[:, :1])], 1)
    strength = c / copies
    penalty = torch.ones(x.shape[1], dtype=x.dtype, device=x.device)
    penalty[-1] = 0
    w = torch.zeros_like(penalty)
    for _ in range(MAX_STEPS):
        p = torch.sigmoid(x @ w)
        gradient = strength * (x.T @ (p - labels)) + penalty * w
        if float(gradient.abs().max()) < CONVERGED:
            return Head(mean, scale, w[:-1], w[-1])
        curvature = strength * (x.T @ (x * (p * (1 - p))[:, None])) + torch.diag(penalty)
        w = w - torch.cholesky_solve(gradient[:, None], torch.linalg.cholesky(curvature))[:, 0]
    raise RuntimeError(f"C {c}: Newton's method did not converge in {MAX_STEPS} steps")


def stacked(features: dict[str, Tensor], chosen: Tensor, copies: bool) -> tuple[Tensor, int]:
    """The training rows of a fit, unchanged rows first, and the number of rows that come from one antibody."""
    names = [WHOLE, *(COPIES if copies else ())]
    return torch.cat([features[name][chosen] for name in names]), len(names)


def area(labels: np.ndarray, scores: np.ndarray) -> float:
    """ROC AUC; a tie counts as half."""
    positive, negative = scores[labels == 1], np.sort(scores[labels == 0])
    below, up_to = np.searchsorted(negative, positive, "left"), np.searchsorted(negative, positive, "right")
    return float((below + up_to).mean() / 2 / len(negative))


def judge_setting(
    features: dict[str, Tensor], labels: Tensor, assignments: np.ndarray, copies: bool, c: float
) -> dict[str, Any]:
    """The cross-validated figures of one head setting.

    Args:
        features: name of CHANGES -> (n, D) float64.
        labels: (n,) float64.
        assignments: (k, n), each row's fold in k assignments.

    Returns:
        roc_auc: AUC of the pooled out-of-fold decisions, mean over the assignments. The mean decision of a fold's
        training rows is subtracted first. accuracy: accuracy at 0.5. flips, mean_dp: name of VARIATIONS -> share of
        flipped calls, and mean change of p.
    """
    truth = labels.cpu().numpy()
    areas, accuracies = [], []
    flips: dict[str, list[float]] = {name: [] for name in VARIATIONS}
    moves: dict[str, list[float]] = {name: [] for name in VARIATIONS}
    for fold in assignments:
        decisions = {name: torch.empty_like(labels) for name in (WHOLE, *VARIATIONS)}
        centre = torch.empty_like(labels)
        for left_out in range(int(fold.max()) + 1):
            test = torch.from_numpy(fold == left_out).to(labels.device)
            rows, times = stacked(features, ~test, copies)
            head = fit_head(rows, labels[~test].repeat(times), times, c)
            centre[test] = head.decision(features[WHOLE][~test]).mean()
            for name, found in decisions.items():
                found[test] = head.decision(features[name][test])
        whole = decisions[WHOLE]
        areas.append(area(truth, (whole - centre).cpu().numpy()))
        accuracies.append(float(((whole > 0) == (labels > 0)).double().mean()))
        for name in VARIATIONS:
            flips[name].append(float(((decisions[name] > 0) != (whole > 0)).double().mean()))
            moves[name].append(float((decisions[name].sigmoid() - whole.sigmoid()).abs().mean()))
    return {
        "copies": copies,
        "C": c,
        "roc_auc": float(np.mean(areas)),
        "accuracy": float(np.mean(accuracies)),
        "flips": {name: float(np.mean(values)) for name, values in flips.items()},
        "mean_dp": {name: float(np.mean(values)) for name, values in moves.items()},
    }
