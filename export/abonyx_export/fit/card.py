"""The card of a new head, and the files about its training rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from abonyx.arrays import Float64Array
from abonyx.bundle.band import CallBand, ValueBand
from abonyx.bundle.bundle import Bundle
from abonyx.bundle.listed import file_of_head
from abonyx.bundle.training_rows import (
    TRAINING_ROWS_NAME,
    TRAINING_SEQUENCES_NAME,
    write_training_rows,
    write_training_sequences,
)
from abonyx.card.card import card_of_fit
from abonyx.card.labelled import LabelledSet
from abonyx.card.linear import Predict, Task
from abonyx.card.record import Card, CardFile
from abonyx.card.writing import CARD_HTML, CARD_MD, METRICS_JSON, write_pages
from abonyx.input.checked import Input
from abonyx_export.fit.cross_validation import fit_once
from abonyx_export.fit.labels import classes_of, values_of
from abonyx_export.fit.request import REGRESSION, FitRequest
from abonyx_export.fit.ridge import fit_ridge

FILES = (CARD_MD, CARD_HTML, METRICS_JSON, TRAINING_ROWS_NAME)


def card_files(bundle: Bundle, head: str) -> list[str]:
    """Names in the bundle of a head's FILES. The head may be new to the bundle."""
    return [file_of_head(name, head, bundle.manifest.head.name) for name in FILES]


def head_files(bundle: Bundle, head: str) -> list[str]:
    """All files of a head: card_files, and its training sequences, which most bundles do not have."""
    return [*card_files(bundle, head), file_of_head(TRAINING_SEQUENCES_NAME, head, bundle.manifest.head.name)]


def judge_fit(
    request: FitRequest, checked: Input, rows: Float64Array, strength: float, left_out: tuple[str, ...]
) -> tuple[Card, CallBand | ValueBand | None]:
    """The head's card from nested cross-validation, and its band of uncertain calls or its interval.

    Args:
        request: what to fit.
        checked: the labelled input.
        rows: embeddings (n, D), or with copies (n, copies, D). Only the original rows are scored.
        strength: C or alpha of the head that is fitted on all rows.
        left_out: notes on records that are not in `rows`.
    """
    regression = request.task == REGRESSION

    def classes(training: Float64Array, labels: Float64Array, c: float) -> Predict:
        fitted = fit_once(training, labels.astype(np.int64), c, scale=request.scale, balanced=request.balanced)
        return fitted.decision

    def values(training: Float64Array, labels: Float64Array, alpha: float) -> Predict:
        return fit_ridge(training, labels, (alpha,), scale=request.scale)[0].decision

    grid = sorted(request.strengths, reverse=regression)  # the most regularised first
    task: Task = "values" if regression else "classes"
    labels = values_of(checked, request) if regression else classes_of(checked, request)
    labelled = LabelledSet(
        name=request.source_name,
        head=f"a new head on {request.run.bundle.name}",
        chains=checked.chains,
        labels=labels.astype(np.float64),
        task=task,
        trusted=np.array([judgement.trusted for judgement in checked.judgements], bool),
        left_out=left_out,
        folds=request.folds,
        seed=request.seed,
    )
    return card_of_fit(labelled, rows, grid, values if regression else classes, request.confidence, strength)


def write_card(card: Card, checked: Input, directory: Path, request: FitRequest) -> None:
    """Write FILES of the new head, and its sequences if requested. With `add`, their names include the head's name."""
    md, page, metrics, known = card_files(request.run.bundle, request.name_of_head) if request.add else FILES
    write_pages(card, directory, md=md, page=page)
    (directory / metrics).write_bytes(CardFile(card=card).encode())
    write_training_rows(checked.records, directory / known, checked.domains)
    if request.store_sequences:
        first = request.run.bundle.manifest.head.name if request.add else request.name_of_head
        write_training_sequences(
            checked.sequences, directory / file_of_head(TRAINING_SEQUENCES_NAME, request.name_of_head, first)
        )
