"""What each residue adds to each head's logit or value: the graph's output `contributions`, by record, chain and head.

A head's sum is linear in the pooled embedding, and pooling is a weighted mean over tokens. So the sum is exactly a sum
over tokens. The part of a token is: pooling weight * (final state - the mean that the graph subtracts) . head weights.
A final state depends on the whole sequence, so a contribution is not the effect of a mutation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from abonyx.arrays import BoolArray, Float32Array, Float64Array
from abonyx.batching import plan_batches
from abonyx.bundle.heads import CONTRIBUTIONS, HEAD_SUMS, column_places, head_total, record_chains
from abonyx.bundle.manifest import HeadSpec
from abonyx.bundle.tolerances import CONTRIBUTION_SUM, CONTRIBUTION_SUM_VALUE
from abonyx.errors import BundleError, SelfTestError
from abonyx.scoring import BatchEngine, TokenBudget, Tokenized, run_rows
from abonyx.wording import option


@dataclass(frozen=True)
class ChainContributions:
    """The contributions of one chain.

    Attributes:
        chain: "H" or "L", as the heads name it.
        residues: (n, heads) float32, for n residues; 0 for a head that does not expect this chain.
        end: (heads,) float32, of the end token; 0 unless the pooling rule includes it in the mean.
    """

    chain: str
    residues: Float32Array
    end: Float32Array


@dataclass(frozen=True)
class Contributions:
    """The contributions of one record.

    Attributes:
        heads: names, in the order of the columns.
        baseline: (heads,) float64, the logit or value at the mean that the graph subtracts from every embedding.
        total: (heads,) float64, the logit or value that is scored: the baseline plus all contributions.
        chains: one chain, or heavy and light.
    """

    heads: tuple[str, ...]
    baseline: Float64Array
    total: Float64Array
    chains: tuple[ChainContributions, ...]


class ContributionSource(Protocol):
    """A model that knows whether its graph gives contributions."""

    @property
    def gives_contributions(self) -> bool: ...


class ContributionEngine(ContributionSource, BatchEngine, Protocol):
    """The part of an open model that run_contributions uses."""


def refuse_without(source: ContributionSource, place: object) -> None:
    """Raise a BundleError if the graph gives no contributions. The message names `place`, the bundle's path."""
    if not source.gives_contributions:
        raise BundleError(
            f"{place}: its graph gives no contributions: an earlier version of abonyx wrote it",
            "Export it again with this version, or fit a head on it: both write a graph that gives them.",
        )


def run_contributions(
    engine: ContributionEngine,
    tokens: Tokenized,
    heads: Sequence[str],
    budget: TokenBudget,
    *,
    eos_pooled: BoolArray | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> list[Contributions]:
    """The contributions of n tokenized records, in their order. The arguments are those of scoring.run_sequences.

    Raises:
        SelfTestError: the contributions do not sum to the head's sum, so the engine or device computes them wrongly.
        OutOfDeviceMemory: a batch of one sequence or of a fixed shape does not fit.
    """
    rows, place = tokens
    specs = engine.manifest.heads
    chosen = [next(spec for spec in specs if spec.name == name) for name in heads]
    shape = engine.static_shape
    lengths = np.array([len(row) if shape is None else shape[1] for row in rows], np.int64)
    copies = np.bincount(place[0], minlength=len(rows))
    planned = budget.tokens
    sums: list[Float32Array] = [np.empty(0, np.float32)] * len(rows)
    parts: list[Float32Array] = list(sums)
    with engine.turn():
        for batch in plan_batches(lengths, planned, engine.grid):
            flags = None if eos_pooled is None else eos_pooled[batch]
            texts = [rows[index] for index in batch]
            found = run_rows(engine, texts, flags, [HEAD_SUMS, CONTRIBUTIONS], budget, planned)
            for index, of_row, each in zip(batch, *found, strict=True):
                sums[index], parts[index] = of_row, each[: len(rows[index])].copy()  # (L, K), without padding
            check_sums([parts[index] for index in batch], found[0], specs)
            if on_batch:
                on_batch(int(copies[batch].sum()))
    return [_of_record(chosen, specs, [sums[at] for at in record], [parts[at] for at in record]) for record in place.T]


def _of_record(
    chosen: Sequence[HeadSpec], specs: Sequence[HeadSpec], sums: Sequence[Float32Array], parts: Sequence[Float32Array]
) -> Contributions:
    """The contributions of one record, from sums (K,) and parts (L, K) of each of its chains."""
    chains, places = record_chains(chosen), column_places(specs)
    of_chains = []
    for chain, part in zip(chains, parts, strict=True):
        values = np.zeros((len(part), len(chosen)), np.float32)
        for column, spec in enumerate(chosen):
            if chain in spec.chains:
                values[:, column] = part[:, places[spec.name][spec.chains.index(chain)]]
        of_chains.append(ChainContributions(chain, values[1:-1], values[-1]))  # the first token is CLS, of weight 0
    totals = []
    for spec in chosen:
        of_head = [sums[chains.index(chain)][[at]] for chain, at in zip(spec.chains, places[spec.name], strict=True)]
        totals.append(head_total(spec, *of_head)[0])
    baseline = np.array([spec.intercept for spec in chosen], np.float64)
    return Contributions(tuple(spec.name for spec in chosen), baseline, np.array(totals), tuple(of_chains))


def check_sums(parts: Sequence[Float32Array], sums: Float32Array, specs: Sequence[HeadSpec]) -> None:
    """Raise an error if contributions do not sum to the heads' sums.

    Args:
        parts: (L, K) for each of B rows, without padding.
        sums: (B, K) of the same run.
        specs: all heads of the bundle.

    Raises:
        SelfTestError: names the head, the difference and the limit.
    """
    columns = [spec for spec in specs for _ in spec.chains]
    sds = np.array([spec.training_sd or 1.0 for spec in columns])
    limits = np.array([CONTRIBUTION_SUM_VALUE if spec.training_sd else CONTRIBUTION_SUM for spec in columns]) * sds
    limits = limits * np.maximum(1, np.abs(sums) / sds)  # (B, K): float32 rounds a large sum more
    off = np.abs(np.stack([part.sum(axis=0, dtype=np.float64) for part in parts]) - sums)
    wrong = ~(off <= limits)  # NaN counts as wrong
    if wrong.any():
        row, column = np.argwhere(wrong)[0].tolist()
        raise SelfTestError(
            f"contributions to head {columns[column].name} do not sum to its sum {sums[row, column]:.6g}: the "
            f"difference is {off[row, column]:.3g}, limit {limits[row, column]:.3g}",
            "This engine or device rounds the contributions too much. "
            f"Try another {option('variant')} or {option('provider')}, and do not use bf16.",
        )
