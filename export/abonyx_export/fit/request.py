"""The request of a fit, and the checks that need no encoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from abonyx.bundle.manifest import ClassCut, chain_letters
from abonyx.domain import DomainRule
from abonyx.errors import BundleError, ConfigError
from abonyx.input.labels import LabelKind
from abonyx.output.directory import check_directory
from abonyx.output.files import check_output, rejected_path
from abonyx.run.request import RunRequest
from abonyx.wording import option
from abonyx_export.head.head import DEFAULT_NAME
from abonyx_export.request import check_head_names

Task = Literal["classification", "regression"]
CLASSIFICATION, REGRESSION = "classification", "regression"
# Whether a higher value means a worse antibody.
DIRECTIONS = {"higher-is-worse": True, "lower-is-worse": False}
DEFAULT_GRID = (0.01, 0.1, 1.0, 10.0)
DEFAULT_ALPHAS = (0.1, 1.0, 10.0, 100.0, 1_000.0, 10_000.0)
# A unit appears beside every value, so it must be short.
MAX_UNIT_CHARS = 40
# numpy's seeds have 32 bits.
MAX_SEED = 2**32 - 1


@dataclass(frozen=True, kw_only=True)
class FitRequest:
    """What to fit.

    Attributes:
        run: the parent bundle, how it runs, and how the input is read.
        source: the labelled file; None = standard input.
        label_column: name of the column of labels.
        output: the new bundle's directory; must not exist.
        task: "classification" (the head gives a probability) or "regression" (the head gives the assay's value).
        add: keep the parent's heads unchanged beside the new one; otherwise the new head replaces them.
        head_name: name of the head; None = nonspecificity. A regression needs a name.
        unit: unit of a regression's values.
        direction: which values of a regression are worse, a key of DIRECTIONS.
        positive_above, positive_below: classify measured values; non-specific is strictly above or below this value.
        grid: values of C, the inverse strength of regularisation; None = DEFAULT_GRID.
        alphas: a regression's strengths of regularisation; None = DEFAULT_ALPHAS.
        scale: put a StandardScaler before the regression.
        balanced: weigh the classes by the inverse of their frequency.
        folds: number of folds of each cross-validation. The card has as many folds by sequence cluster, but at least
            three.
        seeds: number of shuffled cross-validations; those of a classification are stratified.
        seed: seed of the first cross-validation.
        confidence: share of each class that must not have a wrong call; the band of uncertain calls is chosen for this
            share. For a regression, share of rows inside the interval around a value.
        chains: chains of the labelled rows, one of manifest.CHAIN_SETS. Records of other chains are flagged when they
            are scored. With both chains, each row is a pair. None = H, or with `add` the chains of the parent's
            first head.
        vary_ends: also fit on changed copies of the rows (copies.COPIES), so that calls change less if the start of a
            sequence is cut or longer. Only for a classification of single chains.
        drop_flagged: leave out flagged rows, except rows that are only nanobody-like.
        name: name of the new bundle; None = the current name of its directory, even after it is renamed.
        notice: one line shown wherever the bundle is named; None = the parent's.
        variants: variants to keep; None = all variants of the parent.
        embedding_cache: directory; None = in the user's cache.
        head_out: .npz file for the head in the old pipeline's layout; None = no file.
        store_sequences: keep the training sequences in the bundle, beside their hashes.
    """

    run: RunRequest
    source: Path | None
    label_column: str
    output: Path
    task: Task = "classification"
    add: bool = False
    head_name: str | None = None
    unit: str | None = None
    direction: str | None = None
    positive_above: float | None = None
    positive_below: float | None = None
    grid: tuple[float, ...] | None = None
    alphas: tuple[float, ...] | None = None
    scale: bool = False
    balanced: bool = False
    folds: int = 10
    seeds: int = 5
    seed: int = 0
    confidence: float = 0.8
    chains: tuple[str, ...] | None = None
    vary_ends: bool = False
    drop_flagged: bool = False
    name: str | None = None
    notice: str | None = None
    variants: tuple[str, ...] | None = None
    embedding_cache: Path | None = None
    head_out: Path | None = None
    store_sequences: bool = False

    @property
    def source_name(self) -> str:
        """The input's name in messages and in the bundle: the file name without its folder."""
        return self.source.name if self.source else "standard input"

    @property
    def name_of_head(self) -> str:
        """The new head's name. check_request refuses a regression without a name."""
        return self.head_name or DEFAULT_NAME

    @property
    def strengths(self) -> tuple[float, ...]:
        """The strengths to choose from: C for a classification, alpha for a regression."""
        given, usual = (self.alphas, DEFAULT_ALPHAS) if self.task == REGRESSION else (self.grid, DEFAULT_GRID)
        return usual if given is None else given

    @property
    def cut(self) -> ClassCut | None:
        """How measured values become classes; None if the labels are classes already, or for a regression."""
        if self.positive_above is not None:
            return ClassCut(value=self.positive_above, above=True)
        return None if self.positive_below is None else ClassCut(value=self.positive_below, above=False)

    @property
    def label_kind(self) -> LabelKind:
        """Whether the label column has classes or values."""
        return "values" if self.task == REGRESSION or self.cut else "classes"

    @property
    def trained_on(self) -> tuple[str, ...]:
        """The chains of the labelled rows."""
        if self.chains is not None:
            return self.chains
        return tuple(self.run.bundle.manifest.head.chains) if self.add else ("H",)

    @property
    def rule(self) -> DomainRule:
        """The run's rule for flagged rows, with the new head's chains."""
        return self.run.rule._replace(chains=chain_letters(self.trained_on))

    @property
    def kept(self) -> tuple[str, ...]:
        """Names of the new bundle's variants."""
        return tuple(self.run.bundle.manifest.variants) if self.variants is None else self.variants


def check_request(request: FitRequest) -> None:
    """Refuse what can be refused before the input is read.

    Raises:
        ConfigError: an option is out of range, or the output cannot be created.
        BundleError: a variant of the parent was never checked.
    """
    _check_task(request)
    _check_numbers(request)
    if request.drop_flagged and request.run.check == "off":
        what = f"{option('drop_flagged')} with {option('domain')} off: no row is flagged if domains are not checked"
        raise ConfigError(what, "Leave one of them out.")
    _check_parent(request)
    _check_head(request)
    _check_pairs(request)
    check_directory(request.output)
    # if the parent folder does not exist, the list of rejected records does not exist either
    if request.run.skip and request.output.absolute().parent.is_dir():
        check_output(rejected_path(request.output), request.source)
    if request.head_out is None:
        return
    if request.head_out.suffix.lower() != ".npz":
        raise ConfigError(f"{option('head_out')} {request.head_out}: not an .npz file", "Give a name with .npz.")
    check_output(request.head_out, request.source)
    if request.output.absolute() in (request.head_out.absolute(), *request.head_out.absolute().parents):
        what = f"{option('head_out')} {request.head_out}: the file would be inside the new bundle {request.output}"
        raise ConfigError(what, "Give a file in another directory.")


def _check_task(request: FitRequest) -> None:
    """Refuse options of the other task, and a regression without a unit, a direction or a name."""
    classes: dict[str, object] = {
        "positive_above": request.positive_above,
        "positive_below": request.positive_below,
        "grid": request.grid,
        "class_weight": request.balanced or None,
        "head_out": request.head_out,
        # A ridge's alpha is chosen by leaving one row out. The row's copies would stay in and reveal it.
        "vary_ends": request.vary_ends or None,
    }
    values: dict[str, object] = {"unit": request.unit, "direction": request.direction, "alphas": request.alphas}
    regression = request.task == REGRESSION
    if foreign := [name for name, value in (classes if regression else values).items() if value is not None]:
        other = CLASSIFICATION if regression else REGRESSION
        what = f"{option(foreign[0])} with {option('task')} {request.task}: the option is only for a {other}"
        raise ConfigError(what, f"Leave {option(foreign[0])} out, or give {option('task')} {other}.")
    if request.positive_above is not None and request.positive_below is not None:
        what = f"{option('positive_above')} {request.positive_above:g} and {option('positive_below')} "
        raise ConfigError(f"{what}{request.positive_below:g}: only one threshold is possible", "Give one of them.")
    if request.cut and not math.isfinite(request.cut.value):
        name = "positive_above" if request.cut.above else "positive_below"
        raise ConfigError(f"{option(name)} is {request.cut.value}", "Give a finite number.")
    if not regression:
        return
    needed = {
        "unit": (request.unit and request.unit.strip(), "the unit of the values, e.g. mg/mL, or 1 for none"),
        "direction": (request.direction, "higher-is-worse or lower-is-worse"),
        "head_name": (request.head_name, "the name of the head and of its column, e.g. hic"),
    }
    for name, (value, wanted) in needed.items():
        if not value:
            raise ConfigError(f"{option('task')} regression needs {option(name)}", f"Give {wanted}.")
    assert request.unit and request.direction
    if not (request.unit.isprintable() and len(request.unit) <= MAX_UNIT_CHARS):
        raise ConfigError(f"{option('unit')} is {ascii(request.unit)[:60]}", "Give a short text, e.g. mg/mL.")
    if request.direction not in DIRECTIONS:
        raise ConfigError(f"{option('direction')} is {request.direction!r:.60}", f"Give {' or '.join(DIRECTIONS)}.")


def _check_pairs(request: FitRequest) -> None:
    """Refuse, for pairs, options that only work for heads of one chain."""
    if len(request.trained_on) == 1:
        return
    given = {
        "vary_ends": request.vary_ends,
        "head_out": request.head_out is not None,
        "store_sequences": request.store_sequences,
    }
    for name in (name for name, value in given.items() if value):
        chains = ",".join(request.trained_on)
        what = f"{option(name)} with {option('chains')} {chains}: the option is only for heads of one chain"
        raise ConfigError(what, f"Leave {option(name)} out.")


def _check_head(request: FitRequest) -> None:
    """Refuse a head that does not fit the parent's heads."""
    bundle, name = request.run.bundle, request.name_of_head
    heads = {head.name: head for head in bundle.manifest.heads if not head.placeholder}
    if request.add and not heads:
        what = f"{option('add')}: {bundle.name} has no head yet"
        raise ConfigError(what, f"Leave {option('add')} out: the new head is the first.")
    check_head_names([*heads, name] if request.add else [name], "head_name")
    old = heads.get(name)
    if old is not None and old.unit != request.unit:
        units = [f"values in {unit}" if unit else "a probability" for unit in (request.unit, old.unit)]
        what = f"head {name} would give {units[0]}; the head {name} in {bundle.name} gives {units[1]}"
        fix = f"Give the same {option('unit')} and {option('task')}, or another {option('head_name')}."
        raise ConfigError(what, fix)
    if old is not None and request.direction and DIRECTIONS[request.direction] != old.higher_is_worse:
        other = next(name for name, worse in DIRECTIONS.items() if worse == old.higher_is_worse)
        what = f"{option('direction')} {request.direction}: head {name} of {bundle.name} has {other}"
        raise ConfigError(what, f"Give the same {option('direction')}, or another {option('head_name')}.")


def _check_numbers(request: FitRequest) -> None:
    _check_strengths("grid", DEFAULT_GRID if request.grid is None else request.grid, "0.01,0.1,1,10")
    _check_strengths("alphas", DEFAULT_ALPHAS if request.alphas is None else request.alphas, "1,10,100,1000")
    if request.folds < 2:
        raise ConfigError(f"{option('folds')} is {request.folds}", "Give 2 folds or more.")
    if request.seeds < 1:
        raise ConfigError(f"{option('seeds')} is {request.seeds}", "Give 1 or more.")
    if not 0 < request.confidence < 1:
        raise ConfigError(
            f"{option('confidence')} is {request.confidence:g}", "Give a number between 0 and 1, e.g. 0.8."
        )
    last = request.seed + request.seeds - 1
    if request.seed < 0 or last > MAX_SEED:
        raise ConfigError(
            f"{option('seed')} {request.seed}: seeds {request.seed} to {last} are used", f"Use 0 to {MAX_SEED}."
        )


def _check_parent(request: FitRequest) -> None:
    bundle = request.run.bundle
    known = ", ".join(bundle.manifest.variants)
    if not request.kept:
        raise ConfigError(f"{option('variants')} names no variant", f"{bundle.path} has: {known}.")
    for name in request.kept:
        if name not in bundle.manifest.variants:
            raise ConfigError(f"{option('variants')}: {bundle.path} has no variant {name!r}", f"Give one of: {known}.")
        if bundle.manifest.variants[name].parity is None:
            raise BundleError(f"{bundle.path}: variant {name} was never checked", "Export the bundle again.")
    if len(set(request.kept)) != len(request.kept):
        what = f"{option('variants')} {', '.join(request.kept)}: a variant appears twice"
        raise ConfigError(what, "Name each variant once.")


def _check_strengths(name: str, values: Sequence[float], example: str) -> None:
    """Refuse strengths that are missing, not above 0, or repeated."""
    if not values:
        raise ConfigError(f"{option(name)} has no value", f"Give one or more values, e.g. {example}.")
    for value in values:
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{option(name)} has {value:g}", "Give finite numbers above 0.")
    if len(set(values)) != len(values):
        shown = ", ".join(f"{value:g}" for value in values)
        raise ConfigError(f"{option(name)} {shown}: a value appears twice", "Give each value once.")
