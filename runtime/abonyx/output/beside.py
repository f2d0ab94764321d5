"""Columns on request that say what the scored domain is, whatever a head makes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from abonyx.arrays import Float64Array
from abonyx.bundle.chosen import ColumnKind
from abonyx.card.charge import isoelectric_point, net_charge
from abonyx.domain import Check, Judgement
from abonyx.domain.numbering import imgt_positions
from abonyx.errors import ConfigError, first_line
from abonyx.wording import option

# Decimals of charge and pI: the constants they are computed from have one.
DECIMALS = 2
# IMGT positions on both sides of CDR3.
_BEFORE_CDR3, _AFTER_CDR3 = 104, 118

Cells = list[float | int | str | None]


def _rounded(values: Callable[[Sequence[str]], Float64Array]) -> Callable[[Sequence[str]], Cells]:
    # + 0.0: a charge of -0.001 is shown as 0.0, not as -0.0
    return lambda domains: [round(value, DECIMALS) + 0.0 for value in values(domains).tolist()]


def _lengths(domains: Sequence[str]) -> Cells:
    return [len(domain) for domain in domains]


def _cdr3s(domains: Sequence[str]) -> Cells:
    return [_cdr3(domain) for domain in domains]


# What a name gives of whole domains; those without a domain are left out before.
_OF_DOMAINS: dict[str, Callable[[Sequence[str]], Cells]] = {
    "charge": _rounded(net_charge),
    "pI": _rounded(isoelectric_point),
    "length": _lengths,
    "cdr3": _cdr3s,
}
# Not of the domain: columns of heads that give values.
INTERVAL = "interval"
COLUMN_KINDS: dict[str, ColumnKind] = {"charge": "number", "pI": "number", "length": "count", "cdr3": "word"}


def refuse_columns(names: object, check: Check) -> tuple[str, ...]:
    """The names of columns on request, as a tuple.

    Args:
        names: a list of keys of COLUMN_KINDS and INTERVAL, or one of them; None = none.
        check: what happens to records that the head was not trained on.

    Raises:
        ConfigError: an unknown name, a name twice, or records whose domain is not looked for.
    """
    wanted = () if names is None else (names,) if isinstance(names, str) else names
    names_known = (*COLUMN_KINDS, INTERVAL)
    known = ", ".join(names_known)
    if not isinstance(wanted, list | tuple):
        raise ConfigError(f"{option('with_columns')} is {first_line(repr(names))}", f"Give names of: {known}.")
    for at, name in enumerate(wanted):
        if name not in names_known:
            raise ConfigError(f"{option('with_columns')}: no column {first_line(repr(name))}", f"There are: {known}.")
        if name in wanted[:at]:
            raise ConfigError(f"{option('with_columns')}: {name} is named twice", "Name each column once.")
    of_domain = [name for name in wanted if name != INTERVAL]
    if of_domain and check == "off":
        what = f"{option('with_columns')} {', '.join(of_domain)} with {option('domain')} off"
        raise ConfigError(f"{what}: nothing looks for the domain that they describe", "Leave one of them out.")
    return tuple(wanted)


def column_kinds(names: Sequence[str]) -> dict[str, ColumnKind]:
    """The columns of these names, in their order; INTERVAL is of heads."""
    return {name: COLUMN_KINDS[name] for name in names if name != INTERVAL}


def column_cells(names: Sequence[str], sequences: Sequence[str], judgements: Sequence[Judgement]) -> dict[str, Cells]:
    """The columns of n records by name; None for a record without a single domain, which is flagged.

    Args:
        names: as refuse_columns gives them.
        sequences: n cleaned sequences, as scored.
        judgements: of these.
    """
    domains = [
        "" if judgement.start is None else sequence[judgement.start : judgement.end]
        for sequence, judgement in zip(sequences, judgements, strict=True)
    ]
    once = list(dict.fromkeys(domain for domain in domains if domain))
    found: dict[str, Cells] = {}
    for name in column_kinds(names):
        of_domain = dict(zip(once, _OF_DOMAINS[name](once), strict=True))
        found[name] = [of_domain.get(domain) for domain in domains]
    return found


def _cdr3(domain: str) -> str | None:
    """Residues at IMGT 105 to 117; None unless a residue stands on both sides: a fragment's would be cut."""
    positions = imgt_positions(domain)
    if str(_BEFORE_CDR3) not in positions or str(_AFTER_CDR3) not in positions:
        return None
    # "111A" is an insertion behind 111.
    numbered = ((int(position.rstrip("ABCDEFGHIJ")), residue) for position, residue in positions.items())
    return "".join(residue for number, residue in numbered if _BEFORE_CDR3 < number < _AFTER_CDR3)
