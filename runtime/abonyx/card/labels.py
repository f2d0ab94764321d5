"""Labels that do not fit what a head is to be: refused, with the option that would take them."""

from __future__ import annotations

import numpy as np

from abonyx.arrays import Float64Array
from abonyx.card.linear import Task
from abonyx.errors import InputError, printable
from abonyx.wording import option


def check_labels_of(task: Task, labels: Float64Array, column: str) -> None:
    """Refuse labels that a head of this task cannot be fitted to or judged by.

    Args:
        labels: (n,), at least one.
        column: where they are from.

    Raises:
        InputError: not finite; all one; measured values for classes, or the reverse.
    """
    name, count = f"label column {printable(column)!r}", len(labels)
    if not np.isfinite(labels).all():
        place = int(np.flatnonzero(~np.isfinite(labels))[0])
        raise InputError(f"{name}: label {place + 1} of {count} is {labels[place]}", "Give a finite number, or none.")
    different = np.unique(labels)
    if len(different) == 1:
        what = f"{name}: all {count} labels are {different[0]:g}"
        raise InputError(what, "Add rows with other labels, or name another column.")
    classes = bool(np.isin(different, (0, 1)).all())
    if task == "classes" and not classes:
        ends = f"{different[0]:g} to {different[-1]:g}"
        what = f"{name}: {count} labels have {len(different)} different values, {ends}; classes are 0 and 1"
        fix = f"For measured values, give {option('task')} regression; {option('positive_above')} VALUE makes classes."
        raise InputError(what, fix)
    if task == "values" and classes:
        what = f"{name}: all {count} labels are 0 or 1: these are classes, not measured values"
        raise InputError(what, f"Give {option('task')} classification, or name the column that was measured.")
