"""What a graph's `head_sums` mean: the one place where chains are added, and the intercept and the sigmoid come in.

A head has one column of head_sums a chain that it expects, in the order of the manifest: each row of a batch is one
chain, and its column holds the part of the logit, or of the value, that this chain adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from abonyx.arrays import Float32Array, Float64Array
from abonyx.errors import BundleError

if TYPE_CHECKING:
    from abonyx.bundle.manifest import HeadSpec

# The graph's outputs.
EMBEDDING = "embedding"
HEAD_SUMS = "head_sums"


def head_total(head: HeadSpec, *sums: Float32Array) -> Float64Array:
    """The logit of a logistic head, the value of a linear one: (n,) float64.

    Args:
        sums: (n,) float32 of head_sums, one for each of the head's chains, in their order.
    """
    if len(sums) != len(head.chains):
        raise ValueError(f"head {head.name} adds {len(head.chains)} chains, not {len(sums)}")
    total: Float64Array = np.sum([part.astype(np.float64) for part in sums], axis=0) + head.intercept
    return total


def head_value(head: HeadSpec, *sums: Float32Array) -> Float32Array:
    """The probability of a logistic head, the value of a linear one in its unit: (n,) float32. Args as head_total."""
    total = head_total(head, *sums)
    return (sigmoid(total) if head.kind == "logistic" else total).astype(np.float32)


def chosen_values(heads: Sequence[HeadSpec], names: Sequence[str], sums: Float32Array) -> Float32Array:
    """The values of some heads, (n, len(names)) float32: column i is of head names[i].

    Args:
        heads: all of the bundle's, in the order of the manifest; of one chain each.
        names: of those wanted.
        sums: (n, len(heads)) float32, the graph's head_sums.

    Raises:
        BundleError: the graph gave something else.
    """
    if sums.ndim != 2 or sums.shape[1] != len(heads):
        what = f"the graph gives {HEAD_SUMS} of shape {sums.shape}, the manifest has {len(heads)} heads"
        raise BundleError(what, "Export the bundle again.")
    at = {head.name: place for place, head in enumerate(heads)}
    return np.stack([head_value(heads[at[name]], sums[:, at[name]]) for name in names], axis=1)


def sigmoid(logit: Float64Array) -> Float64Array:
    """1 / (1 + exp(-logit)), float64, without overflow warnings."""
    # exp of a large positive number overflows, so only ever exp(-|x|)
    small = np.exp(-np.abs(logit))
    return np.where(logit >= 0, 1 / (1 + small), small / (1 + small))
