"""Levels of products: the plans that are tried, and graphs with different levels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from abonyx.alphabet import Alphabet
from abonyx.bundle import tolerances
from abonyx_export.encoder.checkpoint import Checkpoint, load_checkpoint
from abonyx_export.int8 import calibration, levels, quantization
from abonyx_export.int8.calibration import CONTEXT, NARROW, PRODUCTS, QKV, WIDEN
from abonyx_export.int8.quantization import Candidates, Plan
from make_checkpoint import make_checkpoint

from ..encoder.test_bert import make as make_bert
from .graphs import SHAPES, graph_embeddings


def quantized(loaded: Checkpoint) -> Candidates:
    rows = Alphabet(loaded.alphabet).encode(calibration.calibration_sequences(None, 138).calibration[:48])
    return quantization.quantize_encoder(loaded.config, loaded.tensor, calibration.observe(loaded, rows))


@pytest.fixture(scope="module", params=["esm2", "bert"])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    directory = tmp_path_factory.mktemp(request.param) / "checkpoint"
    if request.param in SHAPES:
        make_checkpoint(SHAPES[request.param], directory, seed=5)
    else:
        make_bert(directory)
    return load_checkpoint(str(directory))


@pytest.fixture(scope="module")
def candidates(loaded: Checkpoint) -> Candidates:
    return quantized(loaded)


def test_each_plan_costs_more_and_errs_less(loaded: Checkpoint, candidates: Candidates, tmp_path: Path) -> None:
    rows = Alphabet(loaded.alphabet).encode(calibration.calibration_sequences(None, 138).gate[:24])
    exact = graph_embeddings(loaded, None, rows, tmp_path / "fp32.onnx")

    def error(plan: Plan) -> float:
        return float(np.abs(graph_embeddings(loaded, plan, rows, tmp_path / "int8.onnx") - exact).mean())

    plans = list(levels.ladder(candidates))
    costs = [plan.cost for plan in plans]
    assert costs[0] == 1 and costs == sorted(set(costs)) and costs[-1] <= levels.BUDGETS[-1]
    first, last = plans[0], plans[-1]
    assert set(first.levels.values()) == {1}
    assert last.at(levels.FLOAT32)
    assert error(last.plan) < error(candidates.plan(2)) < error(first.plan) / 2


@pytest.mark.parametrize(
    "float32", [PRODUCTS, (QKV,), (CONTEXT,), (WIDEN,), (NARROW,), (QKV, NARROW)], ids=lambda names: "+".join(names)
)
def test_any_product_can_stay_float32(
    float32: tuple[str, ...], loaded: Checkpoint, candidates: Candidates, tmp_path: Path
) -> None:
    """If a product is float32, the operator before it must not apply its shift and scale."""
    rows = Alphabet(loaded.alphabet).encode(calibration.calibration_sequences(None, 138).gate[:12])
    exact = graph_embeddings(loaded, None, rows, tmp_path / "fp32.onnx")
    two = candidates.plan(2)
    mixed = Plan([{name: layer[name] for name in PRODUCTS if name not in float32} for layer in two.layers])
    error: Any = np.abs(graph_embeddings(loaded, mixed, rows, tmp_path / "mixed.onnx") - exact)
    if float32 == PRODUCTS:
        assert error.max() <= tolerances.BATCH_NEIGHBOURS
    else:
        whole = np.abs(graph_embeddings(loaded, two, rows, tmp_path / "two.onnx") - exact)
        assert 0 < error.mean() < 1.2 * whole.mean()
