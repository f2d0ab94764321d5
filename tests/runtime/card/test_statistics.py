"""Statistics equal scikit-learn's and scipy's on every draw; coverage of intervals; and the constant predictor."""

from __future__ import annotations

import numpy as np
import pytest

sk = pytest.importorskip("sklearn.metrics")

from abonyx.bundle.tolerances import RESAMPLED_METRIC  # noqa: E402
from abonyx.card import statistics  # noqa: E402
from abonyx.card.baselines import constant  # noqa: E402
from abonyx.card.clusters import cluster_folds, random_folds  # noqa: E402
from abonyx.card.statistics import ClassScores, ValueScores, measure, point_auc  # noqa: E402

ROWS = 30
CLUSTERS = np.arange(ROWS) // 3


def draws(count: int, seed: int) -> np.ndarray:
    return np.concatenate(list(statistics._weights(CLUSTERS, count, seed)))


def test_draws_take_whole_clusters() -> None:
    weights = draws(50, 0)
    assert (weights.reshape(50, 10, 3) == weights.reshape(50, 10, 3)[:, :, :1]).all()
    assert (weights.sum(axis=1) == ROWS).all()
    assert len({tuple(row) for row in weights}) == 50


@pytest.mark.parametrize("decimals", [6, 1, 0])
def test_statistics_of_classes_equal_scikit_learn_on_the_same_rows(decimals: int) -> None:
    rng = np.random.default_rng(decimals)
    labels = (rng.random(ROWS) < 0.4).astype(float)
    ranked = np.round(rng.normal(labels, 1), decimals)
    called = ranked > 0.5
    weights = draws(40, 1).astype(float)
    found = ClassScores(ranked, called).measure(labels, weights)
    for index, times in enumerate(weights.astype(int)):
        y, scores, calls = (np.repeat(values, times) for values in (labels, ranked, called))
        expected = {
            "auc": sk.roc_auc_score(y, scores),
            "balanced_accuracy": sk.balanced_accuracy_score(y, calls),
            "mcc": sk.matthews_corrcoef(y, calls),
            "accuracy": sk.accuracy_score(y, calls),
        }
        for name, value in expected.items():
            assert abs(found[name][index] - value) <= RESAMPLED_METRIC, (name, index)


@pytest.mark.parametrize("decimals", [6, 0])
def test_statistics_of_values_equal_scipy_on_the_same_rows(decimals: int) -> None:
    scipy = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(decimals)
    labels = np.round(rng.normal(0, 2, ROWS), decimals)
    predicted = np.round(labels + rng.normal(0, 2, ROWS), decimals)
    weights = draws(40, 1).astype(float)
    mean = np.full(ROWS, 0.3)
    found = ValueScores(predicted, predicted, mean).measure(labels, weights)
    for index, times in enumerate(weights.astype(int)):
        y, p = np.repeat(labels, times), np.repeat(predicted, times)
        assert abs(found["spearman"][index] - scipy.spearmanr(y, p).statistic) <= RESAMPLED_METRIC
        assert abs(found["mae"][index] - np.abs(y - p).mean()) <= RESAMPLED_METRIC
        r2 = 1 - ((y - p) ** 2).sum() / ((y - 0.3) ** 2).sum()
        assert abs(found["r2"][index] - r2) <= RESAMPLED_METRIC


def test_a_constant_predictor_ranks_nothing_by_cluster_folds() -> None:
    """Without subtracting training means, Spearman is far below 0: a fold of high labels has a low training mean."""
    rng = np.random.default_rng(0)
    of_row = np.repeat(np.arange(20), 6)
    labels = rng.normal(0, 1, 20)[of_row] + rng.normal(0, 0.3, 120)
    fold = cluster_folds(of_row, 10, 0)
    scores = constant(labels, fold, "values")
    pooled = measure({"c": ValueScores(scores.pooled, scores.raw, scores.raw)}, labels, of_row, 50, 0)
    raw = measure({"c": ValueScores(scores.raw, scores.raw, scores.raw)}, labels, of_row, 50, 0)
    assert raw.estimates["c"]["spearman"].value < -0.2  # type: ignore[operator]
    spearman = pooled.estimates["c"]["spearman"]
    assert spearman.value == spearman.low == spearman.high == 0
    assert pooled.estimates["c"]["r2"].value == 0


def test_a_constant_predictor_of_classes_has_auc_one_half() -> None:
    labels = (np.arange(60) % 3 == 0).astype(float)
    scores = constant(labels, random_folds(labels, 5, 0), "classes")
    found = measure({"c": ClassScores(scores.pooled, scores.raw > 0)}, labels, np.arange(60), 50, 0).estimates["c"]
    assert found["auc"].value == found["auc"].low == found["auc"].high == 0.5
    assert found["mcc"].value == 0
    assert found["accuracy"].value == pytest.approx(2 / 3)


def test_intervals_over_clusters_cover_and_those_over_rows_do_not() -> None:
    """Labels and scores share an effect per cluster: 20 rows in one cluster say less than 20 rows in 20 clusters."""
    rng = np.random.default_rng(5)
    covered = np.zeros(2)
    true_auc = 0.777  # of the same model, on 600,000 rows in 60,000 clusters
    repeats, of_row = 60, np.repeat(np.arange(40), 10)
    for repeat in range(repeats):
        labels, score = drawn_set(rng, of_row)
        for index, clusters in enumerate((of_row, np.arange(len(of_row)))):
            scores = ClassScores(score, score > 0)
            estimate = measure({"s": scores}, labels, clusters, 200, repeat).estimates["s"]["auc"]
            covered[index] += estimate.low <= true_auc <= estimate.high  # type: ignore[operator]
    assert covered[0] / repeats >= 0.85
    assert covered[1] / repeats <= 0.8


def drawn_set(rng: np.random.Generator, of_row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    effect = rng.normal(0, 1, of_row.max() + 1)[of_row]
    labels = (effect + rng.normal(0, 0.5, len(of_row)) > 0).astype(float)
    other = rng.normal(0, 1, of_row.max() + 1)[of_row]
    return labels, effect + other + rng.normal(0, 0.5, len(of_row))


def test_the_difference_is_paired() -> None:
    """Two almost equal predictors differ by almost nothing on every draw, although each has a wide interval."""
    rng = np.random.default_rng(1)
    labels = (np.arange(80) % 2).astype(float)
    score = rng.normal(labels, 1.5)
    near = score + rng.normal(0, 0.01, 80)
    found = measure(
        {"a": ClassScores(score, score > 0.5), "b": ClassScores(near, near > 0.5)}, labels, np.arange(80) // 2, 300, 0
    )
    alone, paired = found.estimates["a"]["auc"], found.difference("a", "b", "auc")
    assert alone.high - alone.low > 0.15  # type: ignore[operator]
    assert paired.high - paired.low < 0.02  # type: ignore[operator]
    assert paired.value == pytest.approx(alone.value - found.estimates["b"]["auc"].value)  # type: ignore[operator]


def test_draws_are_seeded_and_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = (np.arange(ROWS) % 2).astype(float)
    score = np.random.default_rng(0).normal(labels, 2)

    def found(seed: int) -> object:
        return measure({"s": ClassScores(score, score > 0)}, labels, CLUSTERS, 100, seed).estimates

    once = found(0)
    assert found(0) == once != found(1)
    monkeypatch.setattr(statistics, "_BLOCK_CELLS", 7 * ROWS)
    assert found(0) == once


def test_area_of_one_class_is_undefined() -> None:
    assert np.isnan(point_auc(np.ones(3), np.arange(3.0)))
    assert (
        measure({"s": ClassScores(np.arange(3.0), np.ones(3, bool))}, np.ones(3), np.arange(3), 5, 0)
        .estimates["s"]["auc"]
        .value
        is None
    )
