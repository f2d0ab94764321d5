"""Judge int8 by its scores: compare them with fp32 on sequences that did not calibrate it."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from abonyx.arrays import Float32Array, Float64Array, Int64Array
from abonyx.batching import plan_batches
from abonyx.bundle.heads import sigmoid
from abonyx.bundle.manifest import LOGISTIC, ScoreGate, ValueGate
from abonyx.bundle.tolerances import (
    INT8_GATE_FLIPS,
    INT8_GATE_MAX_P,
    INT8_GATE_MAX_VALUE,
    INT8_GATE_MEAN_P,
    INT8_GATE_MEAN_VALUE,
    INT8_GATE_SPEARMAN,
)
from abonyx.config import RuntimeConfig
from abonyx.errors import BundleError, ParityError, first_line
from abonyx.model import open_model
from abonyx_export.head.head import Head
from abonyx_export.head.spec import DEFAULT_THRESHOLD
from abonyx_export.parity import summarise

GATE_NAME = "score_gate.npz"
Tokens = Sequence[Int64Array]


@dataclass(frozen=True)
class GateRows:
    """Embeddings of the gate's sequences by both variants. The bundle keeps them, so that `fit` can judge a new head.

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
        """Read score_gate.npz. Its bytes are already checked, because the manifest has its hash.

        Raises:
            BundleError: the file cannot be read or has wrong shapes.
        """
        path, fix = directory / GATE_NAME, "Export the bundle again."
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                rows = cls(arrays["fp32"], arrays["int8"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise BundleError(f"{path}: cannot be read: {first_line(error)}", fix) from error
        if rows.fp32.ndim != 2 or rows.fp32.shape != rows.int8.shape:
            what = f"{path}: fp32 is {rows.fp32.shape}, int8 is {rows.int8.shape}; both must have the same (n, D)"
            raise BundleError(what, fix)
        return rows


@contextmanager
def embedder(bundle: Path, variant: str) -> Iterator[Callable[[Tokens], Float32Array]]:
    """Open one variant of a bundle on the CPU; gives a function from token rows to embeddings (n, D)."""
    with open_model(RuntimeConfig(bundle=str(bundle), variant=variant), self_test="off") as session:

        def embed(rows: Tokens) -> Float32Array:
            found = np.empty((len(rows), session.manifest.embedding_width), np.float32)
            for batch in plan_batches(np.array([len(row) for row in rows], np.int64), session.budget.tokens):
                found[batch] = session.run_batch([rows[index] for index in batch], outputs=["embedding"])[0]
            return found

        yield embed


def judge_all(rows: GateRows, heads: Sequence[Head]) -> dict[str, ScoreGate | ValueGate]:
    """Head name -> record of the gate."""
    return {head.name: judge_values(rows, head) if head.kind != LOGISTIC else judge(rows, head) for head in heads}


def judge(rows: GateRows, head: Head) -> ScoreGate:
    """The record of a logistic head: differences of the scores in float64, and label flips at each threshold."""
    exact, found = head.logit_of_rows(rows.fp32), head.logit_of_rows(rows.int8)
    p, p_found = sigmoid(exact), sigmoid(found)
    thresholds = dict.fromkeys((DEFAULT_THRESHOLD, *head.thresholds.values()))
    return ScoreGate(
        rows=len(p),
        p=summarise(np.abs(p_found - p)),
        logit=summarise(np.abs(found - exact)),
        label_flips={repr(value): float(np.mean((p > value) != (p_found > value))) for value in thresholds},
        spearman=_spearman(exact, found),
    )


def judge_values(rows: GateRows, head: Head) -> ValueGate:
    """The record of a linear head: differences of the values in float64."""
    exact, found = head.logit_of_rows(rows.fp32), head.logit_of_rows(rows.int8)
    value = summarise(np.abs(found - exact) / (head.training_sd or 1.0))
    return ValueGate(rows=len(exact), value=value, spearman=_spearman(exact, found))


def _spearman(exact: Float64Array, found: Float64Array) -> float:
    from scipy.stats import spearmanr

    constant = np.ptp(exact) == 0 or np.ptp(found) == 0  # there are no ranks to compare
    return 0.0 if constant else float(spearmanr(exact, found).statistic)


def gate_line(gate: ScoreGate | ValueGate) -> str:
    """A record as one line of text."""
    if isinstance(gate, ValueGate):
        return f"max |dvalue| {gate.value.max:.2g} sds, mean {gate.value.mean:.2g}, Spearman {gate.spearman:.5f}"
    return (
        f"max |dp| {gate.p.max:.2g}, mean {gate.p.mean:.2g}, max |dlogit| {gate.logit.max:.2g}, Spearman "
        f"{gate.spearman:.5f}, flips {max(gate.label_flips.values()):.2%}"
    )


def _value_faults(gate: ValueGate, scale: float) -> list[str]:
    most, mean = INT8_GATE_MAX_VALUE * scale, INT8_GATE_MEAN_VALUE * scale
    least = 1 - (1 - INT8_GATE_SPEARMAN) * scale
    checks = {
        f"max |dvalue| {gate.value.max:.4f} sds of its training values, limit {most:g}": gate.value.max <= most,
        f"mean |dvalue| {gate.value.mean:.5f}, limit {mean:g}": gate.value.mean <= mean,
        f"Spearman {gate.spearman:.5f}, at least {least:g}": gate.spearman >= least,
    }
    return [text for text, held in checks.items() if not held]


def faults(gate: ScoreGate | ValueGate, allowed_p: float = INT8_GATE_MAX_P) -> list[str]:
    """Texts about each figure over its limit. The other limits change in proportion to the allowed |dp|."""
    scale = allowed_p / INT8_GATE_MAX_P
    if isinstance(gate, ValueGate):
        return _value_faults(gate, scale)
    flips = max(gate.label_flips.values())
    # Each check tests "<=", and a fault is a check that fails. So NaN is a fault, too.
    checks = {
        f"max |dp| {gate.p.max:.4f}, limit {allowed_p:g}": gate.p.max <= allowed_p,
        f"mean |dp| {gate.p.mean:.5f}, limit {INT8_GATE_MEAN_P * scale:g}": gate.p.mean <= INT8_GATE_MEAN_P * scale,
        f"label flips {flips:.2%}, limit {INT8_GATE_FLIPS * scale:.2%}": flips <= INT8_GATE_FLIPS * scale,
        f"Spearman {gate.spearman:.5f}, at least {1 - (1 - INT8_GATE_SPEARMAN) * scale:g}": gate.spearman
        >= 1 - (1 - INT8_GATE_SPEARMAN) * scale,
    }
    return [text for text, held in checks.items() if not held]


def over_largest(gates: Mapping[str, ScoreGate | ValueGate], allowed_p: float) -> bool:
    """Whether the largest |dp| or |dvalue| of any head is over its limit. If so, more rows cannot help."""
    most = INT8_GATE_MAX_VALUE * allowed_p / INT8_GATE_MAX_P
    held = (g.value.max <= most if isinstance(g, ValueGate) else g.p.max <= allowed_p for g in gates.values())
    return not all(held)


def all_faults(gates: Mapping[str, ScoreGate | ValueGate], allowed_p: float) -> list[str]:
    """The faults of all heads. If there are several heads, each text names its head."""
    several = len(gates) > 1
    found = ((name, text) for name, gate in gates.items() for text in faults(gate, allowed_p))
    return [f"head {name}: {text}" if several else text for name, text in found]


def enforce(gates: Mapping[str, ScoreGate | ValueGate], allowed_p: float, detail: str, fix: str) -> None:
    """Raise a ParityError that lists the faults, if there are any."""
    wrong = all_faults(gates, allowed_p)
    if wrong:
        rows = next(iter(gates.values())).rows
        what = f"int8 against fp32 on {rows} sequences: {'; '.join(wrong)}{detail}"
        raise ParityError(what, f"Nothing was written. {fix}")
