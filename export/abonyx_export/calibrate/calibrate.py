"""Calibrate: controls and a bundle in, a bundle with one head fitted to the controls out, or nothing at all."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from pathlib import Path

import msgspec
import numpy as np

from abonyx.arrays import Float64Array
from abonyx.bundle import Bundle, Golden, check_files
from abonyx.bundle.band import CallBand
from abonyx.bundle.heads import column_places, sigmoid
from abonyx.bundle.listed import FIX, METRICS_JSON, file_of_head, read_listed
from abonyx.bundle.manifest import LOGISTIC, Calibration, HeadSpec, Manifest
from abonyx.bundle.panel import Panel, PanelScores
from abonyx.bundle.threshold import pooling_notes
from abonyx.bundle.training_rows import training_rows
from abonyx.card.record import CardFile
from abonyx.card.writing import write_pages
from abonyx.errors import BundleError, InputError, LabelsOfOtherKind, printable
from abonyx.input.checked import Input
from abonyx.input.labels import LabelKind
from abonyx.output.directory import staged
from abonyx.output.files import rejected_path
from abonyx.output.formats import write_rejected
from abonyx.wording import option
from abonyx_export.bundle_writer import Report
from abonyx_export.calibrate.request import CalibrateRequest, check_request
from abonyx_export.calibrate.scaling import METRICS, Scaling, fit_scaling, left_out, measure
from abonyx_export.fit.assembly import Assembly, assemble, files_beside
from abonyx_export.fit.card import card_files
from abonyx_export.fit.embeddings import embed_records
from abonyx_export.fit.fit import embedding_cache
from abonyx_export.head.head import Head
from abonyx_export.head.spec import golden_of, stored_heads, sums_intercept

# With fewer, a slope is mostly the controls' own noise.
MIN_CONTROLS = 20
_FIX = "Export the bundle without this variant, or give more controls: a steep slope enlarges the variant's error."
_WORDS = {"log_loss": "log loss", "brier": "Brier", "ece": "ECE", "squared_error": "squared error", "mae": "MAE"}


@dataclasses.dataclass(frozen=True)
class _Controls:
    """n controls: their sequences, labels (n,) 0 and 1 or values, and the head's logits or values (n,)."""

    sequences: list[str]
    labels: Float64Array
    old: Float64Array


def calibrate_bundle(request: CalibrateRequest, report: Report = lambda line: None) -> Manifest:
    """Write the new bundle, or raise and leave nothing behind but the cached embeddings.

    Returns:
        The new bundle's manifest, with the calibration in the head's record.

    Raises:
        ConfigError: an option, or an output that cannot be made.
        InputError: the file or its labels cannot be used; the controls do not support a calibration.
        BundleError: the parent is damaged.
        ParityError: a variant with the new head over its limit.
    """
    check_request(request)
    request = dataclasses.replace(request, run=request.run.of_chains(request.spec.chains))
    bundle = request.run.bundle
    checked = _read(request, report)
    files = files_beside(bundle, list(bundle.manifest.variants))
    check_files(bundle, files)
    golden = bundle.golden()
    for note in [*checked.notes, *pooling_notes(bundle, request.run.config, request.spec)]:
        report(note)
    controls = _controls(request, checked, golden, report)
    scaling, record = _calibration(request, checked, controls, report)
    with staged(request.output) as staging:
        own = card_files(bundle, request.spec.name)[:-1]
        _write_card(bundle, request.spec.name, record, scaling, staging)
        made = _assembly(request, scaling, record, golden, [name for name in files if name not in own])
        manifest = assemble(made, staging, report)
        if request.run.skip:
            write_rejected(rejected_path(request.output), checked.rejected)
    return manifest


def _read(request: CalibrateRequest, report: Report) -> Input:
    kind: LabelKind = "classes" if request.logistic else "values"
    try:
        checked = request.run.read(request.source, request.label_column, label_required=True, label_kind=kind)
    except LabelsOfOtherKind as error:
        gives = "a probability: its controls are labelled 0 or 1"
        if not request.logistic:
            gives = f"values in {request.spec.unit}: its controls have measured values"
        fix = f"Head {request.spec.name} gives {gives}. Choose another with {option('head')}, or change the labels."
        raise InputError(error.marked[0], fix) from error
    if checked.rejected:
        report(f"{len(checked.rejected)} bad records left out")
    known = training_rows(request.run.bundle, checked.records, request.spec.name, checked.domains)
    if known is not None and (count := int(known.sum())):
        total = len(checked.records)
        report(f"note: {count} of {total} controls are training rows of the head: measure others, these flatter it")
    return checked


def _controls(request: CalibrateRequest, checked: Input, golden: Golden, report: Report) -> _Controls:
    """Those that can be used.

    Raises:
        InputError: too few, of one class, or without spread.
    """
    kept = [row for row, judgement in enumerate(checked.judgements) if judgement.trusted]
    if left := len(checked.judgements) - len(kept):
        report(f"{left} of {len(checked.judgements)} controls are flagged and left out: their scores mean nothing")
    cells = checked.labels if request.logistic else checked.values
    labels = np.array([cells[row] for row in kept], np.float64)
    sequences = [checked.records[row] for row in kept]
    _check_labels(request, labels, len(set(sequences)))
    rows = embed_records(request.run, checked, embedding_cache(request.embedding_cache), report)[kept]
    old = stored_heads(request.run.bundle.manifest.heads, golden)[request.at].logit(rows.astype(np.float64))
    if np.ptp(old) < 1e-6 * max(1.0, float(np.abs(old).max())):
        what = f"{request.source_name}: head {request.spec.name} gives all {len(old)} controls the same"
        raise InputError(what, "Give controls whose scores differ.")
    return _Controls(sequences, labels, old)


def _check_labels(request: CalibrateRequest, labels: Float64Array, different: int) -> None:
    name = request.source_name
    if different < MIN_CONTROLS:
        what = f"{name}: {different} different sequences can be used, at least {MIN_CONTROLS} are needed"
        raise InputError(what, "Measure more controls.")
    if np.ptp(labels) == 0:
        shown = f"labels are {labels[0]:g}" if request.logistic else f"values are {labels[0]:g} {request.spec.unit}"
        raise InputError(f"{name}: all {len(labels)} {shown}", "Give controls whose measurements differ.")


def _calibration(
    request: CalibrateRequest, checked: Input, controls: _Controls, report: Report
) -> tuple[Scaling, Calibration]:
    """The scaling and its record, with what was measured reported.

    Raises:
        InputError: a slope that is not above 0, or controls left out that are no better than before.
    """
    labels, old, logistic = controls.labels, controls.old, request.logistic
    scaling = fit_scaling(old, labels, logistic=logistic)
    new = left_out(old, labels, controls.sequences, logistic=logistic)
    before, after = measure(old, labels, logistic=logistic), measure(new, labels, logistic=logistic)
    constant = left_out(np.zeros(len(old)), labels, controls.sequences, logistic=logistic)
    report(f"{len(labels)} controls, head {request.spec.name}: slope {scaling.slope:.4g}, {_shift(scaling, request)}")
    for metric in METRICS[logistic]:
        report(f"  {_WORDS[metric]} {before[metric]:.4g} before, {after[metric]:.4g} after, each control left out")
    if not scaling.slope > 0:
        what = f"{request.source_name}: the slope is {scaling.slope:.4g}: the controls rank against head "
        fix = "Check the labels. A head that ranks controls the wrong way round cannot be calibrated: fit a new one."
        raise InputError(f"{what}{request.spec.name}", fix)
    first = METRICS[logistic][0]
    if not after[first] < before[first]:
        what = f"{request.source_name}: {_WORDS[first]} of controls left out is {after[first]:.4g} after and "
        fix = "These controls do not support a calibration: keep the bundle, or measure more of them."
        raise InputError(f"{what}{before[first]:.4g} before", fix)
    mean = measure(constant, labels, logistic=logistic)[first]
    if after[first] >= mean:
        report(
            f"note: one number for all controls does as well ({_WORDS[first]} {mean:.4g}): the head ranks them badly"
        )
    training = request.spec.training
    if training is not None and training.interval is not None:
        report("note: the interval around its values is left out: it was measured on other values than the controls'")
    return scaling, Calibration(
        controls=len(labels),
        positives=int(labels.sum()) if logistic else None,
        source_name=request.source_name,
        source_sha256=_rows_sha256(checked),
        slope=scaling.slope,
        intercept=scaling.intercept,
        before=before,
        after=after,
    )


def _shift(scaling: Scaling, request: CalibrateRequest) -> str:
    unit = "of the logit" if request.logistic else str(request.spec.unit)
    return f"intercept {scaling.intercept:.4g} {unit}"


def _rows_sha256(checked: Input) -> str:
    """Hash of ids, sequences and labels in order: the same for a file, its gzip and standard input."""
    rows = [checked.ids, checked.records, checked.labels or checked.values]
    return hashlib.sha256(msgspec.json.encode(rows)).hexdigest()


def _assembly(
    request: CalibrateRequest, scaling: Scaling, record: Calibration, golden: Golden, files: list[str]
) -> Assembly:
    """The parent with one head changed. The others' records and arrays are as they are."""
    bundle, at = request.run.bundle, request.at
    heads = stored_heads(bundle.manifest.heads, golden)
    heads[at] = head = _scaled(heads[at], scaling)
    specs = list(bundle.manifest.heads)
    specs[at] = _spec(specs[at], scaling, record, head, golden)
    own = golden_of(golden.input_ids, golden.lengths, golden.embedding, [head], golden.head_mean)
    value, coef, intercept = golden.value.copy(), golden.head_coef.copy(), golden.head_intercept.copy()
    columns = list(column_places(specs)[head.name])
    value[:, columns], coef[columns], intercept[columns] = own.value, own.head_coef, own.head_intercept
    return Assembly(
        parent=bundle,
        variants=list(bundle.manifest.variants),
        files=files,
        heads=heads,
        specs=specs,
        golden=dataclasses.replace(golden, value=value, head_coef=coef, head_intercept=intercept),
        same_first=at > 0,
        name=request.name or "",
        notice=request.notice,
        fix=_FIX,
        panels=_moved_panels(bundle, specs[at], scaling),
    )


def _scaled(head: Head, scaling: Scaling) -> Head:
    sd = head.training_sd
    return dataclasses.replace(
        head,
        coef=head.coef * scaling.slope,
        intercept=head.intercept * scaling.slope + scaling.intercept,
        training_sd=None if sd is None else sd * scaling.slope,
        thresholds={assay: _moved(p, scaling) for assay, p in head.thresholds.items()},
    )


def _spec(spec: HeadSpec, scaling: Scaling, record: Calibration, head: Head, golden: Golden) -> HeadSpec:
    """The head's description: quantiles and declared thresholds move with its scores, so that they divide as before.

    An interval around its values is left out: the residuals that made it are of other values than the controls'.
    """
    training = spec.training
    if training is not None:
        band = training.band and _moved_band(training.band, scaling)
        # Out-of-fold scores are of the head as it was.
        training = msgspec.structs.replace(training, band=band, interval=None, scores=None)
    if (earlier := spec.calibration) is not None:
        whole = Scaling(earlier.slope * scaling.slope, scaling.slope * earlier.intercept + scaling.intercept)
        record = msgspec.structs.replace(record, slope=whole.slope, intercept=whole.intercept)
    return msgspec.structs.replace(
        spec,
        intercept=sums_intercept(head, golden.head_mean),
        training_sd=head.training_sd,
        thresholds=head.thresholds,
        training=training,
        calibration=record,
    )


def _moved(p: float, scaling: Scaling) -> float:
    """Where the scaling puts a probability; 0 and 1 stay."""
    if not 0 < p < 1:
        return p
    return float(sigmoid(scaling.apply(np.array(math.log(p) - math.log1p(-p)))))


def _moved_band(band: CallBand, scaling: Scaling) -> CallBand:
    return CallBand(confidence=band.confidence, low=_moved(band.low, scaling), high=_moved(band.high, scaling))


def _moved_panels(bundle: Bundle, head: HeadSpec, scaling: Scaling) -> list[Panel]:
    """The panels with the head's quantiles where the scaling puts them; ranks stay the same."""

    def moved(value: float) -> float:
        there = _moved(value, scaling) if head.kind == LOGISTIC else float(scaling.apply(np.array(value)))
        return float(np.float32(there))

    def of_head(scores: PanelScores) -> PanelScores:
        if scores.head != head.name:
            return scores
        return msgspec.structs.replace(scores, quantiles=list(map(moved, scores.quantiles)))

    panels = bundle.manifest.panels
    return [msgspec.structs.replace(panel, scores=list(map(of_head, panel.scores))) for panel in panels]


def _write_card(bundle: Bundle, head: str, record: Calibration, scaling: Scaling, staging: Path) -> None:
    """The head's card, if it has one, with a note on what the calibration changed."""
    first = bundle.manifest.head.name
    md, page, metrics, _ = card_files(bundle, head)
    data = read_listed(bundle, file_of_head(METRICS_JSON, head, first))
    if data is None:
        return
    try:
        card = msgspec.json.decode(data, type=CardFile).card
    except msgspec.DecodeError as error:
        raise BundleError(f"{bundle.path / metrics}: holds no card: {printable(str(error))}", FIX) from error
    note = (
        f"Calibrated afterwards with {record.controls} controls: ranks, and so AUC and Spearman, are the same. "
        "Accuracy and errors below are those of the scores before."
    )
    calls = card.calls
    if calls is not None and calls.band is not None:
        calls = msgspec.structs.replace(calls, band=_moved_band(calls.band, scaling))
    card = msgspec.structs.replace(card, notes=[note, *card.notes], calls=calls)
    write_pages(card, staging, md=md, page=page)
    (staging / metrics).write_bytes(CardFile(card=card).encode())
