"""Speeds from this project's committed records, for engines that are not installed here: nothing of this machine.

A wheel has no benchmarks/; recorded.json is a copy of a few figures, which a test holds to the records.
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
        layers, hidden: the encoder's.
        sequences_per_s: as the record has it, rounded to three digits.
        processor: processor or card, as the record names it; threads: of a processor, 0 of a card.
        record: file in benchmarks/records; place: keys in it, behind each other, "/" between them.
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
    """Rows about providers that could be installed, and the rows of the same run to compare them with.

    Args:
        here: providers of the installed engine.
        possible: others that this machine could run.
        variants: of the bundle, with the providers that each is for.
        size: layers and hidden units of its encoder; of each provider the rows of the nearest encoder are given.
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
    """Between the weights of two encoders, as a ratio's logarithm."""
    layers, hidden = size
    return abs(math.log(row.layers * row.hidden**2 / (layers * hidden**2)))
