"""Sequence identity over IMGT positions, by blocks of a matrix product.

The identity of two domains is the number of positions with the same residue, divided by the number of positions that
either of them occupies. An unknown residue (X) occupies its position and is equal to no residue.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from abonyx.arrays import Float32Array, Int64Array
from abonyx.domain.numbering import imgt_positions

UNKNOWN = "X"
# Cells of (row, record) held at a time: 64 MiB of float32 for each of three arrays.
_BLOCK_CELLS = 1 << 24


@dataclass(frozen=True)
class ChainMatrix:
    """One chain of u records as 0 and 1.

    Attributes:
        residues: (u, pairs) float32, for each pair of position and residue that occurs.
        occupied: (u, positions) float32, for each position that occurs.
    """

    residues: Float32Array
    occupied: Float32Array


@dataclass(frozen=True)
class Numbered:
    """The distinct records among n rows, numbered.

    Attributes:
        chains: one matrix for each chain, with u records.
        distinct: (n,) the record of each row, 0 to u - 1; records are in order of their first row.
        without_domain: (u,) bool; records with a chain that cannot be numbered: they are identical only to themselves.
    """

    chains: tuple[ChainMatrix, ...]
    distinct: Int64Array
    without_domain: np.ndarray[tuple[int], np.dtype[np.bool_]]

    def __len__(self) -> int:
        return len(self.without_domain)


def number_rows(chains: Sequence[Sequence[str]]) -> Numbered:
    """Number n rows.

    Args:
        chains: for each chain, n cleaned sequences; one chain, or heavy and light of pairs.
    """
    rows = list(zip(*chains, strict=True))
    places = {row: place for place, row in enumerate(dict.fromkeys(rows))}
    numberings = [[imgt_positions(row[chain]) for row in places] for chain in range(len(chains))]
    empty = np.array([not all(each) for each in zip(*numberings, strict=True)], bool)
    matrices = tuple(_matrix(each) for each in numberings)
    return Numbered(matrices, np.array([places[row] for row in rows], np.int64), empty)


def _matrix(numberings: Sequence[dict[str, str]]) -> ChainMatrix:
    pairs: dict[tuple[str, str], int] = {}
    positions: dict[str, int] = {}
    residue_cells, position_cells = [], []
    for row, numbering in enumerate(numberings):
        for position, residue in numbering.items():
            position_cells.append((row, positions.setdefault(position, len(positions))))
            if residue != UNKNOWN:
                residue_cells.append((row, pairs.setdefault((position, residue), len(pairs))))
    return ChainMatrix(
        _ones(residue_cells, (len(numberings), len(pairs))), _ones(position_cells, (len(numberings), len(positions)))
    )


def _ones(cells: list[tuple[int, int]], shape: tuple[int, int]) -> Float32Array:
    matrix = np.zeros(shape, np.float32)
    if cells:
        rows, columns = np.array(cells).T
        matrix[rows, columns] = 1
    return matrix


def identity_with(queries: Sequence[dict[str, str]], reference: Sequence[dict[str, str]]) -> Float32Array:
    """The identity of n numbered domains with m others: (n, m) float32 percent; 0 if either has no position.

    Args:
        queries, reference: from imgt_positions; m is at least 1.
    """
    both, count = _matrix([*queries, *reference]), len(queries)
    same = both.residues[:count] @ both.residues[count:].T
    common = both.occupied[:count] @ both.occupied[count:].T
    sizes = both.occupied.sum(axis=1)
    either = sizes[:count, None] + sizes[None, count:] - common
    percent: Float32Array = np.divide(100 * same, either, out=np.zeros_like(same), where=either > 0)
    return percent


def identity_blocks(numbered: Numbered) -> Iterator[tuple[slice, Float32Array]]:
    """The identity of all u records with each other, block by block; for pairs, the lower one of their two chains.

    Yields:
        The records of the block, b of them, and (b, u) float32 percent; 100 on the diagonal, also with an X;
        0 if a chain is not numbered.
    """
    count = len(numbered)
    size = max(1, _BLOCK_CELLS // max(1, count))
    for start in range(0, count, size):
        block = slice(start, min(start + size, count))
        lowest: Float32Array | None = None
        for chain in numbered.chains:
            # Counts below 2**24 are exact in float32, in whatever order they are added.
            same = chain.residues[block] @ chain.residues.T
            both = chain.occupied[block] @ chain.occupied.T
            sizes = chain.occupied.sum(axis=1)
            either = sizes[block, None] + sizes[None, :] - both
            percent = np.divide(100 * same, either, out=np.zeros_like(same), where=either > 0)
            lowest = percent if lowest is None else np.minimum(lowest, percent)
        assert lowest is not None  # there is at least one chain
        lowest[np.arange(block.stop - start), np.arange(start, block.stop)] = 100
        yield block, lowest
