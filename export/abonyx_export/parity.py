"""PyTorch's numbers for the golden set, and how far a variant is from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from abonyx.arrays import Float32Array, Float64Array, Int64Array
from abonyx.bundle import Golden
from abonyx.bundle.manifest import Difference, Parity
from abonyx.bundle.selftest import sigmoid
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


def differences(
    golden: Golden, embedding: npt.NDArray[np.floating], logit: Float64Array, p: Float64Array
) -> dict[str, Float64Array]:
    """|difference| from the golden rows: embedding (n, D), logit (n,), p (n,)."""
    return {
        "embedding": np.abs(embedding - golden.embedding.astype(np.float64)),
        "logit": np.abs(logit - golden.logit),
        "p": np.abs(p - sigmoid(golden.logit)),
    }


def summarise(found: dict[str, Float64Array]) -> dict[str, Difference]:
    """Max and mean of each."""
    return {name: Difference(max=float(values.max()), mean=float(values.mean())) for name, values in found.items()}


def measure(
    golden: Golden,
    embedding: Float64Array,
    logit: Float64Array,
    p: Float64Array,
    thresholds: Sequence[float],
    weight_rounding: dict[str, Difference] | None,
    *,
    provider: str,
    torch: str,
    transformers: str,
) -> Parity:
    """The parity record of one variant.

    Args:
        embedding, logit, p: the variant's, as selftest.run_golden gives them.
        thresholds: those at which label flips are counted.
        weight_rounding: see manifest.Parity.
        provider: where the variant ran.
        torch, transformers: the versions that made `golden`.
    """
    from scipy.stats import spearmanr

    if min(np.ptp(golden.logit), np.ptp(logit)) < HEAD_MIN_SPREAD:
        what = f"the head gives every one of {len(logit)} golden rows the logit {logit[0]:.6g}: it tells nothing apart"
        raise ParityError(
            what, f"Nothing was written. Check the labels and that the sequences differ; raise {option('grid')}."
        )
    expected = golden.embedding.astype(np.float64)
    norms = np.linalg.norm(embedding, axis=1) * np.linalg.norm(expected, axis=1)
    expected_p = sigmoid(golden.logit)
    found = summarise(differences(golden, embedding, logit, p))
    return Parity(
        rows=len(p),
        embedding=found["embedding"],
        logit=found["logit"],
        p=found["p"],
        min_cosine=float(((embedding * expected).sum(axis=1) / norms).min()),
        label_flips={f"{value:g}": int(((p > value) != (expected_p > value)).sum()) for value in sorted(thresholds)},
        spearman=float(spearmanr(golden.logit, logit).statistic),
        weight_rounding=weight_rounding,
        provider=provider,
        onnxruntime=import_engine().__version__,
        torch=torch,
        transformers=transformers,
    )


def enforce(found: dict[str, Float64Array], limits: Limits, variant: str, provider: str, detail: str, fix: str) -> None:
    """Refuse a variant over its limits.

    Args:
        found: differences of the variant.
        detail: what else the message says of it.
        fix: what the user can do about it.

    Raises:
        ParityError: names the metric, its value, the limit and the worst golden row.
    """
    for metric in ("p", "logit", "embedding"):
        rows = found[metric].reshape(len(found[metric]), -1).max(axis=1)  # NaN if any is
        limit = getattr(limits, metric)
        if not np.all(rows <= limit):
            worst = int(np.argmax(np.where(np.isnan(rows), np.inf, rows)))
            raise ParityError(
                f"variant {variant}: max |difference| of {metric} from PyTorch is {rows[worst]:.3g}, limit {limit:g} "
                f"(golden row {worst} of {len(rows)}, on {provider}){detail}",
                f"Nothing was written. {fix}",
            )
