"""Tests for Core ML without a Mac: the operators, a conversion of the whole graph, and the size of the file."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from abonyx_export.encoder.checkpoint import EncoderConfig, load_checkpoint
from abonyx_export.encoder.graph import write_encoder
from abonyx_export.encoder.writing import WEIGHTS_SUFFIX
from abonyx_export.head.graph import attach_head, common_mean, head_model
from abonyx_export.head.head import placeholder_head
from abonyx_export.variants import PREFERENCE, VARIANTS, VariantSpec

from ...conftest import MINI
from ..conftest import TINY, CheckpointMaker

# ONNX Runtime's list: tools/ci_build/github/apple/coreml_supported_mlprogram_ops.md in microsoft/onnxruntime at commit
# 04f568d869ec533a48f29f67f9842ddf694d7ab1 (2026); only the default domain, without com.microsoft.
ML_PROGRAM_LIST = """
Add Argmax AveragePool Cast Clip Concat Conv ConvTranspose Cos DepthToSpace Ceil Div Elu Erf Exp GatherND Gemm Gelu
GlobalAveragePool GlobalMaxPool GridSample GroupNormalization HardSigmoid Identity InstanceNormalization
LayerNormalization LeakyRelu MatMul MaxPool Max Mul Pow PRelu Range Reciprocal ReduceSum ReduceMean ReduceMax Relu
Reshape Resize Round Shape Sin Slice Softplus Split Sub Sigmoid Softmax Sqrt Squeeze Tanh Tile Transpose Unsqueeze
"""
# This operator is missing in the list, but the provider has it: gather_op_builder.cc supports ML Program since PR
# #24387 (merged 2025-04), and float16 since #26442.
ML_PROGRAM = {*ML_PROGRAM_LIST.split(), "Gather"}
# Core ML refuses a file of weights with 2 GiB or more (apple/coremltools#1807).
COREML_LARGEST_WEIGHTS_BYTES = 2 * 2**30

# ESM-1v's shape (facebook/esm1v_t33_650M_UR90S_1).
ESM1V_LAYERS = 33
ESM1V_WIDTH = 1280
ESM1V_FEED_FORWARD = 5120
ESM1V_VOCABULARY = 33

PORTABLE = [spec for spec in VARIANTS.values() if "coreml" in spec.providers]


def _write(directory: Path, spec: VariantSpec, pooled: tuple[str, ...], path: Path) -> Path:
    """Write a variant of a checkpoint, with a head."""
    loaded = load_checkpoint(str(directory), pooled_layers=pooled)
    write_encoder(loaded.config, loaded.tensor, path, storage=spec.storage, arithmetic=spec.arithmetic)
    rows = np.random.default_rng(0).standard_normal((9, loaded.config.embedding_width))
    heads = [placeholder_head(rows)]
    graph = head_model(heads, common_mean(heads, rows))
    onnx.save(attach_head(onnx.load(path, load_external_data=False), graph), path)
    return path


@pytest.fixture
def written(checkpoint: CheckpointMaker, tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, VariantSpec]:
    """The file of one variant of one tiny checkpoint, with a head."""
    name, spec, pooled = request.param
    return _write(checkpoint(name), spec, pooled, tmp_path / "model.onnx"), spec


every_portable_graph = pytest.mark.parametrize(
    "written",
    [(name, spec, ("last",)) for name in TINY for spec in PORTABLE] + [("esm1v", PORTABLE[0], ("embedding", "last"))],
    indirect=True,
    ids=lambda value: f"{value[0]}-{value[1].name}-{len(value[2])}",
)


@every_portable_graph
def test_only_operators_of_core_ml_s_ml_program_in_their_supported_forms(written: tuple[Path, VariantSpec]) -> None:
    path, _ = written
    graph = onnx.load(path, load_external_data=False).graph
    assert {node.domain for node in graph.node} <= {"", "ai.onnx"}
    assert {node.op_type for node in graph.node} <= ML_PROGRAM
    constants = {tensor.name for tensor in graph.initializer}
    for node in graph.node:  # the list's notes say that these operands must be constant
        if node.op_type in ("Slice", "Reshape", "Squeeze", "Unsqueeze"):
            assert set(node.input[1:]) <= constants, node.name
        if node.op_type == "LayerNormalization":
            scales = {part for name in node.input[1:] for part in _sources(graph, name)}
            assert scales <= constants, node.name
            assert len(node.output) == 1


def _sources(graph: onnx.GraphProto, name: str) -> set[str]:
    """The initializers from which a value is computed, when casts of constants are folded."""
    made = {node.output[0]: node for node in graph.node if node.op_type == "Cast"}
    while name in made:
        name = made[name].input[0]
    return {name}


def test_the_list_refuses_what_a_traced_encoder_has() -> None:
    assert not {"CumSum", "Equal", "Where", "Expand", "ConstantOfShape", "NotEqual"} & ML_PROGRAM


CONVERT = """
import json, sys
import coremltools, numpy, onnx, onnx2coreml
from coremltools.converters.mil import Builder
def convert(path, wanted):
    model = onnx.load(path)
    sizes = {"batch": 4, "length": 40}
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = sizes[dim.dim_param]
    report = onnx2coreml.analyze(model)
    converter = onnx2coreml.Converter()
    if wanted == "fp16":
        # onnx2coreml 1.1.0 writes LayerNormalization's epsilon as float32 beside float16 weights, and coremltools
        # refuses that; ONNX Runtime's provider (normalization_op_builder.cc) writes it as float16, as here.
        @converter.register("LayerNormalization")
        def layer_norm(context, node):
            x, scale, bias = (context.values_map[name] for name in node.input)
            (epsilon,) = (attribute.f for attribute in node.attribute if attribute.name == "epsilon")
            return Builder.layer_norm(
                x=x, axes=[-1], gamma=scale, beta=bias, epsilon=numpy.float16(epsilon), name=node.output[0]
            )
    precision = {"fp16": coremltools.precision.FLOAT16, "fp32": coremltools.precision.FLOAT32}[wanted]
    program = converter.to_mil(model, target=coremltools.target.iOS17, precision=precision)
    spec = coremltools.convert(
        program,
        source="milinternal",
        convert_to="mlprogram",
        minimum_deployment_target=coremltools.target.iOS17,
        compute_precision=precision,
        skip_model_load=True,
    ).get_spec()
    functions = spec.mlProgram.functions["main"]
    operations = functions.block_specializations[functions.opset].operations
    return {
        "unsupported": list(report.unsupported),
        "kind": spec.WhichOneof("Type"),
        "inputs": {value.name: list(value.type.multiArrayType.shape) for value in spec.description.input},
        "outputs": sorted(value.name for value in spec.description.output),
        "operations": sorted({operation.type for operation in operations}),
        "layers": sum(operation.type == "softmax" for operation in operations),
    }
print("FOUND", json.dumps([convert(*pair) for pair in zip(sys.argv[1::2], sys.argv[2::2])]))
"""


def _convert(graphs: list[tuple[Path, str]], scratch: Path) -> list[dict[str, object]]:
    """onnx2coreml in a process of its own: coremltools logs what of it only a Mac has, and keeps temporary files."""
    if importlib.util.find_spec("onnx2coreml") is None:
        pytest.skip("onnx2coreml (extra test) is not installed: coremltools has no wheel for this system or Python")
    scratch.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", CONVERT, *(str(part) for graph in graphs for part in graph)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TMPDIR": str(scratch)},
    )
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    found: list[dict[str, object]] = json.loads(line.removeprefix("FOUND "))
    return found


def _check(found: dict[str, object], layers: int) -> None:
    assert found["unsupported"] == []
    assert found["kind"] == "mlProgram"
    assert found["inputs"] == {
        "attention_bias": [4, 1, 1, 40],
        "input_ids": [4, 40],
        "pool_weights": [4, 40],
        "position_ids": [4, 40],
    }
    assert found["outputs"] == ["contributions", "embedding", "head_sums"]
    assert found["layers"] == layers
    assert {"gather", "linear", "matmul", "layer_norm", "gelu"} <= set(found["operations"])  # type: ignore[call-overload]


def test_the_shipped_bundle_s_graph_and_core_ml_s_own_variant_convert_whole(
    checkpoint: CheckpointMaker, tmp_path: Path
) -> None:
    """One process for all: to import coremltools takes longest."""
    # its weights are float16 on disk, its arithmetic float32
    # a copy: onnx reads no weights with a second hard link, which `fit` may have given the shipped ones
    shipped = Path(shutil.copytree(MINI / "fp16-weights", tmp_path / "shipped")) / "model.onnx"
    assert {node.op_type for node in onnx.load(shipped, load_external_data=False).graph.node} <= ML_PROGRAM
    own = []
    for name in ("esm1v", "esm2"):
        (tmp_path / name).mkdir()
        own.append(_write(checkpoint(name), VARIANTS["fp16"], ("last",), tmp_path / name / "model.onnx"))
    found = _convert([(shipped, "fp32"), *((path, "fp16") for path in own)], tmp_path / "scratch")
    for graph, layers in zip(found, (6, 2, 2), strict=True):
        _check(graph, layers)


def _weights_bytes(layers: int, spec: VariantSpec, directory: Path) -> int:
    """Bytes of the weights of an encoder with ESM-1v's width and this number of layers."""
    config = EncoderConfig(
        layers=layers,
        hidden=ESM1V_WIDTH,
        heads=20,
        positions="absolute",
        positions_count=1026,
        token_dropout=True,
        emb_layer_norm_before=False,
        layer_norm_eps=1e-5,
        pad_id=1,
    )

    def tensor(name: str) -> npt.NDArray[np.float32]:
        shape: tuple[int, ...] = (ESM1V_WIDTH,)
        if name.endswith("embeddings.weight"):
            shape = (1026 if "position" in name else ESM1V_VOCABULARY, ESM1V_WIDTH)
        elif "intermediate" in name:
            shape = (ESM1V_FEED_FORWARD, ESM1V_WIDTH) if name.endswith("weight") else (ESM1V_FEED_FORWARD,)
        elif name.endswith("weight") and "LayerNorm" not in name and "layer_norm" not in name:
            narrow = ".output.dense" in name and "attention" not in name
            shape = (ESM1V_WIDTH, ESM1V_FEED_FORWARD if narrow else ESM1V_WIDTH)
        return np.zeros(shape, np.float32)

    path = directory / "model.onnx"
    write_encoder(config, tensor, path, storage=spec.storage, arithmetic=spec.arithmetic)
    weights = path.with_name(path.name + WEIGHTS_SUFFIX)
    size = weights.stat().st_size
    weights.unlink()
    return size


@pytest.mark.parametrize(("name", "fits"), [("fp16", True), ("fp16-weights", True), ("fp32", False)])
def test_esm_1v_s_33_layers_in_float16_are_under_core_ml_s_limit(name: str, fits: bool, tmp_path: Path) -> None:
    # Each layer adds the same number of bytes (in pages), so two small files show the size of 33 layers.
    one, two = (_weights_bytes(layers, VARIANTS[name], tmp_path) for layers in (1, 2))
    per_layer = two - one
    parameters = 4 * ESM1V_WIDTH**2 + 2 * ESM1V_WIDTH * ESM1V_FEED_FORWARD  # number of weights in a layer's matrices
    assert per_layer >= parameters * np.dtype(VARIANTS[name].storage).itemsize
    total = one + (ESM1V_LAYERS - 1) * per_layer
    assert (total < COREML_LARGEST_WEIGHTS_BYTES) is fits


def test_float16_arithmetic_is_core_ml_s_first_choice() -> None:
    # Engines fold fp16-weights to float32 before Core ML gets the graph, so that it has 2.6 GB again.
    assert PREFERENCE["coreml"][0] == "fp16"
    assert VARIANTS["fp16"].arithmetic == np.float16
