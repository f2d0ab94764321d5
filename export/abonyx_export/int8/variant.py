"""The int8 variant: calibrated, written, judged by its scores, and given float32 layers only where the gate asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from abonyx.alphabet import Alphabet
from abonyx.bundle.heads import sigmoid
from abonyx.bundle.manifest import QUANTIZATION_SCHEMA, Manifest, Quantization
from abonyx.bundle.tolerances import GOLDEN_MIN_SD_P
from abonyx.errors import ParityError
from abonyx.wording import option
from abonyx_export.bundle_writer import Report, list_files
from abonyx_export.encoder.checkpoint import Checkpoint
from abonyx_export.encoder.graph import write_encoder
from abonyx_export.head.graph import attach_head
from abonyx_export.head.head import Head
from abonyx_export.int8 import calibration, score_gate
from abonyx_export.int8.quantization import Plan, plan_encoder
from abonyx_export.int8.score_gate import GateRows
from abonyx_export.variants import INT8

# Float32 layers tried in turn. A float32 layer takes about three times an int8 one: past a tenth of the layers the
# variant is no longer what it is for.
FP32_SHARES = (0.0, 0.03, 0.06, 0.1)
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

    plan: Plan
    rows: score_gate.Tokens
    source: str
    count: int


def calibrate(checkpoint: Checkpoint, sequences: calibration.Sequences, report: Report) -> Calibration:
    """Observe the encoder on the calibration sequences and quantize its products."""
    encode = Alphabet(checkpoint.alphabet).encode
    report(f"calibrating int8 on {len(sequences.calibration)} sequences ({sequences.source})")
    observation = calibration.observe(checkpoint, encode(sequences.calibration))
    report("rounding weights")
    plan = plan_encoder(checkpoint.config, checkpoint.tensor, observation)
    return Calibration(plan, encode(sequences.gate), sequences.source, len(sequences.calibration))


def write_int8(plan: Plan, checkpoint: Checkpoint, head_graph: onnx.ModelProto, path: Path) -> None:
    """Write the graph of a plan with its head."""
    write_encoder(checkpoint.config, checkpoint.tensor, path, plan=plan)
    onnx.save(attach_head(onnx.load(path, load_external_data=False), head_graph), path)


def worst_layers(plan: Plan) -> str:
    """The most sensitive layers, as the end of an error message."""
    worst = ", ".join(f"{index} ({plan.layers[index].sensitivity:.1e})" for index in plan.by_sensitivity()[:5])
    return f"; layers by error put into the residual stream: {worst}"


def settle(
    found: Calibration,
    manifest: Manifest,
    checkpoint: Checkpoint,
    heads: Sequence[Head],
    head_graph: onnx.ModelProto,
    staging: Path,
    report: Report,
) -> Quantization:
    """Leave int8 in staging with as few float32 layers as the gate lets pass.

    Args:
        manifest: of what is in staging: fp32, and int8 without float32 layers.
        heads: of the bundle; head_graph: their graph.

    Raises:
        ParityError: over the gate's limits with a tenth of the layers in float32, naming the most sensitive ones; or
            sequences that all score alike, on which any int8 would pass.
    """
    report(f"judging int8 by the scores of {len(found.rows)} sequences")
    limit = manifest.variants[INT8].limits.p
    list_files(manifest, staging)
    exact = score_gate.embed_rows(staging, "fp32", found.rows)
    for head in heads:
        spread = float(sigmoid(head.logit(exact)).std())
        if spread >= GOLDEN_MIN_SD_P:
            continue
        of_head = f" of head {head.name}" if len(heads) > 1 else ""
        raise ParityError(
            f"int8: the standard deviation of p{of_head} over the {len(exact)} sequences that judge it is "
            f"{spread:.3g}, at least {GOLDEN_MIN_SD_P:g} is needed to tell",
            f"Nothing was written. Give {option('calibration')} sequences that score differently, or leave int8 out.",
        )
    order = found.plan.by_sensitivity()
    kept = 0
    for kept in sorted({round(share * len(order)) for share in FP32_SHARES}):
        if kept:
            write_int8(found.plan.without(kept), checkpoint, head_graph, staging / manifest.variants[INT8].model)
            list_files(manifest, staging)
        rows = GateRows(exact, score_gate.embed_rows(staging, INT8, found.rows))
        gates = score_gate.judge_all(rows, heads)
        for name, gate in gates.items():
            of_head = f", head {name}" if len(heads) > 1 else ""
            report(f"  {kept} float32 layers{of_head}: {score_gate.gate_line(gate)}")
        if not score_gate.all_faults(gates, limit):
            break
    detail = f", with {kept} of {len(order)} layers in float32{worst_layers(found.plan)}"
    score_gate.enforce(gates, limit, detail, FIX)
    rows.save(staging / INT8)
    return Quantization(
        schema_version=QUANTIZATION_SCHEMA,
        source=found.source,
        calibration_rows=found.count,
        fp32_layers=sorted(order[:kept]),
        gates=gates,
    )
