"""Where each residue of a sequence lies in its domain: IMGT number and region."""

from __future__ import annotations

import re
from typing import NamedTuple

from abonyx.domain.numbering import numbered_domain

# Region -> its first and last IMGT position.
REGIONS = {
    "FR1": (1, 26),
    "CDR1": (27, 38),
    "FR2": (39, 55),
    "CDR2": (56, 65),
    "FR3": (66, 104),
    "CDR3": (105, 117),
    "FR4": (118, 128),
}
CDRS = ("CDR1", "CDR2", "CDR3")
_POSITION = re.compile("([0-9]+)[A-Z]*")


class Place(NamedTuple):
    """One residue of a sequence.

    Attributes:
        index: in the sequence, from 0.
        residue: its letter.
        imgt: IMGT position, "111A" for an insertion; "" outside the domain.
        region: FR1, CDR1, FR2, CDR2, FR3, CDR3 or FR4; "" outside the domain.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    residue: str
    imgt: str
    region: str


def places(sequence: str) -> list[Place]:
    """The place of each residue of one cleaned sequence, in its order.

    Without a domain, all residues are outside. If a sequence has two domains, only one is numbered: see
    domain.numbering.imgt_positions.
    """
    start, numbering = numbered_domain(sequence)
    positions = dict(enumerate(numbering, start))
    found = ((index, residue, positions.get(index, "")) for index, residue in enumerate(sequence))
    return [Place(index, residue, imgt, region_of(imgt) if imgt else "") for index, residue, imgt in found]


def region_of(imgt: str) -> str:
    """The region of an IMGT position; "" if it is in no region."""
    number = _POSITION.fullmatch(imgt)
    if number is None:
        return ""
    return next((name for name, (first, last) in REGIONS.items() if first <= int(number[1]) <= last), "")
