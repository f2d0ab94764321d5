"""The int8 variant: fixed scales, a gate on scores, and methods that work with outlier channels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import abonyx
from abonyx.bundle import open_bundle, tolerances
from abonyx.bundle.heads import sigmoid
from abonyx.bundle.manifest import ValueGate
from abonyx.config import RuntimeConfig
from abonyx.errors import BundleError, ChecksumMismatch, ConfigError, InputError, ParityError
from abonyx_export.cli import calibrate, fit
from abonyx_export.export import export_bundle
from abonyx_export.int8 import calibration, levels, score_gate
from abonyx_export.int8 import variant as int8
from abonyx_export.int8.score_gate import GateRows
from abonyx_export.request import ExportRequest
from make_checkpoint import make_checkpoint

from ..conftest import write_spread_head
from ..encoder.test_bert import make as make_bert
from .graphs import SHAPES

# Numbers of rows that calibrate and judge in these tests; test_calibration.py tests the shipped rows.
FEW = {"CALIBRATION_ROWS": 48, "GATE_ROWS": 160}
# The gate's limit in these tests. It is wider, because random heads of 128 units enlarge rounding more than ESM-1v's.
WIDE = {"int8": tolerances.TINY_INT8_P}


@pytest.fixture(scope="module", autouse=True)
def few_rows() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, rows in FEW.items():
            patch.setattr(calibration, name, rows)
        patch.setattr(int8, "FIRST_ROWS", 64)
        yield


@pytest.fixture(scope="module", params=SHAPES)
def exported(few_rows: None, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
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


def test_the_record_agrees_with_the_scores_of_both_variants(exported: Path) -> None:
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
    # the default is still fp32
    assert open_bundle(exported).variant("cpu", None)[0] == "fp32"


def test_every_product_of_the_encoder_is_int8(exported: Path) -> None:
    graph = onnx.load(exported / "int8" / "model.onnx", load_external_data=False).graph
    variant = open_bundle(exported).manifest.variants["int8"]
    assert variant.quantization is not None
    found = variant.quantization
    assert found.float32 == []
    # query, key and value are three products; a product with two terms counts twice
    doubled = sum(3 if name.endswith(calibration.QKV) else 1 for name in found.two_terms)
    assert sum(node.op_type == "Gemm" for node in graph.node) == 6 * 3 + doubled
    assert {node.domain for node in graph.node} == {""}
    from_int8 = [tensor for tensor in graph.initializer if tensor.name.endswith("weight.int8")]
    assert len(from_int8) == 6 * 3
    assert all(tensor.data_type == onnx.TensorProto.INT8 for tensor in from_int8)


def test_a_score_does_not_depend_on_its_batch(exported: Path) -> None:
    sequences = [sequence[: 40 + 7 * index] for index, sequence in enumerate(antibodies(9))]
    config = abonyx.RuntimeConfig(bundle=str(exported), variant="int8", token_budget=100_000)
    with abonyx.open_session(config) as session:
        together = session.score(sequences)
        alone = np.concatenate([session.score([sequence]) for sequence in sequences])
    # The scales are fixed. Only the last bit of a float32 may change, and then a value rounds to the next integer.
    assert np.abs(together - alone).max() <= tolerances.INT8_BATCH_NEIGHBOURS


@pytest.mark.parametrize("kind", ["Bert", "Roberta"])
def test_an_encoder_with_norms_behind_its_blocks(kind: str, tmp_path: Path) -> None:
    make_bert(tmp_path / "checkpoint", kind)
    head = write_spread_head(tmp_path / "checkpoint", tmp_path / "head.npz")
    ask = ExportRequest(
        encoder=str(tmp_path / "checkpoint"),
        heads=(("nonspecificity", head),),
        output=tmp_path / "bundle",
        variants=("fp32", "int8", "cuda-fp16"),
        max_dp=WIDE,
    )
    quantization = export_bundle(ask).variants["int8"].quantization
    assert quantization is not None
    assert score_gate.all_faults(quantization.gates, tolerances.TINY_INT8_P) == []
    with abonyx.open_session(abonyx.RuntimeConfig(bundle=str(tmp_path / "bundle"), variant="int8")) as session:
        assert session.score(antibodies(2)).shape == (2,)


def test_over_the_gate_nothing_is_written_and_the_worst_products_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(levels, "BUDGETS", (1.0, 2.05))
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
        ParityError, match=r"max \|dp\| .* limit 1e-06.*products that add the most error to the residual stream: \d"
    ):
        export_bundle(ask)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("over", ["gate", "golden rows"])
def test_products_get_more_than_one_term_only_where_the_gate_or_the_golden_rows_ask(
    over: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_checkpoint(SHAPES["esm1v"], tmp_path / "checkpoint", seed=5)
    head = write_spread_head(tmp_path / "checkpoint", tmp_path / "head.npz")
    faults, embedded, asked = score_gate.faults, int8._embed_both, []
    said: list[str] = []

    def fails_once(gate: Any, allowed_p: float) -> list[str]:
        asked.append(gate)
        return ["once"] if len(asked) == 1 and over == "gate" else faults(gate, allowed_p)

    def over_once(*given: Any) -> tuple[GateRows, dict[str, float]]:
        both, on_golden = embedded(*given)
        once = not asked and over == "golden rows" and asked.append(None) is None
        just_under = 0.95 * WIDE["int8"]
        return both, dict.fromkeys(on_golden, just_under) if once else on_golden

    monkeypatch.setattr(score_gate, "faults", fails_once)
    monkeypatch.setattr(int8, "_embed_both", over_once)
    ask = ExportRequest(
        encoder=str(tmp_path / "checkpoint"),
        heads=(("nonspecificity", head),),
        output=tmp_path / "bundle",
        variants=("int8",),
        max_dp=WIDE,
    )
    variant = export_bundle(ask, said.append).variants["int8"]
    quantization = variant.quantization
    assert quantization is not None
    assert quantization.two_terms and 1 < quantization.cost <= levels.BUDGETS[1]
    if over == "gate":
        assert quantization.gates["nonspecificity"].p.mean < asked[0].p.mean
    # export checks the same figure at its end
    assert variant.parity is not None
    plans = [line for line in said if "golden rows: max" in line]
    assert len(plans) == 2 and plans[1].endswith(f"golden rows: max |dp| {variant.parity.max_p:.2g}")
    # The limit is smaller than at open, because another machine's engine may round differently.
    assert variant.parity.max_p <= tolerances.INT8_GOLDEN_SHARE * variant.limits.p < variant.limits.p
    graph = onnx.load(tmp_path / "bundle" / "int8" / "model.onnx", load_external_data=False).graph
    two = {node.name for node in graph.node if node.op_type == "Gemm" and node.name.endswith("/rest")}
    assert {name.removeprefix("encoder.layer.").split("/")[0] for name in two} >= {
        name for name in quantization.two_terms if not name.endswith(calibration.QKV)
    }


def test_golden_rows_over_the_limit_with_every_plan_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(levels, "BUDGETS", (1.0,))
    embedded = int8._embed_both
    monkeypatch.setattr(int8, "_embed_both", lambda *given: (embedded(*given)[0], {"nonspecificity": 0.5}))
    make_checkpoint(SHAPES["esm1v"], tmp_path / "checkpoint", seed=5)
    head = write_spread_head(tmp_path / "checkpoint", tmp_path / "head.npz")
    ask = ExportRequest(
        encoder=str(tmp_path / "checkpoint"),
        heads=(("nonspecificity", head),),
        output=tmp_path / "bundle",
        variants=("int8",),
        max_dp=WIDE,
    )
    with pytest.raises(ParityError, match=r"int8 against PyTorch on the \d+ golden rows: max \|dp\| 0\.5000, limit"):
        export_bundle(ask)
    assert not (tmp_path / "bundle").exists()


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
    with pytest.raises(ParityError, match="standard deviation of p over 160 sequences"):
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
    with pytest.raises(
        BundleError, match=r"int8 of schema 0, this abonyx reads schema 2\nExport it again: abonyx export"
    ):
        abonyx.open_session(abonyx.RuntimeConfig(bundle=str(copy), variant="int8"))
    abonyx.open_session(abonyx.RuntimeConfig(bundle=str(copy), variant="fp32")).close()


def test_another_schema_with_other_fields_says_so_too(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["variants"]["int8"]["quantization"] = {"schema_version": 9, "rotations": []}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(
        BundleError, match=r"int8 of schema 9, this abonyx reads schema 2\nExport it again: abonyx export"
    ):
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
    assert "fitting on all rows with C 0.001: among the values as good as the best" in caplog.text
    before, after = (open_bundle(path).manifest.variants["int8"].quantization for path in (exported, output))
    assert before
    assert after
    assert after.gates["nonspecificity"].rows == before.gates["nonspecificity"].rows
    assert after.gates["nonspecificity"].p != before.gates["nonspecificity"].p
    assert (after.two_terms, after.float32) == (before.two_terms, before.float32)


def test_fit_judges_int8_by_a_value_too(exported: Path, tmp_path: Path) -> None:
    rows = "".join(f"{at},{row},{row.count('S') + row.count('G') / 7}\n" for at, row in enumerate(antibodies(40)))
    (tmp_path / "labelled.csv").write_text("id,sequence,label\n" + rows)
    arguments = [
        "--task",
        "regression",
        "--unit",
        "1",
        "--direction",
        "lower-is-worse",
        "--head-name",
        "count",
        "--add",
    ]
    arguments += [str(tmp_path / "labelled.csv"), "-o", str(tmp_path / "fitted"), "--bundle", str(exported)]
    CliRunner().invoke(fit, [*arguments, "--cv", "2", "--cv-seeds", "1"], catch_exceptions=False)
    before, after = (
        open_bundle(path).manifest.variants["int8"].quantization for path in (exported, tmp_path / "fitted")
    )
    assert before and after and list(after.gates) == ["nonspecificity", "count"]
    assert after.gates["nonspecificity"] == before.gates["nonspecificity"]
    gate = after.gates["count"]
    assert isinstance(gate, ValueGate) and gate.value.max > 0 and not score_gate.faults(gate, tolerances.TINY_INT8_P)


@pytest.mark.parametrize("over", [False, True])
def test_calibrate_judges_every_variant_again(
    over: bool, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = antibodies(160)
    with abonyx.open_session(RuntimeConfig(bundle=str(exported))) as session:
        logit = np.log(1 / session.score(rows).astype(np.float64) - 1) * -1
    # also shifted, so that the head is far from its controls before the calibration
    p = sigmoid(0.5 * (logit - np.quantile(logit, 0.9)))
    labels = (np.random.default_rng(3).random(len(p)) < p).astype(int)
    lines = "".join(f"{at},{row},{label}\n" for at, (row, label) in enumerate(zip(rows, labels, strict=True)))
    (tmp_path / "controls.csv").write_text("id,sequence,label\n" + lines)
    output = tmp_path / "new"
    arguments = [str(exported), str(tmp_path / "controls.csv"), "-o", str(output), "--domain", "off"]
    if over:
        monkeypatch.setattr(score_gate, "faults", lambda gate, allowed: ["much"])
    result = CliRunner().invoke(calibrate, arguments)
    if over:
        assert isinstance(result.exception, ParityError), result.output
        assert "with the new head" in result.exception.what and "steep" in result.exception.fix
        assert not output.exists()
        return
    assert result.exception is None, result.exception
    before, after = (open_bundle(path).manifest for path in (exported, output))
    found = after.head.calibration
    assert found is not None and 0 < found.slope < 3
    for name, variant in after.variants.items():
        old, new = before.variants[name].parity, variant.parity
        assert old is not None and new is not None and new.heads != old.heads
    gates = [manifest.variants["int8"].quantization.gates["nonspecificity"] for manifest in (before, after)]
    assert gates[0].rows == gates[1].rows and gates[1].p != gates[0].p
    for name in after.variants:
        with abonyx.open_session(RuntimeConfig(bundle=str(output), variant=name)) as session:
            expected = sigmoid(found.slope * logit + found.intercept)
            np.testing.assert_allclose(session.score(rows), expected, atol=1e-5 if name == "fp32" else 0.1)
