"""What a graph's `head_sums` mean: the one place where chains are added, and the intercept and the sigmoid come in.

A head has one column of head_sums a chain that it expects, in the order of the manifest's heads and of their chains:
each row of a batch is one chain, and a column holds the part of the logit, or of the value, that this chain adds.
`contributions` is the same number token by token: over a row's tokens it sums to its head_sums.
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
CONTRIBUTIONS = "contributions"
# Chains of an antibody, in the order in which a pair gives them.
PAIR = ("H", "L")


def column_places(heads: Sequence[HeadSpec]) -> dict[str, range]:
    """Name of a head -> its columns of head_sums, one a chain.

    Args:
        heads: all of the bundle's, in the order of the manifest.
    """
    places, first = {}, 0
    for head in heads:
        places[head.name] = range(first, first + len(head.chains))
        first += len(head.chains)
    return places


def column_names(heads: Sequence[HeadSpec]) -> list[str]:
    """The head's name of each column of head_sums."""
    return [head.name for head in heads for _ in head.chains]


def chain_words(chains: Sequence[str]) -> str:
    """What a head expects of a record, in words: chain H, chains H and L."""
    return f"chain{'s' * (len(chains) > 1)} {' and '.join(chains)}"


def record_chains(heads: Sequence[HeadSpec]) -> tuple[str, ...]:
    """The chains that a record needs for all of these heads: one of PAIR, or both in this order."""
    return tuple(chain for chain in PAIR if any(chain in head.chains for head in heads))


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
    return value_of_total(head, head_total(head, *sums))


def value_of_total(head: HeadSpec, total: Float64Array) -> Float32Array:
    """The probability of a logistic head's logits (n,), the values of a linear head as float32."""
    return (sigmoid(total) if head.kind == "logistic" else total).astype(np.float32)


def chosen_values(heads: Sequence[HeadSpec], names: Sequence[str], sums: Sequence[Float32Array]) -> Float32Array:
    """The values of some heads, (n, len(names)) float32: column i is of head names[i]. Arguments as chosen_totals'."""
    by_name = {head.name: head for head in heads}
    return total_values([by_name[name] for name in names], chosen_totals(heads, names, sums))


def chosen_totals(heads: Sequence[HeadSpec], names: Sequence[str], sums: Sequence[Float32Array]) -> Float64Array:
    """The logits, or of linear heads the values, of some heads, (n, len(names)): column i is of head names[i].

    Args:
        heads: all of the bundle's, in the order of the manifest.
        names: of those wanted.
        sums: for each chain of record_chains of those heads, the graph's head_sums of n records, (n, columns) float32.

    Raises:
        BundleError: the graph gave something else.
    """
    places, by_name = column_places(heads), {head.name: head for head in heads}
    wanted = [by_name[name] for name in names]
    chains = record_chains(wanted)
    count = len(column_names(heads))
    for part in sums:
        if part.ndim != 2 or part.shape[1] != count:
            what = f"the graph gives {HEAD_SUMS} of shape {part.shape}, the manifest's heads have {count} columns"
            raise BundleError(what, "Export the bundle again.")
    if len(sums) != len(chains):
        raise ValueError(f"heads {', '.join(names)} need the chains {', '.join(chains)}, not {len(sums)} of them")
    of_chain = dict(zip(chains, sums, strict=True))
    totals = []
    for head in wanted:
        parts = [of_chain[chain][:, at] for chain, at in zip(head.chains, places[head.name], strict=True)]
        totals.append(head_total(head, *parts))
    return np.stack(totals, axis=1)


def total_values(heads: Sequence[HeadSpec], totals: Float64Array) -> Float32Array:
    """What heads give for their totals, (n, len(heads)): column i is of heads[i], a probability or a value."""
    columns = [value_of_total(head, column) for head, column in zip(heads, totals.T, strict=True)]
    return np.stack(columns, axis=1)


def sigmoid(logit: Float64Array) -> Float64Array:
    """1 / (1 + exp(-logit)), float64, without overflow warnings."""
    # exp of a large positive number overflows, so only ever exp(-|x|)
    small = np.exp(-np.abs(logit))
    return np.where(logit >= 0, 1 / (1 + small), small / (1 + small))
