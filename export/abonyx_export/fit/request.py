"""What a fit is asked to do, and what can be refused before the encoder is opened."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from abonyx.bundle.manifest import CHAINS
from abonyx.domain import DomainRule
from abonyx.errors import BundleError, ConfigError, InputError
from abonyx.input.checked import Input
from abonyx.output.directory import check_directory
from abonyx.output.files import check_output, rejected_path
from abonyx.run.request import RunRequest
from abonyx.wording import option

# Seeds are numpy's: 32 bits.
MAX_SEED = 2**32 - 1


@dataclass(frozen=True, kw_only=True)
class FitRequest:
    """What to fit.

    Attributes:
        run: the parent bundle, how it runs, and how the input is read.
        source: the labelled file; None = standard input.
        output: the new bundle's directory; must not exist.
        grid: values of C, the inverse strength of regularisation.
        scale: put a StandardScaler before the regression.
        balanced: weigh the classes by the inverse of their frequency.
        folds, seeds, seed: so many stratified cross-validations, of which the first is shuffled by `seed`. The card has
            so many folds by sequence cluster, at least three.
        confidence: share of each class that the band of uncertain calls keeps.
        chains: of the labelled rows, keys of manifest.CHAINS: records of others are flagged when scored.
        drop_flagged: leave rows out that are flagged for anything but being nanobody-like.
        name: of the bundle; None = its directory's, wherever that is moved. notice: None = the parent's.
        variants: those to keep; None = all the parent's.
        embedding_cache: directory; None = in the user's cache.
        head_out: .npz file for the head, in the old pipeline's layout; None = none.
    """

    run: RunRequest
    source: Path | None
    label_column: str
    output: Path
    grid: tuple[float, ...] = (0.01, 0.1, 1.0, 10.0)
    scale: bool = False
    balanced: bool = False
    folds: int = 10
    seeds: int = 5
    seed: int = 0
    confidence: float = 0.8
    chains: tuple[str, ...] = ("H",)
    drop_flagged: bool = False
    name: str | None = None
    notice: str | None = None
    variants: tuple[str, ...] | None = None
    embedding_cache: Path | None = None
    head_out: Path | None = None

    @property
    def source_name(self) -> str:
        """The input, as messages and the bundle name it: without its folder."""
        return self.source.name if self.source else "standard input"

    @property
    def rule(self) -> DomainRule:
        """What is done with the labelled rows: the run's rule, with the new head's chains in place of the parent's."""
        letters = tuple(letter for chain in self.chains for letter in CHAINS[chain])
        return self.run.rule._replace(chains=letters)

    @property
    def kept(self) -> tuple[str, ...]:
        """The variants of the new bundle."""
        return tuple(self.run.bundle.manifest.variants) if self.variants is None else self.variants


def check_request(request: FitRequest) -> None:
    """Refuse what can be refused before anything is read.

    Raises:
        ConfigError: an option out of its range, an output that cannot be made.
        BundleError: a parent whose head is not linear, or a variant of it that was never checked.
    """
    _check_numbers(request)
    if request.drop_flagged and request.run.check == "off":
        what = f"{option('drop_flagged')} with {option('domain')} off: no row is flagged without a look at its domain"
        raise ConfigError(what, "Leave one of them out.")
    _check_parent(request)
    check_directory(request.output)
    if request.run.skip and request.output.absolute().parent.is_dir():  # else nothing can be in its place
        check_output(rejected_path(request.output), request.source)
    if request.head_out is None:
        return
    if request.head_out.suffix.lower() != ".npz":
        raise ConfigError(f"{option('head_out')} {request.head_out}: not an .npz file", "Name one that ends in .npz.")
    check_output(request.head_out, request.source)
    if request.output.absolute() in (request.head_out.absolute(), *request.head_out.absolute().parents):
        what = f"{option('head_out')} {request.head_out}: lies in the new bundle, whose manifest lists every file"
        raise ConfigError(what, "Name a file elsewhere.")


def _check_numbers(request: FitRequest) -> None:
    grid = request.grid
    if not grid:
        raise ConfigError(f"{option('grid')} names no value", "Give one or more, e.g. 0.01,0.1,1,10.")
    for c in grid:
        if not (math.isfinite(c) and c > 0):
            raise ConfigError(f"{option('grid')} has {c:g}", "Give finite numbers above 0.")
    if len(set(grid)) != len(grid):
        raise ConfigError(
            f"{option('grid')} {', '.join(f'{c:g}' for c in grid)}: one is named twice", "Name each once."
        )
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
    kind = bundle.manifest.head.kind
    if kind != "logistic":
        fix = "Use a bundle that abonyx export or abonyx fit wrote."
        raise BundleError(f"{bundle.path}: its head is {kind!r}, not 'logistic'; fit replaces linear heads only", fix)
    known = ", ".join(bundle.manifest.variants)
    if not request.kept:
        raise ConfigError(f"{option('variants')} names none", f"{bundle.path} has: {known}.")
    for name in request.kept:
        if name not in bundle.manifest.variants:
            raise ConfigError(f"{option('variants')}: {bundle.path} has no variant {name!r}", f"It has: {known}.")
        if bundle.manifest.variants[name].parity is None:
            raise BundleError(f"{bundle.path}: variant {name} was never checked", "Export the bundle again.")
    if len(set(request.kept)) != len(request.kept):
        raise ConfigError(f"{option('variants')} {', '.join(request.kept)}: one is named twice", "Name each once.")


def check_labels(checked: Input, request: FitRequest) -> list[int]:
    """The labels, 0 or 1 each; refuses those that cannot be cross-validated.

    Raises:
        InputError: one class alone, or a class with fewer rows, or fewer different sequences, than there are folds.
    """
    # read_input(label_required=True) has made records of blank labels bad ones
    labels = [label for label in checked.labels if label is not None]
    counts = Counter(labels)
    name, folds = request.source_name, request.folds
    different = len(set(checked.sequences))
    if len(counts) == 1:
        what = f"{name}: all {len(labels)} labels are {labels[0]}"
        raise InputError(what, "A head needs rows of both classes, 0 and 1.")
    for label, count in sorted(counts.items(), key=lambda item: item[1]):
        if count == 1:
            fix = "Cross-validation needs each class in every fold: add rows of it."
            raise InputError(f"{name}: class {label} has a single row of {len(labels)}", fix)
        if count < folds:
            fix = f"Add rows, or ask for fewer folds: {option('folds')} {count} is the most."
            what = f"class {label} has {count} rows of {len(labels)}, {option('folds')} {folds} needs at least {folds}"
            raise InputError(f"{name}: {what}", fix)
    if different < folds:
        what = (
            f"{len(labels)} rows hold {different} different sequences, {option('folds')} {folds} needs at least {folds}"
        )
        fix = "Add rows with other sequences" + (
            f", or ask for {option('folds')} {different}." if different > 1 else "."
        )
        raise InputError(f"{name}: {what}", fix)
    return labels
