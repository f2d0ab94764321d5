"""What rounding a weight to float16 adds to its product on average, taken out of the product's bias.

A weight's rounding errors W - half(W) are fixed, and a product's input x has a mean that is far from 0. So the product
is off by (W - half(W)) mean(x) at every token alike: most of what float16 does to a pooled score (benchmarks/NOTES.md,
"float16 on a card"). Added to the bias it is gone, and the graph has not one operation more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from abonyx.arrays import Float32Array, Float64Array, Int64Array
from abonyx_export.encoder.checkpoint import Checkpoint
from abonyx_export.encoder.config import EncoderConfig

Tensor = Callable[[str], Float32Array]

# Antibodies that the means are taken over: some 4,000 tokens. Not the golden rows, which judge.
MEAN_ROWS = 32
_QKV = ("attention.self.query", "attention.self.key", "attention.self.value")
_PRODUCTS = (*_QKV, "attention.output.dense", "intermediate.dense", "output.dense")


def product_names(config: EncoderConfig) -> list[str]:
    """The encoder's products, by the checkpoint's names."""
    return [f"encoder.layer.{index}.{product}" for index in range(config.layers) for product in _PRODUCTS]


def input_means(checkpoint: Checkpoint, rows: Sequence[Int64Array]) -> dict[str, Float64Array]:
    """Each product's input, averaged over all tokens: name -> (in,) float64. Runs PyTorch in float32.

    Args:
        rows: token rows, CLS and EOS included; each is run alone.
    """
    import torch

    sums: dict[str, Float64Array] = {}

    def watch(name: str) -> Callable[[Any, Any], None]:
        def hook(_module: Any, arguments: Any) -> None:
            values: Float64Array = arguments[0][0].sum(dim=0, dtype=torch.float64).numpy()  # (L, in) -> (in,)
            sums[name] = sums.get(name, np.zeros_like(values)) + values

        return hook

    model = checkpoint.model
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(watch(name)) for name in product_names(checkpoint.config)
    ]
    try:
        with torch.inference_mode():
            for row in rows:
                ids = torch.from_numpy(row)[None]  # (1, L)
                model(input_ids=ids, attention_mask=torch.ones_like(ids))
    finally:
        for handle in hooks:
            handle.remove()
    tokens = sum(len(row) for row in rows)
    return {name: values / tokens for name, values in sums.items()}


def with_rounding_in_biases(tensor: Tensor, means: dict[str, Float64Array]) -> Tensor:
    """The checkpoint's tensors, each product's bias moved by what its weight's rounding takes away on average.

    Args:
        tensor: gives the checkpoint's tensor of that name as float32.
        means: of input_means.
    """

    def moved(name: str) -> Float32Array:
        values = tensor(name)
        product = name.removesuffix(".bias")
        if product == name or product not in means:
            return values
        weight = tensor(f"{product}.weight")  # (out, in)
        lost = (weight - weight.astype(np.float16).astype(np.float32)).astype(np.float64) @ means[product]
        return (values + lost).astype(np.float32)

    return moved
