"""Which heads a run is to give values of, and what their columns are called: decided once, before a model is opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from abonyx.arrays import Float32Array
from abonyx.bundle.band import Word
from abonyx.bundle.bundle import Bundle
from abonyx.bundle.heads import record_chains
from abonyx.bundle.manifest import LOGISTIC, HeadSpec
from abonyx.bundle.threshold import CALL, CALLED, CallRule, choose_calls, own_rule
from abonyx.errors import ConfigError, first_line, printable
from abonyx.wording import option

if TYPE_CHECKING:
    Cells = Float32Array | list[Literal[0, 1] | None] | list[Word | None]

P = "p_nonspecific"
ALL = "all"
# What a column holds: float32; 1, 0 and None; or a word of band.CALL_WORDS and None.
ColumnKind = Literal["float", "call", "word"]


@dataclass(frozen=True)
class ChosenHead:
    """A head whose values are wanted.

    Attributes:
        first: whether it is the bundle's first, whose columns have no name of a head if it is logistic.
        rule: of its calls; None = it makes none.
        numbers: whether it has a column of 0 and 1; without it, it has calls in words only if it has stored quantiles.
    """

    spec: HeadSpec
    first: bool
    rule: CallRule | None
    numbers: bool = True

    @property
    def kinds(self) -> dict[str, ColumnKind]:
        """Its columns, by name."""
        name = self.spec.name
        if self.rule is None:
            return {f"{name}_value": "float"}
        columns = (P, CALLED, CALL) if self.first else (f"{name}_p", f"{name}_{CALLED}", f"{name}_{CALL}")
        kinds: dict[str, ColumnKind] = dict(zip(columns, ("float", "call", "word"), strict=True))
        left_out = {} if self.numbers else {columns[1], *([columns[2]] if self.rule.band is None else [])}
        return {column: kind for column, kind in kinds.items() if column not in left_out}

    def cells(self, values: Float32Array, trusted: Sequence[bool]) -> dict[str, Cells]:
        """Its columns of n rows: the values (n,), and the calls of those to be trusted."""
        rule = self.rule
        found: dict[str, Cells] = {}
        for column, kind in self.kinds.items():
            if kind == "float" or rule is None:
                found[column] = values
            else:
                found[column] = rule.numbers(values, trusted) if kind == "call" else rule.words(values, trusted)
        return found


@dataclass(frozen=True)
class ChosenHeads:
    """The heads of a run, in the order of their columns. Make it with choose_heads."""

    heads: tuple[ChosenHead, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Their names; values come with a column for each, in this order."""
        return tuple(head.spec.name for head in self.heads)

    @property
    def chains(self) -> tuple[str, ...]:
        """The chains that a record needs for these heads: one, or both."""
        return record_chains([head.spec for head in self.heads])

    @property
    def first(self) -> ChosenHead | None:
        """The bundle's first head, if it is among them."""
        return next((head for head in self.heads if head.first), None)

    @property
    def others(self) -> tuple[ChosenHead, ...]:
        """All but the bundle's first."""
        return tuple(head for head in self.heads if not head.first)

    @property
    def of_columns(self) -> tuple[ChosenHead, ...]:
        """All of them, in the order of their columns."""
        return (*([self.first] if self.first else []), *self.others)

    @property
    def rule(self) -> CallRule | None:
        """Of the first head's calls; None if there are none."""
        return None if self.first is None else self.first.rule

    @property
    def leading(self) -> dict[str, ColumnKind]:
        """Columns that stand before `flag`: the first head's."""
        return {} if self.first is None else self.first.kinds

    @property
    def following(self) -> dict[str, ColumnKind]:
        """Columns that stand behind `flag`: the other heads'."""
        return {name: kind for head in self.others for name, kind in head.kinds.items()}

    @property
    def kinds(self) -> dict[str, ColumnKind]:
        """All columns."""
        return self.leading | self.following

    def cells(self, values: Float32Array, trusted: Sequence[bool]) -> dict[str, Cells]:
        """All columns of n rows by name. values: (n, len(names)), column i of names[i]."""
        found: dict[str, Cells] = {}
        for head, column in zip(self.heads, values.T, strict=True):
            found |= head.cells(column, trusted)
        return found

    def without_numbers(self) -> ChosenHeads:
        """The same heads, without columns of 0 and 1."""
        return ChosenHeads(tuple(replace(head, numbers=False) for head in self.heads))

    def facts(self) -> dict[str, str | float | None]:
        """What results depend on, for a journal."""
        calls: dict[str, str | float | None] = {"threshold": None} if self.rule is None else self.rule.facts()
        return calls | {"--heads": None if self._is_usual() else ", ".join(self.names)}

    def metadata(self) -> dict[str, str]:
        """What a result file says of them: nothing new of the first alone."""
        stated = {} if self.rule is None else self.rule.metadata()
        if self._is_usual():
            return stated
        for head in self.heads:
            unit = head.spec.unit or "probability"
            direction = "higher is worse" if head.spec.higher_is_worse else "lower is worse"
            calls = "" if head.rule is None else ", " + "; ".join(head.rule.metadata().values())
            stated[f"head.{head.spec.name}"] = f"{unit}, {direction}{calls}"
        return stated

    def summary(self, assay: str | None = None) -> str:
        """The end of a command's last line."""
        used = [] if self.rule is None else [self.rule.summary(assay)]
        if not self._is_usual():
            used.append(f"heads {', '.join(self.names)}")
        return "; ".join(used)

    def _is_usual(self) -> bool:
        return len(self.heads) == 1 and self.first is not None and self.first.spec.kind == LOGISTIC


def choose_heads(
    bundle: Bundle, names: Sequence[str] | str | None, assay: str | None = None, threshold: float | None = None
) -> ChosenHeads:
    """The heads of a run.

    Args:
        names: of the bundle's heads, "all", or None = the first one.
        assay, threshold: of the first head's calls; see choose_threshold. Other heads have their own default.

    Raises:
        BundleError: the bundle has no head yet.
        ConfigError: a name that no head has, or twice; an assay or a threshold for a head that is not among them or
            makes no calls; see choose_threshold.
    """
    bundle.refuse_placeholder()
    known = {head.name: head for head in bundle.manifest.heads}
    wanted = _names(names, bundle)
    first = bundle.manifest.head
    given = next((name for name, value in (("assay", assay), ("threshold", threshold)) if value is not None), None)
    if given and (first.name not in wanted or first.kind != LOGISTIC):
        kind = "is not among the heads" if first.name not in wanted else f"gives a value in {first.unit}"
        what = f"{option(given)} is of the first head of {bundle.name}, {first.name}, which {kind}"
        raise ConfigError(what, "Leave it out: every other head has a threshold of its own, or makes no calls.")
    chosen = []
    for name in wanted:
        head = known[name]
        rule = own_rule(head)
        if head is first and rule is not None:
            rule = choose_calls(bundle, assay, threshold)
        chosen.append(ChosenHead(head, head is first, rule))
    return ChosenHeads(tuple(chosen))


def _names(names: Sequence[str] | str | None, bundle: Bundle) -> list[str]:
    known = [head.name for head in bundle.manifest.heads]
    if names is None:
        return known[:1]
    if names == ALL or list(names) == [ALL]:
        return known
    wanted = [names] if isinstance(names, str) else list(names)
    for at, name in enumerate(wanted):
        if name not in known:
            shown = printable(name) if isinstance(name, str) else first_line(repr(name))
            what = f"{option('heads')}: {bundle.name} has no head {shown!r}"
            raise ConfigError(what, f"It has: {', '.join(known)}; or give {ALL}.")
        if name in wanted[:at]:
            raise ConfigError(f"{option('heads')}: {name} is named twice", "Name each head once.")
    if not wanted:
        raise ConfigError(f"{option('heads')} names none", f"{bundle.name} has: {', '.join(known)}; or give {ALL}.")
    return wanted
