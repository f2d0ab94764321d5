"""The real antibodies that ship with export. int8 is calibrated on one half and judged on the other."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

from abonyx.alphabet import SequenceLimit
from abonyx.input.checked import read_input

ANTIBODIES_NAME = "antibodies.csv"


class Halves(NamedTuple):
    """The shipped antibodies; VH and VHH alternate. No row of one half is 95 % identical to a row of the other.

    Attributes:
        calibration: the first half.
        judging: the second half.
    """

    calibration: tuple[str, ...]
    judging: tuple[str, ...]


@cache
def shipped_antibodies() -> Halves:
    """Both halves of antibodies.csv. training/antibodies.py makes it; antibodies.md lists sources and licences."""
    sequences = read_input(Path(__file__).with_name(ANTIBODIES_NAME), SequenceLimit(10**6)).sequences
    half = len(sequences) // 2
    return Halves(tuple(sequences[:half]), tuple(sequences[half:]))
