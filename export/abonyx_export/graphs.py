"""Write the graphs of a bundle, each with encoder and heads. Graphs that an interrupted call finished are reused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import onnx

from abonyx.arrays import Float32Array
from abonyx.bundle.manifest import Manifest, Quantization, Variant
from abonyx.bundle.tolerances import Limits
from abonyx_export.encoder.checkpoint import Checkpoint
from abonyx_export.encoder.cuda_graph import CUDA_INPUTS, write_cuda_encoder
from abonyx_export.encoder.graph import ENCODER_INPUTS, write_encoder
from abonyx_export.head.graph import attach_head, check_heads, head_model
from abonyx_export.head.head import Head
from abonyx_export.int8 import variant as int8
from abonyx_export.int8.calibration import Sequences
from abonyx_export.progress import Steps
from abonyx_export.unfinished import Unfinished
from abonyx_export.variants import CUDA_FP16, INT8, VARIANTS, VariantSpec, default_variants


class _Int8(msgspec.Struct):
    """The results of the int8 step that are not in its files.

    Attributes:
        detail: text about int8's plan, for an error message about the variant.
    """

    quantization: Quantization
    detail: str


def blank_variant(spec: VariantSpec, limits: Limits) -> Variant:
    """The manifest's entry of a variant that is not measured yet."""
    return Variant(
        model=f"{spec.name}/model.onnx",
        precision=spec.name,
        inputs=list(CUDA_INPUTS if spec.name == CUDA_FP16 else ENCODER_INPUTS),
        providers=list(spec.providers),
        limits=limits,
        parity=None,
    )


def write_graphs(
    manifest: Manifest,
    heads: Sequence[Head],
    mean: Float32Array,
    checkpoint: Checkpoint,
    fitted_on: Sequences | None,
    unfinished: Unfinished,
    steps: Steps,
) -> tuple[Manifest, str]:
    """Write the heads' graph, and for each variant the encoder's graph with the heads; chooses int8's plan.

    Args:
        manifest: lists the variants.
        mean: (D,) from head.graph.common_mean.
        fitted_on: sequences to calibrate and judge int8 on; None without int8.

    Returns:
        The manifest with int8's record, and text about int8's plan for an error message ("" without int8).

    Raises:
        ParityError: int8 is over the limits of its gate.
    """
    staging = unfinished.bundle
    head_graph = head_model(heads, mean)
    check_heads(head_graph, heads, mean)
    onnx.save(head_graph, staging / "head.onnx")
    names = sorted(manifest.variants, key=lambda name: name == INT8)  # int8 last: it is compared with fp32
    detail = ""
    for number, name in enumerate(names, 1):
        step, path = f"{name} graph", staging / manifest.variants[name].model
        place = f"({number} of {len(names)})"
        if name == INT8:
            assert fitted_on is not None
            found = unfinished.value(step, _Int8)
            if found is None:
                steps(f"writing {name} {place}")
                path.parent.mkdir(exist_ok=True)
                found = _make_int8(manifest, heads, head_graph, checkpoint, fitted_on, staging, steps)
                unfinished.finish(step, found, [path.parent, staging / "fp32", unfinished.reference])
            settled = msgspec.structs.replace(manifest.variants[INT8], quantization=found.quantization)
            manifest = msgspec.structs.replace(manifest, variants=manifest.variants | {INT8: settled})
            detail = found.detail
        elif step not in unfinished.steps:
            steps(f"writing {name} {place}")
            path.parent.mkdir(exist_ok=True)
            _write_float(VARIANTS[name], checkpoint, head_graph, path)
            unfinished.finish(step, None, [path.parent, unfinished.reference])
    return manifest, detail


def _write_float(spec: VariantSpec, checkpoint: Checkpoint, head_graph: onnx.ModelProto, path: Path) -> None:
    if spec.name == CUDA_FP16:
        write_cuda_encoder(checkpoint.config, checkpoint.tensor, path)
    else:
        write_encoder(checkpoint.config, checkpoint.tensor, path, storage=spec.storage, arithmetic=spec.arithmetic)
    # Only the graph is read and written again; its external data stays in place.
    onnx.save(attach_head(onnx.load(path, load_external_data=False), head_graph), path)


def _make_int8(
    manifest: Manifest,
    heads: Sequence[Head],
    head_graph: onnx.ModelProto,
    checkpoint: Checkpoint,
    fitted_on: Sequences,
    staging: Path,
    steps: Steps,
) -> _Int8:
    """Calibrate, write and judge int8."""
    with steps.rows(checkpoint.model, len(fitted_on.calibration)):
        calibrated = int8.calibrate(checkpoint, fitted_on, steps)
    beside = {name: manifest.variants[name] for name in ("fp32", INT8)}
    judged = msgspec.structs.replace(manifest, variants=beside, default_variant=default_variants(list(beside)))
    quantization = int8.choose_plan(calibrated, judged, checkpoint, heads, head_graph, staging, steps)
    return _Int8(quantization, int8.worst_text(calibrated.candidates))
