"""Columns on request that say what the scored domain is, whatever a head makes of it."""

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
COLUMN_KINDS: dict[str, ColumnKind] = {"charge": "number", "pI": "number", "length": "count", "cdr3": "word"}


def refuse_columns(names: object, check: Check) -> tuple[str, ...]:
    """The names of columns on request, as a tuple.

    Args:
        names: a list of keys of COLUMN_KINDS, NEAREST and INTERVAL, or one of them; None = none.
        check: what happens to records that the head was not trained on.

    Raises:
        ConfigError: an unknown name, a name twice, or records whose domain is not looked for.
    """
    wanted = () if names is None else (names,) if isinstance(names, str) else names
    names_known = (*COLUMN_KINDS, NEAREST, INTERVAL)
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


def refuse_pair_columns(names: Sequence[str], chains: Sequence[str]) -> None:
    """Raise a ConfigError if columns of one domain are asked for beside the scores of pairs.

    Args:
        names: as refuse_columns gives them. chains: that a record needs.
    """
    of_domain = [name for name in names if name != INTERVAL]
    if of_domain and len(chains) > 1:
        what = f"{option('with_columns')} {', '.join(of_domain)}: is of one domain, and these heads need both chains"
        raise ConfigError(what, "Leave it out, or choose heads of one chain.")


def column_kinds(names: Sequence[str], heads: ChosenHeads) -> dict[str, ColumnKind]:
    """The columns of these names, in their order. NEAREST has one a head; INTERVAL is part of the heads' own."""
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
    """The columns of n records by name; None for a record without a single domain, which is flagged.

    Args:
        names: as refuse_columns gives them.
        sequences: n cleaned sequences, as scored.
        judgements: of these.
        heads: with their training sequences, if NEAREST is among the names.
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
    """The identity of domains with the nearest of some training sequences, in percent."""

    def cells(domains: Sequence[str]) -> Cells:
        if not domains:
            return []
        best = identity_with([imgt_positions(domain) for domain in domains], _numbered(training)).max(axis=1)
        same = set(training)  # an X equals nothing, not even itself
        return [
            100.0 if domain in same else round(float(percent), 1) for domain, percent in zip(domains, best, strict=True)
        ]

    return cells


@lru_cache(maxsize=16)
def _numbered(training: tuple[str, ...]) -> list[dict[str, str]]:
    return [imgt_positions(sequence) for sequence in training]


def _cdr3(domain: str) -> str | None:
    """Residues at IMGT 105 to 117; None unless a residue stands on both sides: a fragment's would be cut."""
    positions = imgt_positions(domain)
    if str(_BEFORE_CDR3) not in positions or str(_AFTER_CDR3) not in positions:
        return None
    # "111A" is an insertion behind 111.
    numbered = ((int(position.rstrip("ABCDEFGHIJ")), residue) for position, residue in positions.items())
    return "".join(residue for number, residue in numbered if _BEFORE_CDR3 < number < _AFTER_CDR3)
