"""optimum's stock export without quantisation, run by optimum's model class or by a plain session (fastembed-bio)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from peers.padded import Encode, padded_score
from peers.pipe import Call, serve


def open_engine(request: dict[str, Any]) -> dict[str, Call]:
    """Open the export with the requested class. Session options are the defaults, except the number of threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = request["threads"]
    encode = _optimum(request["stock"], options) if request["with"] == "optimum" else _plain(request["stock"], options)
    return {"score": padded_score(encode, request)}


def _optimum(stock: str, options: Any) -> Encode:
    from optimum.onnxruntime import ORTModelForFeatureExtraction

    model = ORTModelForFeatureExtraction.from_pretrained(
        stock, session_options=options, provider="CPUExecutionProvider"
    )

    def encode(ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        return np.asarray(model(input_ids=ids, attention_mask=mask).last_hidden_state)

    return encode


def _plain(stock: str, options: Any) -> Encode:
    import onnxruntime

    path = Path(stock) / "model.onnx"
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def encode(ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        return np.asarray(session.run(["last_hidden_state"], {"input_ids": ids, "attention_mask": mask})[0])

    return encode


if __name__ == "__main__":
    serve(open_engine, ("onnxruntime", "optimum-onnx", "transformers", "numpy"))
