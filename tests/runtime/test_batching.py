from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abonyx.batching import EXACT, GRAPH_INPUTS, MASKED, ShapeGrid, eos_in_mean, make_inputs, plan_batches
from abonyx.bundle.tolerances import FP16_LARGEST_ACTIVATION

lengths = st.lists(st.integers(3, 300), min_size=1, max_size=200).map(lambda values: np.array(values, np.int64))


@given(lengths, st.integers(1, 4000))
@settings(deadline=None)
def test_plan_covers_every_row_once_within_the_budget_longest_first(rows: np.ndarray, budget: int) -> None:
    batches = list(plan_batches(rows, budget))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(rows)))
    padded = [rows[batch].max() * len(batch) for batch in batches]
    assert all(tokens <= budget or len(batch) == 1 for tokens, batch in zip(padded, batches, strict=True))
    longest = [rows[batch].max() for batch in batches]
    assert longest == sorted(longest, reverse=True)


grids = st.builds(ShapeGrid, tokens=st.integers(1, 9), rows=st.integers(1, 17))


@given(lengths, st.integers(1, 40_000), grids)
@settings(deadline=None)
def test_a_plan_on_a_grid_covers_every_row_once_and_its_rounded_shapes_keep_the_budget(
    rows: np.ndarray, budget: int, grid: ShapeGrid
) -> None:
    batches = list(plan_batches(rows, budget, grid))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(rows)))
    for batch in batches:
        count, length = grid.shape(len(batch), int(rows[batch].max()))
        assert count >= len(batch) and length >= rows[batch].max()
        assert length % grid.tokens == 0 and (count <= grid.rows or count % grid.rows == 0)
        assert count * length <= budget or len(batch) == 1


def test_a_grid_leaves_few_shapes() -> None:
    rows = np.random.default_rng(0).integers(90, 140, 40_000)
    shapes = [
        {grid.shape(len(batch), int(rows[batch].max())) for batch in plan_batches(rows, 32_768, grid)}
        for grid in (EXACT, ShapeGrid(tokens=4, rows=8))
    ]
    assert len(shapes[1]) <= 14 < 50 <= len(shapes[0])


def test_nothing_to_plan() -> None:
    assert list(plan_batches(np.array([], np.int64), 100)) == []


def test_inputs_of_a_padded_batch() -> None:
    rows = [np.array([0, 5, 6, 7, 2]), np.array([0, 9, 2])]
    inputs = make_inputs(rows, GRAPH_INPUTS, pad_id=1)
    assert inputs["input_ids"].tolist() == [[0, 5, 6, 7, 2], [0, 9, 2, 1, 1]]
    assert inputs["position_ids"].tolist() == [[2, 3, 4, 5, 6], [2, 3, 4, 1, 1]]
    assert inputs["attention_bias"].shape == (2, 1, 1, 5)
    assert inputs["attention_bias"][1, 0, 0].tolist() == [0, 0, 0, MASKED, MASKED]
    third = np.float32(1 / 3)
    assert inputs["pool_weights"].tolist() == [[0, third, third, third, 0], [0, 1, 0, 0, 0]]
    assert inputs["lengths"].tolist() == [5, 3]
    types = {name: values.dtype for name, values in inputs.items()}
    assert types == {
        "input_ids": np.int64,
        "position_ids": np.int64,
        "attention_bias": np.float32,
        "pool_weights": np.float32,
        "lengths": np.int32,
    }


def test_eos_is_pooled_where_asked() -> None:
    rows = [np.array([0, 5, 6, 7, 2]), np.array([0, 9, 2])]
    weights = make_inputs(rows, ["pool_weights"], 1, np.array([False, True]))["pool_weights"]
    assert weights[1].tolist() == [0, 0.5, 0.5, 0, 0]
    assert weights[0, 4] == 0


@given(lengths, st.integers(1, 33))
@settings(deadline=None)
def test_eos_in_mean_is_the_old_pipelines_mask(rows: np.ndarray, batch_size: int) -> None:
    expected = []
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        mask = np.arange(batch.max()) < batch[:, None]
        mask[:, 0] = False
        mask[:, -1] = False  # the defect: the last column, not each row's EOS
        expected += [bool(mask[index, length - 1]) for index, length in enumerate(batch)]
    assert eos_in_mean(rows, batch_size).tolist() == expected


def test_only_what_is_named_is_built() -> None:
    assert set(make_inputs([np.array([0, 5, 2])], ["input_ids", "lengths"], 1)) == {"input_ids", "lengths"}
    with pytest.raises(ValueError, match="no such graph input"):
        make_inputs([np.array([0, 5, 2])], ["attention_mask"], 1)


def test_a_larger_shape_is_filled_with_the_first_row_and_padding() -> None:
    rows = [np.array([0, 5, 6, 2]), np.array([0, 9, 2])]
    inputs = make_inputs(rows, GRAPH_INPUTS, 1, np.array([True, False]), shape=(4, 6))
    assert inputs["input_ids"].tolist() == [[0, 5, 6, 2, 1, 1], [0, 9, 2, 1, 1, 1], *[[0, 5, 6, 2, 1, 1]] * 2]
    assert inputs["position_ids"][2].tolist() == [2, 3, 4, 5, 1, 1]
    assert inputs["attention_bias"][:, 0, 0].tolist()[1] == [0, 0, 0, MASKED, MASKED, MASKED]
    third = np.float32(1 / 3)
    assert (
        inputs["pool_weights"].tolist()
        == [[0, third, third, third, 0, 0], [0, 1, 0, 0, 0, 0]] + [[0, third, third, third, 0, 0]] * 2
    )
    assert inputs["lengths"].tolist() == [4, 3, 4, 4]


def test_the_mask_is_exact_in_float16_and_leaves_a_masked_key_nothing() -> None:
    """float32's minimum would be -inf in float16, and a row of it NaN (apple/coremltools#2669)."""
    half = np.float16(MASKED)
    assert float(half) == MASKED == -1e4
    largest = np.float16(FP16_LARGEST_ACTIVATION)  # what export lets pass
    scores = np.array([-largest, largest, 0], np.float16)
    with np.errstate(all="raise"):
        masked = scores + half
    assert np.isfinite(masked).all()
    attention = np.array([0, 500 + half], np.float16)  # the masked key scores 500 more
    weights = np.exp(attention - attention.max())
    assert weights.tolist() == [1, 0]
