"""Export from end to end on tiny checkpoints: the output, the refusals, and no leftover files."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import abonyx
from abonyx import extras
from abonyx.bundle import check_files, open_bundle, tolerances
from abonyx.errors import ConfigError, EngineError, HeadRefused, InputError, ParityError, SessionInUse
from abonyx_export import cli
from abonyx_export.encoder import graph as encoder_graph
from abonyx_export.export import export_bundle
from abonyx_export.request import ExportRequest

from ..conftest import EXAMPLES
from .conftest import HALF_EXACT, TINY, CheckpointMaker, HeadMaker, write_spread_head

# Operators that every provider's compiler supports (CoreML's ML Program list, CUDA, OpenVINO). The portable graph must
# not have others.
PORTABLE_OPS = {
    *("Gather", "Add", "MatMul", "Reshape", "Transpose", "Softmax", "LayerNormalization", "Gelu", "Unsqueeze"),
    *("Squeeze", "Concat", "Slice", "Mul", "Cast", "Sub"),
}


def request(checkpoint: Path, head: Path, output: Path, **changes: Any) -> ExportRequest:
    base = ExportRequest(encoder=str(checkpoint), heads=(("nonspecificity", head),), output=output, variants=("fp32",))
    return dataclasses.replace(base, **changes)


def test_examples_are_published_sequences(shared_data: Path) -> None:
    published = dict(line.split(",")[:2] for line in (shared_data / "jain" / "VH_only_jain.csv").read_text().split())
    examples = [line.split(",") for line in EXAMPLES.read_text().split()[1:]]
    assert len(examples) == 12
    for name, sequence in examples:
        assert published[name] == sequence


@pytest.mark.parity
@pytest.mark.parametrize("name", TINY)
def test_every_architecture_meets_the_goal(name: str, checkpoint: CheckpointMaker, tmp_path: Path) -> None:
    directory, output = checkpoint(name), tmp_path / "bundle"
    # A tiny random encoder sees real antibodies as very similar, so a head that spreads their scores has large weights.
    head = write_spread_head(directory, tmp_path / "head.npz", spread=0.3)
    variants = ("fp32", "fp16", "fp16-weights")
    wide = {"fp16": tolerances.TINY_FP16_P, "fp16-weights": tolerances.TINY_FP16_P}
    manifest = export_bundle(request(directory, head, output, variants=variants, max_dp=wide))
    record = {key: variant.parity for key, variant in manifest.variants.items()}
    assert record["fp32"] and record["fp16"] and record["fp16-weights"]
    assert record["fp32"].max_p <= tolerances.FP32_GOAL_P
    assert record["fp32"].heads["nonspecificity"].logit.max <= tolerances.LOGIT_PER_P * tolerances.FP32_GOAL_P
    assert record["fp32"].heads["nonspecificity"].label_flips == {"0.5": 0}
    assert record["fp32"].heads["nonspecificity"].spearman > 0.9999
    assert 0 < record["fp16"].max_p <= tolerances.TINY_FP16_P
    rounding = record["fp16"].weight_rounding
    assert rounding is not None
    if name == HALF_EXACT:
        assert record["fp16-weights"].max_p <= tolerances.FP32_GOAL_P
        assert rounding["p"].max == 0
    else:
        assert 0 < rounding["p"].max <= tolerances.TINY_FP16_P
        assert tolerances.FP32_GOAL_P < record["fp16-weights"].max_p <= tolerances.TINY_FP16_P
    bundle = open_bundle(output)
    check_files(bundle, list(bundle.manifest.files), use_cache=False)
    assert manifest == bundle.manifest
    on_disk = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
    assert on_disk == {"manifest.json", *manifest.files}
    for key, variant in manifest.variants.items():
        graph = onnx.load(output / variant.model, load_external_data=False)
        assert {node.op_type for node in graph.graph.node} <= PORTABLE_OPS, key
        assert {entry.domain for entry in graph.opset_import} == {""}, key
        onnx.checker.check_model(output / variant.model, full_check=True)
    with abonyx.open_session(abonyx.RuntimeConfig(bundle=str(output)), self_test="full") as session:
        assert session._model.variant_name == "fp32"


def test_max_residues_is_scored_and_one_more_is_refused(
    checkpoint: CheckpointMaker, spread_head: HeadMaker, tmp_path: Path
) -> None:
    directory = checkpoint("esm1v")
    export_bundle(request(directory, spread_head(directory), tmp_path / "bundle"))
    with abonyx.open_session(abonyx.RuntimeConfig(bundle=str(tmp_path / "bundle"))) as session:
        assert session._model.manifest.max_residues == 1022
        long = ("EVQLVESGGGLVQPGRSLRLSCAASGFTFDDYAMHWVRQAPGKGLEWVSA" * 21)[:1023]
        assert np.isfinite(session.score([long[:1022]])).all()
        with pytest.raises(InputError, match="1023 residues"):
            session.score([long])


@pytest.mark.parity
def test_two_pooled_layers(checkpoint: CheckpointMaker, spread_head: HeadMaker, tmp_path: Path) -> None:
    directory, layers = checkpoint("esm1b"), ("embedding", "last")
    head = spread_head(directory, layers)
    manifest = export_bundle(request(directory, head, tmp_path / "bundle", pooled_layers=layers))
    assert manifest.embedding_width == 64
    assert manifest.pooled_layers == ["embedding", "last"]
    record = manifest.variants["fp32"].parity
    assert record is not None
    assert record.max_p <= tolerances.FP32_GOAL_P
    with abonyx.open_session(abonyx.RuntimeConfig(bundle=str(tmp_path / "bundle"))) as session:
        assert session.embed(["EVQLVESGG"]).shape == (1, 64)


def test_changing_the_head_leaves_the_weights_byte_identical(
    checkpoint: CheckpointMaker, spread_head: HeadMaker, tmp_path: Path
) -> None:
    directory = checkpoint("esm1v")
    one = spread_head(directory, name="one.npz")
    other = tmp_path / "other.npz"
    with np.load(one) as arrays:
        np.savez(other, coef=-arrays["coef"], intercept=-arrays["intercept"], classes=arrays["classes"])
    for head in (one, other):
        export_bundle(request(directory, head, tmp_path / head.stem))
    first, second = ((tmp_path / name / "fp32" / "model.onnx.data").read_bytes() for name in ("one", "other"))
    assert first == second
    graphs = [(tmp_path / name / "fp32" / "model.onnx").read_bytes() for name in ("one", "other")]
    assert graphs[0] != graphs[1]
    # Head tensors are inline; every encoder tensor is in the data file.
    graph = onnx.load(tmp_path / "one" / "fp32" / "model.onnx", load_external_data=False).graph
    external = {tensor.name for tensor in graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL}
    inline = {tensor.name for tensor in graph.initializer} - external
    assert all(name.startswith(("head/", "const/")) for name in inline)
    assert not any(name.startswith("head/") for name in external)


def test_same_request_same_bytes(checkpoint: CheckpointMaker, spread_head: HeadMaker, tmp_path: Path) -> None:
    directory = checkpoint("esm2")
    head = spread_head(directory)
    for name in ("a", "b"):
        export_bundle(request(directory, head, tmp_path / name, name="same"))
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)


# --- Refusals: none leaves an output or a staging directory.


def leftovers(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir() if "bundle" in path.name]


def test_over_the_limit_leaves_nothing_behind(
    checkpoint: CheckpointMaker, spread_head: HeadMaker, tmp_path: Path
) -> None:
    directory = checkpoint("esm1v")
    strict = request(
        directory, spread_head(directory), tmp_path / "bundle", variants=("fp32", "fp16"), max_dp={"fp16": 1e-9}
    )
    with pytest.raises(ParityError, match=r"variant fp16: max \|difference\| of p .* limit 1e-09 \(golden row \d+"):
        export_bundle(strict)
    assert leftovers(tmp_path) == []


def test_limits_are_recorded_and_enforced_at_open(
    checkpoint: CheckpointMaker, spread_head: HeadMaker, tmp_path: Path
) -> None:
    directory = checkpoint("esm1v")
    export_bundle(request(directory, spread_head(directory), tmp_path / "bundle", max_dp={"fp32": 2e-4}))
    limits = open_bundle(tmp_path / "bundle").manifest.variants["fp32"].limits
    assert (limits.p, limits.logit, limits.embedding) == (2e-4, 8e-4, 2e-4)


@pytest.mark.parametrize("fault", ["saturated", "one-sided"])
def test_a_golden_set_that_cannot_detect_faults_is_refused(
    checkpoint: CheckpointMaker, spread_head: HeadMaker, tmp_path: Path, fault: str
) -> None:
    directory = checkpoint("esm1v")
    head = spread_head(directory)
    with np.load(head) as arrays:
        values = dict(arrays)
    export_bundle(request(directory, head, tmp_path / "good"))
    lowest = open_bundle(tmp_path / "good").golden().value.min()
    shift, message = {
        "saturated": (30.0, "the standard deviation of p must be at least"),
        "one-sided": (0.01 - lowest, "44 of 44 rows are above threshold default"),
    }[fault]
    np.savez(tmp_path / "shifted.npz", **(values | {"intercept": values["intercept"] + shift}))
    shifted = request(directory, tmp_path / "shifted.npz", tmp_path / "bundle")
    with pytest.raises(ParityError, match=message):
        export_bundle(shifted)
    assert leftovers(tmp_path) == []
    manifest = export_bundle(dataclasses.replace(shifted, recentre_head=True))
    assert manifest.head.intercept_shift == pytest.approx(-shift, abs=1e-9)
    assert np.median(open_bundle(tmp_path / "bundle").golden().value) == pytest.approx(0, abs=1e-12)


def test_golden_file(checkpoint: CheckpointMaker, spread_head: HeadMaker, tmp_path: Path) -> None:
    directory = checkpoint("esm1v")
    manifest = export_bundle(request(directory, spread_head(directory), tmp_path / "bundle", golden=EXAMPLES))
    assert manifest.golden_source == "therapeutic_vh.csv"
    assert open_bundle(tmp_path / "bundle").golden().lengths.shape == (12,)


def test_an_encoder_mismatch_is_an_error_unless_allowed(
    checkpoint: CheckpointMaker, spread_head: HeadMaker, tmp_path: Path
) -> None:
    directory = checkpoint("esm1v")
    head = spread_head(directory)
    config = {"esm_model": "facebook/esm1v_t33_650M_UR90S_1", "esm_revision": "main", "batch_size": 8}
    (tmp_path / "head_config.json").write_text(json.dumps(config))
    asked = request(directory, head, tmp_path / "bundle")
    with pytest.raises(HeadRefused, match="trained with facebook/esm1v_t33_650M_UR90S_1; the given encoder is"):
        export_bundle(asked)
    with pytest.raises(HeadRefused, match="the given encoder is facebook/esm2_t33_650M_UR50D"):
        export_bundle(dataclasses.replace(asked, encoder_id="facebook/esm2_t33_650M_UR50D"))
    assert leftovers(tmp_path) == []
    manifest = export_bundle(dataclasses.replace(asked, encoder_id="facebook/esm1v_t33_650M_UR90S_1"))
    assert manifest.encoder.repo_id == "facebook/esm1v_t33_650M_UR90S_1"
    assert manifest.licence.startswith("MIT")
    assert manifest.head.thresholds == {"elisa": 0.5, "psr": 0.5495}
    assert (manifest.head.pooling, manifest.head.pooling_batch_size) == ("upstream-batch", 8)
    export_bundle(dataclasses.replace(asked, output=tmp_path / "bundle2", allow_encoder_mismatch=True))
    mismatched = open_bundle(tmp_path / "bundle2")
    assert mismatched.manifest.notice == ""  # a fit replaces the head, and with it what there is to say of it
    assert "trained for another encoder (facebook/esm1v_t33_650M_UR90S_1): scores mean nothing" in mismatched.label()


def test_bad_requests(checkpoint: CheckpointMaker, spread_head: HeadMaker, tmp_path: Path) -> None:
    directory = checkpoint("esm1v")
    head = spread_head(directory)
    good = request(directory, head, tmp_path / "bundle")
    (tmp_path / "taken").mkdir()
    wide = tmp_path / "wide.npz"
    np.savez(wide, coef=np.ones((1, 1280)), intercept=np.zeros(1), classes=np.array([0.0, 1.0]))
    cases: list[tuple[dict[str, Any], type[EngineError], str]] = [
        ({"variants": ("int4",)}, ConfigError, "no variant 'int4'"),
        ({"variants": ()}, ConfigError, "variants names no variant"),
        ({"output": tmp_path / "taken"}, ConfigError, "exists already"),
        ({"output": wide / "bundle"}, ConfigError, "wide.npz is not a writable directory"),
        ({"encoder": "nowhere at all"}, ConfigError, "no such directory"),
        ({"encoder": "owner/name"}, InputError, "cannot download revision main"),
        ({"revision": "main"}, ConfigError, "is a directory"),
        ({"max_residues": 2000}, ConfigError, "1 to 1022"),
        ({"max_dp": {"fp32": 0.0}}, ConfigError, "fp32=0"),
        ({"heads": (("nonspecificity", wide),)}, HeadRefused, "1280 features, the encoder's embedding has 32"),
        ({"heads": (("nonspecificity", tmp_path / "none.npz"),)}, HeadRefused, "none.npz"),
    ]
    for changes, error, message in cases:
        with pytest.raises(error, match=message):
            export_bundle(dataclasses.replace(good, **changes))
    assert leftovers(tmp_path) == []


def test_incomplete_and_foreign_checkpoints(
    checkpoint: CheckpointMaker, spread_head: HeadMaker, tmp_path: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    directory = checkpoint("esm1v")
    head = spread_head(directory)

    def broken(name: str) -> Path:
        return Path(shutil.copytree(directory, tmp_path / name))

    def config(name: str, **changes: Any) -> Path:
        path = broken(name)
        text = json.loads((path / "config.json").read_text()) | changes
        (path / "config.json").write_text(json.dumps(text))
        return path

    missing = broken("missing")
    tensors = load_file(missing / "model.safetensors")
    del tensors["encoder.layer.1.LayerNorm.weight"]
    save_file(tensors, missing / "model.safetensors", metadata={"format": "pt"})
    no_vocabulary = broken("no_vocabulary")
    (no_vocabulary / "vocab.txt").unlink()
    cases = {
        missing: r"missing: 1 tensor of the encoder \(encoder.layer.1.LayerNorm.weight\)",
        no_vocabulary: "vocab",
        config("gpt2", model_type="gpt2"): "model type 'gpt2'",
        config("relative", position_embedding_type="relative_key"): "position embeddings 'relative_key' are not",
        config("decoder", is_decoder=True): "is_decoder is True",
        config("heads", num_attention_heads=3): "3",
    }
    for path, message in cases.items():
        with pytest.raises(InputError, match=message):
            export_bundle(request(path, head, tmp_path / "bundle"))
    assert leftovers(tmp_path) == []


def test_needs_the_processs_session_slot(checkpoint: CheckpointMaker, spread_head: HeadMaker, tmp_path: Path) -> None:
    directory = checkpoint("esm1v")
    with abonyx.open_session(), pytest.raises(SessionInUse):
        export_bundle(request(directory, spread_head(directory), tmp_path / "bundle"))
    assert leftovers(tmp_path) == []


def test_without_the_extra_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = {"export": ("export", {"torch": "torch", "a-package-nobody-has": "a_package_nobody_has"})}
    monkeypatch.setattr(extras, "_NEEDED", needed)
    result = CliRunner().invoke(cli.export, ["--encoder", "x", "--head", "y", "-o", "z"])
    assert isinstance(result.exception, ConfigError)
    assert "a-package-nobody-has (not installed)" in str(result.exception)
    assert "Install the extra export: pip install " in str(result.exception)


# --- The bug that this project was started for.

SCORE_AND_WATCH = """
import psutil, sys
import onnxruntime
made = []
real = onnxruntime.InferenceSession
onnxruntime.InferenceSession = lambda *a, **k: made.append(a) or real(*a, **k)
import abonyx
process = psutil.Process()
before = process.memory_info().rss
config = abonyx.load_config(None, {}, {"bundle": sys.argv[1], "provider": "cpu", "token_budget": 256})
with abonyx.open_session(config) as session:
    session.score(["EVQLVESGGGLVQPGRSLRLSCAASGFTFDDYAMHWVRQAPGKGLEWVSA"] * 4)
peak = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
assert "torch" not in sys.modules and "transformers" not in sys.modules
print(len(made), before, peak)
"""


class BinaryClassifier:
    """Replaces the old pipeline's class, whose __setstate__ built an encoder on the training device."""

    def __setstate__(self, state: object) -> None:
        raise AssertionError("an encoder was constructed")


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> BinaryClassifier:
    """An instance that is pickled with the old pipeline's module name."""
    module = types.ModuleType("antibody_training_esm.core.classifier")
    monkeypatch.setattr(BinaryClassifier, "__module__", module.__name__)
    module.BinaryClassifier = BinaryClassifier  # type: ignore[attr-defined]
    for name in ("antibody_training_esm", "antibody_training_esm.core", module.__name__):
        monkeypatch.setitem(sys.modules, name, module)
    return BinaryClassifier()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")
def test_a_head_trained_on_mps_opens_one_session_on_the_cpu(tmp_path: Path, old: BinaryClassifier) -> None:
    """Trained "on mps", config says cpu: only one session exists, and memory has only one copy of the weights."""
    from sklearn.linear_model import LogisticRegression

    from make_checkpoint import Shape, make_checkpoint

    directory = tmp_path / "checkpoint"
    make_checkpoint(Shape(10, 512, 8), directory)  # 126 MB of float32 weights, so that a second copy is visible
    rng = np.random.default_rng(0)
    estimator = LogisticRegression().fit(rng.standard_normal((60, 512)), np.arange(60) % 2)
    estimator.coef_ *= 10
    old.__dict__ |= {"classifier": estimator, "model_name": "facebook/esm1v_t33_650M_UR90S_1"}
    old.__dict__ |= {"device": "mps", "batch_size": 8, "is_fitted": True}
    (tmp_path / "head.pkl").write_bytes(pickle.dumps(old))
    # Twelve golden rows instead of 44, because the test measures the memory of the session.
    asked = request(directory, tmp_path / "head.pkl", tmp_path / "bundle", recentre_head=True, golden=EXAMPLES)
    manifest = export_bundle(dataclasses.replace(asked, allow_encoder_mismatch=True))
    assert manifest.head.pooling_batch_size == 8

    command = [sys.executable, "-c", SCORE_AND_WATCH, str(tmp_path / "bundle")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    sessions, before, peak = (int(value) for value in done.stdout.split())
    weights = manifest.files["fp32/model.onnx.data"].size_bytes
    assert sessions == 1
    assert peak - before < 1.6 * weights, f"{(peak - before) / weights:.2f} copies of the weights"


def test_the_bug_test_detects_a_real_unpickling(old: BinaryClassifier) -> None:
    old.__dict__["device"] = "mps"
    with pytest.raises(AssertionError, match="an encoder was constructed"):
        pickle.loads(pickle.dumps(old))


# --- Could a wrong graph pass? Each changed graph must be refused, and nothing may be written.

MUTANTS: dict[str, tuple[str, Any]] = {
    "no biases": (
        "_linear",
        lambda real: lambda graph, tensor, *a, **k: real(graph, _without("bias", 0, tensor), *a, **k),
    ),
    "no norm weights": (
        "layer_norm",
        lambda real: lambda graph, config, tensor, *a: real(graph, config, _without(".weight", 1, tensor), *a),
    ),
    "no token dropout": ("TOKEN_DROPOUT_SCALE", lambda real: np.float32(1)),
    "a far position is lost": ("embed", lambda real: lambda graph, config, tensor: real(graph, config, _cut(tensor))),
}


def _without(part: str, value: float, tensor: Any) -> Any:
    return lambda name: tensor(name) * 0 + np.float32(value) if name.endswith(part) else tensor(name)


def _cut(tensor: Any) -> Any:
    def changed(name: str) -> Any:
        values = tensor(name).copy()
        if "position" in name:
            values[400:] = 0
        return values

    return changed


@pytest.mark.parity
@pytest.mark.parametrize("mutant", MUTANTS)
@pytest.mark.parametrize("variant", ["fp32", "fp16"])
def test_a_wrong_graph_is_refused(
    mutant: str,
    variant: str,
    checkpoint: CheckpointMaker,
    spread_head: HeadMaker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    directory = checkpoint("esm1v")
    head = spread_head(directory)
    name, mutate = MUTANTS[mutant]
    monkeypatch.setattr(encoder_graph, name, mutate(getattr(encoder_graph, name)))
    with pytest.raises(ParityError, match=r"variant fp(32|16)"):
        export_bundle(request(directory, head, tmp_path / "bundle", variants=(variant,)))
    assert leftovers(tmp_path) == []


def test_golden_rows_of_one_length_are_refused(
    checkpoint: CheckpointMaker, spread_head: HeadMaker, tmp_path: Path, sequences: list[str]
) -> None:
    directory = checkpoint("esm1v")
    golden = tmp_path / "golden.csv"
    golden.write_text("sequence\n" + "".join(f"{sequence[:100]}\n" for sequence in sequences))
    with pytest.raises(ParityError, match="all 12 rows have 100 residues"):
        export_bundle(request(directory, spread_head(directory), tmp_path / "bundle", golden=golden))
