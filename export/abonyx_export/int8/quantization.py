"""How the encoder's matrix products become int8: fixed scales, so that a score does not depend on its batch.

Each product y = x W + b of float32 becomes y = s_x s_w (x_q - z) W_q + b', x_q uint8 a tensor, W_q int8 a column. What
keeps its error small costs nothing at run time, because LayerNorm, or the value projection, absorbs it:

- each column of x is shifted to mean 0 and scaled (Outlier Suppression+, arXiv 2304.09145; the scale is SmoothQuant's,
  arXiv 2211.10438, its exponent chosen by the product's own measured error);
- W is rounded column after column, each rounding error spread over the columns still to come (GPTQ, arXiv 2210.17323);
- the mean error that is left goes into the bias (arXiv 1906.04721).

What 8 bits of x lose may be kept in a second term: x - s_x (x_q - z) in int8 again, times the same W_q. Such a product
costs two, and only W's rounding is left (levels.py says which products get it).

GELU lets no shift or scale through, and neither does a LayerNorm behind a block (BERT), whose output is also the
residual. If a shift at least halves the product's squared error there, an Add takes the columns' means out: one more
pass over the tensor. Shapes: T sampled tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.linalg

from abonyx.arrays import Float32Array, Float64Array
from abonyx_export.encoder.checkpoint import EncoderConfig
from abonyx_export.int8.calibration import CONTEXT, PRODUCTS, QKV, WIDEN, Activations, Observation

LARGEST_WEIGHT = 127  # of 128: a symmetric range
LARGEST_ACTIVATION = 255
# Tried for each product; None = no scaling.
_EXPONENTS = (None, 0.3, 0.5, 0.7, 0.85)
# Where attention is even the tokens of a sequence share one context: so the range was seen on few independent values,
# and what is cut off one token is cut off all, which no average over tokens heals (33 layers, in benchmarks/NOTES.md).
_CONTEXT_MARGIN = 1.25
# Two terms have 16 bits: range beyond what was seen costs them nothing.
_TWO_TERM_MARGIN = 1.5
# The second term's steps in one of the first: what rounding leaves is at most half of one.
REST_STEPS = 254
REST_ZERO_POINT = 128
# Tokens that exponents are compared on: enough to rank five.
_TRIAL_TOKENS = 256
# GPTQ's own: share of the mean diagonal added to it, and columns a block.
_DAMPING = 0.01
_BLOCK = 128
_SMALLEST = np.float32(1e-12)
# A bias is int32 in units of both scales: a column of weights near 0 has a scale that leaves room for its bias, and for
# what the mean error and the context's shift add to it.
_LARGEST_BIAS = 2**29
# An Add behind GELU must be worth its pass: the squared error with it, at most this share of the error without.
_SHIFT_WORTH = 0.5


@dataclass(frozen=True)
class Product:
    """One product in int8.

    Attributes:
        shift, scale: (in,) float32; the graph's input is (x - shift) / scale.
        input_scale: float; input_zero_point: 0 to 255, of that input.
        weight: (in, out) int8; weight_scale: (out,) float32, with `scale` multiplied in.
        bias: (out,) float32, with what the shift took away and the mean error in it.
        terms: int8 terms of the input, 1 or 2.
        error: variance of the output's error over the output's own variance, on the sample.
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


# Terms -> the product with so many.
Terms = dict[int, Product]


@dataclass(frozen=True)
class Plan:
    """The encoder in int8: for each layer, the products that are; those left out stay float32."""

    layers: list[dict[str, Product]]


@dataclass(frozen=True)
class Candidates:
    """Every product of every layer, with one term and with two.

    Attributes:
        residual_power: (layers,) variance of the residual stream that enters each layer.
    """

    layers: list[dict[str, Terms]]
    residual_power: Float64Array

    def plan(self, terms: int = 1) -> Plan:
        """All products with so many terms."""
        return Plan([{name: product[terms] for name, product in layer.items()} for layer in self.layers])


def quantize_encoder(
    config: EncoderConfig, tensor: Callable[[str], Float32Array], observation: Observation, *, plain: bool = False
) -> Candidates:
    """Quantize every layer.

    Args:
        tensor: gives the checkpoint's tensor of that name.
        observation: from calibration.observe.
        plain: round to the whole range and no more; what everything else is compared with.
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
    """The products whose input's shift and scale cost nothing: LayerNorm or the values take them."""
    return (CONTEXT,) if config.is_post_norm else (QKV, CONTEXT, WIDEN)


def product_weights(
    config: EncoderConfig, tensor: Callable[[str], Float32Array], source: str, name: str
) -> tuple[Float32Array, Float32Array]:
    """A product's weight (in, out) and bias (out,); query, key and value side by side, the query scaled by D^-1/2."""
    if name != QKV:
        return tensor(f"{source}.{name}.weight").T, tensor(f"{source}.{name}.bias")
    scales = {"query": np.float32(config.head_dim**-0.5), "key": np.float32(1), "value": np.float32(1)}
    weights = [tensor(f"{source}.{name}.{part}.weight").T * scale for part, scale in scales.items()]
    biases = [tensor(f"{source}.{name}.{part}.bias") * scale for part, scale in scales.items()]
    return np.concatenate(weights, axis=1), np.concatenate(biases)


def _quantize(
    seen: Activations, weight: Float32Array, bias: Float32Array, *, folded: bool, margin: float, plain: bool
) -> Terms:
    """One product; folded: what comes before it takes a shift and a scale at no cost. margin: of one term's range."""
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
        terms: _input_range((seen.low - shift) / scale, (seen.high - shift) / scale, wider)
        for terms, wider in margins.items()
    }
    offset = bias + shift @ weight
    least = np.abs(offset) / (np.float32(_LARGEST_BIAS) * min(input_scale for input_scale, _ in ranges.values()))
    weight_scale: Float32Array = np.maximum(_weight_scale(scaled), least)
    inputs = centred / scale
    rounded = _round(scaled / weight_scale) if plain else _gptq(scaled, weight_scale, inputs)
    exact = centred @ weight  # (T, out)
    power = float(exact.var(axis=0, dtype=np.float64).sum())
    found, weight8 = {}, rounded.astype(np.int8)
    for terms, (input_scale, zero_point) in ranges.items():
        error = exact - _restored(inputs, input_scale, zero_point, terms) @ (rounded * weight_scale)
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
            / max(power, float(_SMALLEST)),
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
    """Of the exponents, the one with the smallest squared error of the product on a few tokens."""
    low, high = seen.low - shift, seen.high - shift
    trial = seen.sample[:: max(1, len(seen.sample) // _TRIAL_TOKENS)] - shift
    exact = trial @ weight
    best = _Choice(np.ones(len(weight), np.float32), np.inf)
    for exponent in exponents:
        scale = _smooth(np.maximum(np.abs(low), np.abs(high)), np.abs(weight).max(axis=1), exponent)
        scaled = weight * scale[:, None]
        weight_scale = _weight_scale(scaled)
        restored = _round(scaled / weight_scale) * weight_scale
        values = _restored(trial / scale, *_input_range(low / scale, high / scale, margin))
        error = float(np.square(values @ restored - exact).mean())
        if error < best.error:
            best = _Choice(scale, error)
    return best


def _smooth(largest_input: Float32Array, largest_weight: Float32Array, exponent: float | None) -> Float32Array:
    """SmoothQuant's column scales, of geometric mean 1."""
    if exponent is None:
        return np.ones(len(largest_input), np.float32)
    floor = np.float32(1e-5)  # a column that is never used
    scale = np.maximum(largest_input, floor) ** exponent / np.maximum(largest_weight, floor) ** (1 - exponent)
    smooth: Float32Array = (scale / np.exp(np.log(scale).mean())).astype(np.float32)
    return smooth


def _weight_scale(weight: Float32Array) -> Float32Array:
    scale: Float32Array = np.maximum(np.abs(weight).max(axis=0), _SMALLEST) / np.float32(LARGEST_WEIGHT)
    return scale


def _input_range(low: Float32Array, high: Float32Array, margin: float) -> tuple[np.float32, int]:
    """Scale and zero point of so many times the range, which holds 0."""
    bottom, top = min(float(low.min()) * margin, 0.0), max(float(high.max()) * margin, 0.0)
    scale = np.float32(max((top - bottom) / LARGEST_ACTIVATION, float(_SMALLEST)))
    return scale, int(np.clip(np.rint(-bottom / scale), 0, LARGEST_ACTIVATION))


def _restored(values: Float32Array, scale: np.float32, zero_point: int, terms: int = 1) -> Float32Array:
    """What is left of values after one or two terms of uint8."""
    kept: Float32Array = np.clip(np.rint(values / scale) + np.float32(zero_point), 0, LARGEST_ACTIVATION)
    first: Float32Array = (kept - np.float32(zero_point)) * scale
    if terms == 1:
        return first
    step = scale / np.float32(REST_STEPS)
    rest: Float32Array = np.clip(
        np.rint((values - first) / step), -REST_ZERO_POINT, LARGEST_ACTIVATION - REST_ZERO_POINT
    )
    restored: Float32Array = first + rest * step
    return restored


def _round(weight: Float32Array) -> Float32Array:
    rounded: Float32Array = np.clip(np.rint(weight), -LARGEST_WEIGHT, LARGEST_WEIGHT)
    return rounded


def _gptq(weight: Float32Array, weight_scale: Float32Array, inputs: Float32Array) -> Float32Array:
    """Rounded weights (in, out) whose product with `inputs` (T, in) is closest to the exact one, greedily."""
    count = len(weight)
    hessian = (inputs.T @ inputs) / np.float32(len(inputs))  # (in, in)
    diagonal = np.diag(hessian).copy()
    hessian[np.diag_indices(count)] += np.float32(_DAMPING) * max(diagonal.mean(), _SMALLEST)
    order = np.argsort(-diagonal, kind="stable")
    lower = scipy.linalg.cholesky(hessian[np.ix_(order, order)].astype(np.float64), lower=True, overwrite_a=True)
    inverse, _ = scipy.linalg.lapack.dpotri(lower, lower=1)  # its lower half
    upper = scipy.linalg.cholesky(np.tril(inverse) + np.tril(inverse, -1).T, lower=False, overwrite_a=True)
    upper = upper.astype(np.float32)
    left = weight[order].astype(np.float32)
    rounded = np.empty_like(left)
    for start in range(0, count, _BLOCK):
        stop = min(start + _BLOCK, count)
        errors = np.empty((stop - start, left.shape[1]), np.float32)
        for row in range(start, stop):
            rounded[row] = _round(left[row] / weight_scale)
            errors[row - start] = (left[row] - rounded[row] * weight_scale) / upper[row, row]
            left[row + 1 : stop] -= np.outer(upper[row, row + 1 : stop], errors[row - start])
        left[stop:] -= upper[start:stop, stop:].T @ errors
    result = np.empty_like(rounded)
    result[order] = rounded
    return result


def fold_into_values(qkv: Product, context: Product, hidden: int) -> Product:
    """The shift and scale of the context, taken by the values: attention weights sum to 1, so both pass through."""
    weight_scale, bias = qkv.weight_scale.copy(), qkv.bias.copy()
    weight_scale[2 * hidden :] /= context.scale
    bias[2 * hidden :] = (bias[2 * hidden :] - context.shift) / context.scale
    return replace(qkv, weight_scale=weight_scale, bias=bias)
