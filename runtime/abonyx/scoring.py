"""From cleaned sequences to arrays, through whatever runs a batch. Knows sequences and batches, not files or ONNX."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from abonyx import alphabet
from abonyx.batching import eos_in_mean, plan_batches
from abonyx.errors import InputError, ScoreNotFinite
from abonyx.manifest import Manifest

FloatArray = npt.NDArray[np.float32]
Tokens = Sequence[npt.NDArray[np.int64]]


class Engine(Protocol):
    """What scoring needs of a session."""

    @property
    def manifest(self) -> Manifest: ...
    @property
    def token_budget(self) -> int: ...
    def run_batch(
        self, rows: Tokens, eos_pooled: npt.NDArray[np.bool_] | None, outputs: Sequence[str]
    ) -> list[FloatArray]: ...


def prepare(sequences: Sequence[str], max_residues: int) -> list[str]:
    """Cleaned sequences.

    Raises:
        InputError: names the first sequence (counted from 0) that cannot be scored, and why.
    """
    # A str is a Sequence[str] too: each residue would be scored as an antibody.
    if isinstance(sequences, str) or not isinstance(sequences, Iterable):
        raise InputError(f"sequences is one {type(sequences).__name__}", "Give a list of sequences: [sequence].")
    for index, sequence in enumerate(sequences):
        if not isinstance(sequence, str):
            raise InputError(
                f"sequences[{index}] is {sequence!r:.60} ({type(sequence).__name__}), not text", "Give str."
            )
    cleaned = [alphabet.clean(sequence) for sequence in sequences]
    for index, sequence in enumerate(cleaned):
        reason = alphabet.problem(sequence, max_residues)
        if reason:
            raise InputError(f"sequences[{index}]: {reason}", "Remove or mend it; nothing was scored.")
    return cleaned


def pooled_eos(sequences: Sequence[str], batch_size: int | None) -> npt.NDArray[np.bool_] | None:
    """batching.eos_in_mean for sequences in file order; None (no EOS in any mean) without a batch_size."""
    if batch_size is None:
        return None
    return eos_in_mean(np.array([len(sequence) + 2 for sequence in sequences], np.int64), batch_size)


def run_sequences(
    engine: Engine,
    sequences: Sequence[str],
    output: str,
    *,
    ids: Sequence[str] | None = None,
    eos_pooled: npt.NDArray[np.bool_] | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> FloatArray:
    """One graph output for cleaned, valid sequences, in their order.

    Args:
        engine: an open session.
        sequences: n sequences.
        output: "p_nonspecific" or "embedding".
        ids: names for error messages; None = positions in `sequences`.
        eos_pooled: (n,) rows with EOS in the mean; None = none.
        on_batch: called with the number of sequences done, after each batch.

    Returns:
        (n,) or (n, D) float32.

    Raises:
        ScoreNotFinite: names the sequences whose values are.
    """
    width = () if output == "p_nonspecific" else (engine.manifest.embedding_width,)
    values = np.empty((len(sequences), *width), np.float32)
    rows = alphabet.Alphabet(engine.manifest.alphabet).encode(sequences)
    lengths = np.array([len(row) for row in rows], np.int64)
    for batch in plan_batches(lengths, engine.token_budget):
        flags = None if eos_pooled is None else eos_pooled[batch]
        values[batch] = engine.run_batch([rows[index] for index in batch], flags, [output])[0]
        if on_batch:
            on_batch(len(batch))
    finite = np.isfinite(values if values.ndim == 1 else values.sum(axis=1))
    if not finite.all():
        bad = [ids[index] if ids else f"sequences[{index}]" for index in np.flatnonzero(~finite).tolist()]
        shown = ", ".join(bad[:10]) + (f" and {len(bad) - 10} more" if len(bad) > 10 else "")
        raise ScoreNotFinite(
            f"{output} is not finite for {len(bad)} of {len(sequences)} sequences: {shown}",
            "Use a variant of higher precision (--variant fp32).",
        )
    return values
