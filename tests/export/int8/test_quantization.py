"""One product in int8: outliers, shifts, ranges, and a second term."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from abonyx.alphabet import Alphabet
from abonyx.bundle import tolerances
from abonyx_export.encoder.checkpoint import Checkpoint, load_checkpoint
from abonyx_export.int8 import calibration, quantization
from abonyx_export.int8.quantization import quantize_encoder
from abonyx_export.int8.rounding import LARGEST_ACTIVATION
from make_checkpoint import Shape, make_checkpoint

from .graphs import SHAPES, graph_embeddings


def planted(directory: Path) -> Checkpoint:
    """A checkpoint with the same results, but with a few hidden units 50 times as large in every LayerNorm."""
    import torch

    make_checkpoint(SHAPES["esm1v"], directory, seed=5)
    loaded = load_checkpoint(str(directory))
    units = torch.tensor([3, 40, 101])
    with torch.no_grad():
        for layer in loaded.model.encoder.layer:
            attention = layer.attention.self
            fed = ((layer.attention.LayerNorm, [attention.query, attention.key, attention.value]),)
            for norm, linears in (*fed, (layer.LayerNorm, [layer.intermediate.dense])):
                norm.weight[units] *= 50
                norm.bias[units] *= 50
                for linear in linears:
                    linear.weight[:, units] /= 50
    return loaded


def test_outlier_channels_break_plain_rounding_but_not_our_methods(tmp_path: Path) -> None:
    loaded = planted(tmp_path / "checkpoint")
    sequences = calibration.calibration_sequences(None, 1022)
    encode = Alphabet(loaded.alphabet).encode
    observation = calibration.observe(loaded, encode(sequences.calibration))
    rows = encode(sequences.gate[:128])
    exact = graph_embeddings(loaded, None, rows, tmp_path / "fp32.onnx")
    coef = np.random.default_rng(3).standard_normal(exact.shape[1])
    coef *= 0.4 / (exact @ coef).std()

    def p(embedding: Any) -> Any:
        return 1 / (1 + np.exp(-(embedding @ coef - np.median(exact @ coef))))

    make_checkpoint(SHAPES["esm1v"], tmp_path / "unplanted", seed=5)
    before = load_checkpoint(str(tmp_path / "unplanted"))
    worst = {}
    for name, encoder, plain in (("unplanted", before, True), ("plain", loaded, True), ("recipe", loaded, False)):
        seen = calibration.observe(encoder, encode(sequences.calibration)) if encoder is before else observation
        plan = quantize_encoder(encoder.config, encoder.tensor, seen, plain=plain).plan()
        found = graph_embeddings(encoder, plan, rows, tmp_path / f"{name}.onnx")
        worst[name] = float(np.abs(p(found) - p(exact)).max())
    # without outliers, plain rounding is good enough
    assert worst["plain"] > tolerances.INT8_GATE_MAX_P
    assert worst["plain"] > 2 * worst["unplanted"]
    assert worst["recipe"] <= tolerances.INT8_GATE_MAX_P


def test_a_constant_behind_gelu_is_shifted_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    make_checkpoint(SHAPES["esm1v"], tmp_path / "checkpoint", seed=5)
    loaded = load_checkpoint(str(tmp_path / "checkpoint"))
    with torch.no_grad():
        for layer in loaded.model.encoder.layer:
            layer.intermediate.dense.bias[:64] += 6.0  # GELU passes it on, so that columns are 6 with small changes
    encode = Alphabet(loaded.alphabet).encode
    sequences = calibration.calibration_sequences(None, 1022)
    observation = calibration.observe(loaded, encode(sequences.calibration))
    rows = encode(sequences.gate[:24])
    exact = graph_embeddings(loaded, None, rows, tmp_path / "fp32.onnx")
    error = {}
    for name, worth in (("shifted", quantization._SHIFT_WORTH), ("never", -1.0)):
        monkeypatch.setattr(quantization, "_SHIFT_WORTH", worth)
        plan = quantize_encoder(loaded.config, loaded.tensor, observation).plan()
        narrow = [layer[calibration.NARROW] for layer in plan.layers]
        assert all(product.shift.any() == (name == "shifted") for product in narrow)
        error[name] = np.abs(graph_embeddings(loaded, plan, rows, tmp_path / f"{name}.onnx") - exact).mean()
    assert error["shifted"] < error["never"] / 2


def test_a_unit_without_weights_keeps_its_bias(tmp_path: Path) -> None:
    import torch

    make_checkpoint(Shape(1, 64, 4), tmp_path / "checkpoint", seed=5)
    loaded = load_checkpoint(str(tmp_path / "checkpoint"))
    with torch.no_grad():
        for layer in loaded.model.encoder.layer:
            # int32 in units of the smallest scale would overflow: 3 is about 1e13 units
            layer.intermediate.dense.weight[:8] = 0.0
            layer.intermediate.dense.bias[:8] = 3.0
            layer.output.dense.weight[:, :8] *= 20
    encode = Alphabet(loaded.alphabet).encode
    sequences = calibration.calibration_sequences(None, 1022)
    plan = quantize_encoder(
        loaded.config, loaded.tensor, calibration.observe(loaded, encode(sequences.calibration[:32]))
    ).plan()
    rows = encode(sequences.gate[:8])
    exact = graph_embeddings(loaded, None, rows, tmp_path / "fp32.onnx")
    found = graph_embeddings(loaded, plan, rows, tmp_path / "int8.onnx")
    assert np.abs(found - exact).max() < 0.1 * exact.std()


def test_the_context_has_a_wider_range_than_observed(tmp_path: Path) -> None:
    make_checkpoint(SHAPES["esm1v"], tmp_path / "checkpoint", seed=5)
    loaded = load_checkpoint(str(tmp_path / "checkpoint"))
    sequences = calibration.calibration_sequences(None, 1022).calibration[:32]
    observation = calibration.observe(loaded, Alphabet(loaded.alphabet).encode(sequences))
    plan = quantize_encoder(loaded.config, loaded.tensor, observation).plan()
    for index, layer in enumerate(plan.layers):
        product = layer[calibration.CONTEXT]
        seen = observation.products[f"encoder.layer.{index}.{calibration.CONTEXT}"]
        low = float(((seen.low - product.shift) / product.scale).min())
        high = float(((seen.high - product.shift) / product.scale).max())
        steps = np.array([0, LARGEST_ACTIVATION]) - product.input_zero_point
        bottom, top = product.input_scale * steps
        assert bottom < 1.2 * low
        assert top > 1.2 * high


def test_a_second_term_has_a_wider_range_than_observed() -> None:
    rng = np.random.default_rng(0)
    sample = rng.standard_normal((256, 32)).astype(np.float32)
    seen = calibration.Activations(sample.min(axis=0), sample.max(axis=0), sample)
    weight = rng.standard_normal((32, 16)).astype(np.float32)
    products = quantization._quantize(seen, weight, np.zeros(16, np.float32), folded=True, margin=1.0, plain=False)
    assert products[2].input_scale == pytest.approx(1.5 * products[1].input_scale)
    assert products[2].error < products[1].error / 2
    assert (products[2].weight == products[1].weight).all()
