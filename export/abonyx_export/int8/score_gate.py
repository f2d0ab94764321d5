"""int8 is judged by its scores: against fp32, on sequences it was not calibrated on."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from abonyx.arrays import Float32Array, Int64Array
from abonyx.batching import plan_batches
from abonyx.bundle.manifest import ScoreGate
from abonyx.bundle.selftest import sigmoid
from abonyx.bundle.tolerances import INT8_GATE_FLIPS, INT8_GATE_MAX_P, INT8_GATE_MEAN_P, INT8_GATE_SPEARMAN
from abonyx.config import RuntimeConfig
from abonyx.errors import BundleError, ParityError, first_line
from abonyx.model import open_model
from abonyx_export.head.head import Head
from abonyx_export.parity import summarise

GATE_NAME = "score_gate.npz"
Tokens = Sequence[Int64Array]


@dataclass(frozen=True)
class GateRows:
    """The gate's rows as both variants embed them, kept beside int8 so that another head can be judged too.

    Attributes:
        fp32, int8: (n, D) float32.
    """

    fp32: Float32Array
    int8: Float32Array

    def save(self, directory: Path) -> None:
        """Write score_gate.npz."""
        np.savez(directory / GATE_NAME, fp32=self.fp32, int8=self.int8)

    @classmethod
    def load(cls, directory: Path) -> GateRows:
        """Read score_gate.npz, whose bytes the manifest vouches for.

        Raises:
            BundleError: not such a file.
        """
        path, fix = directory / GATE_NAME, "Export the bundle again."
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                rows = cls(arrays["fp32"], arrays["int8"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise BundleError(f"{path}: cannot be read: {first_line(error)}", fix) from error
        if rows.fp32.ndim != 2 or rows.fp32.shape != rows.int8.shape:
            raise BundleError(f"{path}: fp32 {rows.fp32.shape}, int8 {rows.int8.shape}: not twice one (n, D)", fix)
        return rows


@contextmanager
def embedder(bundle: Path, variant: str) -> Iterator[Callable[[Tokens], Float32Array]]:
    """The call from token rows to embeddings (n, D) by one variant of a bundle, on the CPU; the model stays open."""
    with open_model(RuntimeConfig(bundle=str(bundle), variant=variant), self_test="off") as session:

        def embed(rows: Tokens) -> Float32Array:
            found = np.empty((len(rows), session.manifest.embedding_width), np.float32)
            for batch in plan_batches(np.array([len(row) for row in rows], np.int64), session.budget.tokens):
                found[batch] = session.run_batch([rows[index] for index in batch], outputs=["embedding"])[0]
            return found

        yield embed


def judge(rows: GateRows, head: Head, thresholds: Sequence[float]) -> ScoreGate:
    """The record: both variants' scores with this head, in float64."""
    from scipy.stats import spearmanr

    exact, found = head.logit(rows.fp32), head.logit(rows.int8)
    p, p_found = sigmoid(exact), sigmoid(found)
    difference = summarise({"logit": np.abs(found - exact), "p": np.abs(p_found - p)})
    constant = np.ptp(exact) == 0 or np.ptp(found) == 0  # no ranks to compare
    return ScoreGate(
        rows=len(p),
        p=difference["p"],
        logit=difference["logit"],
        label_flips={repr(value): float(np.mean((p > value) != (p_found > value))) for value in thresholds},
        spearman=0.0 if constant else float(spearmanr(exact, found).statistic),
    )


def faults(gate: ScoreGate, allowed_p: float = INT8_GATE_MAX_P) -> list[str]:
    """What is over its limit, as text; limits of |dp| and flips scale with the |dp| allowed."""
    scale = allowed_p / INT8_GATE_MAX_P
    flips = max(gate.label_flips.values())
    # not <=: a NaN is a fault too
    checks = {
        f"max |dp| {gate.p.max:.4f}, limit {allowed_p:g}": gate.p.max <= allowed_p,
        f"mean |dp| {gate.p.mean:.5f}, limit {INT8_GATE_MEAN_P * scale:g}": gate.p.mean <= INT8_GATE_MEAN_P * scale,
        f"label flips {flips:.2%}, limit {INT8_GATE_FLIPS * scale:.2%}": flips <= INT8_GATE_FLIPS * scale,
        f"Spearman {gate.spearman:.5f}, at least {1 - (1 - INT8_GATE_SPEARMAN) * scale:g}": gate.spearman
        >= 1 - (1 - INT8_GATE_SPEARMAN) * scale,
    }
    return [text for text, held in checks.items() if not held]


def enforce(gate: ScoreGate, allowed_p: float, detail: str, fix: str) -> None:
    """Raise a ParityError that lists what is over its limit."""
    wrong = faults(gate, allowed_p)
    if wrong:
        what = f"int8 against fp32 on {gate.rows} sequences: {'; '.join(wrong)}{detail}"
        raise ParityError(what, f"Nothing was written. {fix}")
