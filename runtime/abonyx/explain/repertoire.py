"""Which residues human heavy chains have at an IMGT position: repertoire.json, made by training/repertoire_table.py."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files

import msgspec

# A residue counts as seen at a position if at least this share of the domains with that position have it there.
SEEN = 0.01


class Repertoire(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The table and where it is from.

    Attributes:
        what, made_by, licence: what the table has, the script that made it, and its licence.
        sources: source -> what it is and how many of its domains are counted.
        domains: heavy domains in all.
        counts: IMGT position -> residue -> domains that have it there. Only positions that at least 100 domains have.
    """

    what: str
    made_by: str
    licence: str
    sources: Mapping[str, str]
    domains: int
    counts: Mapping[str, Mapping[str, int]]

    def share(self, imgt: str, residue: str) -> float | None:
        """The share, 0 to 1, of the domains with this position that have the residue there; None: not in the table."""
        counts = self.counts.get(imgt)
        return None if counts is None else counts.get(residue, 0) / sum(counts.values())

    def source(self) -> str:
        """The number of domains and the sources, as part of a sentence."""
        return f"{self.domains:,} human VH of OAS ({', '.join(self.sources)})"


@cache
def repertoire() -> Repertoire:
    """The shipped table, of heavy chains."""
    return msgspec.json.decode((files("abonyx.explain") / "repertoire.json").read_bytes(), type=Repertoire)
