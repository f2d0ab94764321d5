"""Which heads a run is to give values of, and what their columns are called: decided once, before a model is opened."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from abonyx.arrays import Float32Array
from abonyx.bundle.band import ValueBand, Word
from abonyx.bundle.bundle import Bundle
from abonyx.bundle.heads import PAIR, record_chains
from abonyx.bundle.manifest import LOGISTIC, HeadSpec
from abonyx.bundle.panel import PERCENTILE, HeadPanel, Panel
from abonyx.bundle.panel_choice import choose_panel
from abonyx.bundle.threshold import CALL, CALLED, CallRule, choose_calls, own_rule
from abonyx.bundle.training_rows import training_sequences
from abonyx.config import RuntimeConfig
from abonyx.errors import ConfigError, first_line, printable
from abonyx.wording import option

if TYPE_CHECKING:
    Cells = Float32Array | list[Literal[0, 1] | None] | list[Word | None] | list[str | None] | list[float | None]

P = "p_nonspecific"
# Columns on request that are of heads.
INTERVAL, NEAREST = "interval", "nearest_identity"
ALL = "all"
# What a column holds: float32; 1, 0 and None; a text and None; a number of few decimals and None; a count and None.
ColumnKind = Literal["float", "call", "word", "number", "count"]


@dataclass(frozen=True)
class ChosenHead:
    """A head whose values are wanted.

    Attributes:
        first: whether it is the bundle's first, whose columns have no name of a head if it is logistic.
        rule: of its calls; None = it makes none.
        panel: whose percentiles its values are given in; None = the column is empty.
        interval: around its values, if columns for its ends were asked for.
        training: its training sequences, if the nearest one was asked for.
        numbers: whether it has a column of 0 and 1; without it, it has calls in words only if it has stored quantiles.
    """

    spec: HeadSpec
    first: bool
    rule: CallRule | None
    panel: HeadPanel | None = None
    interval: ValueBand | None = None
    training: tuple[str, ...] = ()
    numbers: bool = True

    @property
    def kinds(self) -> dict[str, ColumnKind]:
        """Its columns, by name."""
        name = self.spec.name
        if self.rule is None:
            ends: dict[str, ColumnKind] = {} if self.interval is None else dict.fromkeys(self._ends, "number")
            value: dict[str, ColumnKind] = {f"{name}_value": "float", f"{name}_{PERCENTILE}": "word"}
            return value | ends
        usual = (P, CALLED, CALL, PERCENTILE)
        columns = usual if self.first else (f"{name}_p", *(f"{name}_{column}" for column in usual[1:]))
        kinds: dict[str, ColumnKind] = dict(zip(columns, ("float", "call", "word", "word"), strict=True))
        left_out = {} if self.numbers else {columns[1], *([columns[2]] if self.rule.band is None else [])}
        return {column: kind for column, kind in kinds.items() if column not in left_out}

    def cells(self, values: Float32Array, trusted: Sequence[bool], sequences: Sequence[str]) -> dict[str, Cells]:
        """Its columns of n rows: the values (n,), and calls and percentiles of those to be trusted.

        Args:
            sequences: n, that were scored; of pairs both chains in one text, as Input.records has them.
        """
        rule = self.rule
        found: dict[str, Cells] = {}
        for column, kind in self.kinds.items():
            if kind == "float":
                found[column] = values
            elif column.endswith(PERCENTILE):
                found[column] = self._percentiles(values, trusted, sequences)
            elif rule is not None:
                found[column] = rule.numbers(values, trusted) if kind == "call" else rule.words(values, trusted)
        if self.interval is not None:
            found |= dict(zip(self._ends, self.interval.ends(values, trusted), strict=True))
        return found

    @property
    def _ends(self) -> tuple[str, str]:
        return f"{self.spec.name}_low", f"{self.spec.name}_high"

    def _percentiles(self, values: Float32Array, trusted: Sequence[bool], sequences: Sequence[str]) -> list[str | None]:
        nothing: list[str | None] = [None] * len(values)
        if self.panel is None:
            return nothing
        if len(self.spec.chains) == 1:  # of a pair it scores one chain, and a panel knows that one
            at = PAIR.index(self.spec.chains[0])
            sequences = [each.split("|")[at] if "|" in each else each for each in sequences]
        return self.panel.cells(values, trusted, sequences)


@dataclass(frozen=True)
class ChosenHeads:
    """The heads of a run, in the order of their columns. Make it with choose_heads.

    Attributes:
        panel: whose percentiles values are given in; None = none are given.
        percentiles: which panel that is, or why there is none; "" = no config was given.
    """

    heads: tuple[ChosenHead, ...]
    panel: Panel | None = None
    percentiles: str = ""

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

    def cells(self, values: Float32Array, trusted: Sequence[bool], sequences: Sequence[str]) -> dict[str, Cells]:
        """All columns of n rows by name. values: (n, len(names)), column i of names[i]; others as of one head."""
        found: dict[str, Cells] = {}
        for head, column in zip(self.heads, values.T, strict=True):
            found |= head.cells(column, trusted, sequences)
        return found

    def without_numbers(self) -> ChosenHeads:
        """The same heads, without columns of 0 and 1."""
        return replace(self, heads=tuple(replace(head, numbers=False) for head in self.heads))

    def facts(self) -> dict[str, str | float | None]:
        """What results depend on, for a journal."""
        calls: dict[str, str | float | None] = {"threshold": None} if self.rule is None else self.rule.facts()
        panel = None if self.panel is None else self.panel.name
        return calls | {"--heads": None if self._is_usual() else ", ".join(self.names), "--panel": panel}

    def metadata(self) -> dict[str, str]:
        """What a result file says of them: nothing new of the first alone."""
        stated = {} if self.rule is None else self.rule.metadata()
        if self.panel is not None:
            stated[PERCENTILE] = f"{self.percentiles}; 95 % interval"
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
        if self._is_usual():
            used = [] if self.rule is None else [self.rule.summary(assay)]
        else:
            used = [f"heads {', '.join(self.names)}", *(_summary(head, assay) for head in self.heads)]
        return "; ".join([*used, *([self.percentiles] if self.percentiles else [])])

    def _is_usual(self) -> bool:
        return len(self.heads) == 1 and self.first is not None and self.first.spec.kind == LOGISTIC


def _summary(head: ChosenHead, assay: str | None) -> str:
    """What a summary says of one head among others."""
    if head.rule is None:
        around = "" if head.interval is None else f", {100 * head.interval.confidence:g} % interval"
        return f"{head.spec.name}: value in {head.spec.unit}{around}"
    return f"{head.spec.name}: {head.rule.summary(assay if head.first else None)}"


def _interval(head: HeadSpec) -> ValueBand | None:
    return None if head.training is None else head.training.interval


def _training(bundle: Bundle, head: HeadSpec) -> tuple[str, ...]:
    found = training_sequences(bundle, head.name)
    if found is None:
        what = f"{option('with_columns')} {NEAREST}: {bundle.name} does not store the training sequences of head "
        fix = f"They may be confidential, so `abonyx fit` stores them only with {option('store_sequences')}."
        raise ConfigError(f"{what}{head.name}", fix)
    return found


def choose_heads(
    bundle: Bundle,
    names: Sequence[str] | str | None,
    assay: str | None = None,
    threshold: float | None = None,
    *,
    config: RuntimeConfig | None = None,
    panel: str | None = None,
    with_columns: Collection[str] = (),
) -> ChosenHeads:
    """The heads of a run.

    Args:
        names: of the bundle's heads, "all", or None = the first one.
        assay, threshold: of the first head's calls; see choose_threshold. Other heads have their own default.
        config: of the run, which decides whether a panel fits it; None = no percentiles.
        panel: whose percentiles are given; None = the bundle's first.
        with_columns: with INTERVAL, linear heads have columns for the interval around a value; with NEAREST, heads have
            their training sequences.

    Raises:
        BundleError: the bundle has no head yet.
        ConfigError: a name that no head has, or twice; an assay or a threshold for a head that is not among them or
            makes no calls; an interval, and no head that stores one;
            a head that does not store its training sequences; see choose_threshold and choose_panel.
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
        interval = _interval(head) if INTERVAL in with_columns else None
        training = _training(bundle, head) if NEAREST in with_columns else ()
        chosen.append(ChosenHead(head, head is first, rule, interval=interval, training=training))
    if INTERVAL in with_columns and not any(head.interval for head in chosen):
        what = f"{option('with_columns')} interval: no head of {', '.join(wanted)} stores an interval around its values"
        raise ConfigError(what, "A regression of `abonyx fit` stores one. Leave it out for other heads.")
    if config is None:
        return ChosenHeads(tuple(chosen))
    found = choose_panel(bundle, config, panel, wanted)
    with_panels = tuple(replace(head, panel=found.heads.get(head.spec.name)) for head in chosen)
    return ChosenHeads(with_panels, found.panel, found.text)


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
