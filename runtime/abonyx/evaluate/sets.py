"""One labelled input of an evaluation, and its labelled rows after scoring."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from abonyx.alphabet import SequenceLimit
from abonyx.arrays import Float32Array, Float64Array
from abonyx.bundle.bundle import Bundle
from abonyx.bundle.manifest import LOGISTIC, HeadSpec
from abonyx.errors import InputError, LabelsOfOtherKind, printable
from abonyx.evaluate.request import EvaluationRequest
from abonyx.evaluate.stability import Varied
from abonyx.hashing import file_sha256
from abonyx.input.checked import Input
from abonyx.input.labels import LabelKind
from abonyx.output.files import input_stem
from abonyx.run.request import RunRequest
from abonyx.wording import option

Cell = TypeVar("Cell")


class LabelledRows(NamedTuple):
    """Labels of k rows, 0 and 1 or measured values, and the head's probabilities or values, (k,) each."""

    y: Float64Array
    scores: Float32Array


@dataclass(frozen=True)
class EvaluatedSet:
    """One input that was read. `scores` (n,) is filled while scoring. `varied`: changed copies, if they are scored."""

    name: str
    stem: str
    sha256: str
    checked: Input
    scores: Float32Array
    varied: Varied | None

    @property
    def labels(self) -> Sequence[float | None]:
        """0 and 1, or measured values, one for each row; None = not labelled."""
        return self.checked.labels or self.checked.values

    def of_labelled(self, column: Sequence[Cell]) -> list[Cell]:
        """The cells of the labelled rows, from a column of all rows."""
        return [cell for cell, label in zip(column, self.labels, strict=True) if label is not None]

    def rows(self, *, unflagged: bool = False) -> LabelledRows:
        """The labelled rows; unflagged: without flagged rows."""
        every = zip(self.labels, self.checked.judgements, strict=True)
        kept = np.array([label is not None and (judged.trusted or not unflagged) for label, judged in every], bool)
        y = np.array([np.nan if label is None else label for label in self.labels], np.float64)
        return LabelledRows(y[kept], self.scores[kept])


def read_set(source: Path, request: EvaluationRequest, run: RunRequest, head: HeadSpec) -> EvaluatedSet:
    """Read one input.

    Raises:
        InputError: it cannot be read, has no label, or has labels of a kind that does not fit the head.
    """
    regular = os.path.isfile(source) or os.path.isdir(source)  # noqa: PTH112, PTH113
    if os.path.exists(source) and not regular:  # noqa: PTH110 (the reader reports a missing path or a directory)
        what = f"{source}: is a device or a pipe, which cannot be read twice"
        raise InputError(what, "Give a file: its sha256 is recorded beside the metrics.")
    try:
        kind: LabelKind = "classes" if head.kind == LOGISTIC else "values"
        checked = run.read(source, request.label_column, label_kind=kind)
    except LabelsOfOtherKind as error:
        raise InputError(error.marked[0], _other_kind(head, run.bundle)) from error
    except InputError as error:
        what, fix = error.marked
        if option("keep") not in fix:
            raise
        # only the column of the parents is kept
        raise type(error)(what, fix.replace(option("keep"), option("by"))) from error
    labels = checked.labels or checked.values
    if all(label is None for label in labels):
        what = f"{source}: none of {len(labels)} rows has a label in column {printable(request.label_column)!r}"
        column = "labels 0 and 1" if head.kind == LOGISTIC else "measured values"
        raise InputError(what, f"Name the column of {column} with {option('label_column')}, or use `abonyx score`.")
    name = source.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")  # as JSON can hold it
    limit = SequenceLimit.of(run.bundle.manifest, run.config)
    varied = Varied.of(checked, limit, name) if request.stability else None
    return EvaluatedSet(
        name, input_stem(source), file_sha256(source), checked, np.empty(len(checked.ids), np.float32), varied
    )


def _other_kind(head: HeadSpec, bundle: Bundle) -> str:
    """What to do about labels of a kind that does not fit the head."""
    gives = "a probability and needs labels 0 and 1"
    if head.kind != LOGISTIC:
        gives = f"values in {head.unit} and needs measured values as labels"
    others = [each.name for each in bundle.manifest.heads if each.kind != head.kind]
    column = f"another column with {option('label_column')}"
    if others:
        return f"Head {head.name} gives {gives}. Name {' or '.join(others)} with {option('head')}, or {column}."
    return f"Head {head.name} gives {gives}. {bundle.name} has no head of the other kind. Name {column}."
