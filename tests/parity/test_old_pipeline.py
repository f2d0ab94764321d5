"""upstream-batch pooling against the old pipeline's own algorithm, written out in PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import abonyx
from abonyx import tolerances
from abonyx_export.checkpoint import load_checkpoint
from abonyx_export.export import export_bundle
from abonyx_export.request import ExportRequest

from ..export.conftest import CheckpointMaker, HeadMaker, checkpoint, spread_head  # noqa: F401  # fixtures

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("batch_size", [2, 8])
def test_upstream_batch_pooling(
    batch_size: int,
    checkpoint: CheckpointMaker,  # noqa: F811
    spread_head: HeadMaker,  # noqa: F811
    tmp_path: Path,
    sequences: list[str],
) -> None:
    import torch
    from transformers import EsmTokenizer

    directory = checkpoint("esm1v")
    model, tokenizer = load_checkpoint(str(directory)).model, EsmTokenizer.from_pretrained(directory)
    expected = []
    for start in range(0, len(sequences), batch_size):
        tokens = tokenizer(sequences[start : start + batch_size], padding=True, return_tensors="pt")
        with torch.inference_mode():
            hidden = model(**tokens).last_hidden_state  # (B, L, H)
        mask = tokens["attention_mask"].clone()
        mask[:, 0] = 0
        mask[:, -1] = 0  # "EOS", it says there; the last column is a pad in every shorter row
        weights = mask[..., None].float()
        expected.append(((hidden * weights).sum(1) / weights.sum(1)).numpy())

    request = ExportRequest(
        encoder=str(directory), head=spread_head(directory), output=tmp_path / "bundle", variants=("fp32",)
    )
    export_bundle(request)
    config = abonyx.RuntimeConfig(bundle=str(tmp_path / "bundle"), pooling="upstream-batch", batch_size=batch_size)
    with abonyx.open_session(config) as session:
        found = session.embed(sequences)
    assert np.abs(found - np.concatenate(expected)).max() <= tolerances.BATCH_NEIGHBOURS
