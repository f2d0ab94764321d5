"""PyTorch's numbers for the golden set, and the differences of a variant from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from abonyx.arrays import Float32Array, Float64Array, Int64Array
from abonyx.bundle import Golden, selftest
from abonyx.bundle.heads import EMBEDDING, column_places, head_total, head_value, sigmoid
from abonyx.bundle.manifest import LOGISTIC, Difference, HeadSpec, LinearParity, LogisticParity, Parity
from abonyx.bundle.tolerances import FP16_LARGEST_ACTIVATION, HEAD_MIN_SPREAD, Limits
from abonyx.engine.onnx import import_engine
from abonyx.errors import ParityError
from abonyx.wording import option
from abonyx_export.encoder.checkpoint import Checkpoint

if TYPE_CHECKING:
    from transformers import EsmModel
Tokens = Sequence[Int64Array]


def reference_embeddings(checkpoint: Checkpoint, rows: Tokens) -> Float32Array:
    """Pooled embeddings by transformers' own model in float32, one row at a time, without padding.

    Args:
        checkpoint: the loaded encoder.
        rows: token rows, with CLS and EOS.

    Returns:
        (n, D) float32, the mean over the residues of each row.
    """
    import torch

    model, pooled = checkpoint.model, checkpoint.config.pooled_layers
    embeddings = np.empty((len(rows), checkpoint.config.embedding_width), np.float32)
    with torch.inference_mode():
        for index, row in enumerate(rows):
            ids = torch.from_numpy(row)[None]  # (1, L)
            output = model(
                input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=set(pooled) != {"last"}
            )
            layers = {"last": output.last_hidden_state}
            for name in set(pooled) - {"last"}:
                layers[name] = output.hidden_states[0 if name == "embedding" else int(name)]
            # The mean is float64, so that the reference adds no rounding of its own.
            means = [layers[name][0, 1:-1].double().mean(dim=0) for name in pooled]
            embeddings[index] = torch.cat(means).numpy()
    return embeddings


@contextmanager
def watch_activations(model: EsmModel) -> Iterator[dict[str, float]]:
    """Record the largest |activation| of each product's output and of each LayerNorm's input and output.

    This covers the residual stream, because every LayerNorm reads it. A product's output is also recorded without its
    bias, because cuda_graph.py adds the bias later.
    """
    import torch

    largest: dict[str, float] = {}

    def watch(name: str) -> Any:
        def hook(module: Any, arguments: Any, output: Any) -> None:
            norm = isinstance(module, torch.nn.LayerNorm)
            seen = [output, *arguments] if norm else [output, output - module.bias]
            largest[name] = max(largest.get(name, 0.0), *(float(values.abs().max()) for values in seen))

        return hook

    kinds = (torch.nn.Linear, torch.nn.LayerNorm)
    handles = [
        module.register_forward_hook(watch(name)) for name, module in model.named_modules() if isinstance(module, kinds)
    ]
    try:
        yield largest
    finally:
        for handle in handles:
            handle.remove()


def check_range(largest: dict[str, float], variants: Sequence[str]) -> None:
    """Refuse float16 arithmetic if activations of the golden rows come near the largest float16.

    Args:
        largest: module -> largest activation, from watch_activations.
        variants: the variants that would compute in float16.

    Raises:
        ParityError: an activation is over the limit. The message names the module.
    """
    name = max(largest, key=lambda key: largest[key])
    if not largest[name] <= FP16_LARGEST_ACTIVATION:
        raise ParityError(
            f"{', '.join(variants)}: {name} reaches {largest[name]:.4g} on the golden rows, limit "
            f"{FP16_LARGEST_ACTIVATION:g} (the largest float16 is 65504)",
            "Nothing was written. Leave the variant out and use fp32, which has a larger range.",
        )


def round_weights(model: EsmModel) -> None:
    """Round every parameter to float16 and back, in place. The result has only the error of float16 storage."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half().float())


def summarise(found: Float64Array) -> Difference:
    """The maximum and the mean of differences."""
    return Difference(max=float(found.max()), mean=float(found.mean()))


def measure(
    golden: Golden,
    heads: Sequence[HeadSpec],
    embedding: Float32Array,
    sums: Float32Array,
    weight_rounding: dict[str, Difference] | None,
    *,
    provider: str,
    torch: str,
    transformers: str,
) -> Parity:
    """The parity record of one variant.

    Args:
        golden: PyTorch's numbers.
        heads: the bundle's heads.
        embedding, sums: the variant's numbers, from selftest.run_golden.
        weight_rounding: see manifest.Parity.
        provider: the provider that ran the variant.
        torch, transformers: the versions that made `golden`.

    Raises:
        ParityError: a head gives all golden rows the same value.
    """
    compared = selftest.compare(golden, heads, np.arange(len(sums)), embedding, sums)
    found = {(each.metric, each.head): each.difference for each in compared}
    exact, measured = golden.embedding.astype(np.float64), embedding.astype(np.float64)
    places = column_places(heads)
    norms = np.linalg.norm(measured, axis=1) * np.linalg.norm(exact, axis=1)
    return Parity(
        rows=len(sums),
        embedding=summarise(found[EMBEDDING, None]),
        min_cosine=float(((measured * exact).sum(axis=1) / norms).min()),
        heads={head.name: _of_head(head, found, golden, list(places[head.name]), sums) for head in heads},
        weight_rounding=weight_rounding,
        provider=provider,
        onnxruntime=import_engine().__version__,
        torch=torch,
        transformers=transformers,
    )


def _of_head(
    head: HeadSpec,
    found: dict[tuple[str, str | None], Float64Array],
    golden: Golden,
    places: Sequence[int],
    sums: Float32Array,
) -> LogisticParity | LinearParity:
    """One head's record; `places` are the head's columns in sums (n, K)."""
    from scipy.stats import spearmanr

    expected = selftest.expected_total(golden, np.arange(len(sums)), places)
    parts = selftest.as_pairs([sums[:, place] for place in places])
    total = head_total(head, *parts)
    if min(np.ptp(expected), np.ptp(total)) < HEAD_MIN_SPREAD * (head.training_sd or 1.0):
        kind = "logit" if head.kind == LOGISTIC else "value"
        raise ParityError(
            f"head {head.name} gives all {len(total)} golden rows the same {kind}, {total[0]:.6g}",
            f"Nothing was written. Check the labels, check that the sequences differ, or raise {option('grid')}.",
        )
    spearman = float(spearmanr(expected, total).statistic)
    if head.kind != LOGISTIC:
        return LinearParity(value=summarise(found["value", head.name]), spearman=spearman)
    p, expected_p = head_value(head, *parts), sigmoid(expected)
    assert head.default_threshold is not None  # parse_manifest refuses a logistic head without it
    thresholds = {head.default_threshold, *head.thresholds.values()}
    return LogisticParity(
        logit=summarise(found["logit", head.name]),
        p=summarise(found["p", head.name]),
        label_flips={f"{value:g}": int(((p > value) != (expected_p > value)).sum()) for value in sorted(thresholds)},
        spearman=spearman,
    )


def enforce(
    found: Sequence[selftest.Compared],
    heads: Sequence[HeadSpec],
    limits: Limits,
    variant: str,
    provider: str,
    detail: str,
    fix: str,
) -> None:
    """Refuse a variant over its limits.

    Args:
        found: differences from selftest.compare.
        detail: text to add to the message.
        fix: what the user can do about a variant over its limits.

    Raises:
        ParityError: a difference is over its limit. The message names the metric, the limit and the worst golden
            row.
    """
    order = ("p", "logit", "value", EMBEDDING)
    for each in sorted(found, key=lambda one: order.index(one.metric)):
        rows = each.difference.reshape(len(each.difference), -1).max(axis=1)  # NaN if one of them is NaN
        limit = getattr(limits, each.metric)
        if not np.all(rows <= limit):
            worst = int(np.argmax(np.where(np.isnan(rows), np.inf, rows)))
            raise ParityError(
                f"variant {variant}: max |difference| of {selftest.metric_name(each, heads)} from PyTorch is "
                f"{rows[worst]:.3g}, limit {limit:g} "
                f"(golden row {worst} of {len(rows)}, on {provider}){detail}",
                f"Nothing was written. {fix}",
            )
