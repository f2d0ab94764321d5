"""upstream-batch pooling equals the old pipeline's algorithm, which is written here in PyTorch."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner

import abonyx
from abonyx.bundle import tolerances
from abonyx_export import cli
from abonyx_export.encoder.checkpoint import load_checkpoint
from abonyx_export.export import export_bundle
from abonyx_export.request import ExportRequest
from make_checkpoint import SHAPES, make_checkpoint

from ..export.conftest import CheckpointMaker, HeadMaker, checkpoint, spread_head  # noqa: F401  # fixtures

pytestmark = pytest.mark.parity

REAL_ROWS = 64


def old_pipeline(directory: Path, sequences: list[str], batch_size: int) -> npt.NDArray[np.float32]:
    """The old pipeline's embeddings (n, H): padded batches in file order, pooled with its mask."""
    import torch
    from transformers import EsmTokenizer

    model, tokenizer = load_checkpoint(str(directory)).model, EsmTokenizer.from_pretrained(directory)
    pooled = []
    for start in range(0, len(sequences), batch_size):
        tokens = tokenizer(sequences[start : start + batch_size], padding=True, return_tensors="pt")
        with torch.inference_mode():
            hidden = model(**tokens).last_hidden_state  # (B, L, H)
        mask = tokens["attention_mask"].clone()
        mask[:, 0] = 0
        mask[:, -1] = 0  # its comment says "EOS", but in shorter rows the last column is padding
        weights = mask[..., None].float()
        pooled.append(((hidden * weights).sum(1) / weights.sum(1)).numpy())
    return np.concatenate(pooled)


@pytest.mark.parametrize("batch_size", [2, 8])
def test_upstream_batch_pooling(
    batch_size: int,
    checkpoint: CheckpointMaker,  # noqa: F811
    spread_head: HeadMaker,  # noqa: F811
    tmp_path: Path,
    sequences: list[str],
) -> None:
    directory = checkpoint("esm1v")
    request = ExportRequest(
        encoder=str(directory),
        heads=(("nonspecificity", spread_head(directory)),),
        output=tmp_path / "bundle",
        variants=("fp32",),
    )
    export_bundle(request)
    config = abonyx.RuntimeConfig(bundle=str(tmp_path / "bundle"), pooling="upstream-batch", batch_size=batch_size)
    with abonyx.open_session(config) as session:
        found = session.embed(sequences)
    assert np.abs(found - old_pipeline(directory, sequences, batch_size)).max() <= tolerances.BATCH_NEIGHBOURS


def test_fit_trains_on_the_old_pipelines_embeddings(
    shared_data: Path,
    spread_head: HeadMaker,  # noqa: F811
    tmp_path: Path,
) -> None:
    """The embeddings that fit caches and that a session gives, for real sequences and a checkpoint of mini's shape."""
    lines = (shared_data / "boughter" / "VH_only_boughter_training.csv").read_text().splitlines()[: REAL_ROWS + 1]
    sequences = [row["sequence"] for row in csv.DictReader(lines)]
    assert len({len(sequence) for sequence in sequences}) > 8  # most batches hold several lengths
    directory = tmp_path / "checkpoint"
    make_checkpoint(SHAPES["mini"], directory, seed=7)
    bundle = tmp_path / "bundle"
    heads = (("nonspecificity", spread_head(directory)),)
    export_bundle(ExportRequest(encoder=str(directory), heads=heads, output=bundle, variants=("fp32",)))
    source = tmp_path / "rows.csv"
    source.write_text("\n".join(lines))
    arguments = [str(source), "--label-column", "label", "--bundle", str(bundle), "-o", str(tmp_path / "new")]
    pooling = ["--pooling", "upstream-batch", "--batch-size", "8"]
    rest = ["--C", "0.01", "--cv", "2", "--cv-seeds", "1", "--embedding-cache", str(tmp_path / "cache")]
    done = CliRunner().invoke(cli.fit, [*arguments, *pooling, *rest])
    assert done.exit_code == 0, done.exception
    (array,) = (tmp_path / "cache").glob("*.npy")
    cached = np.load(array, allow_pickle=False)
    config = abonyx.RuntimeConfig(bundle=str(tmp_path / "new"), pooling="upstream-batch", batch_size=8)
    with abonyx.open_session(config) as session:
        embedded = session.embed(sequences)
    expected = old_pipeline(directory, sequences, 8)
    assert np.abs(cached - expected).max() <= tolerances.BATCH_NEIGHBOURS
    assert np.abs(embedded - expected).max() <= tolerances.BATCH_NEIGHBOURS
    # these embeddings differ from the mean over residues
    with abonyx.open_session(abonyx.RuntimeConfig(bundle=str(tmp_path / "new"))) as session:
        assert np.abs(session.embed(sequences) - expected).max() > 10 * tolerances.BATCH_NEIGHBOURS
