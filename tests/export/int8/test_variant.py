"""int8: static scales, judged by scores, and a recipe that survives outlier channels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import abonyx
from abonyx.alphabet import Alphabet
from abonyx.bundle import open_bundle, tolerances
from abonyx.errors import BundleError, ChecksumMismatch, ConfigError, InputError, ParityError, RecordsRejected
from abonyx_export.antibodies import shipped_antibodies
from abonyx_export.cli import fit
from abonyx_export.encoder.checkpoint import Checkpoint, load_checkpoint
from abonyx_export.encoder.graph import write_encoder
from abonyx_export.export import export_bundle
from abonyx_export.int8 import calibration, quantization, score_gate
from abonyx_export.int8 import variant as int8
from abonyx_export.int8.quantization import plan_encoder
from abonyx_export.int8.score_gate import GateRows
from abonyx_export.request import ExportRequest
from make_checkpoint import Shape, make_checkpoint

from ..conftest import write_spread_head

SHAPES = {
    "esm1v": Shape(3, 128, 4),
    "esm2": Shape(3, 128, 4, positions="rotary"),
}
# What the gate asks of these at most; random heads of 128 units multiply rounding more than ESM-1v's.
WIDE = {"int8": tolerances.TINY_INT8_P}


@pytest.fixture(scope="module", params=SHAPES)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with fp32 and int8."""
    directory = tmp_path_factory.mktemp(request.param)
    make_checkpoint(SHAPES[request.param], directory / "checkpoint", seed=5)
    head = write_spread_head(directory / "checkpoint", directory / "head.npz")
    output = directory / "bundle"
    ask = ExportRequest(
        encoder=str(directory / "checkpoint"),
        heads=(("nonspecificity", head),),
        output=output,
        variants=("fp32", "int8"),
        max_dp=WIDE,
    )
    export_bundle(ask)
    return output


def antibodies(count: int) -> list[str]:
    return calibration.calibration_sequences(None, 1022).gate[:count]


def test_the_record_is_what_both_variants_score(exported: Path) -> None:
    variant = open_bundle(exported).manifest.variants["int8"]
    assert variant.quantization is not None
    assert variant.providers == ["cpu", "openvino"]
    gate = variant.quantization.gates["nonspecificity"]
    assert gate.rows == calibration.GATE_ROWS
    assert score_gate.faults(gate, tolerances.TINY_INT8_P) == []
    rows = GateRows.load(exported / "int8")
    sequences = calibration.calibration_sequences(None, 1022).gate
    for name, embedding in (("fp32", rows.fp32), ("int8", rows.int8)):
        with abonyx.open_session(abonyx.RuntimeConfig(bundle=str(exported), variant=name)) as session:
            assert np.abs(session.embed(sequences[:20]) - embedding[:20]).max() <= tolerances.BATCH_NEIGHBOURS
            p = session.score(sequences)
        if name == "fp32":
            exact = p
    assert np.abs(p - exact).max() == pytest.approx(gate.p.max, abs=tolerances.BATCH_NEIGHBOURS)
    assert 0 < gate.p.max <= tolerances.INT8_GATE_MAX_P
    # the default stays exact
    assert open_bundle(exported).variant("cpu", None)[0] == "fp32"


def test_every_product_of_the_encoder_is_int8(exported: Path) -> None:
    graph = onnx.load(exported / "int8" / "model.onnx", load_external_data=False).graph
    variant = open_bundle(exported).manifest.variants["int8"]
    assert variant.quantization is not None
    layers = 3 - len(variant.quantization.fp32_layers)
    assert sum(node.op_type == "Gemm" for node in graph.node) == 6 * layers
    assert {node.domain for node in graph.node} == {""}
    from_int8 = [tensor for tensor in graph.initializer if tensor.name.endswith("weight.int8")]
    assert len(from_int8) == 6 * layers
    assert all(tensor.data_type == onnx.TensorProto.INT8 for tensor in from_int8)


def test_a_score_does_not_depend_on_its_batch(exported: Path) -> None:
    sequences = [sequence[: 40 + 7 * index] for index, sequence in enumerate(antibodies(9))]
    config = abonyx.RuntimeConfig(bundle=str(exported), variant="int8", token_budget=100_000)
    with abonyx.open_session(config) as session:
        together = session.score(sequences)
        alone = np.concatenate([session.score([sequence]) for sequence in sequences])
    # the scales are fixed; what remains is a last bit of float32 that tips a rounding to the next integer
    assert np.abs(together - alone).max() <= tolerances.INT8_BATCH_NEIGHBOURS


def planted(directory: Path) -> Checkpoint:
    """A checkpoint that computes what another does, with a few hidden units 50 times as large in every LayerNorm."""
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


def test_outlier_channels_break_plain_int8_and_not_the_recipe(tmp_path: Path) -> None:
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
        plan = plan_encoder(encoder.config, encoder.tensor, seen, plain=plain)
        found = graph_embeddings(encoder, plan, rows, tmp_path / f"{name}.onnx")
        worst[name] = float(np.abs(p(found) - p(exact)).max())
    # it is the outliers that break it
    assert worst["plain"] > tolerances.INT8_GATE_MAX_P
    assert worst["plain"] > 2 * worst["unplanted"]
    assert worst["recipe"] <= tolerances.INT8_GATE_MAX_P


def test_a_constant_behind_gelu_is_shifted_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    make_checkpoint(SHAPES["esm1v"], tmp_path / "checkpoint", seed=5)
    loaded = load_checkpoint(str(tmp_path / "checkpoint"))
    with torch.no_grad():
        for layer in loaded.model.encoder.layer:
            layer.intermediate.dense.bias[:64] += 6.0  # GELU passes it on: columns of 6 with a ripple
    encode = Alphabet(loaded.alphabet).encode
    sequences = calibration.calibration_sequences(None, 1022)
    observation = calibration.observe(loaded, encode(sequences.calibration))
    rows = encode(sequences.gate[:24])
    exact = graph_embeddings(loaded, None, rows, tmp_path / "fp32.onnx")
    error = {}
    for name, worth in (("shifted", quantization._SHIFT_WORTH), ("never", -1.0)):
        monkeypatch.setattr(quantization, "_SHIFT_WORTH", worth)
        plan = plan_encoder(loaded.config, loaded.tensor, observation)
        narrow = [layer.products[calibration.NARROW] for layer in plan.layers.values()]
        assert all(product.shift.any() == (name == "shifted") for product in narrow)
        error[name] = np.abs(graph_embeddings(loaded, plan, rows, tmp_path / f"{name}.onnx") - exact).mean()
    assert error["shifted"] < error["never"] / 2


def test_the_context_has_more_range_than_was_seen(tmp_path: Path) -> None:
    make_checkpoint(SHAPES["esm1v"], tmp_path / "checkpoint", seed=5)
    loaded = load_checkpoint(str(tmp_path / "checkpoint"))
    sequences = calibration.calibration_sequences(None, 1022).calibration[:32]
    observation = calibration.observe(loaded, Alphabet(loaded.alphabet).encode(sequences))
    plan = plan_encoder(loaded.config, loaded.tensor, observation)
    for index, layer in plan.layers.items():
        product = layer.products[calibration.CONTEXT]
        seen = observation.products[f"encoder.layer.{index}.{calibration.CONTEXT}"]
        low = float(((seen.low - product.shift) / product.scale).min())
        high = float(((seen.high - product.shift) / product.scale).max())
        steps = np.array([0, quantization.LARGEST_ACTIVATION]) - product.input_zero_point
        bottom, top = product.input_scale * steps
        assert bottom < 1.2 * low
        assert top > 1.2 * high


def graph_embeddings(loaded: Checkpoint, plan: Any, rows: Any, path: Path) -> Any:
    import onnxruntime

    from abonyx.batching import make_inputs

    write_encoder(loaded.config, loaded.tensor, path, plan=plan)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    return np.concatenate([session.run(["embedding"], make_inputs([row], names, 1))[0] for row in rows]).astype(float)


def test_over_the_gate_nothing_is_written_and_the_worst_layers_are_named(tmp_path: Path) -> None:
    make_checkpoint(SHAPES["esm1v"], tmp_path / "checkpoint", seed=5)
    head = write_spread_head(tmp_path / "checkpoint", tmp_path / "head.npz")
    ask = ExportRequest(
        encoder=str(tmp_path / "checkpoint"),
        heads=(("nonspecificity", head),),
        output=tmp_path / "bundle",
        variants=("int8",),
        max_dp={"int8": 1e-6},
    )
    with pytest.raises(
        ParityError, match=r"max \|dp\| .* limit 1e-06.*layers by error put into the residual stream: \d"
    ):
        export_bundle(ask)
    assert not (tmp_path / "bundle").exists()


def test_the_gate_leaves_layers_in_float32_only_where_it_must(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_checkpoint(SHAPES["esm1v"], tmp_path / "checkpoint", seed=5)
    head = write_spread_head(tmp_path / "checkpoint", tmp_path / "head.npz")
    monkeypatch.setattr(int8, "FP32_SHARES", (0, 0.34, 0.67))
    faults, asked = score_gate.faults, []

    def fails_once(gate: Any, allowed_p: float) -> list[str]:
        asked.append(gate)
        return ["once"] if len(asked) == 1 else faults(gate, allowed_p)

    monkeypatch.setattr(score_gate, "faults", fails_once)
    ask = ExportRequest(
        encoder=str(tmp_path / "checkpoint"),
        heads=(("nonspecificity", head),),
        output=tmp_path / "bundle",
        variants=("int8",),
        max_dp=WIDE,
    )
    quantization = export_bundle(ask).variants["int8"].quantization
    assert quantization is not None
    assert len(quantization.fp32_layers) == 1
    assert quantization.gates["nonspecificity"].p.mean < asked[0].p.mean
    graph = onnx.load(tmp_path / "bundle" / "int8" / "model.onnx", load_external_data=False).graph
    kept = f"encoder.layer.{quantization.fp32_layers[0]}."
    assert sum(node.op_type == "Gemm" for node in graph.node) == 6 * 2
    assert not any(node.op_type == "Gemm" and node.name.startswith(kept) for node in graph.node)


def test_sequences_that_score_alike_cannot_judge(tmp_path: Path) -> None:
    make_checkpoint(SHAPES["esm1v"], tmp_path / "checkpoint", seed=5)
    head = write_spread_head(tmp_path / "checkpoint", tmp_path / "head.npz")
    file = tmp_path / "alike.csv"
    base = "EVQLVESGGGLVQPGGSLRLSCAASGFTFSSYAMSWVRQAPGKGLEWVSAISGSGGSTYYADSVKGRFTISRDNSKNTLYLQMNSLRAEDTAVYYCAK"
    rows = [base[:index] + letter + base[index + 1 :] for index in range(90) for letter in "ACDEFGHIKLMNPQRSTVWY"]
    file.write_text("id,sequence\n" + "".join(f"{number},{row}\n" for number, row in enumerate(dict.fromkeys(rows))))
    ask = ExportRequest(
        encoder=str(tmp_path / "checkpoint"),
        heads=(("nonspecificity", head),),
        output=tmp_path / "bundle",
        variants=("int8",),
        calibration=file,
        max_dp=WIDE,
    )
    with pytest.raises(ParityError, match="standard deviation of p over the 1024 sequences"):
        export_bundle(ask)
    assert not (tmp_path / "bundle").exists()


def test_a_calibration_file_is_read_before_the_golden_set_is_run(tmp_path: Path) -> None:
    make_checkpoint(SHAPES["esm1v"], tmp_path / "checkpoint", seed=5)
    said: list[str] = []
    ask = ExportRequest(
        encoder=str(tmp_path / "checkpoint"),
        output=tmp_path / "bundle",
        variants=("int8",),
        calibration=tmp_path / "none.csv",
        max_dp={"int8": 0.25},
    )
    with pytest.raises(InputError, match=r"none\.csv"):
        export_bundle(ask, said.append)
    assert not any("golden" in line for line in said)


def test_a_tenth_of_the_layers_may_stay_float32(tmp_path: Path) -> None:
    make_checkpoint(SHAPES["esm1v"], tmp_path / "checkpoint", seed=5)
    loaded = load_checkpoint(str(tmp_path / "checkpoint"))
    found = int8.calibrate(loaded, calibration.calibration_sequences(None, 1022), lambda line: None)
    first = found.plan.by_sensitivity()[0]
    left = found.plan.without(1)
    assert set(left.layers) == set(found.plan.layers) - {first}
    write_encoder(loaded.config, loaded.tensor, tmp_path / "mixed.onnx", plan=left)
    graph = onnx.load(tmp_path / "mixed.onnx", load_external_data=False).graph
    assert sum(node.op_type == "Gemm" for node in graph.node) == 6 * 2
    rows = found.rows[:16]
    exact = graph_embeddings(loaded, None, rows, tmp_path / "fp32.onnx")
    whole = np.abs(graph_embeddings(loaded, found.plan, rows, tmp_path / "int8.onnx") - exact).mean()
    assert 0 < np.abs(graph_embeddings(loaded, left, rows, tmp_path / "again.onnx") - exact).mean() < whole


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        (["EVQLVESGGG"] * 40, InputError, "1 different sequences to calibrate with, at least 32"),
        ([f"EVQLVESGG{letter}" for letter in "ACDEFGHIKLMNPQRSTVWY"], InputError, "20 different sequences"),
        (["EVQ?"] * 3, RecordsRejected, "cannot be scored"),
        (["EVQLVESGGGLVQPGR" * 75], RecordsRejected, "1200 residues, this bundle takes at most 1022"),
        ([], InputError, "no sequence|empty|no record"),
    ],
)
def test_calibration_files_that_are_refused(
    rows: list[str], error: type[Exception], message: str, tmp_path: Path
) -> None:
    file = tmp_path / "calibration.csv"
    file.write_text("id,sequence\n" + "".join(f"{index},{row}\n" for index, row in enumerate(rows)))
    with pytest.raises(error, match=message):
        calibration.calibration_sequences(file, 1022)


def test_a_file_is_split_into_what_is_fitted_and_what_is_judged(tmp_path: Path) -> None:
    file = tmp_path / "calibration.csv"
    shipped = shipped_antibodies()
    # some of them are shipped rows, which neither half may then have twice
    own = [*shipped.calibration[:50], *shipped.judging[:48], "EVQLVESGGG", "EVQLVESGGGLVQ"]
    file.write_text("id,sequence\n" + "".join(f"{index},{row}\n" for index, row in enumerate(own)))
    found = calibration.calibration_sequences(file, 1022)
    assert set(found.calibration[:50]) | set(found.gate[:50]) == set(own)
    assert set(found.calibration[50:]) < set(shipped.calibration)
    assert set(found.gate[50:]) < set(shipped.judging)
    for half, rows in ((found.calibration, calibration.CALIBRATION_ROWS), (found.gate, calibration.GATE_ROWS)):
        assert len(half) == len(set(half))
        assert rows - 50 <= len(half) <= rows
    assert not set(found.gate) & set(found.calibration)
    assert "50 of 100 sequences, 78 antibodies of antibodies.csv" in found.source


def test_the_default_judges_real_antibodies_that_did_not_calibrate() -> None:
    found = calibration.calibration_sequences(None, 1022)
    assert len(found.calibration) == calibration.CALIBRATION_ROWS
    assert len(found.gate) == calibration.GATE_ROWS >= 1_000
    assert set(found.gate) == set(shipped_antibodies().judging)
    assert not set(found.gate) & set(found.calibration)


def test_a_limit_that_leaves_too_few_antibodies_is_refused() -> None:
    with pytest.raises(InputError, match=r"cut to 2 residues, \d+ different antibodies are left"):
        calibration.calibration_sequences(None, 2)


def test_calibration_without_int8_is_refused(tmp_path: Path) -> None:
    ask = ExportRequest(encoder="x", output=tmp_path / "bundle", calibration=tmp_path / "any.csv")
    with pytest.raises(ConfigError, match="Only int8 is calibrated"):
        export_bundle(ask)


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(exported, tmp_path / "bundle"))


def test_an_older_schema_says_how_to_export_again(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["variants"]["int8"]["quantization"]["schema_version"] = 0
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"int8 of schema 0, this abonyx reads 1\nExport it again: abonyx export"):
        abonyx.open_session(abonyx.RuntimeConfig(bundle=str(copy), variant="int8"))
    abonyx.open_session(abonyx.RuntimeConfig(bundle=str(copy), variant="fp32")).close()


def test_another_schema_with_other_fields_says_so_too(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["variants"]["int8"]["quantization"] = {"schema_version": 9, "rotations": []}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"int8 of schema 9, this abonyx reads 1\nExport it again: abonyx export"):
        abonyx.open_session(abonyx.RuntimeConfig(bundle=str(copy), variant="int8"))


def test_one_changed_byte_is_refused_at_open(copy: Path) -> None:
    path = copy / "int8" / "model.onnx.data"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ChecksumMismatch, match=r"int8/model\.onnx\.data"):
        abonyx.open_session(abonyx.RuntimeConfig(bundle=str(copy), variant="int8"))


@pytest.mark.parametrize("damage", ["truncated", "shapes"])
def test_a_damaged_gate_file_is_refused(damage: str, copy: Path) -> None:
    path = copy / "int8" / score_gate.GATE_NAME
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:100])
    else:
        GateRows(np.zeros((2, 3), np.float32), np.zeros((2, 4), np.float32)).save(path.parent)
    with pytest.raises(BundleError, match=r"score_gate\.npz: "):
        GateRows.load(path.parent)


def test_fit_judges_int8_by_the_new_heads_scores(
    exported: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = "".join(f"{index},{sequence},{index % 2}\n" for index, sequence in enumerate(antibodies(40)))
    (tmp_path / "labelled.csv").write_text("id,sequence,label\n" + rows)
    output = tmp_path / "fitted"
    arguments = [
        str(tmp_path / "labelled.csv"),
        "-o",
        str(output),
        "--bundle",
        str(exported),
        "--C",
        "0.001,0.002",
        "--cv",
        "2",
    ]
    with caplog.at_level("INFO"):
        CliRunner().invoke(fit, [*arguments, "--cv-seeds", "1"], catch_exceptions=False)
    assert caplog.text.count(", int8 max |dp| ") == 2
    assert "refitting on all rows with C 0.001: of those as good as the best" in caplog.text
    before, after = (open_bundle(path).manifest.variants["int8"].quantization for path in (exported, output))
    assert before
    assert after
    assert after.gates["nonspecificity"].rows == before.gates["nonspecificity"].rows
    assert after.gates["nonspecificity"].p != before.gates["nonspecificity"].p
    assert after.fp32_layers == before.fp32_layers
