"""Make the small checkpoints and heads of the export tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the export extra is not installed")

from abonyx.alphabet import Alphabet
from abonyx_export.encoder.checkpoint import load_checkpoint
from abonyx_export.golden import golden_sequences
from abonyx_export.parity import reference_embeddings
from make_checkpoint import Shape, make_checkpoint

TINY = {
    "esm1v": Shape(2, 32, 2),
    "esm1b": Shape(2, 32, 2, emb_layer_norm_before=True),
    "esm2": Shape(2, 32, 2, positions="rotary"),
    "no-dropout": Shape(2, 32, 2, token_dropout=False),
    # The head width is 10, so that its scale 10^-1/2 is not a power of two.
    "odd-head": Shape(3, 40, 4),
}
# Its weights are already float16 values, so that float16 storage is exact.
HALF_EXACT = "no-dropout"
CheckpointMaker = Callable[[str], Path]
HeadMaker = Callable[..., Path]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> CheckpointMaker:
    """A function from a name in TINY to the directory of that checkpoint; each is made once."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("checkpoints") / name
            make_checkpoint(TINY[name], made[name], seed=7, half_exact=name == HALF_EXACT)
        return made[name]

    return make


@pytest.fixture
def spread_head(tmp_path: Path) -> HeadMaker:
    """Make an .npz head with different p on a checkpoint's golden set (the logit has sd 0.4 and median 0)."""

    def make(directory: Path, pooled_layers: tuple[str, ...] = ("last",), name: str = "head.npz") -> Path:
        return write_spread_head(directory, tmp_path / name, pooled_layers)

    return make


def write_spread_head(
    directory: Path, path: Path, pooled_layers: tuple[str, ...] = ("last",), spread: float = 0.4
) -> Path:
    """See spread_head; `spread` is the logit's standard deviation."""
    loaded = load_checkpoint(str(directory), pooled_layers=pooled_layers)
    letters = "".join(loaded.alphabet.residues)
    sequences, _ = golden_sequences(None, loaded.config.max_residues, letters)
    embedding = reference_embeddings(loaded, Alphabet(loaded.alphabet).encode(sequences)).astype(np.float64)
    coef = np.random.default_rng(3).standard_normal(embedding.shape[1])
    coef *= spread / (embedding @ coef).std()
    intercept = -np.median(embedding @ coef)
    np.savez(path, coef=coef[None], intercept=np.array([intercept]), classes=np.array([0.0, 1.0]))
    return path
