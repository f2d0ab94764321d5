"""transformers' EsmModel in float32, as in the old pipeline, and in bfloat16."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from peers.padded import padded_score
from peers.pipe import Call, serve


def open_engine(request: dict[str, Any]) -> dict[str, Call]:
    """Open the checkpoint in PyTorch."""
    import torch
    from transformers import EsmModel

    torch.set_num_threads(request["threads"])
    kind = torch.bfloat16 if request["precision"] == "bf16" else torch.float32
    model = EsmModel.from_pretrained(request["checkpoint"], add_pooling_layer=False, dtype=kind).eval()

    def encode(ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            hidden = model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).last_hidden_state
        return np.asarray(hidden.float().numpy())

    return {"score": padded_score(encode, request)}


if __name__ == "__main__":
    serve(open_engine, ("torch", "transformers", "numpy"))
