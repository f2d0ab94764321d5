"""A second, independent reference: optimum's stock export of the same checkpoint, pooled in numpy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import abonyx
from abonyx.bundle import tolerances
from abonyx_export.export import export_bundle
from abonyx_export.request import ExportRequest

from ..export.conftest import CheckpointMaker, HeadMaker, checkpoint, spread_head  # noqa: F401  # fixtures

pytestmark = pytest.mark.parity
pytest.importorskip("optimum.exporters.onnx", reason="the test extra's optimum-onnx is not installed")

# This runs in a separate process, because the stock exporter gives warnings, and warnings are errors in these tests.
STOCK_EXPORT = """
import sys
from optimum.exporters.onnx import main_export
main_export(sys.argv[1], output=sys.argv[2], task="feature-extraction", do_validation=False, no_post_process=True)
"""


@pytest.mark.parametrize("name", ["esm1v", "esm1b", "esm2"])
def test_embeddings_equal_optimums_pooled_in_numpy(
    name: str,
    checkpoint: CheckpointMaker,  # noqa: F811
    spread_head: HeadMaker,  # noqa: F811
    tmp_path: Path,
    sequences: list[str],
) -> None:
    from transformers import EsmTokenizer

    directory = checkpoint(name)
    command = [sys.executable, "-W", "ignore", "-c", STOCK_EXPORT, str(directory), str(tmp_path / "stock")]
    subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    mixed = [sequence[: 40 + 7 * index] for index, sequence in enumerate(sequences)]
    tokens = EsmTokenizer.from_pretrained(directory)(mixed, padding=True, return_tensors="np")
    feed = {key: np.asarray(tokens[key], np.int64) for key in ("input_ids", "attention_mask")}
    stock = onnxruntime.InferenceSession(tmp_path / "stock" / "model.onnx", providers=["CPUExecutionProvider"])
    hidden = stock.run(["last_hidden_state"], feed)[0]  # (B, L, H)
    expected = np.stack([hidden[row, 1 : 1 + len(sequence)].mean(axis=0) for row, sequence in enumerate(mixed)])

    head = spread_head(directory)
    request = ExportRequest(
        encoder=str(directory), heads=(("nonspecificity", head),), output=tmp_path / "bundle", variants=("fp32",)
    )
    export_bundle(request)
    with abonyx.open_session(abonyx.RuntimeConfig(bundle=str(tmp_path / "bundle"))) as session:
        embedding, p = session.embed(mixed), session.score(mixed)
    assert np.abs(embedding - expected).max() <= tolerances.BATCH_NEIGHBOURS
    with np.load(head) as arrays:
        logit = expected.astype(np.float64) @ arrays["coef"][0] + arrays["intercept"][0]
    assert np.abs(p - 1 / (1 + np.exp(-logit))).max() <= tolerances.FP32_GOAL_P
