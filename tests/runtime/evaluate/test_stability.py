"""evaluate --stability: the flips equal those of changed sequences that the test scores itself."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

import abonyx
from abonyx.alphabet import SequenceLimit
from abonyx.errors import InputError
from abonyx.evaluate.stability import Varied
from abonyx.evaluate.variations import VARIATIONS
from abonyx.input.checked import Input

THRESHOLD = 0.6


def table(path: Path, sequences: list[str]) -> Path:
    labels = ["0", "1", "", "1"]
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = [(f"ab{row}", sequence, labels[row % 4]) for row, sequence in enumerate(sequences)]
        csv.writer(file).writerows([("id", "sequence", "label"), *rows])
    return path


def evaluated(run: Any, tmp_path: Path, *options: str) -> tuple[Any, str]:
    code, out, err = run("evaluate", tmp_path / "rows.csv", "-o", tmp_path / "out", "--bootstrap", "20", *options)
    assert code == 0 and not out, err
    return json.loads((tmp_path / "out" / "metrics.json").read_text()), err


def test_flips_and_differences_are_those_of_the_changed_sequences(
    run: Any, tmp_path: Path, sequences: list[str]
) -> None:
    table(tmp_path / "rows.csv", sequences[:5])
    record, err = evaluated(run, tmp_path, "--stability", "--threshold", str(THRESHOLD))
    found = record["stability"]
    assert (found["rows"], found["left_out"]) == (5, 0)  # the row without a label, too
    assert list(found["variations"]) == list(VARIATIONS)
    with abonyx.open_session() as session:
        p = session.score(sequences[:5])
        for name, vary in VARIATIONS.items():
            moved = session.score([vary(sequence) for sequence in sequences[:5]])
            limit = np.float32(THRESHOLD)
            shown = found["variations"][name]
            assert shown["flips"] == np.mean((moved > limit) != (p > limit)), name
            assert shown["mean_dp"] == pytest.approx(np.abs(moved - p).mean(), abs=1e-6), name
    flips = found["variations"]["M in front"]["flips"]
    assert f"M in front {flips:.1%}" in err
    (note,) = [
        note
        for note in record["card"]["notes"]
        if note.startswith("share of the calls of 5 rows that flip: first residue cut")
    ]
    assert f"rows: {note}" in err and f"- {note}" in (tmp_path / "out" / "card.md").read_text()
    assert "5 sequences scored, and 35 altered copies of them, 0 rejected" in err
    page = (tmp_path / "out" / "report.html").read_text()
    assert "How stable a call is (5 rows)" in page and "AAA and a His tag at the end" in page


def test_is_not_measured_unless_asked_for(run: Any, tmp_path: Path, sequences: list[str]) -> None:
    table(tmp_path / "rows.csv", sequences[:4])
    record, err = evaluated(run, tmp_path)
    assert record["stability"] is None
    assert "flip" not in err and "altered" not in err
    assert "How stable" not in (tmp_path / "out" / "report.html").read_text()


def test_rows_that_cannot_be_changed_in_every_way_are_left_out(sequences: list[str]) -> None:
    rows = Input(ids=["a", "b", "c"], sequences=[sequences[0], sequences[0][:3], sequences[0] + "S"])
    varied = Varied.of(rows, SequenceLimit(len(sequences[0]) + 9), "rows.csv")
    assert varied.kept.tolist() == [True, False, False]
    varied.scores[:] = 0.75
    measured = varied.measure(np.array([0.25, 0.5, 0.5], np.float32), 0.5)
    assert (measured.rows, measured.left_out) == (1, 2)
    assert all((each.flips, each.mean_dp) == (1.0, 0.5) for each in measured.variations.values())


def test_an_input_with_no_row_to_change_is_refused(sequences: list[str]) -> None:
    rows = Input(ids=["a"], sequences=[sequences[0]])
    with pytest.raises(InputError, match=r"rows.csv: none of 1 rows can be changed in every way"):
        Varied.of(rows, SequenceLimit(len(sequences[0])), "rows.csv")
