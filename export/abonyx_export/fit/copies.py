"""Changed copies of the labelled rows: a head fitted on them, too, keeps its calls if a start is cut or longer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from abonyx.alphabet import SequenceLimit
from abonyx.arrays import Float64Array, Int64Array
from abonyx.errors import InputError
from abonyx.input.checked import Input
from abonyx.wording import option
from abonyx_export.fit.request import FitRequest

# All at the start, which constructs and readers cut or lengthen most often. The other end, X and longer tags are left
# to evaluate's variations, which measure what a head was not fitted on.
COPIES: dict[str, Callable[[str], str]] = {
    "1 cut": lambda sequence: sequence[1:],
    "2 cut": lambda sequence: sequence[2:],
    "3 cut": lambda sequence: sequence[3:],
    "M": lambda sequence: "M" + sequence,
    "G": lambda sequence: "G" + sequence,
    "S": lambda sequence: "S" + sequence,
}


def with_copies(request: FitRequest, checked: Input) -> Input:
    """The rows, each followed by its copies; the rows alone without `vary_ends`.

    Raises:
        InputError: a row of which the bundle cannot take every copy.
    """
    if not request.vary_ends:
        return checked
    limit = SequenceLimit.of(request.run.bundle.manifest, request.run.config)
    ids, sequences = [], []
    for row, sequence in zip(checked.ids, checked.sequences, strict=True):
        changed = [sequence, *(change(sequence) for change in COPIES.values())]
        for name, each in zip(["whole", *COPIES], changed, strict=True):
            problem = limit.problem(each) if each else "nothing is left"
            if problem is not None:
                what = f"{option('vary_ends')}: {row}, copy {name!r}: {problem}"
                raise InputError(what, f"Leave the row out, or leave out {option('vary_ends')}.")
        ids += [row] * len(changed)
        sequences += changed
    return Input(ids=ids, sequences=sequences)


def by_row(request: FitRequest, embeddings: Float64Array) -> Float64Array:
    """Embeddings of with_copies, by row: (n, D), or (n, 1 + copies, D) with the row as it is first."""
    if not request.vary_ends:
        return embeddings
    return embeddings.reshape(-1, 1 + len(COPIES), embeddings.shape[-1])  # (n * copies, D) -> (n, copies, D)


def flattened(rows: Float64Array, labels: Int64Array) -> tuple[Float64Array, Int64Array, int]:
    """What a regression is fitted on: (m, D), their labels (m,), and how many of them stand for one row."""
    if rows.ndim == 2:
        return rows, labels, 1
    copies = rows.shape[1]
    return rows.reshape(-1, rows.shape[-1]), np.repeat(labels, copies), copies  # (n, copies, D) -> (n * copies, D)


def whole(rows: Float64Array) -> Float64Array:
    """The rows as they are, (n, D)."""
    return rows if rows.ndim == 2 else rows[:, 0]
