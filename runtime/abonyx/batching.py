"""Batches of rows of similar length under a token budget, and the inputs of the graph. Uses only NumPy.

Shapes: B is the number of rows in a batch, L the number of tokens in its longest row (CLS and EOS included).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from abonyx.arrays import BoolArray, Int64Array

# Added to the attention score of each padding token. exp(-1e4) is 0 in float32 and float16, and -1e4 is finite in
# float16. The minimum of float32 is not finite in float16 (apple/coremltools#2669).
MASKED = np.float32(-1e4)


@dataclass(frozen=True)
class ShapeGrid:
    """The shapes (B, L) that batches are rounded up to. On some devices the first run of each new shape is slow.

    Attributes:
        tokens: L is a multiple of this.
        rows: B is a multiple of this, or smaller than this.
    """

    tokens: int = 1
    rows: int = 1

    def lengths(self, lengths_tokens: Int64Array) -> Int64Array:
        """(n,) number of tokens that rows of these lengths take, padding included."""
        return -(-lengths_tokens // self.tokens) * self.tokens

    def shape(self, rows: int, longest: int) -> tuple[int, int]:
        """(B, L) of a batch with this number of rows and this number of tokens in its longest row."""
        more = -rows % self.rows if rows > self.rows else 0
        return rows + more, -(-longest // self.tokens) * self.tokens


EXACT = ShapeGrid()


def plan_batches(lengths_tokens: Int64Array, token_budget: int, grid: ShapeGrid = EXACT) -> Iterator[Int64Array]:
    """Yield the row numbers of each batch. The longest rows come first, so the first batch takes the most memory.

    Args:
        lengths_tokens: (n,) number of tokens in each row.
        token_budget: largest number of tokens in a batch, padding included. A longer row is a batch of its own.
        grid: the shapes that batches are rounded up to; the budget counts the rounded shape.

    Yields:
        (B,) int64 row numbers, longest row first. Rows of equal length stay in input order.
    """
    order = np.argsort(-lengths_tokens, kind="stable")
    taken = grid.lengths(lengths_tokens)
    start = 0
    while start < len(order):
        rows = max(1, token_budget // int(taken[order[start]]))
        if rows > grid.rows:
            rows -= rows % grid.rows
        yield order[start : start + rows]
        start += rows


def eos_in_mean(lengths_tokens: Int64Array, batch_size: int) -> BoolArray:
    """Rows whose mean includes the EOS token in the old pipeline, with batches of batch_size in file order.

    The old pipeline set the last column of the mask to zero. In the longest rows of a batch that column is the EOS.
    Every shorter row kept its EOS in the mean.

    Args:
        lengths_tokens: (n,) number of tokens in each row, in file order.
        batch_size: number of rows in a batch of the old pipeline.

    Returns:
        (n,) bool.
    """
    batches = np.arange(len(lengths_tokens)) // batch_size
    longest = np.zeros(batches.max(initial=0) + 1, np.int64)
    np.maximum.at(longest, batches, lengths_tokens)
    return lengths_tokens < longest[batches]


def make_inputs(
    rows: Sequence[Int64Array],
    names: Iterable[str],
    pad_id: int,
    eos_pooled: BoolArray | None = None,
    shape: tuple[int, int] | None = None,
) -> dict[str, npt.NDArray[np.generic]]:
    """The graph inputs that a variant declares, for one batch.

    Args:
        rows: B token rows, CLS and EOS included.
        names: the inputs to build.
        pad_id: id of the padding token. Position ids start at pad_id + 1, as in every ESM model.
        eos_pooled: (B,) rows whose EOS is part of the mean; None = the mean is over residues in every row.
        shape: a larger (B, L) to fill. Padding fills the columns; copies of the first row fill the rows, because a row
            of padding alone has nothing to attend to. None = the shape of the rows.

    Returns:
        The inputs in `names`, of these: input_ids (B, L) int64, position_ids (B, L) int64, attention_bias
        (B, 1, 1, L) float32 (0 or MASKED), pool_weights (B, L) float32 (each row sums to 1), lengths (B,) int32.
    """
    if shape is not None:
        again = shape[0] - len(rows)
        rows = [*rows, *[rows[0]] * again]
        eos_pooled = None if eos_pooled is None else np.append(eos_pooled, np.repeat(eos_pooled[0], again))
    lengths = np.array([len(row) for row in rows], np.int64)  # (B,)
    columns = np.arange(lengths.max() if shape is None else shape[1])  # (L,)
    is_token = columns < lengths[:, None]  # (B, L)
    inputs: dict[str, npt.NDArray[np.generic]] = {}
    for name in names:
        if name == "input_ids":
            ids = np.full(is_token.shape, pad_id, np.int64)
            ids[is_token] = np.concatenate(rows)
            inputs[name] = ids
        elif name == "position_ids":
            inputs[name] = np.where(is_token, columns + (pad_id + 1), pad_id)
        elif name == "attention_bias":
            inputs[name] = np.where(is_token, np.float32(0), MASKED)[:, None, None, :]  # (B, 1, 1, L)
        elif name == "pool_weights":
            ends = lengths - 1 if eos_pooled is None else lengths - 1 + eos_pooled  # (B,) first column not in the mean
            pooled = (columns >= 1) & (columns < ends[:, None])  # (B, L)
            inputs[name] = (pooled / (ends - 1)[:, None]).astype(np.float32)
        elif name == "lengths":
            inputs[name] = lengths.astype(np.int32)
        else:
            raise ValueError(f"no such graph input: {name}")  # no user gets this: opening a session checks the names
    return inputs


GRAPH_INPUTS = ("input_ids", "position_ids", "attention_bias", "pool_weights", "lengths")
