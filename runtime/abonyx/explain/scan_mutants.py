"""Single mutants of a parent, and what is known of each without a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from abonyx.errors import ConfigError, first_line
from abonyx.explain.places import Place
from abonyx.texts import type_name
from abonyx.wording import option

# Sorted by kind, from the top of the heat map: basic, acidic, polar, special, hydrophobic.
AMINO_ACIDS = "KRHDENQSTGPCAVILMFWY"
# The two cysteines, and other conserved residues: Trp 41, the hydrophobic residue 89, Trp or Phe 118.
CYSTEINES = ("23", "104")
CONSERVED = (*CYSTEINES, "41", "89", "118")


class Mutant(NamedTuple):
    """One changed residue.

    Attributes:
        place: where, with the parent's residue.
        residue: the new one.
    """

    place: Place
    residue: str

    def of(self, parent: str) -> str:
        """The mutant's sequence."""
        return parent[: self.place.index] + self.residue + parent[self.place.index + 1 :]

    @property
    def label(self) -> str:
        """Its short name: old residue, IMGT position (outside a domain: position in the sequence), new residue."""
        return f"{self.place.residue}{self.place.imgt or self.place.index + 1}{self.residue}"

    @property
    def is_conserved(self) -> bool:
        """Whether the mutant changes a position that is conserved in nearly all domains."""
        return self.place.imgt in CONSERVED


def excluded_residues(exclude: Sequence[str] | str | None) -> str:
    """Residues that are not used as replacements, as one text in the order of AMINO_ACIDS.

    Args:
        exclude: letters, as "C,M" or a list of them; None = none.

    Raises:
        ConfigError: a letter that is not one of the 20 residues, or all 20 residues.
    """
    if exclude is None:
        return ""
    if not isinstance(exclude, Iterable):
        what = f"{option('exclude')} is {type_name(exclude)}, not residues"
        raise ConfigError(what, "Give letters with commas between them, such as C,M, or a list of them.")
    letters = exclude.replace(",", " ").split() if isinstance(exclude, str) else list(exclude)
    for letter in letters:
        if not isinstance(letter, str) or len(letter) != 1 or letter.upper() not in AMINO_ACIDS:
            what = f"{option('exclude')}: {first_line(repr(letter), 60)} is not one of the 20 residues"
            raise ConfigError(what, "Give letters with commas between them, such as C,M.")
    left = {letter.upper() for letter in letters}
    if len(left) == len(AMINO_ACIDS):
        raise ConfigError(f"{option('exclude')} names all 20 residues", "Leave at least one of them out of the list.")
    return "".join(residue for residue in AMINO_ACIDS if residue in left)


def mutants_of(places: Sequence[Place], excluded: str) -> list[Mutant]:
    """A mutant for each residue that is not the parent's and not excluded; sorted by place, then by letter."""
    residues = [residue for residue in sorted(AMINO_ACIDS) if residue not in excluded]
    return [Mutant(place, residue) for place in places for residue in residues if residue != place.residue]


def count_mutants(places: Sequence[Place], excluded: str) -> int:
    """How many mutants mutants_of returns."""
    left = len(AMINO_ACIDS) - len(excluded)
    return sum(left - (place.residue in AMINO_ACIDS and place.residue not in excluded) for place in places)


def makes_glycosylation_motif(parent: str, mutant: Mutant) -> bool:
    """Whether the mutant has a motif of N-glycosylation, N-X-S or N-X-T with X not P, where the parent has none."""
    changed, at = mutant.of(parent), mutant.place.index
    starts = range(max(0, at - 2), at + 1)
    return any(_is_motif(changed, start) and not _is_motif(parent, start) for start in starts)


def _is_motif(sequence: str, start: int) -> bool:
    motif = sequence[start : start + 3]
    return len(motif) == 3 and motif[0] == "N" and motif[1] != "P" and motif[2] in "ST"


def unpairs_cysteine(parent: str, mutant: Mutant) -> bool:
    """Whether the mutant has an odd number of cysteines after a change of one, or lost the one at IMGT 23 or 104."""
    old, new = mutant.place.residue, mutant.residue
    if "C" not in (old, new):
        return False
    own = old == "C" and mutant.place.imgt in CYSTEINES
    return own or mutant.of(parent).count("C") % 2 == 1
