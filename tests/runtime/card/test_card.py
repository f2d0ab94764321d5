"""Cards of made-up sets with a known truth: charge only, noise, a real effect, one class that does better."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

pytest.importorskip("sklearn")

from abonyx.bundle.band import CallBand, ValueBand
from abonyx.card import clusters
from abonyx.card.card import card_of_fit, card_of_scores, card_of_values
from abonyx.card.charge import net_charge
from abonyx.card.identity import number_rows
from abonyx.card.labelled import LabelledSet
from abonyx.card.linear import GRIDS, Task, fit_standardised
from abonyx.card.page import html, markdown
from abonyx.card.record import Card, CardFile
from abonyx.card.sections import sections
from abonyx.card.writing import write_pages

from .made import mutants

# Mutants of twelve antibodies that are still similar; and sequences that are not similar, each a cluster.
FAMILIES, SEQUENCES = mutants(240, mutations=8), mutants(240, mutations=22)
CHARGE = net_charge(SEQUENCES)
NOISE = np.random.default_rng(0).normal(0, 1, (240, 4))
HIDDEN = np.random.default_rng(1).normal(0, 1, 240)


def labelled(labels: Any, task: Task = "classes", **more: Any) -> LabelledSet:
    options: dict[str, Any] = {"folds": 3, "draws": 300, "chains": (SEQUENCES,)} | more
    return LabelledSet(name="made.csv", head="a made head", labels=np.asarray(labels, float), task=task, **options)


def fitted(labels: Any, embeddings: Any, task: Task = "classes", **more: Any) -> Card:
    return card_of_fit(labelled(labels, task, **more), embeddings, GRIDS[task][1:3], fit_standardised(task))[0]


def values(found: Card, name: str, statistic: str) -> float:
    (each,) = [each for each in found.predictors if each.name == name]
    value = each.clusters[statistic].value
    assert value is not None
    return value


def test_a_class_of_one_family_is_not_judged() -> None:
    """FAMILIES are mutants of twelve antibodies. What distinguishes one antibody says nothing about the class."""
    labels = np.zeros(240)
    labels[clusters.cluster_rows(number_rows([FAMILIES]), 3).of_row == 0] = 1
    found = fitted(labels, np.column_stack([labels, NOISE[:, 0]]), chains=(FAMILIES,))
    rows = int(labels.sum())
    assert rows >= 5
    assert found.sentence == (
        f"Not judged: the {rows} non-specific rows are in 1 cluster of similar sequences, at least 5 are needed."
    )


@pytest.mark.parametrize("task", ["classes", "values"])
def test_labels_that_are_charge_are_not_distinguishable_from_it(task: Task) -> None:
    labels = CHARGE + np.random.default_rng(3).normal(0, 2, 240)
    labels = labels > np.median(labels) if task == "classes" else labels
    found = fitted(labels, np.column_stack([CHARGE, NOISE[:, 0]]), task)
    assert found.sentence.startswith("Not distinguishable from length and charge: difference in ")
    assert found.difference is not None and found.difference.baseline == "length and charge"
    assert values(found, "length and charge", found.difference.statistic) > (0.65 if task == "classes" else 0.3)


@pytest.mark.parametrize("task", ["classes", "values"])
def test_noise_is_no_signal(task: Task) -> None:
    labels = np.random.default_rng(8).normal(0, 1, 240)
    found = fitted(labels > 0 if task == "classes" else labels, NOISE, task)
    assert found.sentence.startswith("No signal: ")
    assert "which contains chance" in found.sentence or "which is not above chance" in found.sentence


@pytest.mark.parametrize("task", ["classes", "values"])
def test_an_effect_that_no_baseline_sees_is_better(task: Task) -> None:
    labels = HIDDEN + np.random.default_rng(2).normal(0, 0.8, 240)
    embeddings = np.column_stack([HIDDEN, NOISE])
    found = fitted(labels > 0 if task == "classes" else labels, embeddings, task)
    assert found.sentence.startswith("Better than ")
    assert found.difference is not None and found.difference.estimate.low is not None
    assert found.difference.estimate.low > 0.1
    if task == "values":
        assert found.spread is not None and found.calls is None
        assert values(found, "this head", "mae") < values(found, "mean of the training rows", "mae") < found.spread.sd
        assert values(found, "mean of the training rows", "r2") == 0
        assert found.interval is not None and found.interval.confidence == 0.8
        p10, p90 = np.percentile(labels, (10, 90))
        assert found.interval.spread == pytest.approx(p90 - p10) and found.interval.ratio < 0.9
        text = next(each for each in sections(found) if each.title == "Intervals").paragraphs[0]
        assert f"{found.interval.ratio:.2f} times" in text and "no narrower" not in text
    else:
        assert found.calls is not None and abs(found.calls.covered - 0.8) < 0.1
        assert found.calls.right is not None and found.calls.right > 0.75
        assert found.calls.uncertain > 0


def test_an_interval_that_is_no_narrower_than_the_labels_says_so() -> None:
    labels = np.random.default_rng(2).normal(0, 1, 240)
    found = fitted(labels, NOISE, "values")
    assert found.interval is not None and found.interval.ratio > 0.9
    text = next(each for each in sections(found) if each.title == "Intervals").paragraphs[0]
    assert text.endswith("80 % of the labels span: no narrower than without a prediction.")


def test_an_embedding_that_knows_the_cluster_shines_in_random_folds_alone() -> None:
    """Labels that depend on the antibody: only its mutants in the training rows reveal them."""
    of_row = np.arange(240) % 12
    labels = np.isin(of_row, [0, 2, 5, 7, 8, 11])
    found = fitted(labels, np.eye(12)[of_row], chains=(FAMILIES,))
    head = found.predictors[0]
    assert head.random is not None and head.random["auc"] is not None
    assert head.random["auc"] > 0.95
    assert found.sentence.startswith("No signal: ")


def test_one_class_for_all_is_better_on_a_lopsided_set() -> None:
    labels = HIDDEN + np.random.default_rng(1).normal(0, 0.3, 240) > 1.5
    p = 1 / (1 + np.exp(-HIDDEN))
    found = card_of_scores(labelled(labels), p, p > 0.5)
    assert found.sentence.startswith("Better than ")
    assert "Calling every row specific is right more often: 0.9" in found.sentence


def test_a_fixed_head_of_values() -> None:
    """The labels and noise of half their spread: the head ranks, and its interval holds what is counted."""
    predicted = HIDDEN + 3 + np.random.default_rng(2).normal(0, 0.5, 240)
    labels, trusted = HIDDEN + 3, np.arange(240) >= 20
    band = ValueBand(confidence=0.8, low=-0.5, high=0.25)
    made = labelled(labels, "values", shared=np.arange(240) < 60, trusted=trusted)
    found = card_of_values(made, predicted, band)
    assert found.sentence.startswith("Trained on 60 of these 240 rows, so the figures are too good. Better than ")
    assert found.difference is not None and found.difference.statistic == "spearman"
    assert (found.task, found.fitted, found.positives, found.calls) == ("values", False, None, None)
    assert values(found, "this head", "mae") == pytest.approx(np.abs(labels - predicted).mean())
    assert found.predictors[0].random is None and found.spread is not None
    off = (labels - predicted)[20:]
    assert found.interval is not None
    assert found.interval.covered == pytest.approx(((off >= -0.5) & (off <= 0.25)).mean())
    share = f"holds the labels of {100 * found.interval.covered:.0f} % of the rows without a flag. It is 0.75 wide, "
    assert share in markdown(found) and share in html(found)
    assert "20 rows are flagged: not counted for the interval, but in all other figures" in found.notes
    assert any(note.startswith("R2 compares the head, too") for note in found.notes)
    small = card_of_values(labelled(labels * 1e-5, "values"), predicted * 1e-5)
    error = f"{np.abs(labels - predicted).mean() * 1e-5:.4g}"
    assert "e-06" in error and f"| {error} \\[" in markdown(small), "of any size"
    none = card_of_values(labelled(labels, "values"), np.full(240, 3.0))
    assert none.sentence.startswith("No signal: Spearman 0.00") and none.interval is None
    reverse = card_of_values(labelled(labels, "values"), -predicted)
    assert reverse.sentence.startswith("Worse than chance: Spearman -0.")
    same = card_of_values(labelled(np.full(240, 2.5), "values"), predicted)
    assert same.sentence == "Not judged: all 240 labels are 2.5."


def test_a_fixed_head_and_its_band() -> None:
    labels = HIDDEN > 0
    p = 1 / (1 + np.exp(-HIDDEN))
    band = CallBand(confidence=0.8, low=0.4, high=0.6)
    shared = np.arange(240) < 60
    found = card_of_scores(labelled(labels, shared=shared), p, p > 0.5, band)
    assert found.calls is not None and found.calls.right == 1 and found.calls.band == band
    assert found.shared == 60
    assert found.sentence.startswith("Trained on 60 of these 240 rows, so the figures are too good. Better than ")
    assert found.predictors[0].random is None
    assert any("the baselines learn from the labels of this set" in note for note in found.notes)
    unknown = card_of_scores(labelled(labels), p, p > 0.5)
    assert unknown.calls is not None and unknown.calls.confidence is None and unknown.shared is None
    said = "No row is uncertain: the calls are made by the threshold. 100 % of the calls made are correct."
    assert said in markdown(unknown) and said in html(unknown)
    assert any("does not record what its head was trained on" in note for note in unknown.notes)


def test_a_fitted_heads_calls_are_by_fold_and_its_band_is_printed() -> None:
    labels = (HIDDEN + NOISE[:, 0] > 0) * 1.0
    task, grid = fit_standardised("classes"), GRIDS["classes"][1:3]
    found, band = card_of_fit(labelled(labels), np.column_stack([HIDDEN, NOISE[:, 1]]), grid, task, 0.7)
    assert band is not None and found.calls is not None
    assert (found.calls.by_fold, found.calls.band, band.confidence) == (True, band, 0.7)
    said = f"In the bundle, p below {band.low:.3f} is called specific, above {band.high:.3f} non-specific."
    assert said in markdown(found) and said in html(found)


def test_the_band_is_of_the_heads_own_strength() -> None:
    """The band does not use the strengths that folds choose, because the final head has one strength."""
    labels = (HIDDEN + NOISE[:, 0] > 0).astype(np.float64)
    rows, fit = np.column_stack([HIDDEN, NOISE[:, 1]]), fit_standardised("classes")
    of_one, band_of_one = card_of_fit(labelled(labels), rows, (10.0,), fit)
    of_grid, band = card_of_fit(labelled(labels), rows, (1e-4, 10.0), fit, strength=10.0)
    _, band_of_other = card_of_fit(labelled(labels), rows, (1e-4, 10.0), fit, strength=1e-4)
    assert band == band_of_one != band_of_other
    assert of_grid.calls == of_one.calls
    assert any("the head's own C, 10" in note for note in of_grid.notes)
    assert not any("own C" in note for note in of_one.notes)


def test_few_rows_of_one_class_are_named() -> None:
    p = 1 / (1 + np.exp(-HIDDEN))
    rare = np.sort(HIDDEN)[-8] < HIDDEN
    found = card_of_scores(labelled(rare), p, p > 0.5)
    assert "7 rows of one class are few: one row more or less moves every figure" in found.notes
    assert not any("are few: one row" in note for note in card_of_scores(labelled(HIDDEN > 0), p, p > 0.5).notes)


def test_contradictory_labels_are_counted() -> None:
    labels = np.tile([0.0, 1.0], 60)
    twice = [each for each in SEQUENCES[:60] for _ in range(2)]
    p = np.linspace(0, 1, 120)
    found = card_of_scores(labelled(labels, chains=(twice,)), p, p > 0.5)
    assert "60 sequences have both labels: no predictor is right on all of their rows" in found.notes
    one = card_of_scores(labelled(labels, chains=(SEQUENCES[:119] + SEQUENCES[:1],)), p, p > 0.5)
    assert "1 sequence has both labels: no predictor is right on all of their rows" in one.notes


def test_without_folds_that_keep_families_apart_better_is_said_to_flatter() -> None:
    """Mutants of one antibody: every held-out row has similar rows in the training set."""
    family, p = mutants(12 * 240)[::12], 1 / (1 + np.exp(-HIDDEN))
    found = card_of_scores(labelled(HIDDEN > 0, chains=(family,)), p, p > 0.5)
    assert found.folds is not None and found.folds.level == 100
    said = (
        "No folds could keep similar sequences together: the figures may be too good, and the interval is too narrow. "
        "Better than "
    )
    assert found.sentence.startswith(said)
    assert found.notes[0].startswith("at 80 % there is 1 cluster for 3 folds")


def test_flagged_rows_have_no_call() -> None:
    labels, trusted = HIDDEN > 0, np.arange(240) >= 40
    p = np.where(trusted, 1 / (1 + np.exp(-HIDDEN)), 1 - labels)  # wrong on the flagged ones alone
    band = CallBand(confidence=0.8, low=0.4, high=0.6)
    for used in (band, None):
        found = card_of_scores(labelled(labels, trusted=trusted), p, p > 0.5, used)
        assert found.calls is not None
        assert (found.calls.rows, found.calls.flagged, found.calls.right) == (200, 40, 1)
        assert "Left out: 40 of 240 rows, because of a flag." in markdown(found)
        assert "40 rows are flagged: without a call, but counted in all other figures" in found.notes
    none = card_of_scores(labelled(labels, trusted=np.zeros(240, bool)), p, p > 0.5, band)
    assert none.calls is None


def test_calls_against_the_threshold_are_named() -> None:
    """With classes of very different sizes, the whole band is below 0.5."""
    p = 1 / (1 + np.exp(-HIDDEN))
    found = card_of_scores(labelled(HIDDEN > 0), p, p > 0.5, CallBand(confidence=0.8, low=0.1, high=0.3))
    against = int(((p > 0.3) & (p <= 0.5)).sum())
    assert found.calls is not None and found.calls.against == against > 0
    said = f"{against} rows are called differently by the threshold: `nonspecific` and `call` disagree"
    assert said in found.notes


def test_several_comparisons_widen_the_first_lines_intervals() -> None:
    """Chance gives one better set in twenty. So over forty sets, a difference that just excludes zero is not enough."""
    p = 1 / (1 + np.exp(-(0.9 * (HIDDEN > 0) + np.random.default_rng(5).normal(0, 1.6, 240))))
    alone = card_of_scores(labelled(HIDDEN > 0, draws=2_000), p, p > 0.5)
    of_forty = card_of_scores(labelled(HIDDEN > 0, draws=2_000, comparisons=40), p, p > 0.5)
    assert alone.sentence.startswith("Better than ") and "95 % interval" in alone.sentence
    assert of_forty.sentence.startswith("Not distinguishable from ")
    assert "(95 % for all 40 comparisons together)" in of_forty.sentence
    assert of_forty.difference is not None and of_forty.difference.comparisons == 40
    assert of_forty.predictors == alone.predictors, "the table's are not corrected"
    assert any(note.startswith("40 sets were compared") for note in of_forty.notes)
    assert "2,000 draws are few for these intervals: their bounds are rough" in of_forty.notes
    assert "for all 40 comparisons together" in markdown(of_forty).split("## ")[2]


@pytest.mark.parametrize(
    ("rows", "labels", "expected"),
    [
        (slice(0, 40), np.zeros(40), "Not judged: all 40 labels are specific."),
        (slice(0, 12), np.arange(12) % 2, "Not judged: 12 rows are too few, at least 20 are needed."),
        (slice(0, 0), np.zeros(0), "Not judged: no row has a label."),
        (slice(0, 40), np.arange(40) < 3, "Not judged: 3 of 40 rows are non-specific, at least 5 are needed."),
        (slice(0, 40), np.arange(40) > 0, "Not judged: 1 of 40 rows is specific, at least 5 are needed."),
    ],
)
def test_what_cannot_be_judged_says_why(rows: slice, labels: Any, expected: str) -> None:
    small = LabelledSet(name="s", head="h", chains=(SEQUENCES[rows],), labels=np.asarray(labels, float))
    found = card_of_scores(small, np.full(len(labels), 0.5), np.zeros(len(labels), bool))
    assert found.sentence == expected
    assert markdown(found).splitlines()[0] == expected
    fit_found, band = card_of_fit(small, np.zeros((len(labels), 2)), (1.0,), fit_standardised("classes"))
    assert (fit_found.sentence, band) == (expected, None)


def test_too_few_different_sequences_are_not_judged() -> None:
    repeated = LabelledSet(name="s", head="h", chains=(SEQUENCES[:4] * 6,), labels=np.arange(24) % 2 * 1.0)
    found = card_of_scores(repeated, np.full(24, 0.5), np.zeros(24, bool))
    assert found.sentence == "Not judged: 24 rows hold 4 different sequences, at least 10 are needed."


def test_a_large_set_is_sampled_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "MAX_ROWS", 120)
    p = 1 / (1 + np.exp(-HIDDEN))
    found = card_of_scores(labelled(HIDDEN > 0), p, p > 0.5)
    assert found.rows == 120 and found.folds is not None and found.folds.rows_of == 240
    assert "120 of 240 rows were drawn with seed 0: all figures are from these rows" in found.notes


def test_pairs() -> None:
    other = mutants(240, mutations=8, seed=9)
    p = 1 / (1 + np.exp(-HIDDEN))
    pairs = LabelledSet(name="s", head="h", chains=(SEQUENCES, other), labels=(HIDDEN > 0) * 1.0, folds=3, draws=200)
    assert card_of_scores(pairs, p, p > 0.5).sentence.startswith("Better than ")


def test_a_handful_of_draws_is_no_interval() -> None:
    p = 1 / (1 + np.exp(-HIDDEN))
    found = card_of_scores(labelled(HIDDEN > 0, draws=199), p, p > 0.5)
    assert found.sentence == "Not judged: 199 draws are too few for a 95 % interval, at least 200 are needed."
    assert not found.predictors
    assert not card_of_scores(labelled(HIDDEN > 0, draws=200), p, p > 0.5).sentence.startswith("Not judged")


@pytest.mark.parametrize("rows", [240, 10])
def test_rows_that_were_left_out_are_noted_judged_or_not(rows: int) -> None:
    note = "3 of 243 records were rejected"
    p = 1 / (1 + np.exp(-HIDDEN[:rows]))
    made = labelled(HIDDEN[:rows] > 0, chains=(SEQUENCES[:rows],), draws=200, left_out=(note,))
    found = card_of_scores(made, p, p > 0.5)
    assert found.notes[0] == note and found.sentence.startswith("Not judged") == (rows == 10)
    assert note in markdown(found) and note in html(found)


def test_the_same_rows_give_the_same_bytes_and_another_seed_other_draws() -> None:
    p = 1 / (1 + np.exp(-HIDDEN))

    def encoded(seed: int) -> bytes:
        return CardFile(card=card_of_scores(labelled(HIDDEN > 0.5, seed=seed, draws=200), p, p > 0.5)).encode()

    assert encoded(0) == encoded(0) != encoded(1)
    record = json.loads(encoded(0))
    assert record["schema_version"] == 1
    assert msgspec.json.decode(encoded(0), type=CardFile).card.rows == 240


def test_pages_escape_everything_and_link_to_nothing(tmp_path: Path) -> None:
    name = "a|b<script>alert(1)</script>\n*x*_[y](http://z).csv"
    p = 1 / (1 + np.exp(-HIDDEN))
    made = replace(labelled(HIDDEN > 0, draws=200), name=name, head="<b>&\x1b[0m")
    found = card_of_scores(made, p, p > 0.5, CallBand(confidence=0.8, low=0.4, high=0.6))
    write_pages(found, tmp_path)
    page, text = (tmp_path / "card.html").read_text(), (tmp_path / "card.md").read_text()
    assert "<script>" not in page + text and "\x1b" not in page + text
    assert "&lt;script&gt;" in page and r"\[y\](http" in text and r"a\|b" in text
    assert not [word for word in ("src=", "href=", "@import", "url(") if word in page]
    assert text.splitlines()[0] == found.sentence  # nothing in it is markup
    assert page == html(found)
    for word in ("Folds by sequence cluster", "Random folds", "Calls", "<svg", "majority class"):
        assert word in page
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace(r"\|", "").count("|") for line in tables} == {4, 6}


def test_no_word_promises_too_much(tmp_path: Path) -> None:
    found = fitted(HIDDEN > 0, np.column_stack([HIDDEN, NOISE]), draws=200)
    assert "guarantee" not in (markdown(found) + html(found)).lower()
