"""Score as usual scripts with an ESM do: padded batches of 32 in file order, with pooling and head in numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from peers.pipe import Call

BATCH_SIZE = 32  # as in the old pipeline's predictions

# input_ids, attention_mask (B, L) int64 -> hidden states (B, L, H) float32
Encode = Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], npt.NDArray[np.float32]]


def padded_score(encode: Encode, request: dict[str, Any]) -> Call:
    """A function that scores sequences with an encoder, the checkpoint's tokeniser and a logistic head.

    The mean is over residues. The old pipeline's mean includes the EOS of every row that is shorter than the longest of
    its batch, so that engines with other batches could not be compared.
    """
    from transformers import EsmTokenizer

    tokenizer = EsmTokenizer.from_pretrained(request["checkpoint"])
    with np.load(request["golden"]) as golden:
        coef, intercept = golden["head_coef"][0], float(golden["head_intercept"][0])

    def score(sequences: list[str]) -> list[float]:
        p: list[float] = []
        for start in range(0, len(sequences), BATCH_SIZE):
            tokens = tokenizer(sequences[start : start + BATCH_SIZE], padding=True, return_tensors="np")
            mask = np.asarray(tokens["attention_mask"], np.int64)
            hidden = encode(np.asarray(tokens["input_ids"], np.int64), mask)
            columns = np.arange(mask.shape[1])  # (L,)
            pooled = (columns >= 1) & (columns < mask.sum(axis=1, keepdims=True) - 1)  # (B, L)
            weights = (pooled / pooled.sum(axis=1, keepdims=True)).astype(np.float32)
            embedding = (weights[:, None, :] @ hidden)[:, 0].astype(np.float64)  # (B, H)
            p += (1 / (1 + np.exp(-(embedding @ coef + intercept)))).tolist()
        return p

    return score
