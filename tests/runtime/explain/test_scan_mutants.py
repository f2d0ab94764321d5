"""Facts about a mutant that need no model: motifs, cysteines, conserved positions."""

from __future__ import annotations

import pytest

from abonyx.errors import ConfigError
from abonyx.explain.places import Place, places
from abonyx.explain.scan_mutants import (
    AMINO_ACIDS,
    Mutant,
    count_mutants,
    excluded_residues,
    makes_glycosylation_motif,
    mutants_of,
    unpairs_cysteine,
)

from ..domain.proteins import VH


def mutant(parent: str, index: int, residue: str, imgt: str = "") -> Mutant:
    return Mutant(Place(index, parent[index], imgt, ""), residue)


def at(imgt: str) -> Place:
    return next(place for place in places(VH) if place.imgt == imgt)


def test_every_other_residue_once() -> None:
    found = mutants_of(places(VH), "")
    assert len(found) == len({each.of(VH) for each in found}) == 19 * len(VH) == 2280
    assert VH not in {each.of(VH) for each in found}
    odd = [*places(VH), Place(0, "X", "", "")]
    assert [count_mutants(odd, left) for left in ("", "CM")] == [len(mutants_of(odd, left)) for left in ("", "CM")]
    assert "C" not in {each.residue for each in mutants_of(places(VH), "CM")}
    assert [each.residue for each in mutants_of([at("27")], "")] == sorted(set(AMINO_ACIDS) - {"G"})


def test_excluded_residues() -> None:
    assert excluded_residues("m, C") == excluded_residues(["C", "M"]) == "CM"
    assert excluded_residues(()) == excluded_residues("") == ""
    for bad in ("X", "CM", ["B"], "C;M", [1]):
        with pytest.raises(ConfigError, match=r"exclude: .* is not one of the 20 residues"):
            excluded_residues(bad)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="exclude names all 20 residues"):
        excluded_residues(list(AMINO_ACIDS))


@pytest.mark.parametrize(
    ("parent", "index", "residue", "expected"),
    [
        ("AAGSA", 1, "N", True),  # N G S
        ("AAGTA", 1, "N", True),
        ("AAPSA", 1, "N", False),  # P in the middle
        ("ANPSA", 2, "G", True),  # P goes
        ("ANGAA", 3, "S", True),
        ("ANGSA", 3, "T", False),  # the motif was there
        ("ANGSA", 2, "A", False),
        ("ANGSA", 3, "A", False),  # it goes
        ("ANNSA", 1, "A", False),
        ("AAGNA", 4, "N", False),  # at the end: no third residue
        ("GSA", 0, "N", False),
        ("AGSA", 0, "N", True),  # at the start
    ],
)
def test_glycosylation_motifs(parent: str, index: int, residue: str, expected: bool) -> None:
    assert makes_glycosylation_motif(parent, mutant(parent, index, residue)) is expected


def test_unpaired_cysteines() -> None:
    assert VH.count("C") == 2
    assert unpairs_cysteine(VH, Mutant(at("27"), "C"))
    assert unpairs_cysteine(VH, Mutant(at("104"), "S")) and unpairs_cysteine(VH, Mutant(at("23"), "S"))
    assert not unpairs_cysteine(VH, Mutant(at("27"), "S"))
    assert not unpairs_cysteine("CAC", mutant("CAC", 1, "D"))
    odd = "CACAC"  # a third cysteine: another one may pair with it, and removing it leaves pairs
    assert not unpairs_cysteine(odd, mutant(odd, 1, "C"))
    assert not unpairs_cysteine(odd, mutant(odd, 4, "A"))
    assert unpairs_cysteine(odd, mutant(odd, 4, "A", imgt="104"))  # but the domain's own is no third one


def test_conserved_positions() -> None:
    conserved = {place.imgt for place in places(VH) if Mutant(place, "A").is_conserved}
    assert conserved == {"23", "41", "89", "104", "118"}
