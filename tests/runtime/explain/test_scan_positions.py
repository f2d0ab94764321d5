"""The positions to change: words, lists, and refusals."""

from __future__ import annotations

import pytest

from abonyx.errors import ConfigError
from abonyx.explain.places import CDRS, places
from abonyx.explain.scan_positions import choose_places, positions_text

from ..domain.proteins import GFP, NANOBODY, VH

VH_PLACES = places(VH)


def chosen(positions: object) -> list[str]:
    return [place.imgt for place in choose_places(VH_PLACES, positions_text(positions), "VH")]


def test_words() -> None:
    cdr, framework = chosen("cdr"), chosen(" Framework ")
    assert len(cdr) == 29 and len(chosen("all")) == len(VH)
    assert sorted([*cdr, *framework]) == sorted(chosen("all"))
    assert {place.region for place in VH_PLACES if place.imgt in cdr} == set(CDRS)


def test_lists() -> None:
    assert chosen("57, 27,27") == ["27", "57"]  # in the sequence's order, each once
    assert chosen([27, "57"]) == ["27", "57"]
    assert chosen(27) == ["27"]
    assert chosen("29-36") == ["29", "30", "35", "36"]
    nanobody = places(NANOBODY)
    inserted = next(place.imgt for place in nanobody if not place.imgt.isdigit())
    found = choose_places(nanobody, positions_text(inserted.lower()), "nanobody")
    assert [place.imgt for place in found] == [inserted]
    assert inserted in [place.imgt for place in choose_places(nanobody, "105-117", "nanobody")]


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ("", "'' is not an IMGT position"),
        ([], "'' is not an IMGT position"),
        ("cdr1", "'CDR1' is not an IMGT position"),
        ("27,,28", "'' is not an IMGT position"),
        ("27-", "'27-' is not an IMGT position"),
        ("111A-113", "'111A-113' is not an IMGT position"),
        ("0", "0 lies outside a domain\nIMGT positions of a domain run from 1 to 128"),
        ("120-129", "120-129 lies outside a domain"),
        ("117-105", "117-105 runs backwards\nGive 105-117"),
        (None, "is None, not positions"),
    ],
)
def test_a_bad_list_is_refused(positions: object, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        positions_text(positions)
    between = " " if positions is None else ": "
    assert f"positions{between}{message}" in str(refused.value)


def test_a_position_that_the_parent_lacks_is_refused() -> None:
    with pytest.raises(ConfigError) as refused:
        chosen("27,33")
    assert "positions 33: VH has no residue there\nIts CDR1 has 27, 28, 29, 30, 35, 36, 37, 38." in str(refused.value)


@pytest.mark.parametrize("positions", ["cdr", "framework", "27"])
def test_without_a_domain_only_all_positions_can_be_named(positions: str) -> None:
    with pytest.raises(ConfigError, match=f"GFP: no antibody domain was found.*is {positions}"):
        choose_places(places(GFP), positions, "GFP")
    assert len(choose_places(places(GFP), "all", "GFP")) == len(GFP)
