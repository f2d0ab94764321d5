"""The labels of a fit: classes or values that can be cross-validated, or an error that says what is wrong with them."""

from __future__ import annotations

from collections import Counter

import numpy as np

from abonyx.arrays import Float64Array
from abonyx.errors import InputError
from abonyx.input.checked import Input
from abonyx.wording import option
from abonyx_export.fit.cross_validation import Labels
from abonyx_export.fit.request import FitRequest


def classes_of(checked: Input, request: FitRequest) -> Labels:
    """0 or 1 of each row, (n,) int64.

    Raises:
        InputError: one class alone, or a class with fewer rows, or fewer different sequences, than there are folds.
    """
    # read_input(label_required=True) has made records of blank labels bad ones
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
        raise InputError(what, f"A head needs rows of both classes; the values go from {_span(values)}.")
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
    _check_different(checked, name, folds)
    return np.array(labels, np.int64)


def values_of(checked: Input, request: FitRequest) -> Float64Array:
    """The measured value of each row, (n,) float64, in the request's unit.

    Raises:
        InputError: all are equal, or there are fewer, or fewer different sequences, than folds or than 3.
    """
    values, name = _values(checked), request.source_name
    if np.ptp(values) == 0:
        what = f"{name}: all {len(values)} values are {values[0]:g} {request.unit}"
        raise InputError(what, "A head needs values that differ.")
    least = max(request.folds, 3)  # two of three rows are left to fit on
    if len(values) < least:
        fix = f"Add rows, or ask for fewer folds with {option('folds')}."
        raise InputError(f"{name}: {len(values)} rows, {option('folds')} {request.folds} needs at least {least}", fix)
    _check_different(checked, name, request.folds)
    return values


def _check_different(checked: Input, name: str, folds: int) -> None:
    """Refuse rows of fewer different sequences than folds: the card's folds never split a sequence."""
    rows, different = len(checked.records), len(set(checked.records))
    if different < folds:
        what = f"{rows} rows hold {different} different sequences, {option('folds')} {folds} needs at least {folds}"
        fewer = f", or ask for {option('folds')} {different}." if different > 1 else "."
        raise InputError(f"{name}: {what}", f"Add rows with other sequences{fewer}")


def _values(checked: Input) -> Float64Array:
    return np.array([value for value in checked.values if value is not None], np.float64)


def _span(values: Float64Array) -> str:
    return f"{values.min():g} to {values.max():g}"
