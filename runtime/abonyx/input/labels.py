"""Labels: the cells of a label column as classes or as measured values."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Literal

from abonyx.errors import LabelsOfOtherKind, printable
from abonyx.input.cells import MISSING, Record
from abonyx.wording import option

LabelKind = Literal["classes", "values"]
# The words for the classes, in lower case. pandas writes 0.0 and 1.0 if a column has an empty cell (the Boughter set).
_SPECIFIC, _NONSPECIFIC = ("0", "0.0", "false", "no", "specific"), ("1", "1.0", "true", "yes", "non-specific")
LABELS = dict.fromkeys(_SPECIFIC, 0) | dict.fromkeys((*_NONSPECIFIC, "nonspecific", "non specific"), 1)
# float() would also accept 1_000, nan and inf.
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
# If a column of classes has at least _MEASURED different numbers other than 0 and 1, or if at least _MEASURED cells and
# _MEASURED_SHARE of all cells are such numbers, it is a column of measured values. A few such cells are typing errors.
_MEASURED, _MEASURED_SHARE = 3, 0.1


def label_of(record: Record) -> str:
    """The label of a record; "" if it is missing."""
    return "" if record.label in MISSING else record.label


def class_of(label: str) -> int | None:
    """0 specific, 1 non-specific; None if the label is not in LABELS."""
    return LABELS.get(label.lower())


def classes_of(cells: Sequence[str]) -> tuple[list[int | None], str | None]:
    """The classes in a column that may have labels.

    Args:
        cells: n texts.

    Returns:
        (n classes, None), each 0 specific, 1 non-specific or None not labelled; or ([], why the column has no classes).
    """
    labels = ["" if cell.strip() in MISSING else cell.strip() for cell in cells]
    others = [label for label in labels if label and class_of(label) is None]
    if others:
        return [], f"{len(others)} of {len(labels)} cells are not 0 or 1, e.g. {printable(others[0])!r}"
    return ([class_of(label) for label in labels], None) if any(labels) else ([], "all of its cells are blank")


def value_of(label: str) -> float | None:
    """The number in a label; None if it is not a finite number."""
    value = float(label) if _NUMBER.fullmatch(label) else math.nan
    return value if math.isfinite(value) else None


def label_problem(label: str, kind: LabelKind, *, required: bool) -> str | None:
    """Why the label of a record cannot be used; None if it can. If `required`, an empty label cannot be used."""
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
        return "not a number: write a decimal point, not a comma"
    return f"a number with other text: remove {printable(rest)!r} from the cell" if rest else "not a finite number"


def refuse_other_kind(labels: Sequence[str], kind: LabelKind, where: str) -> None:
    """Refuse a column whose labels are of the other kind. A few wrong cells pass: label_problem rejects their records.

    Args:
        labels: the label of each record, from label_of.
        kind: the kind that is expected.
        where: name of the source in messages.

    Raises:
        LabelsOfOtherKind: the labels are not of `kind`. The message names the options for such labels.
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
            f"For measured values give {option('task')} regression. To turn them into classes, give "
            f"{option('positive_above')} or {option('positive_below')} with a value."
        )
        raise LabelsOfOtherKind(what, fix)
