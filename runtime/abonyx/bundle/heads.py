"""The meaning of the graph's output `head_sums`. Only this module adds chains and intercepts, and takes the sigmoid.

`head_sums` has one column for each chain of each head, in the order of the manifest's heads and of their chains. Each
row of a batch is one chain. A column holds the part of the logit (or of the value) that this chain adds. The output
`contributions` splits the same number by token: the sum over the tokens of a row is its head_sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from abonyx.arrays import Float32Array, Float64Array
from abonyx.errors import BundleError

if TYPE_CHECKING:
    from abonyx.bundle.manifest import HeadSpec

# Outputs of the graph.
EMBEDDING = "embedding"
HEAD_SUMS = "head_sums"
CONTRIBUTIONS = "contributions"
# Chains of an antibody, in the order of a pair.
PAIR = ("H", "L")


def column_places(heads: Sequence[HeadSpec]) -> dict[str, range]:
    """Name of a head -> its columns of head_sums, one for each chain.

    Args:
        heads: all heads of the bundle, in the manifest's order.
    """
    places, first = {}, 0
    for head in heads:
        places[head.name] = range(first, first + len(head.chains))
        first += len(head.chains)
    return places


def column_names(heads: Sequence[HeadSpec]) -> list[str]:
    """For each column of head_sums, the name of its head."""
    return [head.name for head in heads for _ in head.chains]


def chain_words(chains: Sequence[str]) -> str:
    """The chains that a head expects, in words: "chain H", "chains H and L"."""
    return f"chain{'s' * (len(chains) > 1)} {' and '.join(chains)}"


def record_chains(heads: Sequence[HeadSpec]) -> tuple[str, ...]:
    """The chains that a record needs for all of these heads: one of PAIR, or both in the order of PAIR."""
    return tuple(chain for chain in PAIR if any(chain in head.chains for head in heads))


def head_total(head: HeadSpec, *sums: Float32Array) -> Float64Array:
    """The logits of a logistic head, or the values of a linear head: (n,) float64.

    Args:
        head: the head.
        sums: for each of its chains, in their order, (n,) float32 from head_sums.
    """
    if len(sums) != len(head.chains):
        raise ValueError(f"head {head.name} adds {len(head.chains)} chains, not {len(sums)}")
    total: Float64Array = np.sum([part.astype(np.float64) for part in sums], axis=0) + head.intercept
    return total


def head_value(head: HeadSpec, *sums: Float32Array) -> Float32Array:
    """The probabilities of a logistic head, or the values of a linear head in its unit: (n,) float32.

    The arguments are those of head_total.
    """
    return value_of_total(head, head_total(head, *sums))


def value_of_total(head: HeadSpec, total: Float64Array) -> Float32Array:
    """(n,) float32: probabilities from the logits of a logistic head, or the values of a linear head."""
    return (sigmoid(total) if head.kind == "logistic" else total).astype(np.float32)


def chosen_values(heads: Sequence[HeadSpec], names: Sequence[str], sums: Sequence[Float32Array]) -> Float32Array:
    """Values of some heads: (n, len(names)) float32, column i for names[i]. Arguments are those of chosen_totals."""
    by_name = {head.name: head for head in heads}
    return total_values([by_name[name] for name in names], chosen_totals(heads, names, sums))


def chosen_totals(heads: Sequence[HeadSpec], names: Sequence[str], sums: Sequence[Float32Array]) -> Float64Array:
    """Logits of logistic heads and values of linear heads: (n, len(names)) float64, column i for names[i].

    Args:
        heads: all heads of the bundle, in the manifest's order.
        names: names of the heads to use.
        sums: for each chain in record_chains of these heads, head_sums of n records, (n, columns) float32.

    Raises:
        BundleError: head_sums has another number of columns than the manifest's heads.
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
    """Probabilities or values for the totals of heads: (n, len(heads)) float32, column i for heads[i]."""
    columns = [value_of_total(head, column) for head, column in zip(heads, totals.T, strict=True)]
    return np.stack(columns, axis=1)


def sigmoid(logit: Float64Array) -> Float64Array:
    """1 / (1 + exp(-logit)), float64, without overflow warnings."""
    # exp of a large positive number overflows, so only exp(-|x|) is computed
    small = np.exp(-np.abs(logit))
    return np.where(logit >= 0, 1 / (1 + small), small / (1 + small))
