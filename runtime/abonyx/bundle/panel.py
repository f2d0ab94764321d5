"""Panels of known antibodies: their stored scores, and the percentile of a new score among them."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from abonyx.arrays import Float32Array, Float64Array

# With fewer rows, the interval of a percentile can reach more than 20 points to each side.
MIN_PANEL_ROWS = 20
MAX_QUANTILES = 101
# 95 % of a normal distribution is within this number of standard deviations.
_Z = 1.959964
MEMBER_BYTES = 8
IN_PANEL = "in panel"
# Columns.
PERCENTILE = "percentile"

_NAME = re.compile("[A-Za-z][A-Za-z0-9_-]{0,39}")
PANEL_NAME_RULE = "A name has 1 to 40 letters, digits, - and _, and begins with a letter."


class PanelScores(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The scores of a panel by one head.

    Attributes:
        head, variant: names in the bundle.
        pooling, pooling_batch_size: the pooling rule of the scores; the size is None except for upstream-batch.
        quantiles: float32 scores from the lowest to the highest, at equal steps of rank. If there are at most
            MAX_QUANTILES scores, these are all of them.
    """

    head: str
    variant: str
    pooling: str
    pooling_batch_size: int | None
    quantiles: list[float]

    @property
    def key(self) -> tuple[str, str, str, int | None]:
        """(head, variant, pooling, batch size): identifies the scores within the panel."""
        return self.head, self.variant, self.pooling, self.pooling_batch_size


class Panel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A named panel. The file panel_file(name) of the bundle has the hashes of its sequences.

    Attributes:
        name: its name.
        rows: number of scored rows; none of them is flagged.
        source: where the antibodies are from, for a reader.
        rows_sha256: hash of the sequences.
        encoder_sha256: hash of the weights of the encoder that was used for the scores.
        scores: the scores by each head, variant and pooling rule.
    """

    name: str
    rows: int
    source: str
    rows_sha256: str
    encoder_sha256: str
    scores: list[PanelScores]


@dataclass(frozen=True)
class HeadPanel:
    """A panel with its scores by one head, variant and pooling rule.

    Attributes:
        name, rows, source: as in Panel.
        quantiles: (m,) float32, sorted.
        members: member_hash of each sequence.
    """

    name: str
    rows: int
    source: str
    quantiles: Float32Array
    members: frozenset[bytes]

    def cells(self, values: Float32Array, trusted: Sequence[bool], sequences: Sequence[str]) -> list[str | None]:
        """The column `percentile` of n scores: FIRST-LAST, with "(in panel)" for a sequence that is in the panel.

        Args:
            values: (n,) scores.
            trusted: n values; the cell is None where the value is false.
            sequences: the n sequences that were scored.
        """
        low, high = percentile_band(share_below(self.quantiles, values), self.rows)
        bands = zip(np.rint(100 * low).astype(int).tolist(), np.rint(100 * high).astype(int).tolist(), strict=True)
        return [
            f"{first}-{last}{self._note(sequence)}" if trust else None
            for (first, last), trust, sequence in zip(bands, trusted, sequences, strict=True)
        ]

    def _note(self, sequence: str) -> str:
        return f" ({IN_PANEL})" if member_hash(sequence) in self.members else ""


def percentile_band(share: Float64Array, rows: int) -> tuple[Float64Array, Float64Array]:
    """Wilson's 95 % interval of shares (n,) that were counted in `rows` rows: two (n,) arrays from 0 to 1."""
    square = _Z * _Z
    centre = (share + square / (2 * rows)) / (1 + square / rows)
    half = _Z * np.sqrt(share * (1 - share) / rows + square / (4 * rows * rows)) / (1 + square / rows)
    return np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)


def share_below(quantiles: Float32Array, values: Float32Array) -> Float64Array:
    """The share of a panel that scores below each value: (n,) float64, from 0 to 1. Equal scores count half.

    Args:
        quantiles: (m,) sorted, m at least 2. Ranks between two quantiles are interpolated.
        values: (n,) scores.
    """
    steps = quantiles.astype(np.float64)
    left, right = np.searchsorted(quantiles, values, "left"), np.searchsorted(quantiles, values, "right")
    upper = np.clip(left, 1, len(steps) - 1)
    gap = steps[upper] - steps[upper - 1]
    part = np.divide(values - steps[upper - 1], gap, out=np.zeros(len(values)), where=gap > 0)
    between = upper - 1 + np.clip(part, 0, 1)
    rank = np.where(right > left, (left + right - 1) / 2, between)
    share: Float64Array = rank / (len(steps) - 1)
    return share


def quantiles_of(scores: Float32Array) -> list[float]:
    """The quantiles of (n,) scores that PanelScores stores."""
    ranks = np.linspace(0, 1, min(len(scores), MAX_QUANTILES))
    found: list[float] = np.quantile(scores.astype(np.float64), ranks).astype(np.float32).tolist()
    return found


def member_hash(sequence: str) -> bytes:
    """The short hash of a panel's sequence that a bundle stores: MEMBER_BYTES bytes as hexadecimal digits."""
    return hashlib.sha256(sequence.encode()).hexdigest()[: 2 * MEMBER_BYTES].encode()


def panel_file(name: str) -> str:
    """The name of the file with a panel's hashes, one on each line. They are sorted, to hide the order of the rows."""
    return f"panel.{name}.hashes"


def member_lines(sequences: Sequence[str]) -> bytes:
    """The bytes of a panel_file."""
    return b"".join(line + b"\n" for line in sorted({member_hash(sequence) for sequence in sequences}))


def is_panel_name(name: str) -> bool:
    """Whether this is a valid name of a panel."""
    return _NAME.fullmatch(name) is not None


def are_sound(
    panels: Sequence[Panel], heads: Collection[str], variants: Collection[str], files: Collection[str]
) -> bool:
    """Whether `abonyx reference` could have written these panels into a bundle with these heads, variants and files."""
    names = [panel.name.lower() for panel in panels]
    keys = [[scores.key for scores in panel.scores] for panel in panels]
    every = [scores for panel in panels for scores in panel.scores]
    return (
        len(set(names)) == len(names)
        and all(len(set(each)) == len(each) for each in keys)
        and all(is_panel_name(panel.name) and panel_file(panel.name) in files for panel in panels)
        and all(panel.rows >= MIN_PANEL_ROWS and panel.scores for panel in panels)
        and all(scores.head in heads and scores.variant in variants for scores in every)
        and all((scores.pooling == "upstream-batch") == (scores.pooling_batch_size is not None) for scores in every)
        and all(_are_quantiles(scores.quantiles) for scores in every)
    )


def _are_quantiles(quantiles: Sequence[float]) -> bool:
    finite = all(map(math.isfinite, quantiles))
    return finite and 2 <= len(quantiles) <= MAX_QUANTILES and sorted(quantiles) == list(quantiles)


def kept_panels(panels: Sequence[Panel], heads: Collection[str], variants: Collection[str]) -> list[Panel]:
    """The panels with only the scores of these heads and variants. A panel without scores is dropped."""
    kept = [
        msgspec.structs.replace(
            panel, scores=[each for each in panel.scores if each.head in heads and each.variant in variants]
        )
        for panel in panels
    ]
    return [panel for panel in kept if panel.scores]
