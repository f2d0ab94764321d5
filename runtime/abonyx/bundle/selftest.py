"""The golden rows, run again on this machine and compared with what PyTorch saw. Knows nothing of ONNX."""

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
# Token rows of one batch -> embedding (B, D) float32, head_sums (B, K) float32.
RunRows = Callable[[Sequence[Int64Array]], tuple[Float32Array, Float32Array]]


class Compared(NamedTuple):
    """How far k rows are from PyTorch's, in one metric.

    Attributes:
        metric: "embedding", "logit" and "p" of a logistic head, "value" of a linear one, in training sds.
        head: the head's name; None for the embedding.
        difference: (k,) or, of the embedding, (k, D) float64.
    """

    metric: str
    head: str | None
    difference: Float64Array


def run_golden(golden: Golden, rows: Int64Array, run: RunRows, token_budget: int) -> tuple[Float32Array, Float32Array]:
    """Those golden rows through the engine, in padded batches.

    Returns:
        embedding (k, D) and head_sums (k, K), float32, in the order of `rows`.
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
    """What run_golden gave against PyTorch's, of every head; p as a user is given it.

    A logit or value is held to what the graph sums up, and to what the embedding alone gives: users take that too. Of
    heads on two chains records are made as as_pairs makes them.
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
            assert head.training_sd is not None  # parse_manifest has refused it
            found.append(Compared("value", head.name, off / head.training_sd))
    return found


def as_pairs(parts: Sequence[npt.NDArray[Number]]) -> list[npt.NDArray[Number]]:
    """Rows of one chain as records of several: chain i of a record is the row i places before its own, in a circle.

    Golden rows are single chains: so each of them is the heavy chain of one record, and the light one of the next.

    Args:
        parts: (k, ...) for each chain.
    """
    return [np.roll(part, at, axis=0) for at, part in enumerate(parts)]


def expected_total(golden: Golden, rows: Int64Array, places: Sequence[int]) -> Float64Array:
    """What PyTorch gave the records of as_pairs, made of those rows: logits or values, (k,) float64.

    Args:
        places: the head's columns.
    """
    total: Float64Array = np.sum(as_pairs([golden.value[rows, place] for place in places]), axis=0)
    return total


def metric_name(compared: Compared, heads: Sequence[HeadSpec]) -> str:
    """What a message calls it: with the head's name, if there are several."""
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
    """Run those golden rows and compare them with PyTorch's.

    Returns:
        Max |difference| by metric, over all heads: embedding, logit and p, value.

    Raises:
        SelfTestError: names the metric, its value, the limit and the worst row.
    """
    found = compare(golden, heads, rows, *run_golden(golden, rows, run, token_budget))
    largest: dict[str, float] = {}
    for each in found:
        difference, limit = each.difference.reshape(len(rows), -1).max(axis=1), getattr(limits, each.metric)
        largest[each.metric] = max(largest.get(each.metric, 0.0), float(difference.max()))
        if not np.all(difference <= limit):  # also where a difference is NaN
            worst = int(np.argmax(np.where(np.isnan(difference), np.inf, difference)))
            raise SelfTestError(
                f"{where}: self-test failed: max |difference| of {metric_name(each, heads)} is "
                f"{difference[worst]:.3g}, limit {limit:g} "
                f"(golden row {rows[worst]}, {len(rows)} rows run)",
                f"This engine or device computes this graph wrongly. Try another {option('variant')} or "
                f"{option('provider')}, or another "
                "ONNX Runtime version; please report it with this message.",
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
    check_golden(golden, heads, pair, run, int(2 * golden.lengths[pair].max()), limits, where)


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
    embedding, _ = run_golden(golden, row, run, int(golden.lengths[row[0]]))
    difference = np.abs(embedding - golden.embedding[row]).max()
    if difference <= FP32.embedding:
        raise ProviderUnavailable(
            f"{where}: bf16 was asked for, float32 ran: embedding within {difference:.2g} of PyTorch's, "
            f"float32's limit is {FP32.embedding:g}",
            "This processor or engine has no bfloat16. Use precision f32.",
        )
