"""Labels of the wrong kind: the message names the option that would take them."""

from __future__ import annotations

import numpy as np
import pytest

from abonyx.card.labels import check_labels_of
from abonyx.card.linear import Task
from abonyx.errors import InputError

MEASURED, CLASSES = [0.1, 0.35, 0.9], [0.0, 1, 1]


@pytest.mark.parametrize(
    ("task", "labels", "words"),
    [
        ("classes", MEASURED, ["3 different values, 0.1 to 0.9", "task regression", "positive_above VALUE"]),
        ("classes", [0.0, 1, 2], ["3 different values, 0 to 2", "task regression"]),
        ("values", CLASSES, ["all 3 labels are 0 or 1", "task classification"]),
        ("classes", [1.0, 1], ["all 2 labels are 1"]),
        ("values", [0.5, 0.5], ["all 2 labels are 0.5"]),
        ("values", [0.5, float("nan")], ["label 2 of 2 is nan"]),
    ],
)
def test_refused(task: Task, labels: list[float], words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        check_labels_of(task, np.array(labels), "psr")
    text = str(caught.value)
    assert "label column 'psr'" in text
    for word in words:
        assert word in text


def test_accepted() -> None:
    check_labels_of("classes", np.array(CLASSES), "psr")
    check_labels_of("values", np.array(MEASURED), "psr")
