"""Calibrate: write a new bundle with one head adjusted to measured controls, or write nothing."""

from __future__ import annotations

import dataclasses

import numpy as np

from abonyx.arrays import Float64Array
from abonyx.bundle import Golden, check_files
from abonyx.bundle.manifest import Calibration, Manifest
from abonyx.bundle.threshold import pooling_notes
from abonyx.bundle.training_rows import training_rows
from abonyx.errors import InputError, LabelsOfOtherKind
from abonyx.input.checked import Input
from abonyx.input.labels import LabelKind
from abonyx.output.directory import staged
from abonyx.output.files import rejected_path
from abonyx.output.formats import write_rejected
from abonyx.wording import option
from abonyx_export.bundle_writer import Report
from abonyx_export.calibrate.assembly import assembly, write_card
from abonyx_export.calibrate.request import CalibrateRequest, check_request
from abonyx_export.calibrate.scaling import METRICS, Scaling, fit_scaling, measure, predict_left_out
from abonyx_export.fit.assembly import assemble, files_beside
from abonyx_export.fit.card import card_files
from abonyx_export.fit.embeddings import embed_records
from abonyx_export.fit.fit import embedding_cache
from abonyx_export.fit.labels import rows_sha256
from abonyx_export.head.spec import stored_heads

# With fewer controls, their noise decides the slope.
MIN_CONTROLS = 20
_WORDS = {"log_loss": "log loss", "brier": "Brier", "ece": "ECE", "squared_error": "squared error", "mae": "MAE"}


@dataclasses.dataclass(frozen=True)
class _Controls:
    """n controls: sequences, labels (n,) (0 and 1, or values), and the old head's logits or values (n,)."""

    sequences: list[str]
    labels: Float64Array
    old: Float64Array


def calibrate_bundle(request: CalibrateRequest, report: Report = lambda line: None) -> Manifest:
    """Write the new bundle, or raise and leave nothing behind but the cached embeddings.

    Args:
        request: what to calibrate.
        report: called with a line at each step.

    Returns:
        The new bundle's manifest, with the calibration in the head's record.

    Raises:
        ConfigError: an option is wrong, or the output cannot be created.
        InputError: the file or its labels cannot be used, or the controls do not support a calibration.
        BundleError: the parent bundle is damaged.
        ParityError: a variant with the new head is over its limit.
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
        write_card(bundle, request.spec.name, record, scaling, staging)
        made = assembly(request, scaling, record, golden, [name for name in files if name not in own])
        manifest = assemble(made, staging, report)
        if request.run.skip:
            write_rejected(rejected_path(request.output), checked.rejected)
    return manifest


def _read(request: CalibrateRequest, report: Report) -> Input:
    kind: LabelKind = "classes" if request.logistic else "values"
    try:
        checked = request.run.read(request.source, request.label_column, label_required=True, label_kind=kind)
    except LabelsOfOtherKind as error:
        gives = "a probability and needs labels 0 and 1"
        if not request.logistic:
            gives = f"values in {request.spec.unit} and needs measured values"
        fix = f"Head {request.spec.name} gives {gives}. Change the labels, or choose another {option('head')}."
        raise InputError(error.marked[0], fix) from error
    if checked.rejected:
        report(f"{len(checked.rejected)} bad records are left out")
    known = training_rows(request.run.bundle, checked.records, request.spec.name, checked.domains)
    if known is not None and (count := int(known.sum())):
        total = len(checked.records)
        report(
            f"note: {count} of {total} controls are training rows of the head, so the head looks better than it is: "
            "measure other controls"
        )
    return checked


def _controls(request: CalibrateRequest, checked: Input, golden: Golden, report: Report) -> _Controls:
    """The controls that can be used.

    Raises:
        InputError: there are too few, all labels are the same, or all scores are the same.
    """
    kept = [row for row, judgement in enumerate(checked.judgements) if judgement.trusted]
    if left := len(checked.judgements) - len(kept):
        report(
            f"{left} of {len(checked.judgements)} controls are flagged as unlike the head's training set and left out"
        )
    cells = checked.labels if request.logistic else checked.values
    labels = np.array([cells[row] for row in kept], np.float64)
    sequences = [checked.records[row] for row in kept]
    _check_labels(request, labels, len(set(sequences)))
    rows = embed_records(request.run, checked, embedding_cache(request.embedding_cache), report)[kept]
    old = stored_heads(request.run.bundle.manifest.heads, golden)[request.at].logit(rows.astype(np.float64))
    if np.ptp(old) < 1e-6 * max(1.0, float(np.abs(old).max())):
        what = f"{request.source_name}: head {request.spec.name} gives all {len(old)} controls the same score"
        raise InputError(what, "Give controls whose scores differ.")
    return _Controls(sequences, labels, old)


def _check_labels(request: CalibrateRequest, labels: Float64Array, different: int) -> None:
    name = request.source_name
    if different < MIN_CONTROLS:
        what = f"{name}: only {different} different sequences can be used, at least {MIN_CONTROLS} are needed"
        raise InputError(what, "Measure more controls.")
    if np.ptp(labels) == 0:
        shown = f"labels are {labels[0]:g}" if request.logistic else f"values are {labels[0]:g} {request.spec.unit}"
        raise InputError(f"{name}: all {len(labels)} {shown}", "Give controls whose measurements differ.")


def _calibration(
    request: CalibrateRequest, checked: Input, controls: _Controls, report: Report
) -> tuple[Scaling, Calibration]:
    """Fit the scaling and report its errors; returns the scaling and its record.

    Raises:
        InputError: the slope is not above 0, or the error on left-out controls is not smaller than before.
    """
    labels, old, logistic = controls.labels, controls.old, request.logistic
    scaling = fit_scaling(old, labels, logistic=logistic)
    new = predict_left_out(old, labels, controls.sequences, logistic=logistic)
    before, after = measure(old, labels, logistic=logistic), measure(new, labels, logistic=logistic)
    constant = predict_left_out(np.zeros(len(old)), labels, controls.sequences, logistic=logistic)
    report(f"{len(labels)} controls, head {request.spec.name}: slope {scaling.slope:.4g}, {_shift(scaling, request)}")
    for metric in METRICS[logistic]:
        report(f"  {_WORDS[metric]} {before[metric]:.4g} before, {after[metric]:.4g} after (on left-out controls)")
    if not scaling.slope > 0:
        what = f"{request.source_name}: the slope is {scaling.slope:.4g}, not above 0"
        fix = "Check the labels. If they are right, the head ranks the controls in the wrong order: fit a new head."
        what += f": head {request.spec.name} ranks the controls in the opposite order of their labels"
        raise InputError(what, fix)
    first = METRICS[logistic][0]
    if not after[first] < before[first]:
        what = f"{request.source_name}: on left-out controls, the {_WORDS[first]} is {before[first]:.4g} before and "
        fix = "These controls do not improve the head. Keep the bundle as it is, or measure more controls."
        raise InputError(f"{what}{after[first]:.4g} after the calibration", fix)
    mean = measure(constant, labels, logistic=logistic)[first]
    if after[first] >= mean:
        report(
            f"note: the head ranks the controls badly; one constant score for all controls does at least as well "
            f"({_WORDS[first]} {mean:.4g})"
        )
    training = request.spec.training
    if training is not None and training.interval is not None:
        report("note: the interval around the head's values is removed; it holds for the values before calibration")
    return scaling, Calibration(
        controls=len(labels),
        positives=int(labels.sum()) if logistic else None,
        source_name=request.source_name,
        source_sha256=rows_sha256(checked),
        slope=scaling.slope,
        intercept=scaling.intercept,
        before=before,
        after=after,
    )


def _shift(scaling: Scaling, request: CalibrateRequest) -> str:
    unit = "of the logit" if request.logistic else str(request.spec.unit)
    return f"intercept {scaling.intercept:.4g} {unit}"
