"""evaluate for a head that gives values: metrics, card, pictures and predictions are for measured values."""

from __future__ import annotations

import csv
import functools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("matplotlib")
sk = pytest.importorskip("sklearn.metrics")
stats = pytest.importorskip("scipy.stats")

import abonyx  # noqa: E402
from abonyx.bundle.tolerances import RESAMPLED_METRIC  # noqa: E402
from abonyx.card.labelled import LabelledSet  # noqa: E402
from abonyx.evaluate import value_metrics  # noqa: E402
from abonyx.evaluate.bootstrap import row_weights  # noqa: E402
from abonyx.evaluate.value_pictures import ValueSubject, draw_values  # noqa: E402
from abonyx.evaluate.variations import VARIATIONS  # noqa: E402

from ..card.made import mutants  # noqa: E402
from ..several import make_several  # noqa: E402

ROWS = 30
SEQUENCES = mutants(ROWS)
FILES = [
    "card.html",
    "card.md",
    "metrics.json",
    "predicted_measured.png",
    "predicted_measured.svg",
    "predictions.csv",
    "report.html",
    "residuals.png",
    "residuals.svg",
    "shortlist.csv",
]


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a probability first, and then hic, a value in min."""
    return make_several(tmp_path_factory.mktemp("values") / "several", ("nonspecificity", "hic"))


@pytest.fixture(scope="module")
def hic(several: Path) -> npt.NDArray[np.float32]:
    """The head's values of SEQUENCES."""
    with abonyx.open_session(several) as session:
        return session.score(SEQUENCES, heads="hic")["hic"]


@pytest.fixture
def three_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("abonyx.evaluate.evaluation.LabelledSet", functools.partial(LabelledSet, folds=3))


def table(path: Path, labels: list[Any], sequences: list[str] = SEQUENCES) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = [(f"ab{at}", *row) for at, row in enumerate(zip(sequences, labels, strict=True))]
        csv.writer(file).writerows([("id", "sequence", "label"), *rows])
    return path


def made_labels(values: npt.NDArray[np.float32]) -> list[float]:
    """The head's values with noise of the same spread, to two decimals."""
    rng = np.random.default_rng(1)
    return [round(float(value), 2) for value in values + rng.normal(0, values.std(), len(values))]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def evaluated(run: Any, several: Path, source: Path, output: Path, *more: object) -> tuple[dict[str, Any], str]:
    code, out, err = run(
        "evaluate", source, "--bundle", several, "--head", "hic", "-o", output, "--bootstrap", "200", *more
    )
    assert code == 0 and not out, err
    return json.loads((output / "metrics.json").read_text()), err


def test_resampled_metrics_equal_those_of_the_same_rows() -> None:
    """There are ties, and draws that have one row only, for which only the error is defined."""
    rng = np.random.default_rng(2)
    y = np.round(rng.normal(40, 1, 4), 1)
    y[1] = y[0]
    predicted = (y + rng.normal(0, 1, 4)).astype(np.float32)
    exact = predicted.astype(np.float64)
    drawn = [value_metrics._statistics(y, exact, each.astype(np.float64)) for each in row_weights(4, 300, 5)]
    weights = np.concatenate(list(row_weights(4, 300, 5)))
    undefined = 0
    for at, times in enumerate(weights):
        one, other = np.repeat(y, times), np.repeat(exact, times)
        got = {name: np.concatenate([block[name] for block in drawn])[at] for name in value_metrics.NAMES}
        assert got["mae"] == pytest.approx(np.abs(one - other).mean(), abs=RESAMPLED_METRIC)
        if np.ptp(one) == 0:
            undefined += 1
            assert np.isnan(got["r2"]) and np.isnan(got["spearman"])
            continue
        assert got["r2"] == pytest.approx(sk.r2_score(one, other), abs=1e-9)
        assert got["spearman"] == pytest.approx(stats.spearmanr(one, other).statistic, abs=1e-9)
    assert undefined
    found = value_metrics.measure_values(y, predicted, 300, 5)
    note = f"spearman, r2: undefined on {undefined} of 300 resamples, which are left out of the interval"
    assert found.notes == [note]


@pytest.mark.parametrize(
    ("y", "predicted", "null"),
    [([7.0, 7.0, 7.0], [1, 2, 3], {"spearman", "r2"}), ([1.0, 2.0], [5, 5], {"spearman"}), ([1.0], [2], None)],
)
def test_what_is_undefined_is_null_with_a_reason(y: list[float], predicted: list[float], null: Any) -> None:
    found = value_metrics.measure_values(np.array(y), np.array(predicted, np.float32), 20, 0)
    missing = {name for name, metric in found.metrics.items() if metric.value is None}
    assert missing == ({"spearman", "r2"} if null is None else null)
    assert all(any(name in note and "undefined, every" in note for note in found.notes) for name in missing)
    assert found.confusion is None


def test_one_input(run: Any, several: Path, hic: Any, tmp_path: Path, three_folds: None) -> None:
    labels: list[Any] = made_labels(hic)
    labels[3] = labels[17] = ""
    source = table(tmp_path / "assay.csv", labels)
    record, err = evaluated(run, several, source, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
    kept = [at for at in range(ROWS) if labels[at] != ""]
    y, predicted = np.array([labels[at] for at in kept]), hic[kept].astype(np.float64)
    metrics = record["metrics"]
    assert list(metrics) == ["spearman", "r2", "mae"]
    assert metrics["spearman"]["value"] == pytest.approx(stats.spearmanr(y, predicted).statistic)
    assert metrics["r2"]["value"] == pytest.approx(sk.r2_score(y, predicted))
    assert metrics["mae"]["value"] == pytest.approx(sk.mean_absolute_error(y, predicted), rel=1e-5)
    assert all(each["low"] < each["value"] < each["high"] for each in metrics.values())
    assert (record["head"], record["n"], record["n_unlabelled"]) == ("hic", 28, 2)
    assert record["values"] == {"unit": "min", "higher_is_worse": True, "lowest": y.min(), "highest": y.max()}
    of_classes = ("n_positive", "n_negative", "threshold", "assay", "confusion_matrix")
    assert [record[key] for key in of_classes] == [None] * 5
    assert re.search(
        r"assay: 28 labelled of 30 \(2 not labelled\), Spearman 0\.\d+ \[.*\], R2 .* \[.*\], "
        r"mean absolute error [\d.]+ \[[\d.]+, [\d.]+\] min",
        err,
    )
    assert "; value in min; head hic" in err
    card = record["card"]
    assert card["task"] == "values" and card["rows"] == 28 and not card["fitted"]
    head, *baselines = card["predictors"]
    assert head["clusters"]["spearman"]["value"] == pytest.approx(metrics["spearman"]["value"])
    assert head["clusters"]["mae"]["value"] == pytest.approx(metrics["mae"]["value"]) and head["random"] is None
    assert baselines and card["difference"]["baseline"] in {each["name"] for each in baselines}
    assert card["spread"]["sd"] == pytest.approx(y.std(ddof=1))
    assert "Spearman" in card["sentence"] and f"assay: {card['sentence']}" in err
    assert (tmp_path / "out" / "card.md").read_text().splitlines()[0] == card["sentence"]
    page = (tmp_path / "out" / "report.html").read_text()
    for part in (card["sentence"], "mean absolute error (min)", "hic, value in min, higher is worse", " min</td>"):
        assert part in page
    assert page.count("<img") == 2 and "Predicted against measured hic of 28 rows" in page
    assert "p &gt;" not in page and "confusion" not in page
    found = rows(tmp_path / "out" / "predictions.csv")
    assert list(found[0]) == ["id", "sequence", "y_true", "hic_value", "flag"]
    assert [row["y_true"] for row in found] == [str(label) for label in labels]
    assert run("score", source, "--bundle", several, "--heads", "hic", "-o", tmp_path / "scores.csv")[0] == 0
    assert [row["hic_value"] for row in rows(tmp_path / "scores.csv")] == [row["hic_value"] for row in found]


def test_flagged_rows_and_equal_values(run: Any, several: Path, hic: Any, tmp_path: Path) -> None:
    labels = made_labels(hic)[:6]
    flagged = table(tmp_path / "flags.csv", labels, [*SEQUENCES[:4], SEQUENCES[4][30:], SEQUENCES[5] + "HHHHHH"])
    same = table(tmp_path / "same.csv", ["7.25"] * 6, SEQUENCES[:6])
    code, _, err = run("evaluate", flagged, same, "--bundle", several, "--head", "hic", "-o", tmp_path / "out")
    assert code == 0, err
    record = json.loads((tmp_path / "out" / "flags" / "metrics.json").read_text())
    assert (record["n"], record["n_flagged"], record["unflagged"]["n"]) == (6, 2, 4)
    kept = rows(tmp_path / "out" / "flags" / "predictions.csv")[:4]
    error = np.mean([abs(float(row["y_true"]) - float(row["hic_value"])) for row in kept])
    assert record["unflagged"]["metrics"]["mae"]["value"] == pytest.approx(error, rel=1e-5)
    page = (tmp_path / "out" / "flags" / "report.html").read_text()
    assert "their values should not be trusted" in page and '<th scope="col">hic_value</th>' in page
    record = json.loads((tmp_path / "out" / "same" / "metrics.json").read_text())
    assert record["card"]["sentence"] == "Not judged: all 6 labels are 7.25."
    assert record["metrics"]["r2"]["value"] is None and record["metrics"]["mae"]["value"] is not None
    assert "spearman, r2: undefined, every measured value is 7.25" in record["notes"]


def test_labels_of_the_other_kind_are_refused_as_a_whole(
    run: Any, several: Path, hic: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("abonyx.model.open_model", lambda *_: pytest.fail("the model was opened"))
    values = table(tmp_path / "values.csv", made_labels(hic))
    classes = table(tmp_path / "classes.csv", [at % 2 for at in range(ROWS)])
    blank = table(tmp_path / "blank.csv", [""] * ROWS)
    words = table(tmp_path / "words.csv", ["8.5", "7.5 min", "yes", *["9.5"] * (ROWS - 3)])
    usual = ("--bundle", several, "-o", tmp_path / "out")
    column = "or another column with --label-column."
    cases: list[tuple[list[object], int, list[str]]] = [
        (
            [values],
            3,
            [
                f"{values}: 30 of 30 labels are not 0 or 1, e.g. ",
                f"Head nonspecificity gives a probability and needs labels 0 and 1. Name hic with --head, {column}",
            ],
        ),
        (
            [classes, "--head", "hic"],
            3,
            [
                f"{classes}: all 30 labels are classes, e.g. '0', not measured values",
                "Head hic gives values in min and needs measured values as labels. "
                f"Name nonspecificity with --head, {column}",
            ],
        ),
        ([values, "--on-invalid", "skip"], 3, ["Name hic with --head"]),
        (
            [blank, "--head", "hic"],
            3,
            ["none of 30 rows has a label", "Name the column of measured values with --label-column"],
        ),
        (
            [words, "--head", "hic"],
            3,
            [
                ":3: ab1: the label is '7.5 min', a number with other text: remove 'min'",
                ":4: ab2: the label is 'yes'",
            ],
        ),
        (
            [values, "--head", "hic", "--threshold", "0.5"],
            2,
            ["--threshold: head hic of several gives a value in min, not a probability", "Leave it out"],
        ),
        ([values, "--head", "hic", "--assay", "psr"], 2, ["--assay: head hic of several gives a value in min"]),
    ]
    for arguments, expected, parts in cases:
        code, _, err = run("evaluate", *arguments, *usual)
        assert code == expected, (arguments, err)
        for part in parts:
            assert part in err
        assert not (tmp_path / "out").exists()


def test_stability_is_in_training_standard_deviations(run: Any, several: Path, hic: Any, tmp_path: Path) -> None:
    source = table(tmp_path / "assay.csv", made_labels(hic)[:5], SEQUENCES[:5])
    record, err = evaluated(run, several, source, tmp_path / "out", "--stability")
    manifest = json.loads((several / "manifest.json").read_text())
    sd = manifest["heads"][1]["training_sd"]
    found = record["stability"]
    assert (found["rows"], found["left_out"], found["unit"], found["training_sd"]) == (5, 0, "min", sd)
    with abonyx.open_session(several) as session:
        for name, vary in VARIATIONS.items():
            moved = session.score([vary(sequence) for sequence in SEQUENCES[:5]], heads="hic")["hic"]
            change = np.abs(moved.astype(np.float64) - hic[:5]).mean()
            assert found["variations"][name]["mean_change"] == pytest.approx(change, abs=1e-5 * sd), name
            assert found["variations"][name]["training_sds"] == pytest.approx(change / sd, abs=1e-5), name
    line = f"mean change of 5 values, in units of the training values' standard deviation ({sd:.4g} min): first residue"
    assert line in err and any(line in note for note in record["card"]["notes"])
    assert "How stable a value is (5 rows)" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize("unit", ["min", "\u03bcg/mL", "1", "$\\nothing$", "\u4e2d"])
def test_pictures_name_the_unit(unit: str) -> None:
    y, predicted = np.array([1.5, 2.0, 4.0]), np.array([2.0, 2.5, 3.0], np.float32)
    measured = value_metrics.measure_values(y, predicted, 20, 0)
    subject = ValueSubject("assay", "hic", unit, y, predicted, measured)
    first = list(draw_values(subject))
    assert [picture.name for picture in first] == ["predicted_measured", "residuals"]
    assert unit != "min" or list(draw_values(subject)) == first, "the same bytes each time"
    assert f"mean absolute error 0.6667 [0.5, 0.8333] {unit}." in first[0].text


@pytest.mark.parametrize("count", [1, 2_001])
def test_pictures_of_one_row_and_of_many(count: int) -> None:
    """Above 2,000 rows, an SVG has its points as one image, so that its size does not grow with the rows."""
    y = np.random.default_rng(0).normal(0, 1, count)
    measured = value_metrics.measure_values(y, y.astype(np.float32), 5, 0)
    scatter, _ = draw_values(ValueSubject("many", "hic", "min", y, y.astype(np.float32), measured))
    assert (b"<image" in scatter.svg) == (count > 1) and len(scatter.svg) < 300_000
