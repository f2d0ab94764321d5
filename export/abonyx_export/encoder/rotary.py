"""Rotary positions (RoFormer, arXiv 2104.09864): tables of angles, and the rotation of queries and keys.

The frequencies come from transformers' model. ESM-2 stores them as float16 values; computing them from the config
instead changes p by 8e-4. Shapes: B batch, N heads, L tokens, D hidden per head, P position ids.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from abonyx.arrays import Float32Array
from abonyx_export.encoder.config import EncoderConfig, inverse_frequency_name
from abonyx_export.encoder.writing import Graph

Tensor = Callable[[str], Float32Array]
# Names of a layer's cosine and sine, as inputs or tables.
Pair = tuple[str, str]


def rotary_rows(graph: Graph, config: EncoderConfig, tensor: Tensor) -> list[Pair]:
    """For each layer, cos and sin of each token's angles (B, 1, L, D), looked up by position id.

    The sine table includes the sign of rotate_half ([-sin, sin]). So the rotation only has to swap halves:
    x * cos + swap(x) * sin.
    """

    def write(angles: Float32Array, mark: str) -> Pair:
        rows = []
        for name, table in (
            ("cos", np.concatenate([np.cos(angles), np.cos(angles)], axis=1)),
            ("sin", np.concatenate([-np.sin(angles), np.sin(angles)], axis=1)),
        ):
            weight = graph.weight(f"rotary{mark}.{name}", table.astype(np.float32))  # (P, D)
            gathered = graph.node("Gather", [weight, "position_ids"], f"rotary{mark}/{name}")  # (B, L, D)
            rows.append(graph.node("Unsqueeze", [gathered, graph.axes(1)], f"rotary{mark}/{name}_rows"))
        return rows[0], rows[1]

    return _each_layer(config, tensor, write)


def rotary_tables(graph: Graph, config: EncoderConfig, tensor: Tensor) -> list[Pair]:
    """For each layer, cos and sin (P, D/2) by position id, in the form of com.microsoft's RotaryEmbedding."""

    def write(angles: Float32Array, mark: str) -> Pair:
        return graph.weight(f"rotary{mark}.cos", np.cos(angles)), graph.weight(f"rotary{mark}.sin", np.sin(angles))

    return _each_layer(config, tensor, write)


def _each_layer(config: EncoderConfig, tensor: Tensor, write: Callable[[Float32Array, str], Pair]) -> list[Pair]:
    """The result of `write` for each layer; layers with equal frequencies share one result.

    Args:
        write: takes a layer's angles and a part of its tensors' names, "" for the first layer.
    """
    written: dict[bytes, Pair] = {}
    layers = []
    for index in range(config.layers):
        frequencies = np.ascontiguousarray(tensor(inverse_frequency_name(index)), np.float32)
        key = frequencies.tobytes()
        if key not in written:
            written[key] = write(rotary_angles(config, frequencies), f".{index}" if written else "")
        layers.append(written[key])
    return layers


def rotary_angles(config: EncoderConfig, inverse_frequency: Float32Array) -> Float32Array:
    """Angle for each position id and pair of units, (P, D/2) float32.

    Position ids start at pad_id + 1; angles start at 0, as in transformers.
    """
    index = np.maximum(np.arange(config.positions_count) - (config.pad_id + 1), 0).astype(np.float32)
    return np.outer(index, inverse_frequency)


def rotate(graph: Graph, config: EncoderConfig, x: str, rotary: Pair) -> str:
    """Rotate queries or keys (B, N, L, D)."""
    half = config.head_dim // 2
    cos, sin = rotary
    low = graph.node("Slice", [x, graph.axes(0), graph.axes(half), graph.axes(3)], f"{x}/low")
    high = graph.node("Slice", [x, graph.axes(half), graph.axes(2 * half), graph.axes(3)], f"{x}/high")
    swapped = graph.node("Concat", [high, low], f"{x}/swapped", axis=3)
    straight = graph.node("Mul", [x, cos], f"{x}/cos")
    turned = graph.node("Mul", [swapped, sin], f"{x}/sin")
    return graph.node("Add", [straight, turned], f"{x}/turned")
