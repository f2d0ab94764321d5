"""PyTorch's numbers for the golden set, and how far a variant is from them."""

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
    """Mean over residues by transformers' own EsmModel, float32, each row alone and without padding.

    Args:
        rows: token rows, CLS and EOS included.

    Returns:
        (n, D) float32.
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
            # float64 mean: the reference has no rounding of its own to add
            means = [layers[name][0, 1:-1].double().mean(dim=0) for name in pooled]
            embeddings[index] = torch.cat(means).numpy()
    return embeddings


@contextmanager
def watch_activations(model: EsmModel) -> Iterator[dict[str, float]]:
    """While it lasts, the largest |activation| of each product's output and each LayerNorm's input and output.

    The residual stream is among them: every LayerNorm takes it in. A product's output counts without its bias too, as
    cuda_graph.py has it.
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
    """Refuse float16 arithmetic where the golden rows' activations come near its end.

    Args:
        largest: of watch_activations.
        variants: those that would compute in float16.

    Raises:
        ParityError: names the module, its largest activation and the limit.
    """
    name = max(largest, key=lambda key: largest[key])
    if not largest[name] <= FP16_LARGEST_ACTIVATION:
        raise ParityError(
            f"{', '.join(variants)}: {name} reaches {largest[name]:.4g} on the golden rows, limit "
            f"{FP16_LARGEST_ACTIVATION:g} (float16 ends at 65504)",
            "Nothing was written. Leave the variant out; fp32 has the range.",
        )


def round_weights(model: EsmModel) -> None:
    """Round every parameter to float16 and back, in place: what storing it in half costs, without the arithmetic."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half().float())


def summarise(found: Float64Array) -> Difference:
    """Max and mean."""
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
        embedding, sums: the variant's, as selftest.run_golden gives them.
        weight_rounding: see manifest.Parity.
        provider: where the variant ran.
        torch, transformers: the versions that made `golden`.
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
    """One head's record; places are its columns of sums (n, K)."""
    from scipy.stats import spearmanr

    expected = selftest.expected_total(golden, np.arange(len(sums)), places)
    parts = selftest.as_pairs([sums[:, place] for place in places])
    total = head_total(head, *parts)
    if min(np.ptp(expected), np.ptp(total)) < HEAD_MIN_SPREAD * (head.training_sd or 1.0):
        kind = "logit" if head.kind == LOGISTIC else "value"
        what = f"head {head.name} gives every one of {len(total)} golden rows the {kind} {total[0]:.6g}"
        raise ParityError(
            f"{what}: it tells nothing apart",
            f"Nothing was written. Check the labels and that the sequences differ; raise {option('grid')}.",
        )
    spearman = float(spearmanr(expected, total).statistic)
    if head.kind != LOGISTIC:
        return LinearParity(value=summarise(found["value", head.name]), spearman=spearman)
    p, expected_p = head_value(head, *parts), sigmoid(expected)
    assert head.default_threshold is not None  # parse_manifest has refused it
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
        found: of selftest.compare.
        detail: what else the message says of it.
        fix: what the user can do about it.

    Raises:
        ParityError: names the metric, its value, the limit and the worst golden row.
    """
    order = ("p", "logit", "value", EMBEDDING)
    for each in sorted(found, key=lambda one: order.index(one.metric)):
        rows = each.difference.reshape(len(each.difference), -1).max(axis=1)  # NaN if any is
        limit = getattr(limits, each.metric)
        if not np.all(rows <= limit):
            worst = int(np.argmax(np.where(np.isnan(rows), np.inf, rows)))
            raise ParityError(
                f"variant {variant}: max |difference| of {selftest.metric_name(each, heads)} from PyTorch is "
                f"{rows[worst]:.3g}, limit {limit:g} "
                f"(golden row {worst} of {len(rows)}, on {provider}){detail}",
                f"Nothing was written. {fix}",
            )
