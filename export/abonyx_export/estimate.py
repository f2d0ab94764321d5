"""Estimate the memory, disk and time that an export needs, before it starts.

The constants are fitted to the time and peak memory of exports of trained ESM-2 8M (with every variant, and with fp32
alone), and to the time of 6 layers of ESM-1v's shape (Xeon with AVX-512, one and two threads). The speed of this
machine is measured when it is needed. The estimates are rough: on a busy machine an export takes longer.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from abonyx.engine.process import memory_bytes, usable_processors
from abonyx.errors import ConfigError
from abonyx_export.encoder.config import EncoderConfig
from abonyx_export.int8.calibration import sampled_tokens
from abonyx_export.int8.levels import BUDGETS
from abonyx_export.unfinished import partial_directory
from abonyx_export.variants import CUDA_FP16, INT8

# Tokens of the default rows, with special tokens: the golden set and the longest row, the rows that calibrate int8,
# and the rows that judge it.
GOLDEN_TOKENS = 7_000
CALIBRATION_TOKENS = 16_000
GATE_TOKENS = 128_000
# Operations of a layer per token, for H hidden units: PRODUCTS x H^2 for its matrix products, and OTHERS x H for
# everything else (expressed as the operations that take the same time).
PRODUCTS, OTHERS = 24, 19_200
# Cost of one run of the gate's rows, relative to a run in float32: in float32, and with an int8 plan.
GATE_RUN, GATE_TRY = 1.0, 0.5
# Operations to round one weight to int8, and the engine's memory for one weight of fp32.
ROUNDING = 80_000
ENGINE_BYTES = 4.8
START_SECONDS = 10.0  # imports, the checkpoint, the head's graph
BYTES_PER_WEIGHT = {"fp32": 4.0, "fp16": 2.0, "fp16-weights": 2.0, CUDA_FP16: 2.0, INT8: 1.1}
# PyTorch, transformers and ONNX Runtime without any weights, and the activations of 1,024 tokens in one layer.
BASE_BYTES = 0.9e9
MATRIX = 1_024  # rows and columns of the product that measures the speed


@dataclass(frozen=True)
class Needs:
    """The estimate for one export.

    Attributes:
        memory_bytes: peak memory.
        disk_bytes: disk space where the output is written.
        seconds: time on this machine if nothing else runs.
        most_seconds: this time if every int8 plan is tried.
    """

    memory_bytes: float
    disk_bytes: float
    seconds: float
    most_seconds: float


def needs(config: EncoderConfig, variants: Sequence[str], operations_per_second: float) -> Needs:
    """Estimate the needs of an export of these variants; fp32 is always built.

    Args:
        operations_per_second: speed of float32 products on all processors, from `measure_speed`.
    """
    names = {*variants, "fp32"}
    layers, hidden = config.layers, config.hidden
    weights = 12.0 * layers * hidden**2
    tokens = GOLDEN_TOKENS * (1 + len(names) + ("fp16" in names))
    memory, operations, further_tokens = ENGINE_BYTES * weights, 0.0, 0.0  # PyTorch's weights are already freed
    if INT8 in names:
        tokens += CALIBRATION_TOKENS + round((GATE_RUN + GATE_TRY) * GATE_TOKENS)
        further_tokens = (len(BUDGETS) - 1) * GATE_TRY * GATE_TOKENS
        operations += ROUNDING * weights
        # The samples of the products' inputs (float32), and four square matrices for the widest product (float64).
        rounding = layers * sampled_tokens(layers * 7 * hidden) * 7 * hidden * 4.0 + 4 * 8.0 * (4 * hidden) ** 2
        memory = 5 * weights + max(rounding, ENGINE_BYTES * weights)  # includes PyTorch's and the rounded weights
    a_token = layers * (PRODUCTS * hidden**2 + OTHERS * hidden)
    operations += tokens * a_token
    return Needs(
        memory_bytes=BASE_BYTES + memory,
        disk_bytes=weights * sum(BYTES_PER_WEIGHT[name] for name in names),
        seconds=START_SECONDS + operations / operations_per_second,
        most_seconds=START_SECONDS + (operations + further_tokens * a_token) / operations_per_second,
    )


def measure_speed() -> float:
    """Operations per second of a float32 product on all processors. The measurement takes a tenth of a second."""
    import torch

    values = torch.ones(MATRIX, MATRIX)
    times = []
    for _ in range(8):
        started = time.perf_counter()
        values @ values
        times.append(time.perf_counter() - started)
    return 2 * MATRIX**3 / min(times)


def describe(config: EncoderConfig, variants: Sequence[str], output: Path) -> str:
    """One line that compares what the export needs with what the machine has.

    Raises:
        ConfigError: the disk has too little space.
    """
    found = needs(config, variants, measure_speed())
    parent = next(each for each in output.absolute().parents if each.is_dir())
    partial = partial_directory(output)  # a resumed export reuses or removes these files
    kept = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file()) if partial.is_dir() else 0
    free = shutil.disk_usage(parent).free + kept
    if found.disk_bytes > free:
        what = f"output {output}: the export needs {_size(found.disk_bytes)} of disk, {parent} has {_size(free)} free"
        raise ConfigError(what, "Free some space, or give an output on another disk.")
    available = memory_bytes().available
    has = f" ({_size(available)} available)" if available else ""
    count, time_text = usable_processors(), _time(found.seconds)
    if found.most_seconds > found.seconds:
        time_text += f" (at most {_time(found.most_seconds)}, if every int8 plan is tried)"
    what = f"{config.layers} layers of {config.hidden} units as {', '.join(variants)}"
    return (
        f"{what}: about {_size(found.memory_bytes)} of memory{has}, {_size(found.disk_bytes)} of disk ({_size(free)} "
        f"free), {time_text} on {count} idle processor{'s' if count > 1 else ''}"
    )


def _time(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"
