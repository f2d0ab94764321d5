"""One record's contributions with the place of each residue, its charge, and its sums by region."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from abonyx.arrays import Float64Array
from abonyx.card.charge import isoelectric_point, net_charge
from abonyx.contributions import ChainContributions, Contributions
from abonyx.explain.places import REGIONS, Place, places

# OUTSIDE: residues before or after the domain, or all residues of a chain without one. END: the end token, which has a
# contribution only under upstream-batch.
OUTSIDE, END = "outside", "end token"


@dataclass(frozen=True)
class ExplainedChain:
    """One chain.

    Attributes:
        part: its contributions.
        places: of its residues.
        charge: net charge of the domain at pH 7.4, in elementary charges; pi: its isoelectric point; None without a
            domain.
    """

    part: ChainContributions
    places: list[Place]
    charge: float | None
    pi: float | None

    def regions(self) -> dict[str, tuple[int, Float64Array]]:
        """Each region that occurs, in order -> how many residues it has, and the sum (heads,) of what they add."""
        found = {}
        names = [place.region or OUTSIDE for place in self.places]
        for region in (*REGIONS, OUTSIDE):
            at = [index for index, name in enumerate(names) if name == region]
            if at:
                found[region] = len(at), self.part.residues[at].sum(axis=0, dtype=np.float64)
        if self.part.end.any():
            found[END] = 0, self.part.end.astype(np.float64)
        return found


@dataclass(frozen=True)
class Explained:
    """One record.

    Attributes:
        id: of the record.
        contributions: of all its chains.
        chains: each with the places of its residues and its charge.
        flag: why the score should not be trusted; "" = nothing.
    """

    id: str
    contributions: Contributions
    chains: tuple[ExplainedChain, ...]
    flag: str


def explain_record(id_: str, contributions: Contributions, sequences: tuple[str, ...], flag: str) -> Explained:
    """Combine a record's contributions with the places and the charge of its chains.

    Args:
        sequences: what was scored, one for each chain.
    """
    chains = []
    for part, sequence in zip(contributions.chains, sequences, strict=True):
        found = places(sequence)
        domain = "".join(place.residue for place in found if place.imgt)
        charge = float(net_charge([domain])[0]) if domain else None
        pi = float(isoelectric_point([domain])[0]) if domain else None
        chains.append(ExplainedChain(part, found, charge, pi))
    return Explained(id_, contributions, tuple(chains), flag)
