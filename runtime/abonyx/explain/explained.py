"""One record's contributions with the place of each residue, its charge, and its sums by region."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from abonyx.arrays import Float64Array
from abonyx.card.charge import isoelectric_point, net_charge
from abonyx.contributions import ChainContributions, Contributions
from abonyx.explain.places import REGIONS, Place, places

# Residues in front of the domain and behind it, or of a chain without one; and the end token, of upstream-batch alone.
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
        """Region -> its residues, and the sum of their contributions (heads,), of the regions that occur, in order."""
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
        contributions: of all its chains; chains: each with what is known of it.
        flag: why the score should not be trusted; "" = nothing.
    """

    id: str
    contributions: Contributions
    chains: tuple[ExplainedChain, ...]
    flag: str


def explain_record(id_: str, contributions: Contributions, sequences: tuple[str, ...], flag: str) -> Explained:
    """Put a record's contributions beside what its sequences say.

    Args:
        sequences: what was scored, a chain each.
    """
    chains = []
    for part, sequence in zip(contributions.chains, sequences, strict=True):
        found = places(sequence)
        domain = "".join(place.residue for place in found if place.imgt)
        charge = float(net_charge([domain])[0]) if domain else None
        pi = float(isoelectric_point([domain])[0]) if domain else None
        chains.append(ExplainedChain(part, found, charge, pi))
    return Explained(id_, contributions, tuple(chains), flag)
