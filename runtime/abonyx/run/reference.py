"""`abonyx reference`: make a new bundle from a bundle and a file of known antibodies, with their scores as a panel."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from abonyx.arrays import Float32Array
from abonyx.bundle import README_NAME, Bundle, check_files
from abonyx.bundle.files import link_or_copy
from abonyx.bundle.heads import record_chains
from abonyx.bundle.manifest import MAX_TEXT_CHARS, FileEntry, Manifest, read_manifest, write_manifest
from abonyx.bundle.panel import (
    MIN_PANEL_ROWS,
    PANEL_NAME_RULE,
    Panel,
    PanelScores,
    is_panel_name,
    member_lines,
    panel_file,
    quantiles_of,
)
from abonyx.bundle.training_rows import training_rows
from abonyx.errors import ConfigError, InputError, first_line
from abonyx.input.checked import Input
from abonyx.output.directory import check_directory, staged
from abonyx.output.files import check_output, rejected_path
from abonyx.output.formats import write_rejected
from abonyx.run.progress import progress
from abonyx.run.request import RunRequest
from abonyx.run.windows import score_input
from abonyx.wording import option

Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class ReferenceRequest:
    """A panel to add to a bundle.

    Attributes:
        run: the old bundle, and how it scores the panel.
        source: the file of antibodies; None = standard input.
        output: directory of the new bundle; must not exist.
        name: name of the panel.
        origin: source of the antibodies, for a reader; None = name of the file.
    """

    run: RunRequest
    source: Path | None
    output: Path
    name: str
    origin: str | None = None


def add_panel(request: ReferenceRequest, report: Report) -> Panel:
    """Write the new bundle. After an error, nothing is left.

    If the bundle already has a panel with this name and the same rows, the missing scores are added: by another variant
    or pooling rule, or by a head that was added later.

    Returns:
        The panel in the new bundle.

    Raises:
        ConfigError: the name or the origin is not valid, the output cannot be created, or the bundle already has this
            panel.
        InputError: the file cannot be used, or has too few rows without a flag.
        BundleError: the old bundle is damaged, or has no head.
    """
    _check_request(request)
    bundle = request.run.bundle
    run = request.run.of_chains(record_chains(bundle.manifest.heads))
    checked = run.read(request.source)
    every, trusted = checked.records, [judgement.trusted for judgement in checked.judgements]
    first = {record: row for row, record in reversed(list(enumerate(every))) if trusted[row]}
    kept = sorted(first.values())
    if flagged := trusted.count(False):
        report(f"{flagged} of {len(trusted)} records are left out, because they are flagged")
    if repeated := trusted.count(True) - len(kept):
        report(f"{repeated} records are left out, because they repeat an earlier one")
    sequences = [every[row] for row in kept]
    if len(sequences) < MIN_PANEL_ROWS:
        name = request.source.name if request.source else "standard input"
        what = f"{name}: has {len(sequences)} distinct records without a flag; a panel needs at least {MIN_PANEL_ROWS}"
        raise InputError(what, "Give more antibodies of the head's chain.")
    for note in _training_notes(bundle, checked, kept):
        report(note)
    earlier = _earlier(request, sequences)
    check_files(bundle, bundle.manifest.files)
    panel = _panel(request, sequences) if earlier is None else earlier
    names = _missing(request, panel)
    with progress(len(checked.ids), 0) as on_batch:
        values, summary = score_input(bundle, checked, run.config, names, on_batch, None)
    for note in summary.notes:
        report(note)
    scores = _scores(request, names, values[kept])
    panel = msgspec.structs.replace(panel, scores=[*panel.scores, *scores])
    with staged(request.output) as staging:
        # For pairs, each chain is also a member, because heads of one chain score it alone.
        alone = [chain[row] for chain in checked.chains for row in kept]
        _write(bundle, panel, member_lines([*sequences, *alone]), staging, report)
        if run.skip:
            write_rejected(rejected_path(request.output), checked.rejected)
    return panel


def _training_notes(bundle: Bundle, checked: Input, kept: list[int]) -> list[str]:
    """Lines about records of the panel that a head was trained on. Heads score such records better than new ones."""
    lines = []
    order = record_chains(bundle.manifest.heads)
    for head in bundle.manifest.heads:
        records, domains = checked.records, list(checked.domains)
        if len(head.chains) < len(order):  # a head of one chain, and records of both
            records, domains = checked.chains[order.index(head.chains[0])], [""] * len(records)
        known = training_rows(bundle, [records[row] for row in kept], head.name, [domains[row] for row in kept])
        if known is not None and (count := int(known.sum())):
            lines.append(
                f"note: {count} of {len(kept)} records are training rows of head {head.name}, which scores "
                "them better than new records: percentiles of new records in this panel can be misleading"
            )
    return lines


def _check_request(request: ReferenceRequest) -> None:
    request.run.bundle.refuse_placeholder()
    if not is_panel_name(request.name):
        raise ConfigError(f"{option('name')} is {first_line(repr(request.name))}", PANEL_NAME_RULE)
    origin = request.origin
    if origin is not None and not (origin.isprintable() and 0 < len(origin) <= MAX_TEXT_CHARS):
        what = f"{option('origin')} is {first_line(repr(origin))}"
        raise ConfigError(what, f"Give one line of 1 to {MAX_TEXT_CHARS} characters.")
    check_directory(request.output)
    if request.run.skip:
        check_output(rejected_path(request.output), request.source)


def _key(request: ReferenceRequest) -> tuple[str, str, int | None]:
    config = request.run.config
    variant, _ = request.run.bundle.variant(config.provider, config.variant)
    return variant, config.pooling, config.batch_size


def _earlier(request: ReferenceRequest, sequences: list[str]) -> Panel | None:
    """The bundle's panel with this name; None if no panel has this name.

    Raises:
        ConfigError: the panel has other rows or no missing scores, or its name differs only in case.
    """
    panels = request.run.bundle.manifest.panels
    panel = next((each for each in panels if each.name.lower() == request.name.lower()), None)
    if panel is None:
        return None
    has = f"{option('name')}: {request.run.bundle.name} has a panel {panel.name}"
    if panel.name != request.name:
        raise ConfigError(f"{has}, and {request.name} differs from it only in case", "Give another name.")
    if panel.rows_sha256 != _rows_sha256(sequences):
        raise ConfigError(f"{has} with other rows ({panel.rows} from {panel.source})", "Give another name.")
    if not _missing(request, panel):
        variant, pooling, _ = _key(request)
        what = f"{has} with these rows, scored by variant {variant} with pooling {pooling}"
        raise ConfigError(what, f"Give another name, or add scores by another variant with {option('variant')}.")
    return panel


def _missing(request: ReferenceRequest, panel: Panel) -> list[str]:
    """Names of the heads whose scores by the run's variant and pooling rule are missing in the panel."""
    there = {scores.key for scores in panel.scores}
    return [head.name for head in request.run.bundle.manifest.heads if (head.name, *_key(request)) not in there]


def _rows_sha256(sequences: list[str]) -> str:
    return hashlib.sha256("\n".join(sequences).encode()).hexdigest()


def _panel(request: ReferenceRequest, sequences: list[str]) -> Panel:
    """The panel, without scores."""
    source = request.origin or (request.source.name if request.source else "standard input")
    return Panel(
        name=request.name,
        rows=len(sequences),
        source=source if source.isprintable() else ascii(source),
        rows_sha256=_rows_sha256(sequences),
        encoder_sha256=request.run.bundle.manifest.encoder.weights_sha256,
        scores=[],
    )


def _scores(request: ReferenceRequest, heads: list[str], values: Float32Array) -> list[PanelScores]:
    """The PanelScores of values (n, heads).

    Raises:
        InputError: a head gives all rows the same value.
    """
    variant, pooling, size = _key(request)
    for name, column in zip(heads, values.T, strict=True):
        if np.ptp(column) == 0:
            what = f"head {name} gives all {len(column)} rows the same value, {column[0]:g}"
            raise InputError(what, "Give antibodies whose scores differ.")
    return [
        PanelScores(
            head=name, variant=variant, pooling=pooling, pooling_batch_size=size, quantiles=quantiles_of(column)
        )
        for name, column in zip(heads, values.T, strict=True)
    ]


def _write(bundle: Bundle, panel: Panel, members: bytes, staging: Path, report: Report) -> Manifest:
    """Write the new bundle: links to the old files, the file of the panel's hashes, and the new manifest."""
    parent, own = bundle.manifest, panel_file(panel.name)
    beside = [README_NAME] if (bundle.path / README_NAME).is_file() else []
    for name in [*(name for name in parent.files if name != own), *beside]:
        (staging / name).parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(bundle.path / name, staging / name, report)
    (staging / own).write_bytes(members)
    entry = FileEntry(sha256=hashlib.sha256(members).hexdigest(), size_bytes=len(members))
    names = [each.name for each in parent.panels]
    panels = [panel if each.name == panel.name else each for each in parent.panels]
    manifest = msgspec.structs.replace(
        parent,
        panels=panels if panel.name in names else [*panels, panel],
        files=dict(sorted((parent.files | {own: entry}).items())),
    )
    write_manifest(manifest, staging)
    return read_manifest(staging)[0]  # read it back, so that a wrong manifest raises before the bundle gets its name
