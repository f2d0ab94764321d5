"""Trained encoders: ESM-2 8M (with rounded rotary frequencies) and a head of `abonyx fit` on Boughter; AntiBERTy.

../shared/tools/make_trained.py downloads and makes them. Their folder is ../shared/trained, or the one in
TRAINED_ENCODERS. Without this folder, or without ../shared/data, these tests are skipped.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch", reason="the export extra is not installed")
transformers = pytest.importorskip("transformers", reason="the export extra is not installed")

import abonyx  # noqa: E402
from abonyx.bundle import open_bundle, tolerances  # noqa: E402
from abonyx.bundle.heads import sigmoid  # noqa: E402
from abonyx_export import cli  # noqa: E402
from abonyx_export.golden import golden_sequences, longest_sequence  # noqa: E402

from ..conftest import REPOSITORY  # noqa: E402

TRAINED = Path(os.environ.get("TRAINED_ENCODERS", REPOSITORY.parent / "shared" / "trained"))
VARIANTS = "fp32,fp16,fp16-weights"


def run(command: object, *arguments: object) -> None:
    result = CliRunner().invoke(command, list(map(str, arguments)), catch_exceptions=False)  # type: ignore[arg-type]
    assert result.exit_code == 0


def trained(name: str) -> Path:
    directory = TRAINED / name
    if not directory.is_dir():
        pytest.skip(f"no {directory}: make it with make_trained.py, or set TRAINED_ENCODERS")
    return directory


@pytest.fixture(scope="module")
def encoder() -> Path:
    return trained("esm2_t6_8M")


@pytest.fixture(scope="module")
def bundle(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    boughter = REPOSITORY.parent / "shared" / "data" / "boughter" / "VH_only_boughter_training.csv"
    if not boughter.is_file():
        pytest.skip(f"no {boughter}")
    folder = tmp_path_factory.mktemp("trained")
    run(cli.export, "--encoder", encoder, "--variants", "fp32", "-o", folder / "bare")
    fitting = ["--bundle", folder / "bare", "--C", 10, "--cv", 2, "--cv-seeds", 1, "--head-out", folder / "head.npz"]
    fitting += ["--embedding-cache", folder / "cache", "-o", folder / "fitted"]
    run(cli.fit, boughter, *fitting)
    run(
        cli.export, "--encoder", encoder, "--head", folder / "head.npz", "--variants", VARIANTS, "-o", folder / "bundle"
    )
    return folder / "bundle"


Float64 = np.ndarray[Any, np.dtype[np.float64]]


def means(encoder: Path, sequences: list[str]) -> Float64:
    """Mean over residues by transformers in float64, from text, one sequence at a time."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder)
    model = transformers.AutoModel.from_pretrained(encoder, dtype=torch.float32).double().eval()
    rows = []
    with torch.inference_mode():
        for sequence in sequences:
            hidden = model(**tokenizer(" ".join(sequence), return_tensors="pt")).last_hidden_state
            assert hidden.shape[1] == len(sequence) + 2
            rows.append(hidden[0, 1:-1].mean(dim=0).numpy())
    return np.stack(rows)


@pytest.mark.parity
def test_every_variant_is_near_transformers_in_float64(encoder: Path, bundle: Path) -> None:
    """The golden rows and a sequence of maximum length, in batches; fp32 is within 1e-5."""
    sequences, _ = golden_sequences(None, 1022)
    sequences.append(longest_sequence(1022))
    golden = open_bundle(bundle).golden()
    exact = sigmoid(means(encoder, sequences) @ golden.head_coef[0] + golden.head_intercept[0])
    assert exact.std() > tolerances.GOLDEN_MIN_SD_P
    limits = {"fp32": tolerances.FP32_GOAL_P, "fp16": tolerances.FP16.p, "fp16-weights": tolerances.FP16.p}
    for variant, limit in limits.items():
        with abonyx.open_session(abonyx.RuntimeConfig(bundle=str(bundle), variant=variant)) as session:
            difference = np.abs(session.score(sequences) - exact)
        assert difference.max() <= limit, f"{variant}: {difference.max():.2g}, the longest {difference[-1]:.2g}"


@pytest.mark.parity
def test_contributions_sum_to_the_score_of_every_variant(bundle: Path, sequences: list[str]) -> None:
    for variant in VARIANTS.split(","):
        with abonyx.open_session(abonyx.RuntimeConfig(bundle=str(bundle), variant=variant)) as session:
            for found, score in zip(session.contributions(sequences), session.score(sequences), strict=True):
                total = found.baseline + found.chains[0].residues.sum(axis=0, dtype=np.float64)
                assert np.abs(total - found.total).max() <= tolerances.CONTRIBUTION_SUM_GOAL, variant
                assert sigmoid(total)[0] == pytest.approx(score, abs=tolerances.CONTRIBUTION_SUM_GOAL)


@pytest.mark.parity
def test_the_record_of_the_export(bundle: Path) -> None:
    for name, variant in open_bundle(bundle).manifest.variants.items():
        record = variant.parity
        assert record is not None
        assert record.max_p <= (tolerances.FP32_GOAL_P if name == "fp32" else tolerances.FP16.p), name
        assert record.rows == (45 if name == "fp32" else 44)


@pytest.mark.parity
def test_antiberty(tmp_path: Path, sequences: list[str]) -> None:
    """A BERT without X. The longest sequence has 510 residues."""
    encoder = trained("antiberty")
    run(cli.export, "--encoder", encoder, "--variants", "fp32", "-o", tmp_path / "bundle")
    manifest = open_bundle(tmp_path / "bundle").manifest
    assert manifest.max_residues == 510
    assert "X" not in manifest.alphabet.residues
    record = manifest.variants["fp32"].parity
    assert record is not None
    assert record.max_p <= tolerances.FP32_GOAL_P
    scored = [*sequences[:4], longest_sequence(510)]
    with abonyx.open_session(abonyx.RuntimeConfig(bundle=str(tmp_path / "bundle"))) as session:
        assert np.abs(session.embed(scored) - means(encoder, scored)).max() <= tolerances.FP32.embedding
