"""The error that int8 adds to a head. The logit's error is the embedding's error times the head's weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from abonyx.bundle import check_quantization
from abonyx.bundle.manifest import Candidate, ScoreGate
from abonyx_export.fit.cross_validation import choose
from abonyx_export.fit.request import FitRequest
from abonyx_export.head.head import Head
from abonyx_export.int8 import score_gate
from abonyx_export.int8.score_gate import GateRows


@dataclass(frozen=True)
class Int8Error:
    """int8's error with one head, on the rows that judge int8.

    Attributes:
        norm: norm of the weights, with the scaler folded in.
        gate: the gate's record for this head.
        passes: whether the record is within the gate's limits.
    """

    norm: float
    gate: ScoreGate
    passes: bool


def int8_errors(request: FitRequest, heads: Mapping[float, Head]) -> dict[float, Int8Error]:
    """C -> the int8 error of its head; empty if no int8 variant is kept.

    Args:
        request: what to fit.
        heads: C -> the head fitted on all rows.

    Raises:
        BundleError: another version made int8, or the gate's rows cannot be read.
    """
    bundle = request.run.bundle
    for name in request.kept:
        variant = bundle.manifest.variants[name]
        check_quantization(bundle.path, name, variant)
        if variant.quantization is None:
            continue
        rows = GateRows.load((bundle.path / variant.model).parent)
        errors = {}
        for c, head in heads.items():
            gate = score_gate.judge(rows, head)
            norm = float(np.linalg.norm(head.weights()[0]))
            errors[c] = Int8Error(norm, gate, not score_gate.faults(gate, variant.limits.p))
        return errors
    return {}


def choose_for_int8(candidates: Sequence[Candidate], errors: Mapping[float, Int8Error], folds: int) -> Candidate:
    """The candidate with the smallest |w| among the candidates that are as good as the best.

    "As good" means that mean ROC AUC and mean accuracy are at most one standard error below the highest. Accuracy
    matters, because very small weights keep p near the larger class's share, although the ranks stay good. If some of
    these candidates pass int8's gate, only those count.
    """
    # The standard error of a mean over folds. Training rows overlap between folds, so test rows / training rows is
    # added to 1 / folds (Nadeau and Bengio 2003). More seeds do not make it smaller: they shuffle the same rows.
    shrink = math.sqrt(1 / folds + 1 / (folds - 1))
    best = choose(candidates)
    area = best.roc_auc_mean - best.roc_auc_sd * shrink
    right = max(candidates, key=lambda each: each.accuracy_mean)
    accuracy = right.accuracy_mean - right.accuracy_sd * shrink
    good = [each for each in candidates if each.roc_auc_mean >= area and each.accuracy_mean >= accuracy] or [best]
    return min(good, key=lambda each: (not errors[each.c].passes, errors[each.c].norm))


def cell(error: Int8Error) -> str:
    """The int8 part of a candidate's line in the table."""
    flips = max(error.gate.label_flips.values())
    verdict = "passes" if error.passes else "fails the gate"
    return (
        f"|w| {error.norm:.3g}, int8 max |dp| {error.gate.p.max:.4f}, mean {error.gate.p.mean:.4f}, "
        f"flips {flips:.2%}: {verdict}"
    )
