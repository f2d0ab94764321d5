"""Quantize the encoder's matrix products to int8. Scales are fixed, so that a score does not depend on its batch.

A float32 product y = x W + b becomes y = s_x s_w (x_q - z) W_q + b'. x_q is uint8 with one scale for the tensor, W_q is
int8 with one scale for each column. Three methods keep the error small:

- each column of x is shifted to mean 0 and scaled (Outlier Suppression+, arXiv 2304.09145). The scale is SmoothQuant's
  (arXiv 2211.10438), with the exponent that gives the product the smallest measured error;
- W is rounded one row after the other, and each rounding error is spread over the rows that are not rounded yet (GPTQ,
  arXiv 2210.17323);
- the mean of the remaining error is added to the bias (arXiv 1906.04721).

They cost nothing at run time, because LayerNorm or the value projection applies shift and scale.

A second term can keep what 8 bits of x lose: x - s_x (x_q - z), again in int8, times the same W_q. Such a product costs
twice as much, and only the rounding of W remains (levels.py decides which products get a second term).

Shift and scale cannot be applied by GELU, nor by a LayerNorm after a block (BERT), whose output is also the residual.
If a shift at least halves the product's squared error there, an extra Add subtracts the columns' means, which costs one
more pass over the tensor. Shapes: T sampled tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from abonyx.arrays import Float32Array, Float64Array
from abonyx_export.encoder.checkpoint import EncoderConfig
from abonyx_export.int8.calibration import CONTEXT, PRODUCTS, QKV, WIDEN, Activations, Observation
from abonyx_export.int8.rounding import (
    SMALLEST,
    gptq,
    input_range,
    restore,
    round_weight,
    smooth_scale,
    weight_scale_of,
)

# SmoothQuant exponents that are tried for each product; None = no scaling.
_EXPONENTS = (None, 0.3, 0.5, 0.7, 0.85)
# If attention is uniform, all tokens of a sequence have the same context. Then the observed range comes from few
# independent values, and clipping affects all tokens, so that pooling does not average it out (benchmarks/NOTES.md,
# 33 layers).
_CONTEXT_MARGIN = 1.25
# Two terms have 16 bits, so they can have a range wider than the observed range at no cost.
_TWO_TERM_MARGIN = 1.5
# Tokens for the comparison of exponents; enough to rank five.
_TRIAL_TOKENS = 256
# A bias is int32, in units of the product of both scales. If the weights of a column are near 0, its scale is raised
# until the bias is below this limit. This leaves room for what the mean error and the context's shift add to the bias.
_LARGEST_BIAS = 2**29
# An extra Add is used if the squared error with it is at most this share of the error without it.
_SHIFT_WORTH = 0.5


@dataclass(frozen=True)
class Product:
    """One product in int8.

    Attributes:
        shift, scale: (in,) float32; the product's input in the graph is (x - shift) / scale.
        input_scale: quantization scale of that input.
        input_zero_point: zero point of that input, 0 to 255.
        weight: (in, out) int8, of the weights multiplied by `scale`.
        weight_scale: (out,) float32.
        bias: (out,) float32; includes the shift times the weights, and the mean error.
        terms: int8 terms of the input, 1 or 2.
        error: variance of the output's error divided by the output's variance, on the sample.
        power: the output's variance over tokens, summed over columns.
    """

    shift: Float32Array
    scale: Float32Array
    input_scale: float
    input_zero_point: int
    weight: npt.NDArray[np.int8]
    weight_scale: Float32Array
    bias: Float32Array
    terms: int
    error: float
    power: float


# Number of terms -> the product with that number of terms.
Terms = dict[int, Product]


@dataclass(frozen=True)
class Plan:
    """The int8 products of each layer. Products that are not listed stay float32."""

    layers: list[dict[str, Product]]


@dataclass(frozen=True)
class Candidates:
    """Every product of every layer, with one term and with two terms.

    Attributes:
        layers: for each layer, product -> number of terms -> the quantized product.
        residual_power: (layers,) variance of each layer's input.
    """

    layers: list[dict[str, Terms]]
    residual_power: Float64Array

    def plan(self, terms: int = 1) -> Plan:
        """The plan in which all products have this number of terms."""
        return Plan([{name: product[terms] for name, product in layer.items()} for layer in self.layers])


def quantize_encoder(
    config: EncoderConfig, tensor: Callable[[str], Float32Array], observation: Observation, *, plain: bool = False
) -> Candidates:
    """Quantize every product of every layer.

    Args:
        config: the encoder's shape.
        tensor: function from a tensor's name to its values.
        observation: from calibration.observe.
        plain: only round to the whole range, without this module's three methods; a baseline for benchmarks.
    """
    layers = []
    for index in range(config.layers):
        source = f"encoder.layer.{index}"
        products = {}
        for name in PRODUCTS:
            weight, bias = product_weights(config, tensor, source, name)
            seen = observation.products[f"{source}.{name}"]
            margin = _CONTEXT_MARGIN if name == CONTEXT and not plain else 1.0
            products[name] = _quantize(
                seen, weight, bias, folded=name in folded_products(config), margin=margin, plain=plain
            )
        layers.append(products)
    return Candidates(layers, observation.residual_power)


def folded_products(config: EncoderConfig) -> tuple[str, ...]:
    """The products whose shift and scale cost nothing, because LayerNorm or the value projection applies them."""
    return (CONTEXT,) if config.is_post_norm else (QKV, CONTEXT, WIDEN)


def product_weights(
    config: EncoderConfig, tensor: Callable[[str], Float32Array], source: str, name: str
) -> tuple[Float32Array, Float32Array]:
    """A product's weight (in, out) and bias (out,). Query (scaled by D^-1/2), key and value are side by side."""
    if name != QKV:
        return tensor(f"{source}.{name}.weight").T, tensor(f"{source}.{name}.bias")
    scales = {"query": np.float32(config.head_dim**-0.5), "key": np.float32(1), "value": np.float32(1)}
    weights = [tensor(f"{source}.{name}.{part}.weight").T * scale for part, scale in scales.items()]
    biases = [tensor(f"{source}.{name}.{part}.bias") * scale for part, scale in scales.items()]
    return np.concatenate(weights, axis=1), np.concatenate(biases)


def _quantize(
    seen: Activations, weight: Float32Array, bias: Float32Array, *, folded: bool, margin: float, plain: bool
) -> Terms:
    """Quantize one product with one and with two terms.

    Args:
        seen: the observed input.
        weight: (in, out).
        bias: (out,).
        folded: whether the operator before can apply shift and scale at no cost.
        margin: factor on the observed range, for one term.
        plain: see quantize_encoder.
    """
    weight = np.ascontiguousarray(weight, np.float32)
    exponents = _EXPONENTS if folded and not plain else (None,)
    mean: Float32Array = seen.sample.mean(axis=0)
    still: Float32Array = np.zeros(len(weight), np.float32)
    shift = mean if folded and not plain else still
    chosen = _choose(seen, shift, weight, exponents, margin)
    if not folded and not plain:
        shifted = _choose(seen, mean, weight, exponents, margin)
        if shifted.error <= _SHIFT_WORTH * chosen.error:
            shift, chosen = mean, shifted
    centred: Float32Array = seen.sample - shift  # (T, in)
    scale = chosen.scale
    scaled = weight * scale[:, None]
    margins = {1: margin, 2: _TWO_TERM_MARGIN}
    ranges = {
        terms: input_range((seen.low - shift) / scale, (seen.high - shift) / scale, wider)
        for terms, wider in margins.items()
    }
    offset = bias + shift @ weight
    least = np.abs(offset) / (np.float32(_LARGEST_BIAS) * min(input_scale for input_scale, _ in ranges.values()))
    weight_scale: Float32Array = np.maximum(weight_scale_of(scaled), least)
    inputs = centred / scale
    rounded = round_weight(scaled / weight_scale) if plain else gptq(scaled, weight_scale, inputs)
    exact = centred @ weight  # (T, out)
    power = float(exact.var(axis=0, dtype=np.float64).sum())
    found, weight8 = {}, rounded.astype(np.int8)
    for terms, (input_scale, zero_point) in ranges.items():
        error = exact - restore(inputs, input_scale, zero_point, terms) @ (rounded * weight_scale)
        mean_error: Float32Array = np.zeros(error.shape[1], np.float32) if plain else error.mean(axis=0)
        found[terms] = Product(
            shift=shift,
            scale=scale,
            input_scale=float(input_scale),
            input_zero_point=zero_point,
            weight=weight8,
            weight_scale=weight_scale,
            bias=offset + mean_error,
            terms=terms,
            error=float(np.square(error - mean_error).sum(axis=1, dtype=np.float64).mean())
            / max(power, float(SMALLEST)),
            power=power,
        )
    return found


class _Choice(NamedTuple):
    """Column scales (in,), and the squared error of the product with them."""

    scale: Float32Array
    error: float


def _choose(
    seen: Activations,
    shift: Float32Array,
    weight: Float32Array,
    exponents: tuple[float | None, ...],
    margin: float,
) -> _Choice:
    """The column scales for the exponent that gives the smallest squared error of the product on a few tokens."""
    low, high = seen.low - shift, seen.high - shift
    trial = seen.sample[:: max(1, len(seen.sample) // _TRIAL_TOKENS)] - shift
    exact = trial @ weight
    best = _Choice(np.ones(len(weight), np.float32), np.inf)
    for exponent in exponents:
        scale = smooth_scale(np.maximum(np.abs(low), np.abs(high)), np.abs(weight).max(axis=1), exponent)
        scaled = weight * scale[:, None]
        weight_scale = weight_scale_of(scaled)
        restored = round_weight(scaled / weight_scale) * weight_scale
        values = restore(trial / scale, *input_range(low / scale, high / scale, margin))
        error = float(np.square(values @ restored - exact).mean())
        if error < best.error:
            best = _Choice(scale, error)
    return best


def fold_into_values(qkv: Product, context: Product, hidden: int) -> Product:
    """Apply the context's shift and scale to the values. Attention keeps both, because its weights sum to 1."""
    weight_scale, bias = qkv.weight_scale.copy(), qkv.bias.copy()
    weight_scale[2 * hidden :] /= context.scale
    bias[2 * hidden :] = (bias[2 * hidden :] - context.shift) / context.scale
    return replace(qkv, weight_scale=weight_scale, bias=bias)
