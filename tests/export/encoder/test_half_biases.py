"""What float16 weights take from a product on average is given back by its bias."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from abonyx.alphabet import Alphabet
from abonyx.arrays import Float32Array
from abonyx.batching import make_inputs
from abonyx_export import parity
from abonyx_export.antibodies import shipped_antibodies
from abonyx_export.encoder.checkpoint import load_checkpoint
from abonyx_export.encoder.cuda_graph import CUDA_INPUTS, write_cuda_encoder
from abonyx_export.encoder.half_biases import Tensor, input_means, product_names, with_rounding_in_biases
from make_checkpoint import Shape, make_checkpoint


@pytest.mark.parametrize("positions", ["absolute", "rotary"])
def test_the_mean_error_of_the_embedding_falls(positions: str, tmp_path: Path) -> None:
    import onnxruntime

    make_checkpoint(Shape(6, 160, 5, positions=positions), tmp_path / "checkpoint", seed=5)
    loaded = load_checkpoint(str(tmp_path / "checkpoint"))
    encode = Alphabet(loaded.alphabet).encode
    means = input_means(loaded, encode(shipped_antibodies().calibration[:8]))
    assert set(means) == set(product_names(loaded.config))
    rows = encode(shipped_antibodies().judging[:12])
    exact = parity.reference_embeddings(loaded, rows)

    def mean_error(name: str, tensor: Tensor) -> float:
        def rounded(source: str) -> Float32Array:
            values = tensor(source)
            return values.astype(np.float16).astype(np.float32) if source.removesuffix(".weight") in means else values

        path = tmp_path / f"{name}.onnx"
        write_cuda_encoder(loaded.config, rounded, path, arithmetic=np.float32)  # so that weights alone are rounded
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        found = session.run(["embedding"], make_inputs(rows, CUDA_INPUTS, loaded.alphabet.pad_id))[0]
        return float(np.sqrt(((found - exact).mean(axis=0) ** 2).mean()))  # over rows, then over columns

    plain = mean_error("plain", loaded.tensor)
    moved = mean_error("moved", with_rounding_in_biases(loaded.tensor, means))
    assert moved < 0.3 * plain


def test_means_are_of_all_tokens_and_only_biases_move(tmp_path: Path) -> None:
    make_checkpoint(Shape(1, 64, 2), tmp_path / "checkpoint", seed=5)
    loaded = load_checkpoint(str(tmp_path / "checkpoint"))
    rows = Alphabet(loaded.alphabet).encode(["EVQLVESGGG", "QVQLQ"])
    means = input_means(loaded, rows)
    alone = [input_means(loaded, [row]) for row in rows]
    name = "encoder.layer.0.intermediate.dense"
    expected = (12 * alone[0][name] + 7 * alone[1][name]) / 19
    np.testing.assert_allclose(means[name], expected, rtol=1e-9, atol=1e-12)
    moved = with_rounding_in_biases(loaded.tensor, means)
    weight = loaded.tensor(f"{name}.weight")
    lost = (weight - weight.astype(np.float16)).astype(np.float64) @ means[name]
    np.testing.assert_allclose(moved(f"{name}.bias"), loaded.tensor(f"{name}.bias") + lost, atol=1e-7)
    for same in (f"{name}.weight", "encoder.layer.0.LayerNorm.bias", "embeddings.word_embeddings.weight"):
        assert np.array_equal(moved(same), loaded.tensor(same))
