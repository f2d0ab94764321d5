"""cuda-fp16: the fused graph gives PyTorch's numbers on ONNX Runtime's CPU kernels, within the range of float16."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

import abonyx
from abonyx.alphabet import Alphabet
from abonyx.arrays import Float32Array
from abonyx.batching import make_inputs
from abonyx.bundle import open_bundle, tolerances
from abonyx.errors import ConfigError, ParityError
from abonyx_export import parity
from abonyx_export.encoder.checkpoint import load_checkpoint
from abonyx_export.encoder.cuda_graph import CUDA_INPUTS, write_cuda_encoder
from abonyx_export.export import export_bundle
from abonyx_export.int8 import calibration
from abonyx_export.request import ExportRequest
from make_checkpoint import Shape, make_checkpoint

LAYERS = 3
SHAPES = {
    "esm1v": Shape(LAYERS, 128, 4),
    "esm1b": Shape(LAYERS, 128, 4, emb_layer_norm_before=True),
    "esm2": Shape(LAYERS, 128, 4, positions="rotary"),
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("pooled_layers", [("last",), ("embedding", "last")])
def test_float32_gives_pytorchs_embeddings_in_a_padded_batch(
    name: str, pooled_layers: tuple[str, ...], tmp_path: Path
) -> None:
    import onnxruntime

    make_checkpoint(SHAPES[name], tmp_path / "checkpoint", seed=5)
    loaded = load_checkpoint(str(tmp_path / "checkpoint"), pooled_layers=pooled_layers)
    sequences = calibration.calibration_sequences(None, 1022).gate[:6]
    rows = Alphabet(loaded.alphabet).encode([text[: 40 + 9 * index] for index, text in enumerate(sequences)])
    exact = parity.reference_embeddings(loaded, rows)
    write_cuda_encoder(loaded.config, loaded.tensor, tmp_path / "model.onnx", arithmetic=np.float32)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    found = session.run(["embedding"], make_inputs(rows, CUDA_INPUTS, loaded.alphabet.pad_id))[0]
    assert np.abs(found - exact).max() <= tolerances.FP32_GOAL_P
    # only the lengths exclude the padding
    unmasked = make_inputs(rows, CUDA_INPUTS, loaded.alphabet.pad_id)
    unmasked["lengths"] = np.full_like(unmasked["lengths"], unmasked["lengths"].max())
    assert np.abs(session.run(["embedding"], unmasked)[0] - exact).max() > 1e-3


@pytest.mark.parametrize("name", SHAPES)
def test_a_bundle_with_it(name: str, tmp_path: Path) -> None:
    make_checkpoint(SHAPES[name], tmp_path / "checkpoint", seed=5)
    ask = ExportRequest(
        encoder=str(tmp_path / "checkpoint"),
        output=tmp_path / "bundle",
        variants=("fp32", "cuda-fp16"),
        max_dp={"cuda-fp16": tolerances.TINY_FP16_P},
    )
    manifest = export_bundle(ask)
    assert manifest.default_variant["cuda"] == "cuda-fp16"
    assert manifest.default_variant["cpu"] == "fp32"
    variant = open_bundle(tmp_path / "bundle").manifest.variants["cuda-fp16"]
    assert variant.providers == ["cuda"]
    assert variant.parity is not None
    assert 0 < variant.parity.max_p <= tolerances.TINY_FP16_P
    config = abonyx.RuntimeConfig(bundle=str(tmp_path / "bundle"), variant="cuda-fp16")
    with pytest.raises(ConfigError, match="cuda-fp16 is not for provider cpu"):
        abonyx.open_session(config)

    graph = onnx.load(tmp_path / "bundle" / "cuda-fp16" / "model.onnx", load_external_data=False).graph
    fused = Counter(node.op_type for node in graph.node if node.domain == "com.microsoft")
    rotary = {"RotaryEmbedding": 2 * LAYERS} if name == "esm2" else {}
    assert fused == {"SkipLayerNormalization": 2 * LAYERS, "BiasGelu": LAYERS, "MultiHeadAttention": LAYERS, **rotary}
    # Every layer rounds the residual once, after both of its blocks.
    sums = [node for node in graph.node if node.op_type == "SkipLayerNormalization" and len(node.output) > 1]
    assert len(sums) == LAYERS
    assert sorted(node.name for node in graph.input) == sorted(CUDA_INPUTS)
    large = [tensor for tensor in graph.initializer if len(tensor.dims) == 2 and min(tensor.dims) >= 128]
    assert {tensor.data_type for tensor in large if "head" not in tensor.name} == {onnx.TensorProto.FLOAT16}


@pytest.mark.parametrize("variant", ["cuda-fp16", "fp16"])
def test_activations_near_the_end_of_float16_refuse_it(variant: str, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    make_checkpoint(SHAPES["esm1v"], tmp_path / "checkpoint", seed=5)
    file = tmp_path / "checkpoint" / "model.safetensors"
    tensors = load_file(file)
    name = "encoder.layer.1.intermediate.dense.bias"
    tensors[name] = torch.full_like(tensors[name], -40_000.0)  # GELU turns this into 0, so that the scores are finite
    save_file(tensors, file, metadata={"format": "pt"})
    said = r"encoder\.layer\.1\.intermediate\.dense reaches 4e\+04 on the golden rows, limit 30000"
    ask = ExportRequest(encoder=str(tmp_path / "checkpoint"), output=tmp_path / "bundle", variants=("fp32", variant))
    with pytest.raises(ParityError, match=said):
        export_bundle(ask)
    assert not (tmp_path / "bundle").exists()


def test_a_folded_bias_near_the_end_of_float16_refuses_it(tmp_path: Path) -> None:
    """In PyTorch another term cancels the value's bias before the output product, so that no activation is large."""
    import torch
    from safetensors.torch import load_file, save_file

    make_checkpoint(SHAPES["esm1v"], tmp_path / "checkpoint", seed=5)
    file = tmp_path / "checkpoint" / "model.safetensors"
    tensors, layer = load_file(file), "encoder.layer.1.attention"
    hidden = len(tensors[f"{layer}.LayerNorm.bias"])
    for name, value in {
        "LayerNorm.weight": 0.0,
        "LayerNorm.bias": 1.0,
        "self.value.weight": -100 / hidden,
        "self.value.bias": 100.0,
        "output.dense.weight": 4.0,
        "output.dense.bias": 0.0,
    }.items():
        tensors[f"{layer}.{name}"] = torch.full_like(tensors[f"{layer}.{name}"], value)
    save_file(tensors, file, metadata={"format": "pt"})
    ask = ExportRequest(
        encoder=str(tmp_path / "checkpoint"), output=tmp_path / "bundle", variants=("fp32", "cuda-fp16")
    )
    said = r"cuda-fp16: the bias of encoder\.layer\.1\.attention\.output\.dense, .* reaches 5\.12e\+04, limit 30000"
    with pytest.raises(ParityError, match=said):
        export_bundle(ask)
    assert not (tmp_path / "bundle").exists()
    loaded = load_checkpoint(str(tmp_path / "checkpoint"))
    write_cuda_encoder(loaded.config, loaded.tensor, tmp_path / "model.onnx", arithmetic=np.float32)


@pytest.mark.parametrize("values", [(3_000.0, 3_000.0), (0.0, 6_000.0), (6_000.0, 0.0)])
def test_biases_of_a_layer_that_are_too_large_together(values: tuple[float, float], tmp_path: Path) -> None:
    """The limit of 5,504 is for the sum of both biases."""
    make_checkpoint(SHAPES["esm1v"], tmp_path / "checkpoint", seed=5)
    loaded = load_checkpoint(str(tmp_path / "checkpoint"))
    blocks = [f"encoder.layer.1.{block}.dense.bias" for block in ("attention.output", "output")]
    large = dict(zip(blocks, values, strict=True))

    def tensor(name: str) -> Float32Array:
        found = loaded.tensor(name)
        return np.full_like(found, large[name]) if name in large else found

    with pytest.raises(ParityError, match=r"reaches 6.*, limit 5504"):
        write_cuda_encoder(loaded.config, tensor, tmp_path / "model.onnx")


def test_a_bias_that_cancels_a_large_product_does_not_hide_it() -> None:
    import torch

    linear = torch.nn.Linear(1, 1)
    with torch.no_grad():
        linear.weight.fill_(1.0)
        linear.bias.fill_(-40_000.0)
        with parity.watch_activations(torch.nn.Sequential(linear)) as largest:  # type: ignore[arg-type]
            assert linear(torch.tensor([[40_000.0]])).item() == 0.0
    assert largest == {"0": 40_000.0}
