"""Baselines: features counted by hand, and the nearest row never of the row's own fold."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn")

from abonyx.card import baselines, folds
from abonyx.card.baselines import composition, cross_validate_baselines, length_and_charge, nearest_values
from abonyx.card.charge import isoelectric_point, net_charge
from abonyx.card.folds import cross_fit
from abonyx.card.identity import number_rows
from abonyx.card.linear import Task, fit_standardised

from .made import mutants


def test_net_charge_and_isoelectric_point() -> None:
    """Glycine only has its termini: the mean of 8.6 and 3.6. Far from every pKa, residues have their full charge."""
    assert isoelectric_point(["GG"])[0] == pytest.approx(6.1, abs=1e-6)
    assert net_charge(["GG"], 6.1)[0] == pytest.approx(0, abs=1e-9)
    assert net_charge(["GKKKG", "GDDG", "GHG", "GCCYG"], 7.4) == pytest.approx(
        [2.94, -2.06, 0.05, -0.06], abs=0.02
    )  # the N-terminus is 0.94 charged at 7.4, His 0.11
    assert net_charge(["GRG"], 1)[0] == pytest.approx(2, abs=0.01)
    assert (np.diff(isoelectric_point(["GDDG", "GDG", "GG", "GKG", "GKKG"])) > 0).all()
    assert net_charge([]).shape == isoelectric_point([]).shape == (0,)


def test_features_are_of_each_chain() -> None:
    assert composition([["AAC", "XA"]]).tolist() == [[2 / 3, 1 / 3, *[0] * 18], [0.5, *[0] * 19]]
    assert composition([["AA"], ["CC"]]).shape == (1, 40)
    found = length_and_charge([["GKG", "GG"], ["GDG", "GGG"]])
    assert found.shape == (2, 6)
    assert found[:, [0, 3]].tolist() == [[3, 3], [2, 3]]


@pytest.mark.parametrize("task", ["classes", "values"])
def test_the_nearest_row_is_of_another_fold(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each sequence appears twice with one label. In different folds they find each other, in the same fold never."""
    monkeypatch.setattr("abonyx.card.identity._BLOCK_CELLS", 24 * 5)
    once = mutants(24, mutations=2)
    sequences = [*once, *once]
    labels = np.tile(np.repeat([0.0, 1.0], 12), 2)  # the two mutants of an antibody have other labels
    half = 0.5 if task == "classes" else 0.0
    apart = nearest_values(number_rows([sequences]), labels, np.repeat([0, 1], 24), task)
    assert (apart.raw == labels - half).all()
    together = nearest_values(number_rows([sequences]), labels, np.tile(np.repeat([0, 1], 12), 2), task)
    assert (together.raw == 1 - labels - half).all()
    assert not together.centre.any()


def test_the_nearest_row_knows_nothing_of_shuffled_labels() -> None:
    """Few positives in unequal folds. A training mean would reveal the folds with positives."""
    rng = np.random.default_rng(3)
    sequences = mutants(120, mutations=25)
    numbered, fold = number_rows([sequences]), np.sort(rng.integers(0, 8, 120))
    found = []
    for _ in range(40):
        labels = np.zeros(120)
        labels[rng.permutation(120)[:6]] = 1.0
        scores = nearest_values(numbered, labels, fold, "classes").pooled
        above = scores[labels == 1][:, None] - scores[labels == 0]
        found.append((above > 0).mean() + (above == 0).mean() / 2)
    assert 0.42 < np.mean(found) < 0.58


def test_rows_of_equal_identity_give_their_mean() -> None:
    one = mutants(1, mutations=0)[0]
    rows = [one, one, one, "G" * 60]
    found = nearest_values(number_rows([rows]), np.array([0.0, 3.0, 7.0, 5.0]), np.array([0, 1, 1, 2]), "values")
    assert found.raw[0] == 5
    assert found.raw[3] == pytest.approx(10 / 3)  # no domain: equally far from all


def test_baselines_are_fitted_without_their_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the labels of a fold change, only the scores of other folds change, with the choice of C included."""
    sequences = mutants(60)
    labels = (np.random.default_rng(0).random(60) < 0.5).astype(float)
    fold = np.arange(60) % 4
    numbered = number_rows([sequences])
    before = cross_validate_baselines([sequences], numbered, labels, fold, "classes")
    other = np.where(fold == 2, 1 - labels, labels)
    after = cross_validate_baselines([sequences], numbered, other, fold, "classes")
    assert list(before) == [
        "residue composition",
        "length and charge",
        "nearest training row",
        "majority class",
    ]
    for name in list(before)[:3]:
        assert (before[name].raw[fold == 2] == after[name].raw[fold == 2]).all(), name
        assert (before[name].raw[fold != 2] != after[name].raw[fold != 2]).any(), name


def test_the_strength_is_chosen_inside_the_folds() -> None:
    """A strength that can only be the best one is chosen in every fold; a single one is not compared."""
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 1, (80, 60))
    labels = rows[:, 0] * 0.3 + rng.normal(0, 1, 80)  # mostly noise: the strongest ridge is the best
    fold = np.arange(80) % 4
    fit = fit_standardised("values")
    assert set(folds._strengths(rows, labels, fold, (1000.0, 0.01), fit, "values")) == {1000.0}
    clear = rows[:, :3].sum(axis=1)
    assert set(folds._strengths(rows[:, :3], clear, fold, (1000.0, 0.01), fit, "values")) == {0.01}
    chosen = cross_fit(rows, labels, fold, (1000.0, 0.01), fit, "values")
    assert (chosen.raw == cross_fit(rows, labels, fold, (1000.0,), fit, "values").raw).all()


def test_training_rows_of_one_class_give_a_constant() -> None:
    labels = np.array([1.0, 1, 0, 0, 0, 0])
    fold = np.array([0, 0, 1, 1, 2, 2])
    rows = np.arange(12.0).reshape(6, 2)
    found = cross_fit(rows, labels, fold, (0.1, 1.0), fit_standardised("classes"), "classes")
    assert (found.pooled[:2] == 0).all()
    assert (found.raw[:2] < 0).all()


def test_the_majority_class_is_that_of_all_rows() -> None:
    """With a majority per fold, the other folds' labels would decide, and accuracy would be lower than a constant's."""
    labels = np.repeat([0.0, 1.0], [11, 9])
    found = baselines.constant(labels, np.repeat([0, 1, 2, 3], 5), "classes")
    assert (found.raw < 0).all() and (found.pooled == 0).all()
