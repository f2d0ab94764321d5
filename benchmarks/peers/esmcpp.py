"""esm-cpp, with int8 from its own quantize_weights. It only runs ESM-2, from token ids to logits."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from peers.pipe import Call, serve


def open_engine(request: dict[str, Any]) -> dict[str, Call]:
    """Open the EsmForMaskedLM checkpoint. `score` calls what its users call; `check` returns probabilities."""
    esm_cpp = importlib.import_module("esm_cpp")
    model = esm_cpp.Model.load_from_safetensors(request["masked_lm"])
    if request["precision"] == "int8":
        model.quantize_weights()
    if esm_cpp.Model.num_threads != request["threads"]:
        raise SystemExit(f"esm-cpp runs {esm_cpp.Model.num_threads} threads")
    with np.load(request["golden"]) as golden:
        coef, intercept = golden["head_coef"][0], float(golden["head_intercept"][0])

    def score(rows: list[list[int]]) -> list[float]:
        model.forward_scheduled([np.array(row, np.int32) for row in rows])
        return []

    def check(rows: list[list[int]]) -> list[float]:
        p = []
        for row in rows:
            ids = np.array(row, np.int32)
            logits, hidden = model.forward_with_hidden_states(ids)
            scheduled = model.forward_scheduled([ids])[0]
            if np.abs(scheduled - logits).max() > 1e-3:
                raise SystemExit("esm-cpp: forward_scheduled and forward_with_hidden_states give different logits")
            embedding = np.asarray(hidden[-1], np.float64).reshape(len(row), -1)[1:-1].mean(axis=0)
            p.append(float(1 / (1 + np.exp(-(embedding @ coef + intercept)))))
        return p

    return {"score": score, "check": check}


if __name__ == "__main__":
    serve(open_engine, ("esm-cpp", "numpy"))
