"""The encoder for CUDA alone: ONNX Runtime's fused operators (domain com.microsoft), float16, lengths for a mask.

Attention takes the keys' lengths (right padding), so no bias is added to the scores; SkipLayerNormalization adds the
product's bias and the residual and norms in one pass, which carries the NEXT layer's norm; BiasGelu is the erf form.
Pooling and head are float32, as in every variant. Shapes: B batch, L tokens, H hidden, N heads, D hidden per head.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from abonyx_export.checkpoint import EncoderConfig
from abonyx_export.encoder_graph import (
    WEIGHTS_SUFFIX,
    Graph,
    embed,
    layer_norm,
    model,
    pool,
    rotary_angles,
)

CUDA_INPUTS = ("input_ids", "position_ids", "lengths", "pool_weights")
FUSED = "com.microsoft"

FloatArray = npt.NDArray[np.float32]
Tensor = Callable[[str], FloatArray]


def write_cuda_encoder(
    config: EncoderConfig, tensor: Tensor, path: Path, *, arithmetic: npt.DTypeLike = np.float16
) -> None:
    """Write `path` (graph) and `path`.data (weights), as encoder_graph.write_encoder does.

    Args:
        config, tensor, path: see write_encoder.
        arithmetic: float16; float32 is for the tests, where the CPU's kernels must give PyTorch's numbers.

    The graph's inputs are CUDA_INPUTS.
    """
    weights_path = path.with_name(path.name + WEIGHTS_SUFFIX)
    with weights_path.open("wb") as weights_file:
        graph = Graph(weights_file, weights_path.name, arithmetic, arithmetic)
        first = residual = embed(graph, config, tensor)
        rotary = _rotary_tables(graph, config) if config.positions == "rotary" else None
        normed = layer_norm(graph, config, tensor, "encoder.layer.0.attention.LayerNorm", first)
        for index in range(config.layers):
            source = f"encoder.layer.{index}"
            context = _attention(graph, config, tensor, source, normed, rotary)
            attended = _product(graph, tensor, f"{source}.attention.output.dense", context)
            normed, residual = _add_and_norm(
                graph, config, tensor, attended, residual, f"{source}.attention.output.dense", f"{source}.LayerNorm"
            )
            wide = _product(graph, tensor, f"{source}.intermediate.dense", normed)  # (B, L, FFN)
            bias = graph.weight(f"{source}.intermediate.dense.bias", tensor(f"{source}.intermediate.dense.bias"))
            wide = graph.node("BiasGelu", [wide, bias], f"{source}/gelu", domain=FUSED)
            narrow = _product(graph, tensor, f"{source}.output.dense", wide)
            last = index + 1 == config.layers
            following = "encoder.emb_layer_norm_after" if last else f"encoder.layer.{index + 1}.attention.LayerNorm"
            normed, residual = _add_and_norm(
                graph, config, tensor, narrow, residual, f"{source}.output.dense", following
            )
        half = np.dtype(arithmetic) == np.float16
        pool(graph, {"embedding": first, "last": normed}, config.pooled_layers, half)
    onnx.save(model(graph, config, CUDA_INPUTS, [FUSED]), path)


def _product(graph: Graph, tensor: Tensor, source: str, x: str) -> str:
    """Product of x and the weight; the next operator adds its bias."""
    return graph.node("MatMul", [x, graph.weight(f"{source}.weight", tensor(f"{source}.weight").T)], f"{source}/out")


def _add_and_norm(
    graph: Graph, config: EncoderConfig, tensor: Tensor, product: str, residual: str, source: str, norm: str
) -> tuple[str, str]:
    """LayerNorm `norm` of product + bias of `source` + residual, and that sum: (B, L, H) each."""
    names = [graph.weight(name, tensor(name)) for name in (f"{norm}.weight", f"{norm}.bias", f"{source}.bias")]
    outputs = [f"{norm}/out", "", "", f"{source}/residual"]  # two that only training uses
    graph.nodes.append(
        onnx.helper.make_node(
            "SkipLayerNormalization",
            [product, residual, *names],
            outputs,
            name=f"{norm}/out",
            domain=FUSED,
            epsilon=config.layer_norm_eps,
        )
    )
    return outputs[0], outputs[3]


def _attention(
    graph: Graph, config: EncoderConfig, tensor: Tensor, source: str, x: str, rotary: tuple[str, str] | None
) -> str:
    """The context (B, L, H); queries are scaled by D^-1/2 inside."""
    parts = [f"{source}.attention.self.{part}" for part in ("query", "key", "value")]
    weight = np.concatenate([tensor(f"{part}.weight").T for part in parts], axis=1)  # (H, 3H)
    bias = np.concatenate([tensor(f"{part}.bias") for part in parts])
    names = [graph.weight(f"{source}.qkv.weight", weight), graph.weight(f"{source}.qkv.bias", bias)]
    if rotary is None:
        return graph.node(
            "Attention", [x, *names, "lengths"], f"{source}/context", domain=FUSED, num_heads=config.heads
        )
    projected = graph.node("Add", [graph.node("MatMul", [x, names[0]], f"{source}/qkv"), names[1]], f"{source}/qkv_sum")
    split = [f"{source}/{part}" for part in ("query", "key", "value")]  # (B, L, H) each
    node = onnx.helper.make_node("Split", [projected], split, name=f"{source}/split", axis=2, num_outputs=3)
    graph.nodes.append(node)
    turned = [
        graph.node(
            "RotaryEmbedding",
            [part, "position_ids", *rotary],
            f"{part}/turned",
            domain=FUSED,
            num_heads=config.heads,
            rotary_embedding_dim=config.head_dim,
        )
        for part in split[:2]
    ]
    inputs = [*turned, split[2], "", "lengths"]
    return graph.node("MultiHeadAttention", inputs, f"{source}/context", domain=FUSED, num_heads=config.heads)


def _rotary_tables(graph: Graph, config: EncoderConfig) -> tuple[str, str]:
    """Cos and sin (P, D/2) by position id."""
    angles = rotary_angles(config)
    return graph.weight("rotary.cos", np.cos(angles)), graph.weight("rotary.sin", np.sin(angles))
