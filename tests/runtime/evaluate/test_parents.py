"""Variants of parents: figures for labels with a known answer."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from abonyx.errors import InputError
from abonyx.evaluate.parents import ByParent, formal_charge, measure_by_parent

RESIDUES = "ADEFGKLNQRSTVWY"


class _Made:
    """Variants of some parents: sequences, formal charges, and an effect other than charge (tryptophans)."""

    def __init__(self, parents: int = 3, variants: int = 300, seed: int = 0) -> None:
        self.generator = np.random.default_rng(seed)
        letters = self.generator.choice(list(RESIDUES), (parents * variants, 20))
        self.sequences = ["".join(row) for row in letters]
        self.parents = [f"parent {row // variants}" for row in range(parents * variants)]
        self.charge = formal_charge(self.sequences).astype(np.float64)
        self.effect = np.array([sequence.count("W") for sequence in self.sequences], np.float64)
        self.noise = self.generator.standard_normal(len(self.sequences))

    def measure(self, measured: np.ndarray, scores: np.ndarray, *, classes: bool = True) -> ByParent:
        labels = (measured > np.median(measured)).astype(np.float64) if classes else measured
        return measure_by_parent(
            "parent", self.parents, self.sequences, labels, scores, classes=classes, resamples=200, seed=0
        )


@pytest.mark.parametrize("classes", [True, False])
def test_charge_only(classes: bool) -> None:
    made = _Made()
    found = made.measure(made.charge + 0.3 * made.noise, made.charge + 0.01 * made.effect, classes=classes)
    chance = 0.5 if classes else 0.0
    assert found.charge.value is not None and found.charge.value > 0.9
    assert found.model.value == pytest.approx(found.charge.value, abs=0.05)
    assert found.model_at_equal_charge.value == pytest.approx(chance, abs=0.1)
    assert "not distinguishable from chance" in found.sentence


@pytest.mark.parametrize("classes", [True, False])
def test_charge_and_a_residue(classes: bool) -> None:
    made = _Made()
    truth = made.charge + 1.5 * made.effect
    found = made.measure(truth + 0.3 * made.noise, truth, classes=classes)
    assert found.model_at_equal_charge.low is not None
    assert found.model_at_equal_charge.low > (0.6 if classes else 0.3)
    assert "better than chance" in found.sentence
    opposed = made.measure(truth + 0.3 * made.noise, made.charge - 1.5 * made.effect, classes=classes)
    assert "worse than chance" in opposed.sentence


@pytest.mark.parametrize("classes", [True, False])
@pytest.mark.parametrize("parents", [1, 30])
def test_noise(classes: bool, parents: int) -> None:
    made = _Made(parents=parents, variants=900 // parents)
    found = made.measure(made.noise, made.charge + made.effect, classes=classes)
    chance = 0.5 if classes else 0.0
    for metric in (found.model, found.charge, found.model_at_equal_charge):
        assert metric.low is not None and metric.high is not None
        assert metric.low < chance < metric.high
    assert found.drawn == ("parents" if parents == 30 else "rows of each parent")


def test_telling_parents_apart_counts_for_nothing() -> None:
    made = _Made()
    between = np.array([int(parent[-1]) for parent in made.parents], np.float64)
    found = made.measure(10 * between + made.noise, 10 * between)
    assert found.model.value is None or found.model.value == pytest.approx(0.5)


def test_one_parent_is_what_scikit_learn_and_scipy_give() -> None:
    made = _Made(parents=1)
    measured, scores = made.charge + made.noise, np.round(made.charge + made.effect)
    labels = (measured > np.median(measured)).astype(int)
    found = made.measure(measured, scores)
    assert found.model.value == pytest.approx(roc_auc_score(labels, scores))
    assert found.charge.value == pytest.approx(roc_auc_score(labels, made.charge))
    pairs = [
        (scores[a] > scores[b]) + 0.5 * (scores[a] == scores[b])
        for a, b in itertools.product(np.flatnonzero(labels == 1), np.flatnonzero(labels == 0))
        if made.charge[a] == made.charge[b]
    ]
    assert found.model_at_equal_charge.value == pytest.approx(np.mean(pairs))
    values = made.measure(measured, scores, classes=False)
    assert values.model.value == pytest.approx(spearmanr(measured, scores).statistic)


def test_rows_without_a_parent_are_left_out_and_parents_listed() -> None:
    made = _Made(parents=2, variants=50)
    made.parents[0] = ""
    found = made.measure(made.charge + made.noise, made.charge)
    assert (found.rows, found.left_out) == (99, 1)
    assert [(each.parent, each.rows) for each in found.parents] == [("parent 0", 49), ("parent 1", 50)]
    assert all(each.charges > 1 and each.model is not None for each in found.parents)


def test_a_column_that_names_each_row_differently_is_refused() -> None:
    made = _Made(parents=1, variants=20)
    made.parents = [f"variant {row}" for row in range(20)]
    with pytest.raises(InputError, match="none of 20 parents has rows of both classes"):
        made.measure(made.charge, made.charge)


def test_few_rows_or_draws_conclude_nothing() -> None:
    made = _Made(parents=30, variants=1)
    made.parents[1] = f" {made.parents[0]} "  # one parent of two rows; a cell's spaces do not make another
    measured = np.arange(30.0)
    found = made.measure(measured, measured, classes=False)
    assert (len(found.parents), found.compared, found.drawn) == (29, 1, "rows of each parent")
    assert "among the variants of one parent" in found.line()
    assert (
        found.sentence == "These rows cannot show whether the model ranks variants at equal charge better than chance."
    )
    made = _Made()
    few = measure_by_parent(
        "parent", made.parents, made.sequences, made.noise, made.noise, classes=False, resamples=199, seed=0
    )
    assert "These rows cannot show" in few.sentence


def _few_beside_many(seed: int) -> ByParent:
    """22 parents with two rows that differ in charge, and one parent with 24 rows of equal charge. Scores are noise."""
    generator = np.random.default_rng(seed)
    parents = [f"pair {row // 2}" for row in range(44)] + ["big"] * 24
    sequences = ["AK", "AA"] * 22 + ["AAAA"] * 24
    labels = np.array([1, 0] * 34, np.float64)
    scores = generator.normal(size=68)
    return measure_by_parent("parent", parents, sequences, labels, scores, classes=True, resamples=500, seed=0)


def test_parents_that_cannot_be_compared_at_equal_charge_do_not_narrow_the_interval() -> None:
    found = [_few_beside_many(seed) for seed in range(20)]
    assert {each.drawn for each in found} == {"rows of each parent"}
    assert all(each.model_at_equal_charge.high - each.model_at_equal_charge.low > 0.2 for each in found)  # type: ignore[operator]
    assert sum("better than" in each.sentence or "worse than" in each.sentence for each in found) <= 3


def test_parents_that_hardly_weigh_do_not_narrow_the_interval() -> None:
    generator = np.random.default_rng(0)
    parents = [f"pair {row // 2}" for row in range(44)] + ["big"] * 200
    labels = np.array([1, 0] * 122, np.float64)
    found = measure_by_parent(
        "parent", parents, ["AA"] * 244, labels, generator.normal(size=244), classes=True, resamples=500, seed=0
    )
    assert (found.compared, found.drawn) == (23, "rows of each parent")


def test_an_interval_without_width_concludes_nothing() -> None:
    labels = np.array([1, 0] * 12, np.float64)
    found = measure_by_parent("parent", ["one"] * 24, ["AA"] * 24, labels, labels, classes=True, resamples=500, seed=0)
    assert (found.model_at_equal_charge.low, found.model_at_equal_charge.high) == (1, 1)
    assert not found.concluded and "These rows cannot show" in found.sentence


def test_an_interval_that_lies_beside_its_figure_is_left_out() -> None:
    charge = _few_beside_many(0).charge  # of pairs 0, of the large parent 0.5: it weighs more in each draw
    assert charge.value is not None and charge.low is None and charge.high is None


def test_flagged_rows_are_left_out_and_counted() -> None:
    made = _Made(parents=2, variants=50)
    labels, scores = made.charge + made.noise, made.charge.copy()
    flagged = [row % 50 < 10 for row in range(100)]
    scores[flagged] = -100 * labels[flagged]
    given = {"classes": False, "resamples": 200, "seed": 0}
    found = measure_by_parent("parent", made.parents, made.sequences, labels, scores, flagged=flagged, **given)  # type: ignore[arg-type]
    kept = [row for row in range(100) if not flagged[row]]
    alone = measure_by_parent(
        "parent",
        [made.parents[row] for row in kept],
        [made.sequences[row] for row in kept],
        labels[kept],
        scores[kept],
        **given,  # type: ignore[arg-type]
    )
    assert (found.rows, found.flagged, alone.flagged) == (80, 20, None)
    assert found.model_at_equal_charge == alone.model_at_equal_charge
    assert "(20 flagged rows left out)" in found.line()
    with pytest.raises(InputError, match="all 100 labelled rows with a parent are flagged"):
        measure_by_parent("parent", made.parents, made.sequences, labels, scores, flagged=[True] * 100, **given)  # type: ignore[arg-type]


def test_each_figure_is_drawn_by_its_own_weights() -> None:
    """At equal charge the small parents have most weight; for net charge alone, one large parent has nearly all."""
    rng = np.random.default_rng(3)
    parents = [f"p{number}" for number in range(150) for _ in range(2)] + ["large"] * 60
    sequences = ["AAAA"] * 300 + ["AAAAA" + "K" * (index % 30) for index in range(60)]
    labels = rng.integers(0, 2, 360).astype(float)
    found = measure_by_parent(
        "parent", parents, sequences, labels, rng.normal(size=360), classes=True, resamples=200, seed=1
    )
    assert found.drawn == "parents"
    assert found.charge.low is None or found.charge.high - found.charge.low > 0.05  # type: ignore[operator]
