"""Contributions of residues: they sum to the score, belong to the right residues, and may be missing in old bundles."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from abonyx import RuntimeConfig, open_session
from abonyx.bundle.heads import CONTRIBUTIONS, sigmoid
from abonyx.bundle.tolerances import CONTRIBUTION_SUM_GOAL, CONTRIBUTION_SUM_VALUE_GOAL
from abonyx.contributions import Contributions
from abonyx.engine import onnx as onnx_module
from abonyx.errors import BundleError, ConfigError, InputError, OutOfDeviceMemory, SelfTestError
from abonyx.session import model_of

from ..bare import bare_mini
from .paired import make_paired
from .several import make_several


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_several(tmp_path_factory.mktemp("heads") / "several", ("nonspecificity", "hic", "ac-sins"))


@pytest.fixture(scope="module")
def paired(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_paired(tmp_path_factory.mktemp("heads") / "paired")


@pytest.fixture
def pairs(sequences: list[str]) -> list[tuple[str, str]]:
    # any chain is fine, because a session does not check chains
    return list(zip(sequences[:5], [sequence[2:] for sequence in sequences[5:10]], strict=True))


@pytest.fixture
def old_mini(tmp_path: Path) -> Path:
    """A bundle as an earlier version exported it."""
    onnx = pytest.importorskip("onnx", reason="the export extra is not installed")
    bundle = bare_mini(tmp_path / "old")
    path = bundle / "fp16-weights" / "model.onnx"
    model = onnx.load(path, load_external_data=False)
    for values in (model.graph.node, model.graph.initializer):
        kept = [value for value in values if "token" not in value.name and CONTRIBUTIONS not in value.name]
        del values[:]
        values.extend(kept)
    kept = [output for output in model.graph.output if output.name != CONTRIBUTIONS]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    onnx.save(model, path)
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    entry = manifest["files"]["fp16-weights/model.onnx"]
    entry["sha256"], entry["size_bytes"] = hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size
    (bundle / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return bundle


def _summed(found: Contributions) -> np.ndarray[Any, np.dtype[np.float64]]:
    parts = [chain.residues.sum(axis=0, dtype=np.float64) + chain.end for chain in found.chains]
    total: np.ndarray[Any, np.dtype[np.float64]] = found.baseline + np.sum(parts, axis=0)
    return total


def test_they_sum_to_what_is_scored(sequences: list[str]) -> None:
    with open_session() as session:
        found = session.contributions(sequences)
        scores = session.score(sequences)
    for each, sequence, score in zip(found, sequences, scores, strict=True):
        (chain,) = each.chains
        assert chain.chain == "H" and chain.residues.shape == (len(sequence), 1)
        assert chain.residues.dtype == np.float32 and not chain.end.any()
        np.testing.assert_allclose(_summed(each), each.total, atol=CONTRIBUTION_SUM_GOAL)
        assert sigmoid(each.total)[0] == pytest.approx(score, abs=1e-6)


def test_a_row_has_the_same_ones_alone_and_among_longer_rows(sequences: list[str]) -> None:
    with open_session() as session:
        among = session.contributions([*sequences, sequences[0]])
        alone = session.contributions(sequences[:1])[0]
    for found in (among[0], among[-1]):
        np.testing.assert_allclose(found.chains[0].residues, alone.chains[0].residues, atol=CONTRIBUTION_SUM_GOAL)


def test_heads_are_columns_in_the_order_asked_for(several: Path, sequences: list[str]) -> None:
    names = ["hic", "nonspecificity", "ac-sins"]
    with open_session(several) as session:
        model, wanted = model_of(session), session.contributions(sequences[:3], heads=names)
        own = session.contributions(sequences[:3])
        values = session.score(sequences[:3], heads=names)
    sds = {head.name: head.training_sd for head in model.manifest.heads}
    for row, each in enumerate(wanted):
        assert each.heads == tuple(names)
        for column, name in enumerate(names):
            limit = CONTRIBUTION_SUM_VALUE_GOAL * (sds[name] or 0.5)
            assert _summed(each)[column] == pytest.approx(each.total[column], abs=limit)
            shown = sigmoid(each.total)[column] if name == "nonspecificity" else each.total[column]
            assert shown == pytest.approx(values[name][row], abs=1e-5)
        np.testing.assert_array_equal(each.chains[0].residues[:, 1], own[row].chains[0].residues[:, 0])


def test_a_pair_has_both_chains(paired: Path, pairs: list[tuple[str, str]]) -> None:
    with open_session(paired) as session:
        found = session.contributions(pairs, heads=["psr", "nonspecificity", "light"])
        scores = session.score(pairs, heads=["psr", "nonspecificity", "light"])
    for row, (each, pair) in enumerate(zip(found, pairs, strict=True)):
        assert [chain.chain for chain in each.chains] == ["H", "L"]
        assert [len(chain.residues) for chain in each.chains] == [len(chain) for chain in pair]
        heavy, light = each.chains
        assert not light.residues[:, 1].any() and not heavy.residues[:, 2].any()  # chains those heads do not expect
        np.testing.assert_allclose(_summed(each), each.total, atol=CONTRIBUTION_SUM_GOAL)
        np.testing.assert_allclose(sigmoid(each.total), [scores[name][row] for name in each.heads], atol=1e-6)


def test_upstream_batch_gives_the_end_token_a_row_of_its_own(sequences: list[str]) -> None:
    config = RuntimeConfig(pooling="upstream-batch", batch_size=4)
    with open_session(config) as session:
        found = session.contributions(sequences[:8])
        scores = session.score(sequences[:8])
    longest = [max(map(len, sequences[start : start + 4])) for start in (0, 4)]
    for row, each in enumerate(found):
        assert bool(each.chains[0].end.any()) == (len(sequences[row]) < longest[row // 4])
        assert len(each.chains[0].residues) == len(sequences[row])
        assert sigmoid(_summed(each))[0] == pytest.approx(scores[row], abs=1e-5)
    assert any(each.chains[0].end.any() for each in found)


@pytest.mark.parametrize("static", [None, (4, 160)])
def test_fixed_shapes_leave_no_padding_in(static: tuple[int, int] | None, sequences: list[str]) -> None:
    shape = {} if static is None else {"static_rows": static[0], "static_tokens": static[1]}
    with open_session(RuntimeConfig(**shape)) as session:  # type: ignore[arg-type]
        found = session.contributions(sequences[:6])
    for each, sequence in zip(found, sequences, strict=False):
        assert len(each.chains[0].residues) == len(sequence)
        np.testing.assert_allclose(_summed(each), each.total, atol=CONTRIBUTION_SUM_GOAL)


def test_a_halved_budget_loses_no_row(monkeypatch: pytest.MonkeyPatch, sequences: list[str]) -> None:
    real = onnx_module.run

    def run(native: Any, outputs: Sequence[str], feed: Any, *rest: Any) -> list[Any]:
        if len(feed["input_ids"]) > 3:
            raise OutOfDeviceMemory("too much", "Free some.")
        return real(native, outputs, feed, *rest)

    with open_session() as session:
        expected = session.contributions(sequences)
        monkeypatch.setattr(onnx_module, "run", run)
        found = session.contributions(sequences)
    for each, before in zip(found, expected, strict=True):
        np.testing.assert_allclose(each.chains[0].residues, before.chains[0].residues, atol=CONTRIBUTION_SUM_GOAL)


def test_sums_that_are_off_are_refused(monkeypatch: pytest.MonkeyPatch, sequences: list[str]) -> None:
    real = onnx_module.run

    def run(native: Any, outputs: Sequence[str], *rest: Any) -> list[Any]:
        found = dict(zip(outputs, real(native, outputs, *rest), strict=True))
        found[CONTRIBUTIONS] = found[CONTRIBUTIONS] * np.float32(1.01)
        return list(found.values())

    with open_session() as session:
        monkeypatch.setattr(onnx_module, "run", run)
        with pytest.raises(SelfTestError, match="contributions to head nonspecificity do not sum to its sum"):
            session.contributions(sequences)


def test_a_bundle_without_them_says_how_to_get_them(old_mini: Path, sequences: list[str]) -> None:
    with open_session(old_mini) as session:
        assert len(session.score(sequences)) == len(sequences)
        with pytest.raises(BundleError, match=r"its graph gives no contributions.*\n.*Export it again"):
            session.contributions(sequences)


def test_what_cannot_be_scored_has_none(sequences: list[str]) -> None:
    with open_session() as session:
        with pytest.raises(InputError, match=r"sequences\[1\]"):
            session.contributions([sequences[0], "EVQ1"])
        with pytest.raises(ConfigError, match="no head"):
            session.contributions(sequences, heads=["hic"])
        assert session.contributions([]) == []


def test_a_graph_of_other_states_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """abonyx-mini pools two layers. If their states are exchanged, sums differ, and export and fit refuse the graph."""
    graph = pytest.importorskip("abonyx_export.head.graph", reason="the export extra is not installed")
    right = graph._pooled_states
    monkeypatch.setattr(graph, "_pooled_states", lambda encoder: right(encoder)[::-1])
    with pytest.raises(SelfTestError, match="contributions to head nonspecificity do not sum to its sum"):
        make_several(tmp_path / "several", ("nonspecificity", "hic"))
