"""The files in examples/ are as their page says."""

from __future__ import annotations

import csv
import re
from collections import Counter

import abonyx

from .conftest import REPOSITORY

EXAMPLES = REPOSITORY / "examples"


def test_the_page_names_every_file() -> None:
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    files = {path.name for path in EXAMPLES.iterdir() if path.suffix != ".md"}
    assert set(re.findall(r"^\| `([\w.]+)` \|", page, flags=re.M)) == files


def test_labelled_rows_are_heavy_domains_with_the_labels_of_their_flags() -> None:
    with (EXAMPLES / "labelled.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len({row["id"] for row in rows}) == len({row["sequence"] for row in rows}) == len(rows) == 116
    assert Counter(row["label"] for row in rows) == {"0": 94, "1": 22}
    assert all(int(row["label"]) == (int(row["elisa_flags"]) >= 4) for row in rows)
    assert not [one for one in abonyx.judge([row["sequence"] for row in rows]) if one.flags]
