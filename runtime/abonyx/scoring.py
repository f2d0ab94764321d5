"""Turn sequences into arrays of values, batch by batch. This module uses neither files nor ONNX."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import numpy as np

from abonyx import alphabet
from abonyx.arrays import BoolArray, Float32Array, Float64Array, Int64Array
from abonyx.batching import ShapeGrid, eos_in_mean, plan_batches
from abonyx.bundle.heads import EMBEDDING, HEAD_SUMS, chosen_totals, chosen_values, column_names
from abonyx.bundle.manifest import Manifest
from abonyx.domain import refusal
from abonyx.errors import ConfigError, InputError, OutOfDeviceMemory, ScoreNotFinite, printable
from abonyx.texts import as_pairs, as_texts
from abonyx.wording import option

Tokens = Sequence[Int64Array]


class BatchEngine(Protocol):
    """The part of an open model that scoring uses."""

    @property
    def manifest(self) -> Manifest: ...
    @property
    def streams(self) -> int: ...
    @property
    def static_shape(self) -> tuple[int, int] | None: ...
    @property
    def grid(self) -> ShapeGrid: ...
    def turn(self) -> contextlib.AbstractContextManager[None]: ...
    def run_batch(self, rows: Tokens, eos_pooled: BoolArray | None, outputs: Sequence[str]) -> list[Float32Array]: ...


class TokenBudget:
    """Largest number of tokens in a batch, padding included. It is halved if the device runs out of memory.

    Threads share it.

    Attributes:
        tokens: the present budget.
        on_halved: called with a note for the user after each halving.

    Args:
        tokens: the budget at the start.
        provider: the provider that the note names.
    """

    def __init__(self, tokens: int, provider: str, on_halved: Callable[[str], object]) -> None:
        self.tokens = tokens
        self.on_halved = on_halved
        self._provider = provider
        self._lock = threading.Lock()

    def halve(self, failed_tokens: int, planned: int) -> None:
        """Halve the budget after OutOfDeviceMemory.

        Args:
            failed_tokens: number of tokens in the batch that failed.
            planned: the budget that the batch was planned with. If another stream has halved the budget since then,
                this call changes nothing, because the batch says nothing about the new budget.
        """
        with self._lock:
            before = self.tokens
            if before < planned:
                return
            self.tokens = max(1, min(before, failed_tokens) // 2)
            self.on_halved(
                f"note: {self._provider} ran out of memory on a batch of {failed_tokens} tokens: token_budget "
                f"went from {before} to {self.tokens}"
            )


def prepare(sequences: Sequence[str], limit: alphabet.SequenceLimit) -> list[str]:
    """Clean n sequences.

    Raises:
        InputError: a sequence cannot be scored. The message names the first one (counted from 0) and the reason.
    """
    return _prepared(as_texts(sequences), limit, "sequences[{}]")


def prepare_pairs(pairs: Sequence[Sequence[str]], limit: alphabet.SequenceLimit) -> tuple[list[str], list[str]]:
    """Clean n pairs; returns (heavy chains, light chains).

    Raises:
        InputError: an item is not a pair, or a chain cannot be scored. The message names the first one (counted from
            0) and the reason.
    """
    heavy, light = as_pairs(pairs)
    return _prepared(heavy, limit, "sequences[{}], heavy chain"), _prepared(light, limit, "sequences[{}], light chain")


def _prepared(sequences: list[str], limit: alphabet.SequenceLimit, place: str) -> list[str]:
    cleaned = [alphabet.clean(sequence) for sequence in sequences]
    for index, sequence in enumerate(cleaned):
        reason = refusal(sequence) or alphabet.problem(sequence, limit)
        if reason:
            raise InputError(f"{place.format(index)}: {reason}", "Remove or correct it; nothing was scored.")
    return cleaned


def refuse_batches(batch_size: int | None) -> None:
    """For pairs: raise a ConfigError if the pooling is that of the old pipeline, which is only for single sequences."""
    if batch_size is not None:
        what = f"{option('pooling')} upstream-batch, {option('batch_size')} {batch_size}: not possible for pairs"
        raise ConfigError(what, f"Use {option('pooling')} residues, or heads of one chain.")


def pooled_eos(sequences: Sequence[str], batch_size: int | None) -> BoolArray | None:
    """batching.eos_in_mean for sequences in file order; None (no EOS in any mean) if batch_size is None."""
    if batch_size is None:
        return None
    return eos_in_mean(np.array([len(sequence) + 2 for sequence in sequences], np.int64), batch_size)


class Tokenized(NamedTuple):
    """Token rows of n records. Each chain has its own row, and equal sequences share one.

    Attributes:
        rows: k token rows, CLS and EOS included.
        place: (chains, n) int64, the row number of each chain of each record; chains is 1, or 2 for heavy and light.
    """

    rows: list[Int64Array]
    place: Int64Array


def tokenize(manifest: Manifest, *chains: Sequence[str], distinct: bool = True) -> Tokenized:
    """Token rows of cleaned, valid sequences.

    Args:
        manifest: the manifest of the bundle that will score them.
        chains: n sequences; for pairs, n heavy chains and n light chains.
        distinct: whether equal sequences share a row. False if the place in the file matters.
    """
    sequences = [sequence for chain in chains for sequence in chain]
    if distinct:
        once, place = find_distinct(sequences)
    else:
        once, place = sequences, np.arange(len(sequences))
    return Tokenized(alphabet.Alphabet(manifest.alphabet).encode(once), place.reshape(len(chains), -1))


def run_sequences(
    engine: BatchEngine,
    tokens: Tokenized,
    heads: Sequence[str] | None,
    budget: TokenBudget,
    *,
    ids: Sequence[str] | None = None,
    eos_pooled: BoolArray | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Float32Array:
    """Values of some heads, or the embedding, of n tokenized records.

    Args:
        engine: an open model.
        tokens: from `tokenize`, with the chains that the heads need (heads.record_chains), or one chain for the
            embedding. If eos_pooled is given, every sequence must have its own row.
        heads: names of the bundle's heads; None = the embedding.
        budget: the token budget of a batch.
        ids: names of the records for error messages; None = positions.
        eos_pooled: (n,) rows whose EOS is part of the mean; None = no row.
        on_batch: called after each batch with the number of records whose first chain is done. Records that share a row
            count separately.

    Returns:
        (n, len(heads)) float32 in input order, column i for heads[i]; or the embedding, (n, D) float32.

    Raises:
        ScoreNotFinite: a value is NaN or infinite. The message names the records.
        OutOfDeviceMemory: a batch of one sequence or of a fixed shape does not fit. Larger batches are run again with
            half the budget.
    """
    manifest, place = engine.manifest, tokens.place
    output = EMBEDDING if heads is None else HEAD_SUMS
    found = run_distinct(engine, tokens, output, budget, eos_pooled, on_batch)
    # For one chain, compute the values of distinct rows first, and then copy them to all records.
    if heads is None:
        values = found
    elif len(place) == 1:
        values = chosen_values(manifest.heads, heads, [found])
    else:
        values = chosen_values(manifest.heads, heads, [found[of_chain] for of_chain in place])
    if len(place) == 1 and len(found) < place.shape[1]:
        values = values[place[0]]
    refuse_not_finite(values, heads, ids)
    return values


def run_totals(
    engine: BatchEngine,
    tokens: Tokenized,
    heads: Sequence[str],
    budget: TokenBudget,
    *,
    ids: Sequence[str] | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Float64Array:
    """Logits of logistic heads and values of linear heads, for n tokenized records of one chain.

    Near 0 and 1, different logits can give the same probability. Arguments and errors are those of run_sequences.

    Returns:
        (n, len(heads)) float64 in input order, column i for heads[i].
    """
    sums = run_distinct(engine, tokens, HEAD_SUMS, budget, on_batch=on_batch)
    totals: Float64Array = chosen_totals(engine.manifest.heads, heads, [sums])[tokens.place[0]]
    refuse_not_finite(totals, heads, ids)
    return totals


def run_distinct(
    engine: BatchEngine,
    tokens: Tokenized,
    output: str,
    budget: TokenBudget,
    eos_pooled: BoolArray | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Float32Array:
    """One output of the graph for the k token rows: (k, D) or (k, columns). Arguments are those of run_sequences."""
    manifest = engine.manifest
    width = manifest.embedding_width if output == EMBEDDING else len(column_names(manifest.heads))
    rows, place = tokens
    copies = np.bincount(place[0], minlength=len(rows))
    shape = engine.static_shape
    lengths = np.array(
        [len(row) if shape is None else shape[1] for row in rows], np.int64
    )  # with padding if the shape is fixed
    planned = budget.tokens
    plan = list(plan_batches(lengths, planned, engine.grid))

    def run(batch: Int64Array) -> Float32Array:
        flags = None if eos_pooled is None else eos_pooled[batch]
        return run_rows(engine, [rows[index] for index in batch], flags, [output], budget, planned)[0]

    found = np.empty((len(rows), width), np.float32)
    with engine.turn(), _mapping(engine.streams) as mapped:
        for batch, part in zip(plan, mapped(run, plan), strict=True):
            found[batch] = part
            if on_batch:
                on_batch(int(copies[batch].sum()))
    return found


def refuse_not_finite(
    values: Float32Array | Float64Array, heads: Sequence[str] | None, ids: Sequence[str] | None
) -> None:
    """Raise ScoreNotFinite if a value is not finite. The message names the rows."""
    finite = np.isfinite(values.sum(axis=1)) if heads is None else np.isfinite(values).all(axis=1)
    if finite.all():
        return
    bad = [printable(ids[index]) if ids else f"sequences[{index}]" for index in np.flatnonzero(~finite).tolist()]
    shown = ", ".join(bad[:10]) + (f" and {len(bad) - 10} more" if len(bad) > 10 else "")
    raise ScoreNotFinite(
        f"{'the embedding' if heads is None else 'a score'} is not finite for {len(bad)} of {len(values)} "
        f"sequences: {shown}",
        f"Use a variant of higher precision ({option('variant')} fp32).",
    )


def run_rows(
    engine: BatchEngine,
    rows: Tokens,
    eos_pooled: BoolArray | None,
    outputs: Sequence[str],
    budget: TokenBudget,
    planned: int,
) -> list[Float32Array]:
    """Outputs of the graph for a planned batch, in the order of its rows.

    If the token budget was halved since the batch was planned, the batch is run in parts.

    Args:
        engine: an open model.
        rows: B token rows, longest first.
        eos_pooled: (B,) rows whose EOS is part of the mean; None = no row.
        outputs: names of the outputs.
        budget: the token budget of a batch.
        planned: the budget when the batch was planned.

    Raises:
        OutOfDeviceMemory: a single row or a batch of a fixed shape does not fit. A larger batch is run again with half
            the budget.
    """
    tokens, shape = budget.tokens, engine.static_shape
    lengths = np.array([len(row) if shape is None else shape[1] for row in rows], np.int64)
    # Parts keep the order of the rows. A fixed shape needs parts too: the self-test's batches do not have that shape.
    parts = list(plan_batches(lengths, tokens, engine.grid)) if tokens < planned or shape is not None else []
    if len(parts) < 2:
        try:
            return engine.run_batch(rows, eos_pooled, outputs)
        except OutOfDeviceMemory:
            if len(rows) == 1 or shape is not None:  # a fixed shape takes the same memory with fewer rows
                raise
            failed_tokens = math.prod(engine.grid.shape(len(rows), int(lengths.max())))
            budget.halve(failed_tokens, tokens)
            return run_rows(engine, rows, eos_pooled, outputs, budget, max(tokens, failed_tokens))
    flags = [None if eos_pooled is None else eos_pooled[part] for part in parts]
    chosen = [[rows[index] for index in part] for part in parts]
    found = [run_rows(engine, part, flag, outputs, budget, tokens) for part, flag in zip(chosen, flags, strict=True)]
    return [_joined(values) for values in zip(*found, strict=True)]


def _joined(parts: Sequence[Float32Array]) -> Float32Array:
    """Join the parts (B, ...) of a batch. Contributions (B, L, K) are padded to the longest L."""
    if parts[0].ndim < 3:
        return np.concatenate(parts)
    longest = max(part.shape[1] for part in parts)
    return np.concatenate([np.pad(part, ((0, 0), (0, longest - part.shape[1]), (0, 0))) for part in parts])


def find_distinct(sequences: Sequence[str]) -> tuple[list[str], Int64Array]:
    """The k distinct sequences in order of first appearance, and (n,) int64, the index of each sequence among them."""
    numbers: dict[str, int] = {}
    place = [numbers.setdefault(sequence, len(numbers)) for sequence in sequences]
    return list(numbers), np.array(place, np.int64)


@contextlib.contextmanager
def _mapping(streams: int) -> Iterator[Callable[..., Iterable[Any]]]:
    """A `map` that runs `streams` calls at a time. Results and errors come in order. No call starts after an error."""
    if streams == 1:
        yield map
        return
    pool = ThreadPoolExecutor(streams)
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupted run waits only for the batches that have started
