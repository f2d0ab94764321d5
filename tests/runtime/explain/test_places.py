"""Places of residues: number and region, inside and outside the domain."""

from __future__ import annotations

import pytest

from abonyx.domain.numbering import numbered_domain
from abonyx.explain.places import REGIONS, places, region_of

from ..domain.proteins import GFP, KAPPA, NANOBODY, VH


@pytest.mark.parametrize("sequence", [VH, KAPPA])
def test_each_residue_has_a_place(sequence: str) -> None:
    found = places(sequence)
    assert [place.index for place in found] == list(range(len(sequence)))
    assert "".join(place.residue for place in found) == sequence
    assert {place.residue for place in found if place.imgt in ("23", "104")} == {"C"}
    assert list(dict.fromkeys(place.region for place in found)) == list(REGIONS)


def test_residues_around_the_domain_have_no_number() -> None:
    found = places("MKT" + VH)
    assert [place.imgt for place in found[:4]] == ["", "", "", "1"]
    assert [place.region for place in found[:4]] == ["", "", "", "FR1"]
    assert found[3].residue == VH[0] and numbered_domain("MKT" + VH)[0] == 3


def test_an_insertion_is_of_its_region() -> None:
    inserted = [place for place in places(NANOBODY) if not place.imgt.isdigit()]
    assert inserted and {place.region for place in inserted} == {"CDR3"}
    assert region_of("111A") == "CDR3"


def test_what_has_no_domain_has_no_numbers() -> None:
    assert {(place.imgt, place.region) for place in places(GFP)} == {("", "")}
    assert places("") == [] and numbered_domain(GFP) == (0, {})


@pytest.mark.parametrize("region", REGIONS)
def test_regions(region: str) -> None:
    first, last = REGIONS[region]
    assert region_of(str(first)) == region_of(str(last)) == region
    assert region_of(str(last + 1)) != region and region_of(str(first - 1)) != region


@pytest.mark.parametrize("imgt", ["0", "129", "", "A", "-1"])
def test_what_is_no_position_is_of_no_region(imgt: str) -> None:
    assert region_of(imgt) == ""
