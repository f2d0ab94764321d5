"""The card of a new head, and what the bundle keeps of the rows that it was fitted to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from abonyx.arrays import Float64Array
from abonyx.bundle.band import CallBand
from abonyx.bundle.training_rows import TRAINING_ROWS_NAME, write_training_rows
from abonyx.card.card import card_of_fit
from abonyx.card.labelled import LabelledSet
from abonyx.card.linear import Predict
from abonyx.card.record import Card, CardFile
from abonyx.card.writing import CARD_HTML, CARD_MD, METRICS_JSON, write_pages
from abonyx.input.checked import Input
from abonyx_export.fit.cross_validation import Fitted, Labels
from abonyx_export.fit.request import FitRequest

# Of one head, so that a bundle fitted on this one does not take them over.
FILES = (CARD_MD, CARD_HTML, METRICS_JSON, TRAINING_ROWS_NAME)


def judge_fit(
    request: FitRequest,
    checked: Input,
    rows: Float64Array,
    labels: Labels,
    fit: Callable[[Float64Array, Labels, float], Fitted],
) -> tuple[Card, CallBand | None]:
    """The card, by nested cross-validation over the request's grid, and the band for calls.

    Args:
        rows: (n, D) embeddings; labels: (n,).
        fit: as cross_validation.fit_once.
    """

    def decision(training: Float64Array, training_labels: Float64Array, c: float) -> Predict:
        return fit(training, training_labels.astype(np.int64), c).decision

    labelled = LabelledSet(
        name=request.source_name,
        head=f"a new head on {request.run.bundle.name}",
        chains=(checked.sequences,),
        labels=labels.astype(np.float64),
        trusted=np.array([judgement.trusted for judgement in checked.judgements], bool),
        folds=request.folds,
        seed=request.seed,
    )
    return card_of_fit(labelled, rows, sorted(request.grid), decision, request.confidence)


def write_card(card: Card, checked: Input, directory: Path) -> None:
    """Write FILES."""
    write_pages(card, directory)
    (directory / METRICS_JSON).write_bytes(CardFile(card=card).encode())
    write_training_rows(checked.sequences, directory)
