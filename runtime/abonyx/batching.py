"""Batches by length under a token budget, and the graph's inputs. Pure numpy; knows nothing of ONNX.

Shapes: B rows of a batch, L tokens of its longest row (CLS and EOS included).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from abonyx.arrays import BoolArray, Int64Array

# What an attention score gets where the key is padding. exp(-1e4) is 0 in float32 and float16, and -1e4 is finite in
# float16, where float32's minimum is not (apple/coremltools#2669).
MASKED = np.float32(-1e4)


@dataclass(frozen=True)
class ShapeGrid:
    """The shapes (B, L) that batches are rounded up to, for a device to which each new shape costs its first run.

    Attributes:
        tokens: L is a multiple of it.
        rows: B is a multiple of it, or smaller than it.
    """

    tokens: int = 1
    rows: int = 1

    def lengths(self, lengths_tokens: Int64Array) -> Int64Array:
        """(n,) tokens that rows of those lengths take."""
        return -(-lengths_tokens // self.tokens) * self.tokens

    def shape(self, rows: int, longest: int) -> tuple[int, int]:
        """(B, L) of a batch of so many rows, the longest of so many tokens."""
        more = -rows % self.rows if rows > self.rows else 0
        return rows + more, -(-longest // self.tokens) * self.tokens


EXACT = ShapeGrid()


def plan_batches(lengths_tokens: Int64Array, token_budget: int, grid: ShapeGrid = EXACT) -> Iterator[Int64Array]:
    """Row numbers of each batch, longest rows first, so that memory peaks in the first batch.

    Args:
        lengths_tokens: (n,) tokens a row.
        token_budget: most tokens a batch, padding included. A row longer than that is a batch of its own.
        grid: the shapes that batches are rounded up to; the budget holds of them.

    Yields:
        (B,) int64 row numbers, by falling length; equal lengths stay in input order.
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
    """Which rows the old pipeline averaged with their EOS, had it run them in file order in batches of batch_size.

    It zeroed the mask's last COLUMN, which is the EOS only of a batch's longest rows: every shorter row kept its own.

    Args:
        lengths_tokens: (n,) tokens a row, in file order.
        batch_size: rows of the old pipeline's batch.
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
        pad_id: padding token; position ids count up from pad_id + 1, as in every ESM.
        eos_pooled: (B,) rows whose EOS is in the mean; None = none (the mean over residues).
        shape: a larger (B, L) to fill: the first row comes again below the others (a row of padding alone would have
            nothing to attend to), padding to their right. None = as the rows are.

    Returns:
        input_ids (B, L) int64, position_ids (B, L) int64, attention_bias (B, 1, 1, L) float32 (0 or MASKED),
        pool_weights (B, L) float32 (rows sum to 1), lengths (B,) int32: those named.
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
            ends = lengths - 1 if eos_pooled is None else lengths - 1 + eos_pooled  # (B,) first column left out
            pooled = (columns >= 1) & (columns < ends[:, None])  # (B, L)
            inputs[name] = (pooled / (ends - 1)[:, None]).astype(np.float32)
        elif name == "lengths":
            inputs[name] = lengths.astype(np.int32)
        else:
            raise ValueError(f"no such graph input: {name}")  # the session checks names at open
    return inputs


GRAPH_INPUTS = ("input_ids", "position_ids", "attention_bias", "pool_weights", "lengths")
