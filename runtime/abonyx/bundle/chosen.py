"""The heads that a run uses, and the names of their columns. Both are decided before a model is opened."""

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
# Columns of heads that are only written on request.
INTERVAL, NEAREST = "interval", "nearest_identity"
ALL = "all"
# Cells of a column: float: float32; call: 1, 0 or None; word: text or None; number: a number with few decimals, or
# None; count: a whole number or None.
ColumnKind = Literal["float", "call", "word", "number", "count"]


@dataclass(frozen=True)
class ChosenHead:
    """A head that a run uses.

    Attributes:
        spec: the head in the manifest.
        first: whether it is the bundle's first head. If that head is logistic, its columns have no prefix.
        rule: the rule for its calls; None = it makes no calls.
        panel: the panel for its percentiles; None = that column is empty.
        interval: the interval around its values; None if the interval was not requested, or none is stored.
        training: its training sequences; () unless the column NEAREST was requested.
        numbers: whether it has a column of 0 and 1. If not, it has a column of words only if it stores quantiles.
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
        """Name -> kind of each of its columns."""
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
        """The cells of its columns, by name.

        Args:
            values: (n,) float32.
            trusted: n values. Calls, percentiles and ends of intervals are None where the value is false.
            sequences: the n sequences that were scored; for pairs, both chains in one text as in Input.records.
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
        if len(self.spec.chains) == 1:  # look up only the chain that the head scores
            at = PAIR.index(self.spec.chains[0])
            sequences = [each.split("|")[at] if "|" in each else each for each in sequences]
        return self.panel.cells(values, trusted, sequences)


@dataclass(frozen=True)
class ChosenHeads:
    """The heads of a run. choose_heads makes it.

    Attributes:
        heads: in the order of the values' columns.
        panel: the panel for percentiles; None = there are no percentiles.
        percentiles: text about the panel, or why there is none; "" = no config was given.
    """

    heads: tuple[ChosenHead, ...]
    panel: Panel | None = None
    percentiles: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the heads. Values have one column for each, in this order."""
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
        """All heads, in the order of the output's columns: the bundle's first head is first."""
        return (*([self.first] if self.first else []), *self.others)

    @property
    def rule(self) -> CallRule | None:
        """The rule for the first head's calls; None if there are none."""
        return None if self.first is None else self.first.rule

    @property
    def leading(self) -> dict[str, ColumnKind]:
        """Columns before `flag`: those of the first head."""
        return {} if self.first is None else self.first.kinds

    @property
    def following(self) -> dict[str, ColumnKind]:
        """Columns after `flag`: those of the other heads."""
        return {name: kind for head in self.others for name, kind in head.kinds.items()}

    @property
    def kinds(self) -> dict[str, ColumnKind]:
        """Name -> kind of all columns."""
        return self.leading | self.following

    def cells(self, values: Float32Array, trusted: Sequence[bool], sequences: Sequence[str]) -> dict[str, Cells]:
        """The cells of all columns, by name. `values` is (n, len(names)); the other arguments are as for one head."""
        found: dict[str, Cells] = {}
        for head, column in zip(self.heads, values.T, strict=True):
            found |= head.cells(column, trusted, sequences)
        return found

    def without_numbers(self) -> ChosenHeads:
        """A copy whose heads have no columns of 0 and 1."""
        return replace(self, heads=tuple(replace(head, numbers=False) for head in self.heads))

    def facts(self) -> dict[str, str | float | None]:
        """The facts that results depend on, for a journal."""
        calls: dict[str, str | float | None] = {"threshold": None} if self.rule is None else self.rule.facts()
        panel = None if self.panel is None else self.panel.name
        return calls | {"--heads": None if self._is_usual() else ", ".join(self.names), "--panel": panel}

    def metadata(self) -> dict[str, str]:
        """Metadata for a result file. It lists the heads, unless the first head is logistic and is used alone."""
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
    """The part of a summary about one of several heads."""
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
        fix = f"Fit the head with {option('store_sequences')}: `abonyx fit` stores its sequences only on request."
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
    """Choose the heads of a run.

    Args:
        bundle: the bundle.
        names: names of its heads, or "all"; None = the first.
        assay, threshold: for the calls of the first head (see choose_threshold). Other heads use their default.
        config: the config of the run, to which the panel must fit; None = no percentiles.
        panel: name of the panel for percentiles; None = the bundle's first.
        with_columns: if it contains INTERVAL, linear heads get columns for the interval around a value; if it contains
            NEAREST, heads get their training sequences.

    Raises:
        BundleError: the bundle has no head yet.
        ConfigError: no head has the name, or a name is given twice. An assay or threshold is given, but the first head
            is not chosen or makes no calls. Intervals are requested, but no chosen head stores one. Training sequences
            are requested, but a chosen head does not store them. See also choose_threshold and choose_panel.
    """
    bundle.refuse_placeholder()
    known = {head.name: head for head in bundle.manifest.heads}
    wanted = _names(names, bundle)
    first = bundle.manifest.head
    given = next((name for name, value in (("assay", assay), ("threshold", threshold)) if value is not None), None)
    if given and (first.name not in wanted or first.kind != LOGISTIC):
        kind = "is not among the chosen heads" if first.name not in wanted else f"gives a value in {first.unit}"
        what = f"{option(given)} is only for the first head of {bundle.name}, {first.name}, which {kind}"
        raise ConfigError(what, "Leave it out: every other head has its own threshold, or makes no calls.")
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
        chosen_heads = f"no chosen head ({', '.join(wanted)}) stores an interval around its values"
        fix = "Leave interval out. A regression of `abonyx fit` stores one if it has enough rows (docs/card.md)."
        raise ConfigError(f"{option('with_columns')} interval: {chosen_heads}", fix)
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
            raise ConfigError(f"{option('heads')}: {name} is given twice", "Name each head once.")
    if not wanted:
        raise ConfigError(f"{option('heads')} is empty", f"{bundle.name} has: {', '.join(known)}; or give {ALL}.")
    return wanted
