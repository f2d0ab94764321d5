"""Which positions of a parent a scan changes: cdr, framework, all, or a list of IMGT positions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from abonyx.errors import ConfigError, first_line, printable
from abonyx.explain.places import CDRS, REGIONS, Place, region_of
from abonyx.wording import option

CDR, FRAMEWORK, ALL = "cdr", "framework", "all"
_ITEM = re.compile("([0-9]{1,3}[A-Z]?)(?:-([0-9]{1,3}))?")
_FIX = "Give cdr, framework, all, or IMGT positions and ranges of them, such as 27,57,105-117,111A."


def positions_text(positions: object) -> str:
    """The option in the one spelling that choose_places accepts.

    Args:
        positions: a text, or texts and numbers.

    Raises:
        ConfigError: another type, or a text that is not a list of positions.
    """
    if isinstance(positions, str):
        text = positions.strip()
    elif isinstance(positions, Iterable):
        text = ",".join(str(position).strip() for position in positions)
    elif positions is None:
        raise ConfigError(f"{option('positions')} is None, not positions", _FIX)
    else:
        text = str(positions)
    if text.lower() in (CDR, FRAMEWORK, ALL):
        return text.lower()
    items = [re.sub(r"\s*-\s*", "-", item.strip()).upper() for item in text.split(",")]
    for item in items:
        found = _ITEM.fullmatch(item)
        if found is None or (found[2] and not found[1].isdigit()):
            raise ConfigError(f"{option('positions')}: {printable(item)!r} is not an IMGT position", _FIX)
        if not region_of(found[1]) or (found[2] and not region_of(found[2])):
            what = f"{option('positions')}: {printable(item)} lies outside a domain"
            raise ConfigError(what, f"IMGT positions of a domain run from 1 to {REGIONS['FR4'][1]}.")
        if found[2] and int(found[2]) < int(found[1]):
            raise ConfigError(f"{option('positions')}: {item} runs backwards", f"Give {found[2]}-{found[1]}.")
    return ",".join(items)


def choose_places(places: Sequence[Place], positions: str, name: str) -> list[Place]:
    """The places to change, in the order of the sequence.

    Args:
        places: of every residue.
        positions: of positions_text.
        name: of the parent, for messages.

    Raises:
        ConfigError: the parent has no domain, or no residue at a position that is named.
    """
    if positions == ALL:
        return list(places)
    if not any(place.imgt for place in places):
        what = f"{name}: no antibody domain was found, so it has no IMGT positions; {option('positions')} is "
        raise ConfigError(f"{what}{first_line(positions)}", f"Give {option('positions')} all, or another sequence.")
    if positions in (CDR, FRAMEWORK):
        return [place for place in places if place.region and (place.region in CDRS) == (positions == CDR)]
    wanted = {place.index for item in positions.split(",") for place in _named(places, item, name)}
    return [place for place in places if place.index in wanted]


def _named(places: Sequence[Place], item: str, name: str) -> list[Place]:
    """The places that one item of a list names."""
    first, _, last = item.partition("-")
    if last:
        found = [place for place in places if place.imgt and int(first) <= _number(place.imgt) <= int(last)]
    else:
        found = [place for place in places if place.imgt == first]
    if not found:
        region = region_of(first)
        there = [place.imgt for place in places if place.region == region]
        what = f"{option('positions')} {item}: {name} has no residue there"
        raise ConfigError(what, f"Its {region} has {', '.join(there) or 'no residue'}.")
    return found


def _number(imgt: str) -> int:
    """An IMGT position without the letter of an insertion."""
    return int(imgt.rstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
