"""The labels of a fit: check that the classes or values can be cross-validated."""

from __future__ import annotations

import hashlib
from collections import Counter

import msgspec
import numpy as np

from abonyx.arrays import Float64Array
from abonyx.errors import InputError
from abonyx.input.checked import Input
from abonyx.wording import option
from abonyx_export.fit.cross_validation import Labels
from abonyx_export.fit.request import FitRequest


def classes_of(checked: Input, request: FitRequest) -> Labels:
    """The class of each row, 0 or 1, (n,) int64.

    Raises:
        InputError: there is only one class, a class has fewer rows than folds, or the input has fewer different
            sequences than folds.
    """
    # read_input(label_required=True) rejects records without a label.
    labels = [label for label in checked.labels if label is not None]
    if request.cut:
        values = _values(checked)
        labels = (values > request.cut.value if request.cut.above else values < request.cut.value).astype(int).tolist()
    counts = Counter(labels)
    name, folds = request.source_name, request.folds
    if len(counts) == 1 and request.cut:
        side, argument = ("above", "positive_above") if request.cut.above else ("below", "positive_below")
        share = "all" if labels[0] else "none"
        what = f"{name}: {share} of {len(labels)} values are {side} {option(argument)} {request.cut.value:g}"
        raise InputError(what, f"A head needs rows of both classes. The values go from {_span(values)}.")
    if len(counts) == 1:
        what = f"{name}: all {len(labels)} labels are {labels[0]}"
        raise InputError(what, "A head needs rows of both classes: give labels 0 and 1.")
    for label, count in sorted(counts.items(), key=lambda item: item[1]):
        if count == 1:
            fix = "Cross-validation needs each class in every fold: add rows of this class."
            raise InputError(f"{name}: only one of {len(labels)} rows has class {label}", fix)
        if count < folds:
            fix = f"Add rows, or use fewer folds: at most {option('folds')} {count}."
            what = f"class {label} has {count} rows of {len(labels)}, {option('folds')} {folds} needs at least {folds}"
            raise InputError(f"{name}: {what}", fix)
    _check_different(checked, name, folds)
    return np.array(labels, np.int64)


def values_of(checked: Input, request: FitRequest) -> Float64Array:
    """The measured value of each row, (n,) float64, in the request's unit.

    Raises:
        InputError: all values are equal, there are fewer rows than folds or than 3, or there are fewer different
            sequences than folds.
    """
    values, name = _values(checked), request.source_name
    if np.ptp(values) == 0:
        what = f"{name}: all {len(values)} values are {values[0]:g} {request.unit}"
        raise InputError(what, "A head needs different values: check the label column.")
    least = max(request.folds, 3)  # with three rows, a fold of one row leaves two rows to fit on
    if len(values) < least:
        fix = f"Add rows, or use fewer {option('folds')}."
        raise InputError(f"{name}: {len(values)} rows, {option('folds')} {request.folds} needs at least {least}", fix)
    _check_different(checked, name, request.folds)
    return values


def _check_different(checked: Input, name: str, folds: int) -> None:
    """Refuse fewer different sequences than folds, because the card's folds keep equal sequences together."""
    rows, different = len(checked.records), len(set(checked.records))
    if different < folds:
        what = f"{rows} rows hold {different} different sequences, {option('folds')} {folds} needs at least {folds}"
        fewer = f", or use {option('folds')} {different}." if different > 1 else "."
        raise InputError(f"{name}: {what}", f"Add rows with other sequences{fewer}")


def _values(checked: Input) -> Float64Array:
    return np.array([value for value in checked.values if value is not None], np.float64)


def _span(values: Float64Array) -> str:
    return f"{values.min():g} to {values.max():g}"


def rows_sha256(checked: Input) -> str:
    """Hash of ids, sequences and labels in order. A file, its gzip and standard input have the same hash."""
    rows = [checked.ids, checked.records, checked.labels or checked.values]
    return hashlib.sha256(msgspec.json.encode(rows)).hexdigest()
