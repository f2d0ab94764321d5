"""Run the golden rows on this machine, and compare the results with PyTorch's. This module does not use ONNX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from abonyx.arrays import Float32Array, Float64Array, Int64Array
from abonyx.batching import plan_batches
from abonyx.bundle import Golden
from abonyx.bundle.heads import EMBEDDING, column_places, head_total, head_value, sigmoid
from abonyx.bundle.manifest import LOGISTIC, HeadSpec
from abonyx.bundle.tolerances import FP32, Limits
from abonyx.errors import ConfigError, ProviderUnavailable, SelfTestError
from abonyx.wording import option

Number = TypeVar("Number", np.float32, np.float64)
# Token rows of one batch -> (embedding (B, D) float32, head_sums (B, K) float32).
RunRows = Callable[[Sequence[Int64Array]], tuple[Float32Array, Float32Array]]


class Compared(NamedTuple):
    """The differences of k rows from PyTorch in one metric.

    Attributes:
        metric: "embedding"; "logit" or "p" for a logistic head; "value" for a linear head, in standard deviations of
            its training values.
        head: name of the head; None for the embedding.
        difference: (k,) float64; for the embedding (k, D) float64.
    """

    metric: str
    head: str | None
    difference: Float64Array


def run_golden(golden: Golden, rows: Int64Array, run: RunRows, token_budget: int) -> tuple[Float32Array, Float32Array]:
    """Run k golden rows in padded batches.

    Returns:
        (embedding (k, D), head_sums (k, K)), both float32, in the order of `rows`.
    """
    width, count = golden.embedding.shape[1], len(golden.head_names)
    embedding, sums = np.empty((len(rows), width), np.float32), np.empty((len(rows), count), np.float32)
    for batch in plan_batches(golden.lengths[rows], token_budget):
        tokens = [golden.input_ids[row, : golden.lengths[row]] for row in rows[batch]]
        embedding[batch], sums[batch] = run(tokens)
    return embedding, sums


def compare(
    golden: Golden, heads: Sequence[HeadSpec], rows: Int64Array, embedding: Float32Array, sums: Float32Array
) -> list[Compared]:
    """Compare the results of run_golden with PyTorch's, for every head.

    Logits and values are computed twice: from the graph's head_sums, and from the embedding, because users also get
    the embedding. The larger difference counts. p is computed as for users: from head_sums. For heads with two chains,
    as_pairs makes records from the rows.
    """
    exact = embedding.astype(np.float64) @ golden.head_coef.T + golden.head_intercept  # (k, K)
    found = [Compared(EMBEDDING, None, np.abs(embedding - golden.embedding[rows].astype(np.float64)))]
    places = column_places(heads)
    for head in heads:
        at = list(places[head.name])
        expected, part = expected_total(golden, rows, at), as_pairs([sums[:, place] for place in at])
        from_embedding = np.sum(as_pairs([exact[:, place] for place in at]), axis=0)
        off = np.maximum(np.abs(head_total(head, *part) - expected), np.abs(from_embedding - expected))
        if head.kind == LOGISTIC:
            # A saturated p hides an error that the logit shows.
            found.append(Compared("logit", head.name, off))
            found.append(Compared("p", head.name, np.abs(head_value(head, *part) - sigmoid(expected))))
        else:
            assert head.training_sd is not None  # parse_manifest has checked it
            found.append(Compared("value", head.name, off / head.training_sd))
    return found


def as_pairs(parts: Sequence[npt.NDArray[Number]]) -> list[npt.NDArray[Number]]:
    """Make records with several chains from rows with one chain.

    Golden rows are single chains. Each row is used as the heavy chain of one record and as the light chain of the next
    one; the last row is the light chain of the first record.

    Args:
        parts: for each chain, (k, ...).
    """
    return [np.roll(part, at, axis=0) for at, part in enumerate(parts)]


def expected_total(golden: Golden, rows: Int64Array, places: Sequence[int]) -> Float64Array:
    """PyTorch's logits or values for the records that as_pairs makes of these rows: (k,) float64.

    Args:
        golden: the golden rows.
        rows: k row numbers.
        places: the columns of the head.
    """
    total: Float64Array = np.sum(as_pairs([golden.value[rows, place] for place in places]), axis=0)
    return total


def metric_name(compared: Compared, heads: Sequence[HeadSpec]) -> str:
    """The name of a metric in a message, with the head's name if there are several heads."""
    of_head = f" of head {compared.head}" if compared.head is not None and len(heads) > 1 else ""
    return f"{compared.metric}{of_head}" + (" (in sds of the training values)" if compared.metric == "value" else "")


def check_golden(
    golden: Golden,
    heads: Sequence[HeadSpec],
    rows: Int64Array,
    run: RunRows,
    token_budget: int,
    limits: Limits,
    where: str,
) -> dict[str, float]:
    """Run golden rows and compare the results with PyTorch's.

    Returns:
        Metric ("embedding", "logit", "p", "value") -> max |difference| over all heads.

    Raises:
        SelfTestError: a difference is over its limit. The message names the metric, its value, the limit and the worst
            row.
    """
    found = compare(golden, heads, rows, *run_golden(golden, rows, run, token_budget))
    largest: dict[str, float] = {}
    for each in found:
        difference, limit = each.difference.reshape(len(rows), -1).max(axis=1), getattr(limits, each.metric)
        largest[each.metric] = max(largest.get(each.metric, 0.0), float(difference.max()))
        if not np.all(difference <= limit):  # also true for NaN
            worst = int(np.argmax(np.where(np.isnan(difference), np.inf, difference)))
            raise SelfTestError(
                f"{where}: self-test failed: max |difference| of {metric_name(each, heads)} is "
                f"{difference[worst]:.3g}, limit {limit:g} "
                f"(golden row {rows[worst]}, {len(rows)} rows run)",
                f"The engine or the device computes wrong numbers here. Try another {option('variant')} or "
                f"{option('provider')}, or another version of ONNX Runtime. Please report this message.",
            )
    return largest


def check_quick(
    golden: Golden,
    heads: Sequence[HeadSpec],
    run: RunRows,
    limits: Limits,
    where: str,
    rows: Int64Array | None = None,
) -> None:
    """Run the shortest golden row and the next longer one in one batch. This tests padding with the fewest tokens.

    Args:
        golden, heads, run, limits, where: as for check_golden.
        rows: the row numbers to choose from; None = all.

    Raises:
        SelfTestError: as for check_golden.
    """
    rows = np.arange(len(golden.lengths)) if rows is None else rows
    order = rows[np.argsort(golden.lengths[rows], kind="stable")]
    shortest = golden.lengths[order[0]]
    pair = np.append(order[:1], order[golden.lengths[order] > shortest][:1])  # one row if all have the same length
    check_golden(golden, heads, pair, run, int(2 * golden.lengths[pair].max()), limits, where)


def rows_that_fit(golden: Golden, static_tokens: int | None, where: str) -> Int64Array:
    """Numbers of the golden rows that a session can run: all, or those with at most static_tokens tokens.

    Raises:
        ConfigError: fewer than two fit, so the self-test cannot check the scores.
    """
    if static_tokens is None:
        return np.arange(len(golden.lengths))
    rows = np.flatnonzero(golden.lengths <= static_tokens)
    if len(rows) < 2:
        raise ConfigError(
            f"{where}: static_tokens is {static_tokens}; {len(rows)} of the self-test's rows fit, 2 are needed",
            f"Set static_tokens to at least {np.sort(golden.lengths)[1]}.",
        )
    return rows


def refuse_exact(golden: Golden, run: RunRows, where: str) -> None:
    """Raise ProviderUnavailable if bfloat16 was requested, but the engine computes in float32.

    An engine may accept the request and ignore it. Then the embedding of the shortest golden row is as exact as in
    float32. In a variant with rounded weights, the rounding alone may exceed the limit of float32. Then this check
    cannot detect an ignored request, and passes.
    """
    row = np.argmin(golden.lengths, keepdims=True)
    embedding, _ = run_golden(golden, row, run, int(golden.lengths[row[0]]))
    difference = np.abs(embedding - golden.embedding[row]).max()
    if difference <= FP32.embedding:
        raise ProviderUnavailable(
            f"{where}: openvino.precision is bf16, but the engine used float32: the embedding differs from PyTorch by "
            f"only {difference:.2g}, and the limit of float32 is {FP32.embedding:g}",
            "This processor or engine does not support bfloat16. Use precision f32.",
        )
