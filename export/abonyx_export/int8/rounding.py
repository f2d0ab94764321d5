"""Round the inputs and weights of one product: ranges, SmoothQuant's scales, and GPTQ. Shapes: T sampled tokens."""

from __future__ import annotations

import numpy as np
import scipy.linalg

from abonyx.arrays import Float32Array

LARGEST_WEIGHT = 127  # the range is symmetric, so -128 is not used
LARGEST_ACTIVATION = 255
# The second term divides one step of the first term into this many steps. It covers half a step to each side.
REST_STEPS = 254
REST_ZERO_POINT = 128
# GPTQ's parameters: the share of the mean diagonal that is added to the diagonal, and the rows in a block.
_DAMPING = 0.01
_BLOCK = 128
SMALLEST = np.float32(1e-12)


def smooth_scale(largest_input: Float32Array, largest_weight: Float32Array, exponent: float | None) -> Float32Array:
    """SmoothQuant's column scales (in,), with geometric mean 1."""
    if exponent is None:
        return np.ones(len(largest_input), np.float32)
    floor = np.float32(1e-5)  # for a column that is always 0
    scale = np.maximum(largest_input, floor) ** exponent / np.maximum(largest_weight, floor) ** (1 - exponent)
    smooth: Float32Array = (scale / np.exp(np.log(scale).mean())).astype(np.float32)
    return smooth


def weight_scale_of(weight: Float32Array) -> Float32Array:
    """The scales (out,) of the columns of weights (in, out)."""
    scale: Float32Array = np.maximum(np.abs(weight).max(axis=0), SMALLEST) / np.float32(LARGEST_WEIGHT)
    return scale


def input_range(low: Float32Array, high: Float32Array, margin: float) -> tuple[np.float32, int]:
    """Scale and zero point of the range times `margin`. The range always includes 0."""
    bottom, top = min(float(low.min()) * margin, 0.0), max(float(high.max()) * margin, 0.0)
    scale = np.float32(max((top - bottom) / LARGEST_ACTIVATION, float(SMALLEST)))
    return scale, int(np.clip(np.rint(-bottom / scale), 0, LARGEST_ACTIVATION))


def restore(values: Float32Array, scale: np.float32, zero_point: int, terms: int = 1) -> Float32Array:
    """The values after rounding to one or two uint8 terms."""
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


def round_weight(weight: Float32Array) -> Float32Array:
    """Weights that are divided by their scale, rounded to the int8 range; still float32."""
    rounded: Float32Array = np.clip(np.rint(weight), -LARGEST_WEIGHT, LARGEST_WEIGHT)
    return rounded


def gptq(weight: Float32Array, weight_scale: Float32Array, inputs: Float32Array) -> Float32Array:
    """Rounded weights (in, out) whose product with `inputs` (T, in) is close to the exact one; a greedy search."""
    count = len(weight)
    hessian = (inputs.T @ inputs) / np.float32(len(inputs))  # (in, in)
    diagonal = np.diag(hessian).copy()
    hessian[np.diag_indices(count)] += np.float32(_DAMPING) * max(diagonal.mean(), SMALLEST)
    order = np.argsort(-diagonal, kind="stable")
    lower = scipy.linalg.cholesky(hessian[np.ix_(order, order)].astype(np.float64), lower=True, overwrite_a=True)
    inverse, _ = scipy.linalg.lapack.dpotri(lower, lower=1)  # only the lower half is valid
    upper = scipy.linalg.cholesky(np.tril(inverse) + np.tril(inverse, -1).T, lower=False, overwrite_a=True)
    upper = upper.astype(np.float32)
    left = weight[order].astype(np.float32)
    rounded = np.empty_like(left)
    for start in range(0, count, _BLOCK):
        stop = min(start + _BLOCK, count)
        errors = np.empty((stop - start, left.shape[1]), np.float32)
        for row in range(start, stop):
            rounded[row] = round_weight(left[row] / weight_scale)
            errors[row - start] = (left[row] - rounded[row] * weight_scale) / upper[row, row]
            left[row + 1 : stop] -= np.outer(upper[row, row + 1 : stop], errors[row - start])
        left[stop:] -= upper[start:stop, stop:].T @ errors
    result = np.empty_like(rounded)
    result[order] = rounded
    return result
