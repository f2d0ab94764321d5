"""The calibrated bundle: the parent with one head scaled, and that head's card."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import msgspec
import numpy as np

from abonyx.bundle import Bundle, Golden
from abonyx.bundle.band import CallBand
from abonyx.bundle.heads import column_places, sigmoid
from abonyx.bundle.listed import FIX, METRICS_JSON, file_of_head, read_listed
from abonyx.bundle.manifest import LOGISTIC, Calibration, HeadSpec
from abonyx.bundle.panel import Panel, PanelScores
from abonyx.card.record import CardFile
from abonyx.card.writing import write_pages
from abonyx.errors import BundleError, printable
from abonyx_export.calibrate.request import CalibrateRequest
from abonyx_export.calibrate.scaling import Scaling
from abonyx_export.fit.assembly import Assembly
from abonyx_export.fit.card import card_files
from abonyx_export.head.head import Head
from abonyx_export.head.spec import golden_of, stored_heads, sums_intercept

_FIX = "A steep slope enlarges the variant's error. Export the bundle without this variant, or give more controls."


def assembly(
    request: CalibrateRequest, scaling: Scaling, record: Calibration, golden: Golden, files: list[str]
) -> Assembly:
    """The parent bundle with one head changed. The other heads keep their records and arrays."""
    bundle, at = request.run.bundle, request.at
    heads = stored_heads(bundle.manifest.heads, golden)
    heads[at] = head = _scale_head(heads[at], scaling)
    specs = list(bundle.manifest.heads)
    specs[at] = _scaled_spec(specs[at], scaling, record, head, golden)
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
        panels=_scale_panels(bundle, specs[at], scaling),
    )


def _scale_head(head: Head, scaling: Scaling) -> Head:
    sd = head.training_sd
    return dataclasses.replace(
        head,
        coef=head.coef * scaling.slope,
        intercept=head.intercept * scaling.slope + scaling.intercept,
        training_sd=None if sd is None else sd * scaling.slope,
        thresholds={assay: _scale_p(p, scaling) for assay, p in head.thresholds.items()},
    )


def _scaled_spec(spec: HeadSpec, scaling: Scaling, record: Calibration, head: Head, golden: Golden) -> HeadSpec:
    """The calibrated head's description. Its thresholds move with its scores, so that calls stay the same.

    The interval around a value is removed, because it holds for the values before calibration.
    """
    training = spec.training
    if training is not None:
        band = training.band and _scale_band(training.band, scaling)
        # Out-of-fold scores belong to the head before calibration.
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


def _scale_p(p: float, scaling: Scaling) -> float:
    """A probability after the scaling; 0 and 1 do not change."""
    if not 0 < p < 1:
        return p
    return float(sigmoid(scaling.apply(np.array(math.log(p) - math.log1p(-p)))))


def _scale_band(band: CallBand, scaling: Scaling) -> CallBand:
    return CallBand(confidence=band.confidence, low=_scale_p(band.low, scaling), high=_scale_p(band.high, scaling))


def _scale_panels(bundle: Bundle, head: HeadSpec, scaling: Scaling) -> list[Panel]:
    """The panels with the head's quantiles scaled; ranks stay the same."""

    def moved(value: float) -> float:
        there = _scale_p(value, scaling) if head.kind == LOGISTIC else float(scaling.apply(np.array(value)))
        return float(np.float32(there))

    def of_head(scores: PanelScores) -> PanelScores:
        if scores.head != head.name:
            return scores
        return msgspec.structs.replace(scores, quantiles=list(map(moved, scores.quantiles)))

    panels = bundle.manifest.panels
    return [msgspec.structs.replace(panel, scores=list(map(of_head, panel.scores))) for panel in panels]


def write_card(bundle: Bundle, head: str, record: Calibration, scaling: Scaling, staging: Path) -> None:
    """Write the head's card again, if it has one, with a note about the calibration."""
    first = bundle.manifest.head.name
    md, page, metrics, _ = card_files(bundle, head)
    data = read_listed(bundle, file_of_head(METRICS_JSON, head, first))
    if data is None:
        return
    try:
        card = msgspec.json.decode(data, type=CardFile).card
    except msgspec.DecodeError as error:
        raise BundleError(f"{bundle.path / metrics}: not a card: {printable(str(error))}", FIX) from error
    note = (
        f"This head was calibrated later with {record.controls} controls. Ranks, and so AUC and Spearman, did not "
        "change. The accuracy and errors below belong to the scores before the calibration."
    )
    calls = card.calls
    if calls is not None and calls.band is not None:
        calls = msgspec.structs.replace(calls, band=_scale_band(calls.band, scaling))
    card = msgspec.structs.replace(card, notes=[note, *card.notes], calls=calls)
    write_pages(card, staging, md=md, page=page)
    (staging / metrics).write_bytes(CardFile(card=card).encode())
