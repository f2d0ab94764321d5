"""The int8 variant: calibrated, written, judged by its scores, and given what the gate asks for beyond one term."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import onnx

from abonyx.alphabet import Alphabet
from abonyx.arrays import Float32Array
from abonyx.bundle import Golden, open_bundle
from abonyx.bundle.manifest import QUANTIZATION_SCHEMA, Manifest, Quantization
from abonyx.bundle.selftest import sigmoid
from abonyx.bundle.tolerances import GOLDEN_MIN_SD_P
from abonyx.errors import ParityError
from abonyx.wording import option
from abonyx_export.bundle_writer import Report, list_files
from abonyx_export.encoder.checkpoint import Checkpoint
from abonyx_export.encoder.graph import write_encoder
from abonyx_export.head.graph import attach_head
from abonyx_export.head.head import Head
from abonyx_export.int8 import calibration, score_gate
from abonyx_export.int8.levels import FLOAT32, ladder, worst_products
from abonyx_export.int8.quantization import Candidates, Plan, quantize_encoder
from abonyx_export.int8.score_gate import GateRows
from abonyx_export.variants import INT8, default_variants

# Judged first: a plan whose largest |dp| is over the limit on these is over it on all.
FIRST_ROWS = 256
FIX = (
    f"Give sequences like those that will be scored with {option('calibration')}, allow more with "
    f"{option('max_dp')} int8=VALUE, or leave "
    "int8 out."
)


@dataclass(frozen=True)
class Calibration:
    """int8 before it is written.

    Attributes:
        rows: token rows of the gate's sequences; source, count: as manifest.Quantization has them.
    """

    candidates: Candidates
    rows: score_gate.Tokens
    source: str
    count: int


def calibrate(checkpoint: Checkpoint, sequences: calibration.Sequences, report: Report) -> Calibration:
    """Observe the encoder on the calibration sequences and quantize its products."""
    encode = Alphabet(checkpoint.alphabet).encode
    report(f"calibrating int8 on {len(sequences.calibration)} sequences ({sequences.source})")
    observation = calibration.observe(checkpoint, encode(sequences.calibration))
    report("rounding weights")
    candidates = quantize_encoder(checkpoint.config, checkpoint.tensor, observation)
    return Calibration(candidates, encode(sequences.gate), sequences.source, len(sequences.calibration))


def write_int8(plan: Plan, checkpoint: Checkpoint, head_graph: onnx.ModelProto, path: Path) -> None:
    """Write the graph of a plan with its head."""
    write_encoder(checkpoint.config, checkpoint.tensor, path, plan=plan)
    onnx.save(attach_head(onnx.load(path, load_external_data=False), head_graph), path)


def worst(candidates: Candidates) -> str:
    """The products that one int8 term costs most, as the end of an error message."""
    shown = ", ".join(f"{name} ({error:.1e})" for name, error in worst_products(candidates)[:5])
    return f"; products by error put into the residual stream: {shown}"


def settle(
    found: Calibration,
    manifest: Manifest,
    checkpoint: Checkpoint,
    head: Head,
    head_graph: onnx.ModelProto,
    thresholds: list[float],
    staging: Path,
    report: Report,
) -> Quantization:
    """Leave the cheapest int8 in staging that the gate lets pass.

    Args:
        manifest: of fp32, which is in staging, and of int8, whose folder is.
        thresholds: those at which label flips are counted.

    Raises:
        ParityError: over the gate's limits with every plan of levels.ladder, naming the products that cost most; or
            sequences that all score alike, on which any int8 would pass.
    """
    report(f"judging int8 by the scores of {len(found.rows)} sequences")
    limit = manifest.variants[INT8].limits.p
    alone = {"variants": {"fp32": manifest.variants["fp32"]}, "default_variant": default_variants(["fp32"])}
    list_files(msgspec.structs.replace(manifest, **alone), staging)
    golden = open_bundle(staging).golden()
    with score_gate.embedder(staging, "fp32") as embed:
        exact = embed(found.rows)
    spread = float(sigmoid(head.logit(exact)).std())
    if not spread >= GOLDEN_MIN_SD_P:
        raise ParityError(
            f"int8: the standard deviation of p over the {len(exact)} sequences that judge it is {spread:.3g}, "
            f"at least {GOLDEN_MIN_SD_P:g} is needed to tell",
            f"Nothing was written. Give {option('calibration')} sequences that score differently, or leave int8 out.",
        )
    for leveled in ladder(found.candidates):
        write_int8(leveled.plan, checkpoint, head_graph, staging / manifest.variants[INT8].model)
        list_files(manifest, staging)
        shown = f"{len(leveled.at(2))} products of two terms, {len(leveled.at(FLOAT32))} in float32"
        both, on_golden = _embedded(found.rows, exact, golden, head, limit, staging)
        gate = score_gate.judge(both, head, thresholds)
        report(
            f"  {shown} (cost {leveled.cost:.2f}), {gate.rows} sequences: max |dp| {gate.p.max:.2g}, "
            f"mean {gate.p.mean:.2g}, max |dlogit| {gate.logit.max:.2g}, Spearman {gate.spearman:.5f}, "
            f"flips {max(gate.label_flips.values()):.2%}; golden rows: max |dp| {on_golden:.2g}"
        )
        if on_golden <= limit and not score_gate.faults(gate, limit):
            break
    detail = f", with {shown}{worst(found.candidates)}"
    score_gate.enforce(gate, limit, detail, FIX)
    if not on_golden <= limit:
        what = (
            f"int8 against PyTorch on the {len(golden.lengths)} golden rows: max |dp| {on_golden:.4f}, limit {limit:g}"
        )
        raise ParityError(what + detail, f"Nothing was written. {FIX}")
    both.save(staging / INT8)
    return Quantization(
        schema_version=QUANTIZATION_SCHEMA,
        source=found.source,
        calibration_rows=found.count,
        two_terms=leveled.at(2),
        float32=leveled.at(FLOAT32),
        cost=leveled.cost,
        gate=gate,
    )


def _embedded(
    rows: score_gate.Tokens, exact: Float32Array, golden: Golden, head: Head, limit: float, staging: Path
) -> tuple[GateRows, float]:
    """The gate's rows, and the largest |dp| of the golden ones, which the export checks against the same limit.

    A plan that is over the limit on the golden rows or on the first of the gate's has these alone: more cannot help it.
    """
    with score_gate.embedder(staging, INT8) as embed:
        tokens = [ids[:length] for ids, length in zip(golden.input_ids, golden.lengths, strict=True)]
        logit = head.logit(embed(tokens))
        on_golden = float(np.abs(sigmoid(logit) - sigmoid(golden.logit)).max())
        first = embed(rows[:FIRST_ROWS])
        on_first = np.abs(sigmoid(head.logit(first)) - sigmoid(head.logit(exact[:FIRST_ROWS]))).max()
        if not max(on_golden, on_first) <= limit:
            return GateRows(exact[: len(first)], first), on_golden
        return GateRows(exact, np.concatenate([first, embed(rows[FIRST_ROWS:])])), on_golden
