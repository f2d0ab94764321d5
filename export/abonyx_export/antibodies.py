"""The antibodies that ship with export: real sequences, one half to calibrate int8 on, the other to judge it on."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

from abonyx.alphabet import SequenceLimit
from abonyx.input.checked import read_input

ANTIBODIES_NAME = "antibodies.csv"


class Halves(NamedTuple):
    """The shipped antibodies, VH and VHH in turn; no row of one half is 95 % identical to a row of the other.

    Attributes:
        calibration: the first half; judging: the second.
    """

    calibration: tuple[str, ...]
    judging: tuple[str, ...]


@cache
def shipped_antibodies() -> Halves:
    """Both halves of antibodies.csv, which training/antibodies.py makes; antibodies.md has its sources and licences."""
    sequences = read_input(Path(__file__).with_name(ANTIBODIES_NAME), SequenceLimit(10**6)).sequences
    half = len(sequences) // 2
    return Halves(tuple(sequences[:half]), tuple(sequences[half:]))
