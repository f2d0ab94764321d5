"""evaluate: metrics equal scikit-learn's, files are complete or not written, and every real labelled table works."""

from __future__ import annotations

import csv
import functools
import gzip
import hashlib
import itertools
import json
import math
import re
import shutil
import sys
from html import escape
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

pytest.importorskip("matplotlib")
sk = pytest.importorskip("sklearn.metrics")

from abonyx import model  # noqa: E402
from abonyx.alphabet import SequenceLimit  # noqa: E402
from abonyx.bundle.threshold import CallRule  # noqa: E402
from abonyx.bundle.tolerances import RESAMPLED_METRIC  # noqa: E402
from abonyx.bundle.training_rows import TRAINING_ROWS_NAME, write_training_rows  # noqa: E402
from abonyx.card.labelled import LabelledSet  # noqa: E402
from abonyx.card.record import FoldsRecord  # noqa: E402
from abonyx.domain import DomainRule  # noqa: E402
from abonyx.evaluate import bootstrap, drawing, evaluation, metrics, pictures  # noqa: E402
from abonyx.evaluate.lists import Table  # noqa: E402
from abonyx.evaluate.record import EvaluationRecord  # noqa: E402
from abonyx.evaluate.report import Lists, report  # noqa: E402
from abonyx.input.checked import read_input  # noqa: E402

from ...conftest import MINI  # noqa: E402
from ..card.made import mutants  # noqa: E402
from ..hostile import relist  # noqa: E402

PICTURES = ("confusion_matrix", "roc", "precision_recall", "score_distribution")
FILES = sorted(
    [
        "card.html",
        "card.md",
        "metrics.json",
        "predictions.csv",
        "report.html",
        "shortlist.csv",
        *(f"{name}.{kind}" for name in PICTURES for kind in ("png", "svg")),
    ]
)
CURVES = {"roc.png", "roc.svg", "precision_recall.png", "precision_recall.svg"}


@pytest.fixture
def run(run: Any) -> Any:
    def call(*arguments: object) -> tuple[int, str]:
        code, out, err = run(*arguments)
        assert not out
        return code, err

    return call


@pytest.fixture
def drawn() -> None:
    """The pictures of this test are real."""


@pytest.fixture(autouse=True)
def quickly_drawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made and not written as files, which is most of an evaluation's time, unless the test has `drawn`."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(drawing, "encode", lambda figure: (b"\x89PNG", b"<svg/>"))


@pytest.fixture
def three_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make cards fit their baselines about 60 times instead of 760; test_card.py has ten folds."""
    monkeypatch.setattr("abonyx.evaluate.evaluation.LabelledSet", functools.partial(LabelledSet, folds=3))


@pytest.fixture
def labelled(tmp_path: Path, sequences: list[str]) -> Path:
    """Ten labelled rows of both classes and two without a label."""
    labels = ["0", "1.0", "", "1", "0.0", "0", "1", "0", "", "1", "0", "1"]
    return table(
        tmp_path / "labelled.csv", [(f"ab{i}", *row) for i, row in enumerate(zip(sequences, labels, strict=True))]
    )


def table(path: Path, rows: list[tuple[str, ...]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "sequence", "label"), *rows])
    return path


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def left_beside(path: Path) -> list[str]:
    return sorted(child.name for child in path.parent.iterdir())


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def measure(y: list[int], p: list[float], threshold: float = 0.5, resamples: int = 200) -> metrics.MeasuredClasses:
    return metrics.measure(np.array(y), np.array(p, np.float32), threshold, resamples, 0)


# ---- metrics


def test_metrics_of_a_case_counted_by_hand() -> None:
    """Three rows of each class. 0.5 is not above the threshold, and the pair (0.5, 0.5) counts half."""
    found = measure([0, 0, 0, 1, 1, 1], [0.25, 0.5, 0.75, 0.5, 0.75, 1.0])
    assert found.confusion == [[2, 1], [1, 2]]
    values = {name: metric.value for name, metric in found.metrics.items()}
    third = pytest.approx(2 / 3)
    assert values.pop("accuracy") == values.pop("precision") == values.pop("recall") == values.pop("f1") == third
    assert values.pop("mcc") == pytest.approx(3 / 9)
    assert values.pop("roc_auc") == pytest.approx(7 / 9)  # of 9 pairs 6 in order, 2 tied
    assert values.pop("pr_auc") == pytest.approx((1 / 1 + 2 / 3 + 3 / 5) / 3)
    assert values.pop("brier") == pytest.approx((3 * 0.0625 + 2 * 0.25 + 0.5625 - 0.0625) / 6)
    assert not values
    assert list(found.metrics) == list(metrics.NAMES)


def test_threshold_is_compared_as_float32() -> None:
    """0.1 as float32 is above 0.1. As in score, a p that is printed as 0.1 is not above the threshold 0.1."""
    p = float(np.float32(0.1))
    assert p > 0.1
    assert measure([0, 1], [p, 0.9], threshold=0.1).confusion == [[1, 0], [0, 1]]


@pytest.mark.parametrize(("seed", "decimals", "threshold"), [(1, 7, 0.5), (2, 1, 0.5), (3, 0, 0.5), (4, 1, 0.95)])
def test_resampled_metrics_equal_scikit_learn_on_the_same_rows(seed: int, decimals: int, threshold: float) -> None:
    """The p have ties (one decimal), or are only 0 and 1, or are mostly below the threshold."""
    rng = np.random.default_rng(seed)
    y = (rng.random(17) < 0.4).astype(np.int64)
    p = np.sort(np.round(rng.random(17), decimals).astype(np.float32))[::-1]
    calls = (p > np.float32(threshold)).astype(int)
    drawn = bootstrap.resampled_metrics(y, p, int(calls.sum()), 60, seed)
    weights = np.concatenate(list(bootstrap.row_weights(17, 60, seed)))
    assert (weights.sum(axis=1) == 17).all()
    for index, times in enumerate(weights):
        labels, called, scores = (np.repeat(values, times) for values in (y, calls, p.astype(np.float64)))
        for name, value in brute_force(labels, called, scores).items():
            got = drawn[name][index]
            assert math.isnan(got) if math.isnan(value) else abs(got - value) <= RESAMPLED_METRIC, (name, index)


def brute_force(y: Any, calls: Any, p: Any) -> dict[str, float]:
    nan = math.nan
    both, called_both = len(set(y)) == 2, len(set(calls)) == 2
    return {
        "accuracy": sk.accuracy_score(y, calls),
        "precision": sk.precision_score(y, calls, zero_division=nan),
        "recall": sk.recall_score(y, calls, zero_division=nan),
        "f1": sk.f1_score(y, calls, zero_division=nan),
        "roc_auc": sk.roc_auc_score(y, p) if both else nan,
        "pr_auc": sk.average_precision_score(y, p) if both else nan,
        "mcc": sk.matthews_corrcoef(y, calls) if both and called_both else nan,
        "brier": sk.brier_score_loss(y, p, pos_label=1),
    }


def test_intervals_hold_the_point_have_a_sane_width_and_follow_the_seed() -> None:
    rng = np.random.default_rng(5)
    y = (rng.random(400) < 0.5).astype(np.int64)
    p = np.clip(rng.normal(0.4 + 0.2 * y, 0.2), 0, 1).astype(np.float32)
    found, again, other = (metrics.measure(y, p, 0.5, 1000, seed).metrics for seed in (0, 0, 1))
    assert found == again
    assert found != other
    for metric in found.values():
        assert metric.value is not None and metric.low is not None and metric.high is not None
        assert metric.low < metric.value < metric.high
    accuracy = found["accuracy"]
    normal = 2 * 1.96 * math.sqrt(accuracy.value * (1 - accuracy.value) / 400)  # type: ignore[operator]
    assert 0.8 < (accuracy.high - accuracy.low) / normal < 1.2  # type: ignore[operator]


def test_order_of_the_rows_changes_no_value() -> None:
    y, p = [0, 1, 1, 0, 1, 0, 0, 1], [0.1, 0.9, 0.4, 0.4, 0.6, 0.7, 0.4, 0.4]
    one, other = measure(y, p), measure(y[::-1], p[::-1])
    assert [metric.value for metric in one.metrics.values()] == [metric.value for metric in other.metrics.values()]


@pytest.mark.parametrize(
    ("y", "p", "null"),
    [
        ([1, 1, 1], [0.2, 0.6, 0.7], {"roc_auc", "pr_auc", "mcc"}),
        ([0, 0, 0], [0.2, 0.6, 0.7], {"roc_auc", "pr_auc", "mcc", "recall"}),
        ([0, 0, 0], [0.2, 0.3, 0.4], {"roc_auc", "pr_auc", "mcc", "recall", "precision", "f1"}),
        ([0, 1, 1], [0.2, 0.3, 0.4], {"mcc", "precision"}),
        ([0, 1, 1], [0.6, 0.7, 0.8], {"mcc"}),
        ([1], [0.9], {"roc_auc", "pr_auc", "mcc"}),
    ],
)
def test_what_is_undefined_is_null_with_a_reason(y: list[int], p: list[float], null: set[str]) -> None:
    found = measure(y, p)
    assert {name for name, metric in found.metrics.items() if metric.value is None} == null
    for name in null:
        assert found.metrics[name] == metrics.Metric(None, None, None)
        assert any(name in note and "undefined" in note for note in found.notes)


def test_resamples_that_define_no_metric_are_counted() -> None:
    found = measure([0, 0, 0, 0, 1], [0.1, 0.2, 0.3, 0.4, 0.9], resamples=1000)
    note = next(note for note in found.notes if "roc_auc, pr_auc" in note)
    count = int(re.search(r"on (\d+) of 1000 resamples", note)[1])  # type: ignore[index]
    assert 1000 * 0.8**5 / 2 < count < 1000 * 0.8**5 * 2


# ---- pictures


def test_pictures_are_the_same_bytes_each_time_whatever_the_users_style(
    monkeypatch: pytest.MonkeyPatch, drawn: None
) -> None:
    import matplotlib as mpl

    y, p = np.array([0, 0, 1, 1]), np.array([0.1, 0.6, 0.4, 0.9], np.float32)
    subject = pictures.Subject("a", y, p, 0.5, metrics.measure(y, p, 0.5, 50, 0))
    first = list(pictures.draw(subject))
    assert [name for name, *_ in first] == list(PICTURES)
    monkeypatch.setitem(mpl.rcParams, "font.size", 30)
    assert list(pictures.draw(subject)) == first
    assert mpl.rcParams["font.size"] == 30
    for _, text, png, svg in first:
        assert text.endswith(".")
        assert png.startswith(b"\x89PNG")
        assert b"<svg" in svg
        assert b"<dc:date>" not in svg


@pytest.mark.parametrize("name", ["$x^$", "中文" * 40, "W" * 200, "\x1b[31m", ""])
def test_names_that_a_title_cannot_hold(name: str, drawn: None) -> None:
    y, p = np.array([0, 1]), np.array([0.5, 0.5], np.float32)
    assert len(list(pictures.draw(pictures.Subject(name, y, p, 0.0, metrics.measure(y, p, 0.0, 5, 0))))) == 4


# ---- the command


def test_one_input(run: Any, tmp_path: Path, labelled: Path, sequences: list[str], drawn: None) -> None:
    output = tmp_path / "out"
    code, err = run("evaluate", labelled, "-o", output, "--bootstrap", 100, "--seed", 3)
    assert code == 0, err
    assert files(output) == FILES
    assert left_beside(output) == ["labelled.csv", "out"]
    assert output.stat().st_mode & 0o777 == 0o755
    assert re.search(
        r"labelled: 10 labelled of 12 \(2 not labelled\), accuracy 0\.\d{3} \[.*\], ROC AUC 0\.\d{3} \[", err
    )
    for part in ("12 sequences scored", "not ESM-1v", f"wrote {output}; threshold 0.5"):
        assert part in err
    record = json.loads((output / "metrics.json").read_text())
    assert record["input"] == "labelled.csv"
    assert record["input_sha256"] == hashlib.sha256(labelled.read_bytes()).hexdigest()
    counts = [record[key] for key in ("n", "n_positive", "n_negative", "n_unlabelled", "n_rejected")]
    assert counts == [10, 5, 5, 2, 0]
    assert (record["threshold"], record["assay"], record["pooling"]) == (0.5, None, "residues")
    assert record["bootstrap"] == {"resamples": 100, "seed": 3, "interval": "95 % percentile", "stratified": False}
    assert len(record["bundle_sha256"]) == len(record["config_sha256"]) == 64
    assert any("2 of 12 rows have no label" in note for note in record["notes"])
    assert record["schema_version"] == 1
    line = "Not judged: 10 rows are too few, at least 20 are needed."
    assert record["card"]["sentence"] == line == (output / "card.md").read_text().splitlines()[0]
    assert f"labelled: {line}" in err and line in (output / "report.html").read_text()
    found = rows(output / "predictions.csv")
    assert [row["sequence"] for row in found] == sequences
    truth = [(row["y_true"], float(row["p_nonspecific"]), row["y_pred"]) for row in found if row["y_true"]]
    y, p, calls = [int(y) for y, _, _ in truth], [p for _, p, _ in truth], [int(call) for _, _, call in truth]
    assert record["confusion_matrix"] == sk.confusion_matrix(y, calls).tolist()
    assert record["metrics"]["roc_auc"]["value"] == sk.roc_auc_score(y, p)
    assert record["metrics"]["f1"]["value"] == sk.f1_score(y, calls)


def test_predictions_are_what_score_writes(run: Any, tmp_path: Path, labelled: Path) -> None:
    for command, output in (("score", "scores.csv"), ("evaluate", "out")):
        assert run(command, labelled, "-o", tmp_path / output, "--threshold", "0.45")[0] == 0
    found, scores = rows(tmp_path / "out" / "predictions.csv"), rows(tmp_path / "scores.csv")
    assert list(found[0]) == ["id", "sequence", "y_true", "y_pred", "p_nonspecific", "flag"]
    for row, score in zip(found, scores, strict=True):
        assert row["y_pred"] == score["nonspecific"]
        assert {key: row[key] for key in ("id", "sequence", "p_nonspecific", "flag")}.items() <= score.items()
    assert [row["y_true"] for row in found[:4]] == ["0", "1", "", "1"]


def with_flags(folder: Path, sequences: list[str]) -> Path:
    """Eight labelled rows with three flagged ones, and a flagged row without a label."""
    cut = [
        sequences[8][30:],
        sequences[9] + "HHHHHH",
        sequences[10][:60] + "X" + sequences[10][61:],
        sequences[11][:80],
    ]
    data = [(f"ab{at}", each, str(at % 2)) for at, each in enumerate([*sequences[:5], *cut[:3]])]
    return table(folder / "flags.csv", [*data, ("<b>last", cut[3], "")])


def test_metrics_with_and_without_flagged_rows(run: Any, tmp_path: Path, sequences: list[str]) -> None:
    source, output = with_flags(tmp_path, sequences), tmp_path / "out"
    code, err = run("evaluate", source, "-o", output, "--bootstrap", 50)
    assert code == 0, err
    assert re.search(r"flags: 8 labelled of 9 \(1 not labelled\), accuracy", err)
    assert re.search(r"flags, flagged rows left out: 5 labelled, accuracy 0\.\d+ \[.*\], ROC AUC 0\.\d+ \[", err)
    assert re.search(r"flagged: 4 of 9 records \(.*\); 4 without a call; see", err)
    record = json.loads((output / "metrics.json").read_text())
    found = rows(output / "predictions.csv")
    flags = ["", "", "", "", "", "fragment", "6 residues outside the domain", "1 unknown residue (X)", "fragment"]
    assert [row["flag"] for row in found] == flags
    assert {row["y_pred"] for row in found} <= {"0", "1"}, "a flagged row is compared with its label too"
    assert (record["n"], record["n_flagged"]) == (8, 3)
    assert record["flags"] == {"fragment": 2, "residues outside the domain": 1, "unknown residues (X)": 1}
    for measured, kept in ((record, found[:8]), (record["unflagged"], found[:5])):
        y, p = [int(row["y_true"]) for row in kept], [float(row["p_nonspecific"]) for row in kept]
        calls = [int(row["y_pred"]) for row in kept]
        assert (measured["n"], measured["n_positive"], measured["n_negative"]) == (len(y), sum(y), len(y) - sum(y))
        assert measured["confusion_matrix"] == sk.confusion_matrix(y, calls).tolist()
        assert measured["metrics"]["roc_auc"]["value"] == sk.roc_auc_score(y, p)
        assert measured["metrics"]["brier"]["value"] == pytest.approx(sk.brier_score_loss(y, p))
    assert record["metrics"] != record["unflagged"]["metrics"]
    assert record["domain"]["--domain"] == "check"
    assert any("3 of 8 labelled rows are flagged" in note for note in record["notes"])
    page = (output / "report.html").read_text()
    assert "Metrics without flagged rows (5 of 8 rows with a label)" in page
    assert "Flagged rows (4)" in page
    listed = page.partition('<table class="flagged">')[2].partition("</table>")[0]
    assert [listed.count(part) for part in ("<tr>", "fragment", "&lt;b&gt;last", "<b>")] == [5, 2, 1, 0]
    assert "3 of the rows with a label; flags of all rows: fragment 2," in page


def test_a_long_list_of_flagged_rows_is_cut(
    run: Any, tmp_path: Path, sequences: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("abonyx.evaluate.report.LISTED_ROWS", 1)
    output = tmp_path / "out"
    assert run("evaluate", with_flags(tmp_path, sequences), "-o", output, "--bootstrap", 10)[0] == 0
    page = (output / "report.html").read_text()
    assert "... and 3 more: see predictions.csv" in page
    assert page.partition('<table class="flagged">')[2].partition("</table>")[0].count("<tr>") == 2


def test_trimmed_rows_show_the_original_and_the_range(run: Any, tmp_path: Path, sequences: list[str]) -> None:
    source, output = with_flags(tmp_path, sequences), tmp_path / "out"
    code, err = run("evaluate", source, "-o", output, "--bootstrap", 10, "--trim", "domain")
    assert code == 0, err
    tagged = rows(output / "predictions.csv")[6]
    assert (tagged["sequence"], tagged["flag"]) == (f"{sequences[9]}HHHHHH", "")
    assert tagged["domain"] == f"1-{len(sequences[9])}"
    record = json.loads((output / "metrics.json").read_text())
    assert (record["n_flagged"], record["unflagged"]["n"]) == (2, 6)
    assert record["domain"]["--trim domain"] is True


def test_domain_require_rejects_and_off_does_not_look(run: Any, tmp_path: Path, sequences: list[str]) -> None:
    source, output = with_flags(tmp_path, sequences), tmp_path / "out"
    code, err = run("evaluate", source, "-o", output, "--domain", "require")
    assert code == 3
    assert f"{source}:7: ab5: fragment" in err
    assert not output.exists()
    required = ["--domain", "require", "--on-invalid", "skip", "--bootstrap", 10]
    assert run("evaluate", source, "-o", output, *required)[0] == 0
    record = json.loads((output / "metrics.json").read_text())
    assert (record["n"], record["n_rejected"], record["n_flagged"]) == (5, 4, 0)
    assert record["unflagged"]["metrics"] == record["metrics"]
    assert [row["reason"] for row in rows(output / "rejected.csv")][:2] == ["fragment", "6 residues outside the domain"]
    code, err = run("evaluate", source, "-o", tmp_path / "off", "--domain", "off", "--bootstrap", 10)
    assert code == 0
    assert "flagged rows left out: not known: chain and domain were not looked at" in err
    record = json.loads((tmp_path / "off" / "metrics.json").read_text())
    assert (record["n"], record["n_flagged"], record["unflagged"], record["flags"]) == (8, None, None, {})
    assert {row["flag"] for row in rows(tmp_path / "off" / "predictions.csv")} == {""}
    assert "chain and domain were not looked at" in (tmp_path / "off" / "report.html").read_text()


def test_sets_without_any_flag_and_with_nothing_else(run: Any, tmp_path: Path, sequences: list[str]) -> None:
    good = table(tmp_path / "good.csv", [("a", sequences[0], "0"), ("b", sequences[1], "1")])
    bad = table(tmp_path / "bad.csv", [("a", sequences[0][40:], "0"), ("b", sequences[1][40:], "1")])
    code, err = run("evaluate", good, bad, "-o", tmp_path / "out", "--bootstrap", 10)
    assert code == 0, err
    assert "good, flagged rows left out: the same 2 labelled rows, none is flagged" in err
    assert "bad, flagged rows left out: no row is left: all 2 labelled rows are flagged" in err
    records = [json.loads((tmp_path / "out" / name / "metrics.json").read_text()) for name in ("good", "bad")]
    assert [(record["n_flagged"], record["unflagged"] is None) for record in records] == [(0, False), (2, True)]
    assert "Flagged rows (" not in (tmp_path / "out" / "good" / "report.html").read_text()


def excerpt(source: Path, path: Path, count: int, every: int = 1) -> Path:
    """Some rows of a real table, every `every`th row, with the table's header."""
    with (gzip.open if source.suffix == ".gz" else open)(source, "rt", encoding="utf-8", newline="") as file:
        header, *lines = list(file)
    path.write_text("".join([header, *lines[::every][:count]]), encoding="utf-8")
    return path


def test_nanobodies_keep_their_place(run: Any, tmp_path: Path, shared_data: Path) -> None:
    source = excerpt(shared_data / "harvey" / "harvey_1000_labelled.csv.gz", tmp_path / "in.csv", 12, 80)
    output = tmp_path / "out"
    code, err = run("evaluate", source, "-o", output, "--bootstrap", 10, "--sequence-column", "heavy_seq")
    assert code == 0, err
    record = json.loads((output / "metrics.json").read_text())
    assert record["flags"]["nanobody-like"] > 10
    assert record["unflagged"]["n"] == record["n"] - record["n_flagged"] > 10


def test_several_inputs_open_the_model_once(
    run: Any, tmp_path: Path, labelled: Path, sequences: list[str], monkeypatch: pytest.MonkeyPatch, drawn: None
) -> None:
    (tmp_path / "more").mkdir()
    other = table(tmp_path / "more" / "other.csv", [("x", sequences[0], "1"), ("y", sequences[1], "1")])
    opened, open_model = [], model.open_model
    monkeypatch.setattr(model, "open_model", lambda config: opened.append(1) or open_model(config))
    output = tmp_path / "out"
    code, err = run("evaluate", labelled, other, "-o", output, "--bootstrap", 20)
    assert code == 0, err
    assert opened == [1]
    assert files(output) == ["labelled", "other"]
    assert files(output / "labelled") == FILES
    assert set(FILES) - set(files(output / "other")) == CURVES  # one class: no curve, and the page says why
    assert "14 sequences scored" in err
    assert "other: 2 labelled of 2, accuracy" in err
    assert "ROC AUC undefined" in err
    record = json.loads((output / "other" / "metrics.json").read_text())
    assert record["metrics"]["roc_auc"] == {"value": None, "low": None, "high": None}
    assert record["metrics"]["accuracy"]["value"] is not None
    page = (output / "other" / "report.html").read_text()
    assert "pictures are left out" in page
    assert page.count("<img") == 2
    # The results of an input do not depend on the other inputs of the call.
    assert run("evaluate", labelled, "-o", tmp_path / "alone", "--bootstrap", 20)[0] == 0
    for name in ("predictions.csv", "shortlist.csv", "roc.svg", "roc.png"):
        assert (tmp_path / "alone" / name).read_bytes() == (output / "labelled" / name).read_bytes(), name
    alone, beside = (
        json.loads((path / "metrics.json").read_text()) for path in (tmp_path / "alone", output / "labelled")
    )
    assert {key for key in alone if alone[key] != beside[key]} <= {"date", "command"}


def test_the_report_holds_all_and_links_to_nothing(run: Any, tmp_path: Path, sequences: list[str], drawn: None) -> None:
    """A hostile name and hostile ids come out as text, or not at all."""
    hostile = "<script>alert(1)<&amp;'\""
    source = table(tmp_path / f"{hostile}.csv", [(hostile, sequences[0], "1"), ("b", sequences[1], "0")])
    assert run("evaluate", source, "-o", tmp_path / "out", "--bootstrap", 20)[0] == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "://" not in page
    assert "@import" not in page
    assert "url(" not in page
    assert re.findall(r"href|src=\"(?!data:image/svg\+xml;base64,)", page) == []
    assert page.count('<img alt="') == 4
    assert "prefers-color-scheme: dark" in page
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["input"] == f"{hostile}.csv"


def test_thresholds(run: Any, tmp_path: Path, labelled: Path) -> None:
    code, err = run("evaluate", labelled, "-o", tmp_path / "out", "--assay", "psr")
    assert code == 2
    assert "declared: none" in err
    assert run("evaluate", labelled, "-o", tmp_path / "out", "--threshold", "1.5")[0] == 2
    assert not (tmp_path / "out").exists()
    assert run("evaluate", labelled, "-o", tmp_path / "out", "--threshold", "1", "--bootstrap", 20)[0] == 0
    record = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert record["confusion_matrix"] == [[5, 0], [5, 0]]
    assert record["metrics"]["precision"]["value"] is None


def test_an_assay_is_recorded(run: Any, tmp_path: Path, labelled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("abonyx.evaluate.heads.choose_calls", lambda bundle, assay, threshold, head: CallRule(0.5495))
    code, err = run("evaluate", labelled, "-o", tmp_path / "out", "--assay", "psr", "--bootstrap", 20)
    assert code == 0
    assert "threshold 0.5495 (psr)" in err
    record = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (record["threshold"], record["assay"]) == (0.5495, "psr")


def test_a_label_that_is_none_names_its_row(run: Any, tmp_path: Path, sequences: list[str]) -> None:
    data = [("a", sequences[0], "0"), ("b", sequences[1], "2"), ("c", sequences[2], "1"), ("d", "EV*", "1")]
    source, output = table(tmp_path / "in.csv", data), tmp_path / "out"
    code, err = run("evaluate", source, "-o", output)
    assert code == 3
    assert f"{source}:3: b: the label is '2', not 0, 1 or blank" in err
    assert left_beside(output) == ["in.csv"]
    code, err = run("evaluate", source, "-o", output, "--on-invalid", "skip", "--bootstrap", 20)
    assert code == 0
    assert "in: 2 labelled of 4 (2 rejected)" in err
    assert files(output) == sorted([*FILES, "rejected.csv"])
    assert [(row["id"], row["line"]) for row in rows(output / "rejected.csv")] == [("b", "3"), ("d", "5")]
    record = json.loads((output / "metrics.json").read_text())
    assert (record["n"], record["n_rejected"]) == (2, 2)
    note = "2 of 4 records were rejected and not scored: see rejected.csv"
    assert note in record["notes"] and record["card"]["notes"] == [note] and note in (output / "card.md").read_text()


def test_what_is_refused_before_the_model_is_opened(
    run: Any, tmp_path: Path, labelled: Path, sequences: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("abonyx.model.open_model", lambda *_: pytest.fail("the model was opened"))
    (tmp_path / "sub").mkdir()
    twin = table(tmp_path / "sub" / "LABELLED.tsv.csv", [("a", sequences[0], "1")]).rename(
        tmp_path / "sub" / "LABELLED.CSV"
    )
    blank = table(tmp_path / "blank.csv", [("a", sequences[0], ""), ("b", sequences[1], " ")])
    fasta = tmp_path / "in.fasta"
    fasta.write_text(f">a\n{sequences[0]}\n")
    out, there = tmp_path / "out", tmp_path / "sub"
    cases: list[tuple[list[object], int, list[str]]] = [
        ([labelled, "-o", there], 2, [str(there), "exists already"]),
        ([labelled, "-o", labelled / "out"], 2, [str(labelled), "is not a writable directory"]),
        ([labelled, twin, "-o", out], 2, [str(labelled), str(twin)]),
        ([labelled, blank, "-o", out], 3, [str(blank), "none of 2 rows has a label", "'label'", "--label-column"]),
        (
            [labelled, "-o", out, "--label-column", "y"],
            3,
            [str(labelled), "no column 'y'", "'label'", "--label-column"],
        ),
        ([fasta, "-o", out], 3, [str(fasta), "FASTA"]),
        ([tmp_path / "no.csv", "-o", out], 3, ["no.csv", "cannot be read"]),
        ([tmp_path, "-o", out], 3, ["directory"]),
        (["/dev/null", "-o", out], 3, ["/dev/null", "device"]),
        (["-", "-o", out], 2, ["standard input"]),
        ([labelled, "-o", out, "--bootstrap", "0"], 2, ["--bootstrap"]),
    ]
    for arguments, expected, parts in cases:
        code, err = run("evaluate", *arguments)
        assert code == expected, (arguments, err)
        for part in parts:
            assert part in err
        assert "Traceback" not in err
        assert left_beside(out) == ["blank.csv", "in.fasta", "labelled.csv", "sub"]


@pytest.mark.parametrize(("module", "name"), [("sklearn.metrics", "scikit-learn"), ("matplotlib.figure", "matplotlib")])
def test_without_the_extra_nothing_is_read(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    code, err = run("evaluate", tmp_path / "no.csv", "-o", tmp_path / "out", "--bundle", tmp_path / "no")
    assert code == 2
    assert f"evaluate needs {name}" in err
    assert "Install the extra evaluate: pip install " in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("failure", "expected"), [(KeyboardInterrupt(), 130), (OSError(28, "No space left"), 2)])
def test_a_failure_midway_leaves_nothing(
    run: Any,
    tmp_path: Path,
    labelled: Path,
    sequences: list[str],
    monkeypatch: pytest.MonkeyPatch,
    failure: Any,
    expected: int,
) -> None:
    table(tmp_path / "zweite.csv", [("a", sequences[0], "1")])
    draw = pictures.draw

    def failing(subject: pictures.Subject) -> Any:
        if subject.name == "zweite":
            raise failure
        return draw(subject)

    monkeypatch.setattr("abonyx.evaluate.heads.draw", failing)
    code, err = run("evaluate", labelled, tmp_path / "zweite.csv", "-o", tmp_path / "out", "--bootstrap", 20)
    assert code == expected
    assert ("No space left" in err) == (expected == 2)
    assert left_beside(labelled) == ["labelled.csv", "zweite.csv"]


# ---- the card


def test_the_card_counts_training_rows(run: Any, tmp_path: Path, three_folds: None) -> None:
    """The bundle has hashes of training rows. The head's own threshold keeps its band; another gives two calls."""
    sequences = mutants(24)
    source = table(tmp_path / "made.csv", [(f"m{i}", each, str(i % 2)) for i, each in enumerate(sequences)])
    bundle = Path(shutil.copytree(MINI, tmp_path / "bundle"))
    write_training_rows([*sequences[:9], *sequences[:3], sequences[20] + "A"], bundle / TRAINING_ROWS_NAME)
    hashes = (bundle / TRAINING_ROWS_NAME).read_bytes()
    assert len(hashes.splitlines()) == 10 and sequences[0].encode() not in hashes
    manifest = json.loads((bundle / "manifest.json").read_text())
    entry = {"sha256": hashlib.sha256(hashes).hexdigest(), "size_bytes": len(hashes)}
    manifest["files"][TRAINING_ROWS_NAME] = entry
    manifest["heads"][0]["training"]["band"] = {"confidence": 0.8, "low": 0.4, "high": 0.6}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    more = ("--bundle", bundle, "--bootstrap", 200)
    assert run("evaluate", source, "-o", tmp_path / "out", *more)[0] == 0
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())["card"]
    assert found["shared"] == 9
    assert found["sentence"].startswith("Trained on 9 of these 24 rows")
    assert found["calls"]["band"] == {"confidence": 0.8, "low": 0.4, "high": 0.6}
    assert run("evaluate", source, "-o", tmp_path / "two", *more, "--threshold", "0.5")[0] == 0
    assert json.loads((tmp_path / "two" / "metrics.json").read_text())["card"]["calls"]["band"] is None
    for damaged, said in ((hashes[:-65], "is not a plain file of 650 bytes"), (hashes[::-1], "sha256")):
        (bundle / TRAINING_ROWS_NAME).write_bytes(damaged)
        code, err = run("evaluate", source, "-o", tmp_path / "damaged", *more)
        assert code == 4 and f"{TRAINING_ROWS_NAME}: {said}" in err and not (tmp_path / "damaged").exists()


def test_a_tag_hides_no_training_row(run: Any, tmp_path: Path, sequences: list[str], bare: Path) -> None:
    """The tag is on the labelled row, on the training row, or on both. One residue less is another sequence."""
    trained = [sequences[0], sequences[1] + "HHHHHH", sequences[2] + "GSHHHHHH", sequences[3], sequences[4]]
    rows = [sequences[0] + "HHHHHH", sequences[1], "M" + sequences[2], sequences[3], sequences[4][1:], sequences[5]]
    bundle = Path(shutil.copytree(bare, tmp_path / "bundle"))
    fitted = tmp_path / "fitted.csv"
    table(fitted, [(f"m{at}", each, str(at % 2)) for at, each in enumerate(trained)])
    checked = read_input(fitted, SequenceLimit(500), rule=DomainRule())
    write_training_rows(checked.records, bundle / TRAINING_ROWS_NAME, checked.domains)
    relist(bundle)
    assert len((bundle / TRAINING_ROWS_NAME).read_bytes().splitlines()) == 7, "two domains are shorter than their rows"
    source = table(tmp_path / "made.csv", [(f"m{at}", each, str(at % 2)) for at, each in enumerate(rows)])
    usual = ("evaluate", source, "--bundle", bundle, "--bootstrap", 10)
    for options, expected in (((), 4), (("--trim", "domain"), 4), (("--domain", "off"), 2)):
        output = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        assert run(*usual, "-o", output, *options)[0] == 0
        assert json.loads((output / "metrics.json").read_text())["card"]["shared"] == expected, options


def test_several_sets_are_so_many_comparisons(run: Any, tmp_path: Path, three_folds: None) -> None:
    """A set that cannot be judged does not count as a comparison."""
    sources = []
    for name, count in (("one", 24), ("two", 24), ("few", 6)):
        made = mutants(count, seed=count + len(name))
        sources.append(table(tmp_path / f"{name}.csv", [(f"m{i}", each, str(i % 2)) for i, each in enumerate(made)]))
    code, err = run("evaluate", *sources, "-o", tmp_path / "out", "--bootstrap", 200)
    assert code == 0
    found = {
        name: json.loads((tmp_path / "out" / name / "metrics.json").read_text())["card"] for name in ("one", "few")
    }
    assert "(95 % for all 2 comparisons together)" in found["one"]["sentence"]
    assert found["few"]["sentence"].startswith("Not judged: 6 rows are too few")
    assert err.count("for all 2 comparisons together") == 2


# ---- real tables: options, and for each file n, positives, and rows without a label

ONE_CALL = {
    "boughter/VH_only_boughter_training.csv": (914, 471, 0),
    "boughter/VH_only_boughter.csv": (914, 471, 151),
    "jain/VH_only_jain.csv": (116, 22, 21),
    "jain/VH_only_jain_test_PARITY_86.csv": (86, 27, 0),
    "jain/VH_only_jain_test_PARITY_86_as_of_2025-11-06.csv": (86, 27, 0),
    "shehata/VH_only_shehata.csv": (398, 7, 0),
    "harvey/harvey_500_high_with_upstream_proba.csv": (500, 500, 0),
}
TABLES = [
    ([], ONE_CALL),
    (["--sequence-column", "vh_sequence"], {"jain/VH_only_jain_86_p5e_s2.csv": (86, 27, 0)}),
    (["--sequence-column", "heavy_seq"], {"harvey/harvey_1000_labelled.csv.gz": (1000, 500, 0)}),
    (
        ["--sequence-column", "1:128", "--id-column", "Id", "--label-column", "exp_phenotype_binary"],
        {"harvey/low_throughput_polyspecificity_scores_w_exp.csv": (48, 48, 0)},
    ),
]


def test_no_table_is_missing_here(shared_data: Path) -> None:
    there = {
        f"{folder}/{path.name}"
        for folder in ("boughter", "jain", "shehata", "harvey")
        for path in (shared_data / folder).glob("*.csv*")
    }
    assert there == {name for _, tables in TABLES for name in tables}


IDS = ["sequence", "vh_sequence", "heavy_seq", "alignment"]


@pytest.mark.slow
@pytest.mark.parametrize(("options", "tables"), TABLES, ids=IDS)
def test_real_tables_go_through(
    run: Any, tmp_path: Path, shared_data: Path, options: list[str], tables: dict[str, tuple[int, int, int]]
) -> None:
    output = tmp_path / "out"
    code, err = run("evaluate", *(shared_data / name for name in tables), "-o", output, "--bootstrap", 50, *options)
    assert code == 0, err
    for name, expected in tables.items():
        directory = output / Path(name).name.removesuffix(".gz").removesuffix(".csv") if len(tables) > 1 else output
        record = json.loads((directory / "metrics.json").read_text())
        assert (record["n"], record["n_positive"], record["n_unlabelled"]) == expected, name
        curves = set() if record["n_negative"] else CURVES
        assert set(files(directory)) == set(FILES) - curves
        assert len(rows(directory / "predictions.csv")) == record["n"] + record["n_unlabelled"]


class _Read(Exception):
    """Ends a command after all inputs are read and judged."""


@pytest.mark.parametrize(("options", "tables"), TABLES, ids=IDS)
def test_real_tables_are_read_whole(
    run: Any,
    tmp_path: Path,
    shared_data: Path,
    options: list[str],
    tables: dict[str, tuple[int, int, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The short form of test_real_tables_go_through: all rows are read and judged, but few rows are scored."""
    found, read = {}, evaluation.read_set

    def counted(source: Path, *arguments: Any) -> Any:
        each = read(source, *arguments)
        labels = each.checked.labels
        known = [label for label in labels if label is not None]
        found[source.relative_to(shared_data).as_posix()] = (len(known), sum(known), len(labels) - len(known))
        assert not each.checked.rejected and len(each.checked.judgements) == len(labels)
        if len(found) == len(tables):
            raise _Read
        return each

    with monkeypatch.context() as patch, pytest.raises(_Read):
        patch.setattr(evaluation, "read_set", counted)
        run("evaluate", *(shared_data / name for name in tables), "-o", tmp_path / "out", *options)
    assert found == tables
    few = excerpt(shared_data / next(iter(tables)), tmp_path / "few.csv", 6, 5)
    assert run("evaluate", few, "-o", tmp_path / "out", "--bootstrap", 10, *options)[0] == 0
    record = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert record["n"] + record["n_unlabelled"] == len(rows(tmp_path / "out" / "predictions.csv")) == 6


def test_a_head_of_another_encoder_is_said_in_every_file(run: Any, tmp_path: Path, labelled: Path) -> None:
    bundle = Path(shutil.copytree(MINI, tmp_path / "bundle"))
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["heads"][0]["encoder"] = "some/esm"
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    assert run("evaluate", labelled, "-o", tmp_path / "out", "--bundle", bundle, "--bootstrap", 10)[0] == 0
    for name in ("metrics.json", "report.html"):
        assert "scores mean nothing" in (tmp_path / "out" / name).read_text()


@pytest.fixture
def variants(tmp_path: Path, sequences: list[str]) -> Path:
    """Two parents with 12 variants each. One position changes the charge, another position does not."""
    rows = []
    for parent in (0, 1):
        for place, residue in itertools.product((10, 40, 60), "KDSA"):
            sequence = sequences[parent][:place] + residue + sequences[parent][place + 1 :]
            rows.append((f"{parent}-{place}{residue}", sequence, str(int(residue in "KS")), f"parent {parent}"))
    source = tmp_path / "variants.csv"
    lines = [",".join(row) for row in [("id", "sequence", "label", "family"), *rows, ("x", sequences[2], "1", "")]]
    source.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return source


def test_variants_of_one_parent(run: Any, tmp_path: Path, variants: Path, three_folds: None) -> None:
    output = tmp_path / "out"
    code, err = run("evaluate", variants, "-o", output, "--by", "family", "--bootstrap", 50)
    assert code == 0, err
    record = json.loads((output / "metrics.json").read_text())
    found = record["by_parent"]
    assert (found["column"], found["metric"], found["rows"], found["left_out"]) == ("family", "ROC AUC", 24, 1)
    assert found["charge"]["value"] == pytest.approx(3.5 / 4)  # K above D, K above A, S above D, S and A alike
    left_out = "(1 row without a parent left out)"
    assert f"among the variants of each of 2 parents {left_out}: ROC AUC" in err and "at equal charge" in err
    assert [row["parent"] for row in rows(output / "parents.csv")] == ["parent 0", "parent 1"]
    page, card = ((output / name).read_text() for name in ("report.html", "card.md"))
    assert "Variants of one parent (ROC AUC)" in page and "among the variants of each of 2 parents" in card


def test_flagged_variants_are_left_out(run: Any, tmp_path: Path, variants: Path, three_folds: None) -> None:
    lines = variants.read_text(encoding="utf-8").splitlines()
    fragments = [f"f{row},{lines[1].split(',')[1][:60]},{row % 2},parent 0" for row in range(4)]
    variants.write_text("\n".join([*lines, *fragments]) + "\n", encoding="utf-8")
    output = tmp_path / "out"
    code, err = run("evaluate", variants, "-o", output, "--by", "family", "--bootstrap", 50)
    assert code == 0, err
    found = json.loads((output / "metrics.json").read_text())["by_parent"]
    assert (found["rows"], found["left_out"], found["flagged"]) == (24, 1, 4)
    assert "(1 row without a parent and 4 flagged rows left out)" in err


def test_a_column_of_parents_that_cannot_be_used(run: Any, tmp_path: Path, variants: Path, three_folds: None) -> None:
    code, err = run("evaluate", variants, "-o", tmp_path / "out", "--by", "clone")
    assert code != 0 and "no column 'clone'" in err and "Name one of them with --by" in err
    code, err = run("evaluate", variants, "-o", tmp_path / "out", "--by", "id", "--bootstrap", 10)
    assert code != 0 and "--by id: none of 25 parents has rows of both classes" in err
    assert not (tmp_path / "out").exists()


def test_the_intervals_say_what_they_draw(
    run: Any, tmp_path: Path, labelled: Path, three_folds: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[EvaluationRecord] = []

    def kept(title: str, record: EvaluationRecord, *rest: Any) -> str:
        written.append(record)
        return report(title, record, *rest)

    monkeypatch.setattr(evaluation, "report", kept)
    assert run("evaluate", labelled, "-o", tmp_path / "out", "--bootstrap", 20)[0] == 0
    (known,) = written
    folds = FoldsRecord(folds=10, level=80, tried=[], seed=0, draws=2000)
    card = msgspec.structs.replace(known.card, sentence="No signal: AUC 0.62, 95 % interval 0.49 to 0.75.", folds=folds)
    known = msgspec.structs.replace(known, card=card)
    draws = "is from draws of whole clusters of similar sequences (linked at 80 % identity)"
    lines = known.lines("x")
    at = next(at for at, line in enumerate(lines) if f"the interval in the line above {draws}" in line)
    assert card.sentence in lines[at - 1]
    page = report("x", known, Lists(*[Table((), [])] * 3), [])
    assert f"he interval in the first sentence {draws}" in page.partition("verdict")[2]


def test_the_report_leads_with_the_conclusion(run: Any, tmp_path: Path, labelled: Path, three_folds: None) -> None:
    output = tmp_path / "out"
    assert run("evaluate", labelled, "-o", output, "--bootstrap", 20)[0] == 0
    page, record = (output / "report.html").read_text(), json.loads((output / "metrics.json").read_text())
    body = page.partition("<body>")[2]
    places = [
        body.index(text) for text in (f"abonyx-mini on {labelled.name}", escape(record["card"]["sentence"]), "Metrics")
    ]
    assert places == sorted(places)
    visible, _, folded = body.partition("<details>")
    assert "Metrics (95 % intervals from draws of rows)" in visible
    assert record["bundle_sha256"] not in visible and record["bundle_sha256"] in folded
    assert record["command"].startswith("abonyx evaluate ") and escape(record["command"]) in folded
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", record["date"])
    predictions = rows(output / "predictions.csv")
    wrong = [row["id"] for row in predictions if row["y_true"] and row["y_true"] != row["y_pred"]]
    listed = visible.partition("Rows called wrong")[2].partition("</table>")[0]
    assert f"({len(wrong)})" in visible.partition("Rows called wrong")[2][:6]
    assert all(f"<td>{name}</td>" in listed for name in wrong)
    best = rows(output / "shortlist.csv")
    assert [row["rank"] for row in best] == [str(rank) for rank in range(1, len(predictions) + 1)]
    trusted = [float(row["p_nonspecific"]) for row in best if row["call"]]
    assert trusted == sorted(trusted) and all(row["flag"] for row in best[len(trusted) :])
