"""A head on both chains: its scores equal PyTorch's with fp32 and int8, beside other heads of the bundle."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

import abonyx
from abonyx.alphabet import Alphabet
from abonyx.bundle import open_bundle
from abonyx.bundle.tolerances import FP32_GOAL_P, TINY_INT8_P
from abonyx.errors import InputError, SelfTestError
from abonyx_export.encoder.checkpoint import load_checkpoint
from abonyx_export.export import export_bundle
from abonyx_export.int8 import calibration
from abonyx_export.int8 import variant as int8
from abonyx_export.parity import reference_embeddings
from abonyx_export.request import ExportRequest
from make_checkpoint import Shape, make_checkpoint

from ..runtime.hostile import edit
from ..runtime.paired import CHAINS, LINEAR, TRAINING_SD, expected_values, make_paired
from .conftest import write_spread_head

SHAPE = Shape(2, 64, 2, positions="rotary")
LIGHT = (
    "DIQMTQSPSSLSASVGDRVTITCRASQDISNYLAWYQQKPGKAPKLLIYYTSKIHSGVPSRFSGSGSGTDYTFTISSLQPEDIATYYCQQGNTFPYTFGQGTKVEIK",
    "EIVLTQSPATLSLSPGERATLSCRASQSVSSYLAWYQQKPGQAPRLLIYDASNRATGIPARFSGSGSGTDFTLTISSLEPEDFAVYYCQQRSNWPRTFGQGTKVEIK",
)


@pytest.fixture(scope="module")
def checkpoint_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("paired") / "checkpoint"
    make_checkpoint(SHAPE, directory, seed=5)
    return directory


@pytest.fixture(scope="module")
def paired(checkpoint_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with fp32 and int8, and with heads of one chain and of both chains."""
    directory = checkpoint_directory.parent
    head = write_spread_head(checkpoint_directory, directory / "head.npz")
    request = ExportRequest(
        encoder=str(checkpoint_directory),
        heads=(("nonspecificity", head),),
        output=directory / "parent",
        variants=("fp32", "int8"),
        max_dp={"int8": TINY_INT8_P},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "CALIBRATION_ROWS", 32)
        patch.setattr(calibration, "GATE_ROWS", 96)
        patch.setattr(int8, "FIRST_ROWS", 48)
        export_bundle(request)
    return make_paired(directory / "paired", parent=directory / "parent")


@pytest.fixture
def pairs(sequences: list[str]) -> list[tuple[str, str]]:
    """Records that share light chains, and one heavy chain."""
    heavy = [*sequences, sequences[0]]
    return [(chain, LIGHT[at % 2]) for at, chain in enumerate(heavy)]


def test_scores_are_pytorchs(paired: Path, checkpoint_directory: Path, pairs: list[tuple[str, str]]) -> None:
    loaded = load_checkpoint(str(checkpoint_directory))
    encode = Alphabet(loaded.alphabet).encode
    heavy, light = (reference_embeddings(loaded, encode([pair[at] for pair in pairs])) for at in (0, 1))
    expected = {name: expected_values(paired, name, heavy, light) for name in CHAINS}
    # If the values hardly differed, a head that uses only one chain would pass.
    assert min(values.std() for values in expected.values()) > 0.01
    for variant, limit in (("fp32", FP32_GOAL_P), ("int8", TINY_INT8_P)):
        config = abonyx.RuntimeConfig(bundle=str(paired), variant=variant)
        with abonyx.open_session(config, self_test="full") as session:
            found = session.score(pairs, heads="all")
            assert session._model.differences.keys() == {"embedding", "logit", "p", "value"}
            np.testing.assert_array_equal(session.score(pairs), found["psr"])
        assert found.keys() == CHAINS.keys()
        for name, values in found.items():
            scale = TRAINING_SD if name in LINEAR else 1.0
            assert np.abs(values - expected[name]).max() / scale <= limit, (variant, name)


def test_a_repeated_chain_runs_once(
    paired: Path, pairs: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with abonyx.open_session(paired) as session:
        alone = np.concatenate([session.score([pair]) for pair in pairs])
        rows: list[int] = []
        run_batch: Callable[..., object] = session._model.run_batch

        def counted(tokens: list[object], *arguments: object) -> object:
            rows.append(len(tokens))
            return run_batch(tokens, *arguments)

        monkeypatch.setattr(session._model, "run_batch", counted)
        together = session.score(pairs)
    assert sum(rows) == len({chain for pair in pairs for chain in pair}) == len(pairs) - 1 + len(LIGHT)
    np.testing.assert_allclose(together, alone, atol=FP32_GOAL_P)
    assert pairs[0] == pairs[-1] and together[0] == together[-1]


def test_heads_of_one_chain_take_sequences(paired: Path, pairs: list[tuple[str, str]]) -> None:
    with abonyx.open_session(paired) as session:
        found = session.score(pairs, heads="all")
        for name, chain in (("nonspecificity", 0), ("light", 1)):
            alone = session.score([pair[chain] for pair in pairs], heads=name)[name]
            np.testing.assert_allclose(alone, found[name], atol=FP32_GOAL_P)
        assert session.embed([pair[1] for pair in pairs]).shape == (len(pairs), SHAPE.hidden)


def test_records_that_are_not_pairs_are_refused(paired: Path, pairs: list[tuple[str, str]]) -> None:
    heavy, light = pairs[0]
    with abonyx.open_session(paired) as session:
        for given, message in (
            ([heavy, light], r"sequences\[0\] is one sequence.*\n?.*Give \(heavy, light\)"),
            (["QV"], r"sequences\[0\] is one sequence"),
            ([(heavy, light), (heavy,)], r"sequences\[1\] .* not a pair"),
            ([(heavy, None)], r"the light chain is None, a missing value"),
            ([(heavy, "")], r"sequences\[0\], light chain: "),
            ([(heavy, "ACB1")], r"sequences\[0\], light chain: "),
        ):
            with pytest.raises(InputError, match=f"(?s){message}"):
                session.score(given)
        with pytest.raises(InputError, match="a pair of chains"):
            session.score(pairs, heads="nonspecificity")


def test_upstreams_batches_are_refused(paired: Path, pairs: list[tuple[str, str]]) -> None:
    config = abonyx.RuntimeConfig(bundle=str(paired), pooling="upstream-batch", batch_size=4)
    with (
        abonyx.open_session(config) as session,
        pytest.raises(abonyx.errors.ConfigError, match="not possible for pairs"),
    ):
        session.score(pairs)


def test_the_self_test_tells_a_heads_chains_apart(paired: Path, tmp_path: Path) -> None:
    """If heads of one chain exchanged their columns, scores would be wrong without an error."""
    copy = tmp_path / "copy"
    shutil.copytree(paired, copy)
    heads = [dict(head) for head in _manifest_heads(copy)]
    heads[0]["intercept"] += 0.5
    edit(copy, heads=heads)
    with pytest.raises(SelfTestError, match=r"of logit of head psr is 0\.5"):
        abonyx.open_session(copy)


def _manifest_heads(bundle: Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = msgspec.to_builtins(open_bundle(bundle).manifest.heads)
    return found
