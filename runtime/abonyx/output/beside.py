"""Columns on request that describe the scored domain, e.g. its charge. They do not depend on a head's scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

from abonyx.arrays import Float64Array
from abonyx.bundle.chosen import INTERVAL, NEAREST, ChosenHead, ChosenHeads, ColumnKind
from abonyx.card.charge import isoelectric_point, net_charge
from abonyx.card.identity import identity_with
from abonyx.domain import Check, Judgement
from abonyx.domain.numbering import imgt_positions
from abonyx.errors import ConfigError, first_line
from abonyx.wording import option

# Decimals of charge and pI. The constants for them have only one decimal.
DECIMALS = 2
# IMGT positions on both sides of CDR3.
_BEFORE_CDR3, _AFTER_CDR3 = 104, 118

Cells = list[float | int | str | None]


def _rounded(values: Callable[[Sequence[str]], Float64Array]) -> Callable[[Sequence[str]], Cells]:
    # + 0.0 turns -0.0 into 0.0, e.g. for a charge of -0.001
    return lambda domains: [round(value, DECIMALS) + 0.0 for value in values(domains).tolist()]


def _lengths(domains: Sequence[str]) -> Cells:
    return [len(domain) for domain in domains]


def _cdr3s(domains: Sequence[str]) -> Cells:
    return [_cdr3(domain) for domain in domains]


# Name of a column -> the function that gives its cells for whole domains.
_OF_DOMAINS: dict[str, Callable[[Sequence[str]], Cells]] = {
    "charge": _rounded(net_charge),
    "pI": _rounded(isoelectric_point),
    "length": _lengths,
    "cdr3": _cdr3s,
}
COLUMN_KINDS: dict[str, ColumnKind] = {"charge": "number", "pI": "number", "length": "count", "cdr3": "word"}


def refuse_columns(names: object, check: Check) -> tuple[str, ...]:
    """Check the names of columns on request, and return them as a tuple.

    Args:
        names: a list with keys of COLUMN_KINDS, NEAREST or INTERVAL, or one such name; None = no columns.
        check: the check of records unlike the head's training set.

    Raises:
        ConfigError: a name is unknown or is given twice, or a column needs the domain and the check is off.
    """
    wanted = () if names is None else (names,) if isinstance(names, str) else names
    names_known = (*COLUMN_KINDS, NEAREST, INTERVAL)
    known = ", ".join(names_known)
    if not isinstance(wanted, list | tuple):
        raise ConfigError(f"{option('with_columns')} is {first_line(repr(names))}", f"Give names of: {known}.")
    for at, name in enumerate(wanted):
        if name not in names_known:
            raise ConfigError(
                f"{option('with_columns')}: no column {first_line(repr(name))}", f"Give names of: {known}."
            )
        if name in wanted[:at]:
            raise ConfigError(f"{option('with_columns')}: {name} is given twice", "Name each column once.")
    of_domain = [name for name in wanted if name != INTERVAL]
    if of_domain and check == "off":
        what = f"{option('with_columns')} {', '.join(of_domain)} with {option('domain')} off"
        fix = f"Leave out these columns, or {option('domain')} off."
        raise ConfigError(f"{what}: these columns need the domain, which is not looked for", fix)
    return tuple(wanted)


def refuse_pair_columns(names: Sequence[str], chains: Sequence[str]) -> None:
    """Raise a ConfigError if columns that describe one domain are requested for pairs.

    Args:
        names: names of columns, from refuse_columns.
        chains: the chains that a record needs.
    """
    of_domain = [name for name in names if name != INTERVAL]
    if of_domain and len(chains) > 1:
        what = f"{option('with_columns')} {', '.join(of_domain)}: describes one domain, but the heads need both chains"
        raise ConfigError(what, "Leave it out, or choose heads of one chain.")


def column_kinds(names: Sequence[str], heads: ChosenHeads) -> dict[str, ColumnKind]:
    """Name -> kind of the columns on request, in order. NEAREST gives one for each head.

    INTERVAL gives none here, because its columns belong to the heads.
    """
    kinds: dict[str, ColumnKind] = {}
    for name in names:
        if name == NEAREST:
            kinds |= {_nearest_column(head): "number" for head in heads.of_columns}
        elif name != INTERVAL:
            kinds[name] = COLUMN_KINDS[name]
    return kinds


def column_cells(
    names: Sequence[str], sequences: Sequence[str], judgements: Sequence[Judgement], heads: ChosenHeads
) -> dict[str, Cells]:
    """The cells of columns on request, by name. A cell is None if a record has no domain, or several.

    Args:
        names: names of columns, from refuse_columns.
        sequences: the n cleaned sequences that were scored.
        judgements: their n judgements.
        heads: the heads, with their training sequences if `names` contains NEAREST.
    """
    domains = [
        "" if judgement.start is None else sequence[judgement.start : judgement.end]
        for sequence, judgement in zip(sequences, judgements, strict=True)
    ]
    once = list(dict.fromkeys(domain for domain in domains if domain))
    found: dict[str, Cells] = {}
    for name in names:
        columns = {name: _OF_DOMAINS[name]} if name in _OF_DOMAINS else {}
        if name == NEAREST:
            columns = {_nearest_column(head): _nearest(head.training) for head in heads.of_columns}
        for column, cells in columns.items():
            of_domain = dict(zip(once, cells(once), strict=True))
            found[column] = [of_domain.get(domain) for domain in domains]
    return found


def _nearest_column(head: ChosenHead) -> str:
    return NEAREST if head.first else f"{head.spec.name}_{NEAREST}"


def _nearest(training: tuple[str, ...]) -> Callable[[Sequence[str]], Cells]:
    """A function that gives the identity of domains with the nearest training sequence, in percent."""

    def cells(domains: Sequence[str]) -> Cells:
        if not domains:
            return []
        best = identity_with([imgt_positions(domain) for domain in domains], _numbered(training)).max(axis=1)
        same = set(training)  # needed because identity_with counts X as different from everything, even from X
        return [
            100.0 if domain in same else round(float(percent), 1) for domain, percent in zip(domains, best, strict=True)
        ]

    return cells


@lru_cache(maxsize=16)
def _numbered(training: tuple[str, ...]) -> list[dict[str, str]]:
    return [imgt_positions(sequence) for sequence in training]


def _cdr3(domain: str) -> str | None:
    """Residues at IMGT positions 105 to 117; None if 104 or 118 is missing, because CDR3 may then be cut."""
    positions = imgt_positions(domain)
    if str(_BEFORE_CDR3) not in positions or str(_AFTER_CDR3) not in positions:
        return None
    # "111A" is an insertion after 111.
    numbered = ((int(position.rstrip("ABCDEFGHIJ")), residue) for position, residue in positions.items())
    return "".join(residue for number, residue in numbered if _BEFORE_CDR3 < number < _AFTER_CDR3)
