"""The golden rows, run again on this machine and compared with what PyTorch saw. Knows nothing of ONNX."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from abonyx.arrays import Float32Array, Float64Array, Int64Array
from abonyx.batching import plan_batches
from abonyx.bundle import Golden
from abonyx.bundle.tolerances import FP32, Limits
from abonyx.errors import ConfigError, ProviderUnavailable, SelfTestError
from abonyx.wording import option

# Token rows of one batch -> embedding (B, D) float32, p (B,) float32.
RunRows = Callable[[Sequence[Int64Array]], tuple[Float32Array, Float32Array]]


def run_golden(
    golden: Golden, rows: Int64Array, run: RunRows, token_budget: int
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Those golden rows through the engine, in padded batches.

    Returns:
        embedding (k, D), logit (k,) and p (k,), float64, in the order of `rows`. The logit is the embedding times the
        head in float64: the graph's own p saturates where a logit does not.
    """
    embedding = np.empty((len(rows), golden.embedding.shape[1]))
    p = np.empty(len(rows))
    for batch in plan_batches(golden.lengths[rows], token_budget):
        tokens = [golden.input_ids[row, : golden.lengths[row]] for row in rows[batch]]
        embedding[batch], p[batch] = run(tokens)
    return embedding, embedding @ golden.head_coef + golden.head_intercept, p


def check_golden(
    golden: Golden, rows: Int64Array, run: RunRows, token_budget: int, limits: Limits, where: str
) -> dict[str, float]:
    """Run those golden rows and compare them with PyTorch's.

    Returns:
        Max |difference| by metric: embedding, logit, p.

    Raises:
        SelfTestError: names the metric, its value, the limit and the worst row.
    """
    embedding, logit, p = run_golden(golden, rows, run, token_budget)
    differences = {
        "embedding": (np.abs(embedding - golden.embedding[rows]).max(axis=1), limits.embedding),
        "logit": (np.abs(logit - golden.logit[rows]), limits.logit),
        "p": (np.abs(p - sigmoid(golden.logit[rows])), limits.p),
    }
    for metric, (difference, limit) in differences.items():
        if not np.all(difference <= limit):  # also where a difference is NaN
            worst = int(np.argmax(np.where(np.isnan(difference), np.inf, difference)))
            raise SelfTestError(
                f"{where}: self-test failed: max |difference| of {metric} is {difference[worst]:.3g}, limit {limit:g} "
                f"(golden row {rows[worst]}, {len(rows)} rows run)",
                f"This engine or device computes this graph wrongly. Try another {option('variant')} or "
                f"{option('provider')}, or another "
                "ONNX Runtime version; please report it with this message.",
            )
    return {metric: float(difference.max()) for metric, (difference, _) in differences.items()}


def check_quick(golden: Golden, run: RunRows, limits: Limits, where: str, rows: Int64Array | None = None) -> None:
    """The shortest golden row and the next longer one in ONE batch: padding is tested, with the fewest tokens.

    Args:
        rows: of which to take them; None = all.

    Raises:
        SelfTestError: as check_golden.
    """
    rows = np.arange(len(golden.lengths)) if rows is None else rows
    order = rows[np.argsort(golden.lengths[rows], kind="stable")]
    shortest = golden.lengths[order[0]]
    pair = np.append(order[:1], order[golden.lengths[order] > shortest][:1])  # one row where all are of one length
    check_golden(golden, pair, run, int(2 * golden.lengths[pair].max()), limits, where)


def rows_that_fit(golden: Golden, static_tokens: int | None, where: str) -> Int64Array:
    """The golden rows that a session can run: all, or those of at most static_tokens tokens.

    Raises:
        ConfigError: fewer than two fit, so that nothing vouches for the scores.
    """
    if static_tokens is None:
        return np.arange(len(golden.lengths))
    rows = np.flatnonzero(golden.lengths <= static_tokens)
    if len(rows) < 2:
        raise ConfigError(
            f"{where}: static_tokens is {static_tokens}; {len(rows)} of the self-test's rows fit, 2 are needed",
            f"Give at least {np.sort(golden.lengths)[1]}.",
        )
    return rows


def refuse_exact(golden: Golden, run: RunRows, where: str) -> None:
    """Raise ProviderUnavailable where bfloat16 was asked for and the shortest golden row comes out as float32's.

    An engine may take the request and not follow it. A variant of rounded weights can differ by more than float32's
    limit of itself: there this cannot tell, and lets pass.
    """
    row = np.argmin(golden.lengths, keepdims=True)
    embedding, _, _ = run_golden(golden, row, run, int(golden.lengths[row[0]]))
    difference = np.abs(embedding - golden.embedding[row]).max()
    if difference <= FP32.embedding:
        raise ProviderUnavailable(
            f"{where}: bf16 was asked for, float32 ran: embedding within {difference:.2g} of PyTorch's, "
            f"float32's limit is {FP32.embedding:g}",
            "This processor or engine has no bfloat16. Use precision f32.",
        )


def sigmoid(logit: Float64Array) -> Float64Array:
    """1 / (1 + exp(-logit)), float64, without overflow warnings."""
    # exp of a large positive number overflows, so only ever exp(-|x|)
    small = np.exp(-np.abs(logit))
    return np.where(logit >= 0, 1 / (1 + small), small / (1 + small))
