"""Make the int8 variant: calibrate it, write it, judge its scores, and raise its precision until the gate passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import onnx

from abonyx.alphabet import Alphabet
from abonyx.arrays import Float32Array, Float64Array
from abonyx.bundle import Golden, open_bundle
from abonyx.bundle.heads import sigmoid
from abonyx.bundle.manifest import LOGISTIC, QUANTIZATION_SCHEMA, Manifest, Quantization
from abonyx.bundle.tolerances import GOLDEN_MIN_SD_P, INT8_GOLDEN_SHARE, Limits
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

# These rows are judged first. If a plan's largest |dp| or |dvalue| is over the limit here, it also is on all rows.
FIRST_ROWS = 256
FIX = (
    f"Give {option('calibration')} FILE with sequences like those that you will score, allow a larger difference "
    f"with {option('max_dp')} int8=VALUE, or leave int8 out."
)


@dataclass(frozen=True)
class Calibration:
    """int8 after calibration, before it is written.

    Attributes:
        candidates: the quantized products.
        rows: token rows of the gate's sequences.
        source: where the calibration sequences come from, for manifest.Quantization.
        count: number of calibration sequences.
    """

    candidates: Candidates
    rows: score_gate.Tokens
    source: str
    count: int


def calibrate(checkpoint: Checkpoint, sequences: calibration.Sequences, report: Report) -> Calibration:
    """Observe the encoder on the calibration sequences, and quantize its products."""
    encode = Alphabet(checkpoint.alphabet).encode
    report(f"calibrating int8 on {len(sequences.calibration)} sequences ({sequences.source})")
    observation = calibration.observe(checkpoint, encode(sequences.calibration))
    report("rounding weights")
    candidates = quantize_encoder(checkpoint.config, checkpoint.tensor, observation)
    return Calibration(candidates, encode(sequences.gate), sequences.source, len(sequences.calibration))


def write_int8(plan: Plan, checkpoint: Checkpoint, head_graph: onnx.ModelProto, path: Path) -> None:
    """Write a plan's graph with the heads."""
    write_encoder(checkpoint.config, checkpoint.tensor, path, plan=plan)
    onnx.save(attach_head(onnx.load(path, load_external_data=False), head_graph), path)


def worst_text(candidates: Candidates) -> str:
    """The products with the largest error with one int8 term, as the end of an error message."""
    shown = ", ".join(f"{name} ({error:.1e})" for name, error in worst_products(candidates)[:5])
    return f"; products that add the most error to the residual stream: {shown}"


def choose_plan(
    found: Calibration,
    manifest: Manifest,
    checkpoint: Checkpoint,
    heads: Sequence[Head],
    head_graph: onnx.ModelProto,
    staging: Path,
    report: Report,
) -> Quantization:
    """Write the cheapest int8 that passes the gate to `staging`; returns its record.

    Args:
        found: from calibrate.
        manifest: the manifest with fp32, which is already in `staging`, and int8, whose folder exists.
        checkpoint: the loaded encoder.
        heads: the bundle's heads.
        head_graph: the graph of these heads.
        staging: folder of the new bundle.
        report: called with a line at each step.

    Raises:
        ParityError: every plan of levels.ladder is over a limit of the gate or on the golden rows, or all sequences
            have almost the same score, so that any int8 would pass.
    """
    report(f"judging int8 by the scores of {len(found.rows)} sequences")
    limits = manifest.variants[INT8].limits
    limit = limits.p
    alone = {"variants": {"fp32": manifest.variants["fp32"]}, "default_variant": default_variants(["fp32"])}
    list_files(msgspec.structs.replace(manifest, **alone), staging)
    golden = open_bundle(staging).golden()
    with score_gate.embedder(staging, "fp32") as embed:
        exact = embed(found.rows)
    for head in heads:
        _refuse_alike(head, exact, several=len(heads) > 1)
    for leveled in ladder(found.candidates):
        write_int8(leveled.plan, checkpoint, head_graph, staging / manifest.variants[INT8].model)
        list_files(manifest, staging)
        shown = f"{len(leveled.at(2))} products with two terms, {len(leveled.at(FLOAT32))} in float32"
        both, on_golden = _embed_both(found.rows, exact, golden, heads, limits, staging)
        gates = score_gate.judge_all(both, heads)
        for head in heads:
            of_head = f", head {head.name}" if len(heads) > 1 else ""
            gate = f"{gates[head.name].rows} sequences{of_head}: {score_gate.gate_line(gates[head.name])}"
            report(f"  {shown} (cost {leveled.cost:.2f}), {gate}; golden rows: {_worst_of(head, on_golden)}")
        over = [head for head in heads if not on_golden[head.name] <= _limit_of(head, limits)]
        if not (over or score_gate.all_faults(gates, limit)):
            break
    detail = f", with {shown}{worst_text(found.candidates)}"
    score_gate.enforce(gates, limit, detail, FIX)
    if over:
        of_head = f" of head {over[0].name}" if len(heads) > 1 else ""
        what = (
            f"int8 against PyTorch on the {len(golden.lengths)} golden rows{of_head}: "
            f"{_worst_of(over[0], on_golden, '.4f')}, limit {_limit_of(over[0], limits):g}"
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
        gates=gates,
    )


def _refuse_alike(head: Head, exact: Float32Array, *, several: bool) -> None:
    """Refuse rows (n, D) that a head scores almost equally, because any int8 would pass on them."""
    value = head.logit(exact)
    spread = float(sigmoid(value).std()) if head.kind == LOGISTIC else float(value.std()) / (head.training_sd or 1.0)
    if spread >= GOLDEN_MIN_SD_P:
        return
    metric = "p" if head.kind == LOGISTIC else "the value, in sds of its training values,"
    of_head = f" of head {head.name}" if several else ""
    raise ParityError(
        f"int8 cannot be judged: the standard deviation of {metric}{of_head} over {len(exact)} sequences is "
        f"{spread:.3g}, at least {GOLDEN_MIN_SD_P:g} is needed",
        f"Nothing was written. Give {option('calibration')} FILE with sequences that score differently, or leave int8 "
        "out.",
    )


def _embed_both(
    rows: score_gate.Tokens,
    exact: Float32Array,
    golden: Golden,
    heads: Sequence[Head],
    limits: Limits,
    staging: Path,
) -> tuple[GateRows, dict[str, float]]:
    """Embed the gate's rows and the golden rows with int8.

    If the plan is already over a limit on the golden rows or on the first of the gate's rows, the other rows are
    skipped.

    Args:
        rows: token rows of the gate.
        exact: fp32's embeddings of these rows, (n, D).
        golden: the golden rows.
        heads: the bundle's heads.
        limits: limits on the golden rows.
        staging: folder of the new bundle.

    Returns:
        The gate's rows, and head name -> largest |dp| on the golden rows. For a linear head it is |dvalue| in standard
        deviations of its training values.
    """
    with score_gate.embedder(staging, INT8) as embed:
        embedding = embed([ids[:length] for ids, length in zip(golden.input_ids, golden.lengths, strict=True)])
        on_golden = {
            head.name: _largest(head, head.logit(embedding), golden.value[:, at]) for at, head in enumerate(heads)
        }
        first = embed(rows[:FIRST_ROWS])
        both = GateRows(exact[: len(first)], first)
        within = all(on_golden[head.name] <= _limit_of(head, limits) for head in heads)
        if not within or score_gate.over_largest(score_gate.judge_all(both, heads), limits.p):
            return both, on_golden
        return GateRows(exact, np.concatenate([first, embed(rows[FIRST_ROWS:])])), on_golden


def _largest(head: Head, found: Float64Array, expected: Float64Array) -> float:
    """The largest |dp| of logits (n,), or |dvalue| of values (n,) in standard deviations of the training values."""
    if head.kind == LOGISTIC:
        return float(np.abs(sigmoid(found) - sigmoid(expected)).max())
    return float(np.abs(found - expected).max()) / (head.training_sd or 1.0)


def _limit_of(head: Head, limits: Limits) -> float:
    """The limit on the golden rows at export. It is smaller than the limit that applies when a bundle is opened."""
    return INT8_GOLDEN_SHARE * (limits.p if head.kind == LOGISTIC else limits.value)


def _worst_of(head: Head, on_golden: Mapping[str, float], digits: str = ".2g") -> str:
    """A head's figure from _embed_both, as text for a message."""
    metric, unit = ("|dp|", "") if head.kind == LOGISTIC else ("|dvalue|", " sds")
    return f"max {metric} {on_golden[head.name]:{digits}}{unit}"
