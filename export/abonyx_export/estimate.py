"""What an export will need, before it starts: memory, disk and time.

The constants fit the time and the peak memory of exports of trained ESM-2 8M with every variant and with fp32 alone,
and the time of 6 layers of ESM-1v's shape (Xeon with AVX-512, one and two threads). The machine's own speed is
measured when it is needed. They are for orientation: beside other work an export takes longer.
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

# Of the default rows, special tokens included: golden set and longest row, those that calibrate int8, that judge it.
GOLDEN_TOKENS = 7_000
CALIBRATION_TOKENS = 16_000
GATE_TOKENS = 128_000
# A layer's operations a token: its products have 24 H^2 (H hidden units), what else it does takes as long as these H.
PRODUCTS, OTHERS = 24, 19_200
# The gate's rows run in float32 once, and at half of that cost with each plan of int8 that is tried.
GATE_RUN, GATE_TRY = 1.0, 0.5
# Operations a weight that rounding to int8 takes, and bytes a weight that the engine has of fp32.
ROUNDING = 80_000
ENGINE_BYTES = 4.8
START_SECONDS = 10.0  # imports, the checkpoint, the head's graph
BYTES_PER_WEIGHT = {"fp32": 4.0, "fp16": 2.0, "fp16-weights": 2.0, CUDA_FP16: 2.0, INT8: 1.1}
# PyTorch, transformers and ONNX Runtime before any weight, and what 1,024 tokens take in a layer.
BASE_BYTES = 0.9e9
MATRIX = 1_024  # of the measured product


@dataclass(frozen=True)
class Needs:
    """Of one export.

    Attributes:
        memory_bytes: the peak; disk_bytes: beside the output, until it is whole.
        seconds: on this machine, if nothing else runs; most_seconds: if int8 tries every plan.
    """

    memory_bytes: float
    disk_bytes: float
    seconds: float
    most_seconds: float


def needs(config: EncoderConfig, variants: Sequence[str], operations_per_second: float) -> Needs:
    """What an export of these variants needs; fp32 is always built.

    Args:
        operations_per_second: of float32 products on all processors, as `measure_speed` gives it.
    """
    names = {*variants, "fp32"}
    layers, hidden = config.layers, config.hidden
    weights = 12.0 * layers * hidden**2
    tokens = GOLDEN_TOKENS * (1 + len(names) + ("fp16" in names))
    memory, operations, further_tokens = ENGINE_BYTES * weights, 0.0, 0.0  # PyTorch's are gone when fp32 is checked
    if INT8 in names:
        tokens += CALIBRATION_TOKENS + round((GATE_RUN + GATE_TRY) * GATE_TOKENS)
        further_tokens = (len(BUDGETS) - 1) * GATE_TRY * GATE_TOKENS
        operations += ROUNDING * weights
        # float32 samples of what its products see, and squares of the widest product's inputs; then the engine's fp32
        rounding = layers * sampled_tokens(layers * 7 * hidden) * 7 * hidden * 4.0 + 4 * 8.0 * (4 * hidden) ** 2
        memory = 5 * weights + max(rounding, ENGINE_BYTES * weights)  # beside PyTorch and the rounded weights
    a_token = layers * (PRODUCTS * hidden**2 + OTHERS * hidden)
    operations += tokens * a_token
    return Needs(
        memory_bytes=BASE_BYTES + memory,
        disk_bytes=weights * sum(BYTES_PER_WEIGHT[name] for name in names),
        seconds=START_SECONDS + operations / operations_per_second,
        most_seconds=START_SECONDS + (operations + further_tokens * a_token) / operations_per_second,
    )


def measure_speed() -> float:
    """Operations a second of a float32 product on all processors; takes a tenth of a second."""
    import torch

    values = torch.ones(MATRIX, MATRIX)
    times = []
    for _ in range(8):
        started = time.perf_counter()
        values @ values
        times.append(time.perf_counter() - started)
    return 2 * MATRIX**3 / min(times)


def describe(config: EncoderConfig, variants: Sequence[str], output: Path) -> str:
    """One line on what the export needs and what the machine has.

    Raises:
        ConfigError: the disk has less.
    """
    found = needs(config, variants, measure_speed())
    parent = next(each for each in output.absolute().parents if each.is_dir())
    partial = partial_directory(output)  # which a resumed export uses again, or empties
    kept = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file()) if partial.is_dir() else 0
    free = shutil.disk_usage(parent).free + kept
    if found.disk_bytes > free:
        what = f"output {output}: the export needs {_size(found.disk_bytes)} of disk, {parent} has {_size(free)} free"
        raise ConfigError(what, "Free space or name an output elsewhere.")
    available = memory_bytes().available
    has = f" ({_size(available)} available)" if available else ""
    count, time_text = usable_processors(), _time(found.seconds)
    if found.most_seconds > found.seconds:
        time_text += f" ({_time(found.most_seconds)} if int8 needs all its tries)"
    what = f"{config.layers} layers of {config.hidden} units as {', '.join(variants)}"
    return (
        f"{what}: about {_size(found.memory_bytes)} of memory{has}, {_size(found.disk_bytes)} of disk ({_size(free)} "
        f"free), {time_text} on {count} processor{'s' if count > 1 else ''} without other work"
    )


def _time(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"
