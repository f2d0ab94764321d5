"""Changed copies of the labelled rows. With them, fewer calls of the head change if the start of a sequence changes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from abonyx.alphabet import SequenceLimit
from abonyx.arrays import Float64Array, Int64Array
from abonyx.errors import InputError
from abonyx.input.checked import Input
from abonyx.wording import option
from abonyx_export.fit.request import FitRequest

# The start of a sequence is cut or lengthened most often, so all copies change the start. Only evaluate's variations
# have other changes (the end, X, longer tags), because they must measure changes that the head was not fitted on.
COPIES: dict[str, Callable[[str], str]] = {
    "1 cut": lambda sequence: sequence[1:],
    "2 cut": lambda sequence: sequence[2:],
    "3 cut": lambda sequence: sequence[3:],
    "M": lambda sequence: "M" + sequence,
    "G": lambda sequence: "G" + sequence,
    "S": lambda sequence: "S" + sequence,
}


def with_copies(request: FitRequest, checked: Input) -> Input:
    """The rows, each followed by its copies. Without `vary_ends`, the rows alone.

    Raises:
        InputError: a copy cannot be scored, for example because it is too long.
    """
    if not request.vary_ends:
        return checked
    limit = SequenceLimit.of(request.run.bundle.manifest, request.run.config)
    ids, sequences = [], []
    for row, sequence in zip(checked.ids, checked.sequences, strict=True):
        changed = [sequence, *(change(sequence) for change in COPIES.values())]
        for name, each in zip(["whole", *COPIES], changed, strict=True):
            problem = limit.problem(each) if each else "no residue is left"
            if problem is not None:
                what = f"{option('vary_ends')}: {row}, copy {name!r}: {problem}"
                raise InputError(what, f"Leave the row out, or leave out {option('vary_ends')}.")
        ids += [row] * len(changed)
        sequences += changed
    return Input(ids=ids, sequences=sequences)


def by_row(request: FitRequest, embeddings: Float64Array) -> Float64Array:
    """Embeddings of with_copies for each row: (n, D), or (n, 1 + copies, D) with the original row first."""
    if not request.vary_ends:
        return embeddings
    return embeddings.reshape(-1, 1 + len(COPIES), embeddings.shape[-1])  # (n * copies, D) -> (n, copies, D)


def flatten_copies(rows: Float64Array, labels: Int64Array) -> tuple[Float64Array, Int64Array, int]:
    """Rows for a regression (m, D), their labels (m,), and the number of them that come from one labelled row."""
    if rows.ndim == 2:
        return rows, labels, 1
    copies = rows.shape[1]
    return rows.reshape(-1, rows.shape[-1]), np.repeat(labels, copies), copies  # (n, copies, D) -> (n * copies, D)


def original_rows(rows: Float64Array) -> Float64Array:
    """The original rows, (n, D)."""
    return rows if rows.ndim == 2 else rows[:, 0]
