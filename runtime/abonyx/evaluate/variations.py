"""The changes of a sequence that show whether its call flips. training/ and benchmarks/ use them, too."""

from __future__ import annotations

from collections.abc import Callable

VARIATIONS: dict[str, Callable[[str], str]] = {
    "first residue cut": lambda sequence: sequence[1:],
    "three first residues cut": lambda sequence: sequence[3:],
    "last residue cut": lambda sequence: sequence[:-1],
    "M in front": lambda sequence: "M" + sequence,
    "GGS in front": lambda sequence: "GGS" + sequence,
    "AAA and a His tag at the end": lambda sequence: sequence + "AAAHHHHHH",
    "X in the middle": lambda sequence: sequence[: len(sequence) // 2] + "X" + sequence[len(sequence) // 2 + 1 :],
}
