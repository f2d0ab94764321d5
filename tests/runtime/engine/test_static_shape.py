"""Every batch has one fixed shape, as Core ML needs it. Here it runs on the CPU and equals the path without it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner

import abonyx
from abonyx.bundle import open_bundle, selftest, tolerances
from abonyx.cli import cli
from abonyx.engine import slot
from abonyx.engine.providers import token_budget
from abonyx.errors import (
    BundleError,
    ConfigError,
    InputError,
    OutOfDeviceMemory,
    SelfTestError,
)
from abonyx.session import open_session

from ...conftest import EXAMPLES, MINI


@pytest.fixture
def mixed(sequences: list[str]) -> list[str]:
    """Very different lengths, one of them twice. The number of rows is not a multiple of any batch size below."""
    return [*[sequence[: 5 + 11 * index] for index, sequence in enumerate(sequences)], *sequences[:4], sequences[0][:5]]


@pytest.mark.parametrize("shape", [(1, 128), (4, 150), pytest.param((9, 128), marks=pytest.mark.slow)])
def test_equals_the_path_without(shape: tuple[int, int], mixed: list[str]) -> None:
    with open_session() as session:
        p, embedding = session.score(mixed), session.embed(mixed)
    config = abonyx.RuntimeConfig(static_rows=shape[0], static_tokens=shape[1])
    with open_session(config) as session:
        assert session._model.static_shape == shape
        assert session._model.budget.tokens == shape[0] * shape[1]
        assert np.abs(session.score(mixed) - p).max() <= tolerances.BATCH_NEIGHBOURS
        assert np.abs(session.embed(mixed) - embedding).max() <= tolerances.BATCH_NEIGHBOURS
        assert session.score([]).shape == (0,)


def test_equals_the_path_without_where_the_old_pipeline_s_rule_pools(mixed: list[str]) -> None:
    rule: dict[str, Any] = {"pooling": "upstream-batch", "batch_size": 4}
    with open_session(abonyx.RuntimeConfig(**rule)) as session:
        p = session.score(mixed)
    with open_session(abonyx.RuntimeConfig(static_rows=4, static_tokens=150, **rule)) as session:
        assert np.abs(session.score(mixed) - p).max() <= tolerances.BATCH_NEIGHBOURS


def test_the_engine_is_given_nothing_but_that_shape(mixed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, tuple[int, ...]]] = []
    real = onnxruntime.InferenceSession.run

    def run(self: Any, outputs: Any, feed: dict[str, Any], *args: Any) -> Any:
        given.append({name: values.shape for name, values in feed.items()})
        return real(self, outputs, feed, *args)

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", run)
    with open_session(abonyx.RuntimeConfig(static_rows=4, static_tokens=150), self_test="full") as session:
        tested = len(given)
        session.score(mixed)
    distinct = len(set(mixed))
    assert len(given) - tested == -(-distinct // 4)  # the least number of batches
    fixed = dict.fromkeys(["input_ids", "position_ids", "pool_weights"], (4, 150)) | {"attention_bias": (4, 1, 1, 150)}
    assert all(shapes == fixed for shapes in given)


def test_the_graph_itself_takes_no_other_shape() -> None:
    with open_session(abonyx.RuntimeConfig(static_rows=4, static_tokens=150)) as session:
        assert session._model._native is not None
        shapes = {node.name: node.shape for node in session._model._native.get_inputs()}
        assert shapes["attention_bias"] == [4, 1, 1, 150]


def test_a_graph_whose_dimensions_have_other_names_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # ONNX Runtime accepts an override of an unknown name without an error
    real = onnxruntime.SessionOptions.add_free_dimension_override_by_name

    def misspelt(self: Any, name: str, size: int) -> None:
        real(self, name.replace("length", "lenght"), size)

    monkeypatch.setattr(onnxruntime.SessionOptions, "add_free_dimension_override_by_name", misspelt)
    with pytest.raises(BundleError, match=r"(?s)static_rows is 2.*\[2, 'length'\].*not named batch and length"):
        open_session(abonyx.RuntimeConfig(static_rows=2, static_tokens=140))


def test_longer_sequences_are_refused_and_the_field_is_named(sequences: list[str], tmp_path: Path) -> None:
    with open_session(abonyx.RuntimeConfig(static_rows=2, static_tokens=120)) as session:
        session.score([("ACDEFGHIKL" * 15)[:118]])
        with pytest.raises(InputError, match=r"sequences\[1\]: 119 residues; static_tokens = 120 .* at most 118"):
            session.score([sequences[0][:50], ("ACDEFGHIKL" * 15)[:119]])
        with pytest.raises(InputError, match=r"3 rows, longest 3 tokens; static_rows is 2"):
            session._model.run_batch([np.array([0, 5, 2])] * 3)
        with pytest.raises(InputError, match=r"1 rows, longest 121 tokens; .* static_tokens is 120"):
            session._model.run_batch([np.full(121, 5)])
    # of a file, before anything is opened
    config = tmp_path / "fixed.toml"
    config.write_text("static_rows = 2\nstatic_tokens = 120\n")
    arguments = ["score", str(EXAMPLES), "-o", str(tmp_path / "out.csv"), "--config", str(config)]
    done = CliRunner().invoke(cli, arguments)
    assert isinstance(done.exception, InputError)
    assert "static_tokens = 120 in the config takes at most 118" in str(done.exception)
    assert not (tmp_path / "out.csv").exists()
    done = CliRunner().invoke(cli, [*arguments, "--on-invalid", "skip"])
    assert done.exit_code == 0, done.exception
    assert "static_tokens" in (tmp_path / "out.csv.rejected.csv").read_text()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"static_rows": 4}, "static_rows is 4 and static_tokens is None"),
        ({"static_tokens": 40}, "static_rows is None and static_tokens is 40"),
        ({"static_rows": 0, "static_tokens": 40}, "static_rows is 0"),
        ({"static_rows": 1, "static_tokens": 2}, "static_tokens is 2"),
        (
            {"static_rows": 1, "static_tokens": 9, "token_budget": 10},
            "token_budget is 10, and every batch has 1 row",
        ),
        ({"provider": "coreml", "token_budget": 512}, "token_budget is 512, and every batch has 8 rows of 160"),
    ],
)
def test_half_a_shape_or_two_sizes_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        abonyx.RuntimeConfig(**fields)


def test_a_token_budget_that_says_the_same_is_taken() -> None:
    # as a resumed run writes it into its config
    config = abonyx.RuntimeConfig(static_rows=2, static_tokens=9)
    bundle = open_bundle(None)
    assert token_budget(dataclasses.replace(config, token_budget=18), bundle) == token_budget(config, bundle) == 18
    assert token_budget(abonyx.RuntimeConfig(provider="coreml"), bundle) == 8 * 160
    assert token_budget(abonyx.RuntimeConfig(token_budget=7), bundle) == 7


@pytest.mark.parametrize(("output", "by", "metric"), [(0, 0.06, "embedding"), (1, 0.05, "logit")])
def test_slightly_wrong_numbers_of_the_fixed_shape_are_refused(
    monkeypatch: pytest.MonkeyPatch, output: int, by: float, metric: str
) -> None:
    """Padded batches give wrong numbers that look plausible, as in microsoft/onnxruntime#32569 on a Mac."""
    real = onnxruntime.InferenceSession.run

    def run(self: Any, outputs: list[str], feed: dict[str, Any], *args: Any) -> Any:
        values = [np.array(value) for value in real(self, outputs, feed, *args)]
        if feed["input_ids"].shape == (8, 160):
            values[output] += np.float32(by)
        return values

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", run)
    open_session().close()
    with pytest.raises(SelfTestError, match=rf"max \|difference\| of {metric} is"):
        open_session(abonyx.RuntimeConfig(static_rows=8, static_tokens=160))
    open_session().close()


def test_one_wrong_row_of_the_whole_set_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The first open runs the whole golden set in the fixed shape, even if other shapes have passed."""
    monkeypatch.setenv("ABONYX_CACHE_DIR", str(tmp_path))
    open_session(abonyx.RuntimeConfig(static_rows=8, static_tokens=128)).close()
    real = onnxruntime.InferenceSession.run

    def run(self: Any, outputs: list[str], feed: dict[str, Any], *args: Any) -> Any:
        embedding, sums = (np.array(value) for value in real(self, outputs, feed, *args))
        sums[7] += np.float32(0.05)  # a row that the quick test's pair does not fill
        return embedding, sums

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", run)
    open_session(abonyx.RuntimeConfig(static_rows=8, static_tokens=128)).close()  # remembered: the quick test alone
    with pytest.raises(SelfTestError, match=r"of logit is 0\.05"):
        open_session(abonyx.RuntimeConfig(static_rows=8, static_tokens=160))


def test_golden_rows_that_do_not_fit_are_left_out_and_said_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ABONYX_CACHE_DIR", str(tmp_path))
    lengths = np.sort(open_bundle(MINI).golden().lengths)
    tokens = int(lengths[len(lengths) // 2])
    fit = int((lengths <= tokens).sum())
    for _ in range(2):  # the second time two rows are run
        with open_session(abonyx.RuntimeConfig(static_rows=4, static_tokens=tokens)) as session:
            assert any(
                f"{fit} of its {len(lengths)} rows fit static_tokens" in note for note in session._model.opening_notes
            )
    with open_session(abonyx.RuntimeConfig(static_rows=4, static_tokens=int(lengths[-1]))) as session:
        assert session._model.opening_notes == []
    with pytest.raises(ConfigError, match=rf"(?s)static_tokens is {lengths[0] - 1}; 0 of .*at least {lengths[1]}"):
        open_session(abonyx.RuntimeConfig(static_rows=4, static_tokens=int(lengths[0]) - 1))


def test_a_shape_that_no_golden_row_fits_is_the_error_with_bfloat16_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(abonyx.RuntimeConfig, "bf16", True)  # what needs OpenVINO, on the CPU here
    tokens = int(open_bundle(MINI).golden().lengths.min()) - 1
    with pytest.raises(ConfigError, match=rf"static_tokens is {tokens}; 0 of the self-test's rows fit"):
        open_session(abonyx.RuntimeConfig(static_rows=4, static_tokens=tokens))


def test_the_quick_self_test_pads_within_the_rows_that_fit() -> None:
    golden = open_bundle(MINI).golden()
    tokens = int(np.unique(golden.lengths)[2])
    given: list[list[int]] = []

    def run(rows: Any) -> Any:
        given.append([len(row) for row in rows])
        found = [index for row in rows for index in np.flatnonzero(golden.lengths == len(row))[:1]]
        return golden.embedding[found], golden.value[found] - heads[0].intercept

    heads = open_bundle(MINI).manifest.heads
    rows = selftest.rows_that_fit(golden, tokens, "here")
    selftest.check_quick(golden, heads, run, tolerances.FP32, "here", rows[golden.lengths[rows] > golden.lengths.min()])
    assert given == [np.unique(golden.lengths)[[2, 1]].tolist()]


def test_out_of_memory_names_the_shape_and_halves_nothing(
    sequences: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        def __init__(self, native: Any) -> None:
            self.native = native

        def run(self, *_: Any) -> Any:
            from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException

            raise RuntimeException("Failed to allocate memory for requested buffer of size 9")

    with open_session(abonyx.RuntimeConfig(static_rows=4, static_tokens=150)) as session:
        monkeypatch.setattr(session._model, "_native", Full(session._model._native))
        with pytest.raises(OutOfDeviceMemory, match=r"(?s)Failed to allocate.*Lower static_rows or static_tokens"):
            session.score(sequences)
        assert session._model.budget.tokens == 600
        assert session._model.opening_notes == []
        monkeypatch.undo()


def test_the_bundle_s_limit_comes_first(sequences: list[str]) -> None:
    with (
        open_session(abonyx.RuntimeConfig(static_rows=4, static_tokens=160)) as session,
        pytest.raises(InputError, match="149 residues; this bundle takes at most 148"),
    ):
        session.score([("ACDEFGHIKL" * 15)[:149]])


def test_coreml_is_asked_for_a_program_of_that_shape_kept_by_the_bundle_s_hash(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The options that Core ML's provider would get; there is no such provider here."""
    asked: list[Any] = []

    def record(path: str, options: Any, providers: Any, **_: Any) -> Any:
        asked.extend(providers)
        raise _Stop

    class _Stop(Exception):
        pass

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CoreMLExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", record)

    def folder(config: abonyx.RuntimeConfig) -> str:
        with pytest.raises(_Stop):
            open_session(config)
        ((name, options),) = asked
        asked.clear()
        assert name == "CoreMLExecutionProvider"
        assert options["ModelFormat"] == "MLProgram"
        assert options["MLComputeUnits"] == config.coreml.compute_units
        assert options["RequireStaticInputShapes"] == "1"
        return str(options.get("ModelCacheDirectory", ""))

    keep = abonyx.config.CoreMLOptions(cache_dir=str(tmp_path / "kept"), compute_units="CPUAndGPU")  # type: ignore[attr-defined]
    assert folder(abonyx.RuntimeConfig(provider="coreml")) == ""
    first = folder(abonyx.RuntimeConfig(provider="coreml", coreml=keep))
    assert Path(first).is_dir()
    assert Path(first).parent == tmp_path / "kept" / open_bundle(MINI).sha256
    assert Path(first).name == f"fp16-weights-8x160-onnxruntime-{onnxruntime.__version__}"
    other = folder(abonyx.RuntimeConfig(provider="coreml", coreml=keep, static_rows=2, static_tokens=150))
    copy = Path(shutil.copytree(MINI, tmp_path / "bundle"))
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["name"] = "another"
    (copy / "manifest.json").write_text(json.dumps(manifest))
    another = folder(abonyx.RuntimeConfig(provider="coreml", coreml=keep, bundle=str(copy)))
    monkeypatch.setattr(onnxruntime, "__version__", "9.9.9")
    upgraded = folder(abonyx.RuntimeConfig(provider="coreml", coreml=keep))
    assert len({first, other, another, upgraded}) == 4
    (tmp_path / "file").write_text("")
    blocked = abonyx.config.CoreMLOptions(cache_dir=str(tmp_path / "file"))  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"coreml\.cache_dir.*cannot be created"):
        open_session(abonyx.RuntimeConfig(provider="coreml", coreml=blocked))
    assert slot._holder is None
