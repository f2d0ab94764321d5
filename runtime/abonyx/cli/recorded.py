"""Speeds of engines that are not installed, from the project's records. They were measured on other machines.

A wheel does not contain benchmarks/, so recorded.json has a copy of a few figures. A test compares it with the records.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path

import msgspec

_TABLE = Path(__file__).with_name("recorded.json")


class RecordedSpeed(msgspec.Struct, frozen=True):
    """One figure of one record.

    Attributes:
        provider, variant: what ran.
        layers, hidden: size of the encoder.
        sequences_per_s: the record's figure, rounded to three digits.
        processor: processor or GPU, as the record names it.
        threads: number of threads; 0 for a GPU.
        record: file in benchmarks/records.
        place: path of the figure in the record: keys with "/" between them.
    """

    provider: str
    variant: str
    layers: int
    hidden: int
    sequences_per_s: float
    processor: str
    threads: int
    record: str
    place: str


@functools.cache
def recorded_speeds() -> tuple[RecordedSpeed, ...]:
    """The whole table."""
    return msgspec.json.decode(_TABLE.read_bytes(), type=tuple[RecordedSpeed, ...])


def suggestions(
    here: list[str], possible: list[str], variants: dict[str, list[str]], size: tuple[int, int]
) -> list[RecordedSpeed]:
    """Rows for providers that could be installed, and rows of the same run to compare them with.

    Args:
        here: providers of the installed engine.
        possible: other providers that this machine could run.
        variants: variant of the bundle -> its providers.
        size: layers and hidden units of the bundle's encoder. For each provider, the encoder of the nearest size is
            chosen.
    """
    rows = [row for row in recorded_speeds() if row.provider in variants.get(row.variant, ())]
    wanted = set[tuple[str, int, int]]()
    for provider in possible:
        of_provider = [row for row in rows if row.provider == provider]
        nearest = min((_distance(row, size) for row in of_provider), default=None)
        wanted |= {_run_of(row) for row in of_provider if _distance(row, size) == nearest}
    return [row for row in rows if _run_of(row) in wanted and row.provider in (*here, *possible)]


def _run_of(row: RecordedSpeed) -> tuple[str, int, int]:
    return row.record, row.layers, row.hidden


def _distance(row: RecordedSpeed, size: tuple[int, int]) -> float:
    """How far the sizes of two encoders differ: |logarithm of the ratio of their numbers of weights|."""
    layers, hidden = size
    return abs(math.log(row.layers * row.hidden**2 / (layers * hidden**2)))
