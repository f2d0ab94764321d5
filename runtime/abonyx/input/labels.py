"""What a cell of a label column means: a class, or a measured value."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Literal

from abonyx.errors import LabelsOfOtherKind, printable
from abonyx.input.cells import MISSING, Record
from abonyx.wording import option

LabelKind = Literal["classes", "values"]
# In any case: as text, as integers and as the floats that pandas writes once a column has a gap (the Boughter set).
_SPECIFIC, _NONSPECIFIC = ("0", "0.0", "false", "no", "specific"), ("1", "1.0", "true", "yes", "non-specific")
LABELS = dict.fromkeys(_SPECIFIC, 0) | dict.fromkeys((*_NONSPECIFIC, "nonspecific", "non specific"), 1)
# Not float()'s own rule: that takes 1_000, nan and inf.
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
# Numbers other than 0 and 1 from which on a column of classes is taken for one of measured values: so many different
# ones, or so many cells and this share of them. A few are slips.
_MEASURED, _MEASURED_SHARE = 3, 0.1


def label_of(record: Record) -> str:
    """A record's label; "" if it is missing."""
    return "" if record.label in MISSING else record.label


def class_of(label: str) -> int | None:
    """0 specific, 1 non-specific, None if the label is none of LABELS."""
    return LABELS.get(label.lower())


def classes_of(cells: Sequence[str]) -> tuple[list[int | None], str | None]:
    """The classes of a column that may hold labels, and why it holds none.

    Args:
        cells: n texts.

    Returns:
        (n,) 0 specific, 1 non-specific, None not labelled, and None; or no classes and the reason.
    """
    labels = ["" if cell.strip() in MISSING else cell.strip() for cell in cells]
    others = [label for label in labels if label and class_of(label) is None]
    if others:
        return [], f"{len(others)} of {len(labels)} cells are not 0 or 1, e.g. {printable(others[0])!r}"
    return ([class_of(label) for label in labels], None) if any(labels) else ([], "all of its cells are blank")


def value_of(label: str) -> float | None:
    """The number, None if the label is not a finite one."""
    value = float(label) if _NUMBER.fullmatch(label) else math.nan
    return value if math.isfinite(value) else None


def label_problem(label: str, kind: LabelKind, *, required: bool) -> str | None:
    """Why a record's label cannot be used; None if it can. required: a blank one cannot."""
    if not label:
        return "no label" if required else None
    if kind == "values":
        return None if value_of(label) is not None else f"the label is {printable(label)!r}, {_not_a_number(label)}"
    if class_of(label) is not None:
        return None
    words = "0 or 1" if required else "0, 1 or blank"
    return f"the label is {printable(label)!r}, not {words}, true or false, yes or no, specific or non-specific"


def _not_a_number(label: str) -> str:
    begin = _NUMBER.match(label)
    rest = label[begin.end() :].strip() if begin else ""
    if class_of(label) is not None:
        return "a class and not a measured value"
    if re.match(r",\d", rest):
        return "not a number: write a decimal point"
    return f"a number with more text: leave {printable(rest)!r} out of the cell" if rest else "not a finite number"


def refuse_other_kind(labels: Sequence[str], kind: LabelKind, where: str) -> None:
    """Refuse a column that holds the other kind of label as a whole; single cells are bad records.

    Args:
        labels: of label_of, one a record.
        where: what messages call the source.

    Raises:
        LabelsOfOtherKind: names the options that take these labels.
    """
    given = [label for label in labels if label]
    classes = sum(class_of(label) is not None for label in given)
    if kind == "values" and given and classes == len(given):
        what = f"{where}: all {len(given)} labels are classes, e.g. {printable(given[0])!r}, not measured values"
        fix = f"Leave out {option('task')} regression, {option('positive_above')} and {option('positive_below')}."
        raise LabelsOfOtherKind(what, fix)
    measured = {label for label in given if class_of(label) is None and value_of(label) is not None}
    cells = sum(label in measured for label in given)
    many = cells >= max(_MEASURED, _MEASURED_SHARE * len(given))
    if kind == "classes" and (len(measured) >= _MEASURED or many):
        example = next(label for label in given if label in measured)
        what = f"{where}: {len(given) - classes} of {len(given)} labels are not 0 or 1, e.g. {printable(example)!r}"
        fix = (
            f"For measured values give {option('task')} regression; to make classes of them, {option('positive_above')}"
            f" or {option('positive_below')} with a value."
        )
        raise LabelsOfOtherKind(what, fix)
