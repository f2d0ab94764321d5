"""Run the graph of a plan on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from abonyx.batching import make_inputs
from abonyx_export.encoder.checkpoint import Checkpoint
from abonyx_export.encoder.graph import write_encoder
from make_checkpoint import Shape

SHAPES = {
    "esm1v": Shape(3, 128, 4),
    "esm2": Shape(3, 128, 4, positions="rotary"),
}


def graph_embeddings(loaded: Checkpoint, plan: Any, rows: Any, path: Path) -> Any:
    """Pooled embeddings (n, D) of token rows, run one at a time; without a plan in float32."""
    import onnxruntime

    write_encoder(loaded.config, loaded.tensor, path, plan=plan)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    pad_id = loaded.config.pad_id
    found = [session.run(["embedding"], make_inputs([row], names, pad_id))[0] for row in rows]
    return np.concatenate(found).astype(float)
