"""Sequences with known clusters: mutants of the example antibodies."""

from __future__ import annotations

import csv

import numpy as np

from ...conftest import EXAMPLES

RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
# CDR3 and the loops' ends, where a mutant still has a domain.
_PLACES = range(26, 110)


def parents() -> list[str]:
    with EXAMPLES.open(newline="") as file:
        return [row["sequence"] for row in csv.DictReader(file)]


def mutants(count: int, mutations: int = 4, seed: int = 3) -> list[str]:
    """`count` mutants of twelve antibodies in turn. Two mutants of one antibody are 93 % identical."""
    rng, made, wild = np.random.default_rng(seed), [], parents()
    for index in range(count):
        letters = list(wild[index % len(wild)])
        for place in rng.choice(_PLACES, size=mutations, replace=False):
            letters[place] = RESIDUES[rng.integers(20)]
        made.append("".join(letters))
    return made
