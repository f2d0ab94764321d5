"""What every matrix product of the encoder sees on real sequences: the calibration of the int8 variant."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from abonyx.alphabet import SequenceLimit
from abonyx.arrays import Float32Array, Float64Array, Int64Array
from abonyx.bundle.manifest import RESIDUES
from abonyx.errors import InputError
from abonyx.input.checked import read_input
from abonyx.wording import option
from abonyx_export.antibodies import ANTIBODIES_NAME, shipped_antibodies
from abonyx_export.encoder.checkpoint import Checkpoint
from abonyx_export.golden import SEED

Tokens = list[Int64Array]

# The four products of a layer, by the checkpoint's names; query, key and value share one input.
QKV, CONTEXT, WIDEN, NARROW = "attention.self", "attention.output.dense", "intermediate.dense", "output.dense"
PRODUCTS = (QKV, CONTEXT, WIDEN, NARROW)
RESIDUAL = "residual"

# Sequences that scales are fitted on, and others that the result is judged on. 512 to fit on are four times the work
# and no better on trained ESM-2 8M (docs/int8.md). Of 1,024 that judge, five labels may flip at 0.5 %; of 256 one may.
CALIBRATION_ROWS = 128
GATE_ROWS = 1_024
# Fewer say too little of the ranges (issue 4).
MIN_CALIBRATION_ROWS = 32
# Token rows kept of each product's input: as many as SAMPLE_BYTES hold, within these. Weights rounded on 8,192 move
# trained ESM-2 8M by a third less than on 1,024 (benchmarks/NOTES.md). Of 33 layers of ESM-1v, 1,024 take 1.2 GB; three
# times as many changed nothing that 256 sequences can tell (random weights, mean |dp| 0.0047 against 0.0042).
SAMPLED_TOKENS = (1_024, 8_192)
SAMPLE_BYTES = 2**30


@dataclass(frozen=True)
class Sequences:
    """What int8 is fitted on and, disjoint from it, judged on.

    Attributes:
        source: one line that says where they are from.
    """

    calibration: list[str]
    gate: list[str]
    source: str


@dataclass(frozen=True)
class Activations:
    """The input of one product.

    Attributes:
        low, high: (in,) float32, smallest and largest value of each column over all tokens.
        sample: (n, in) float32, tokens drawn evenly from the rows; about sampled_tokens of them, fewer of short rows.
    """

    low: Float32Array
    high: Float32Array
    sample: Float32Array


@dataclass(frozen=True)
class Observation:
    """One pass of the calibration rows through PyTorch float32.

    Attributes:
        products: "encoder.layer.{i}.{product}" -> its input.
        residual_power: (layers,) variance over tokens of what enters each layer, summed over columns.
    """

    products: dict[str, Activations]
    residual_power: Float64Array


def calibration_sequences(file: Path | None, max_residues: int, letters: str = RESIDUES) -> Sequences:
    """The sequences to calibrate with.

    Args:
        file: the user's own, half of which calibrate and half judge; None = none. What CALIBRATION_ROWS and GATE_ROWS
            leave room for is filled from the two halves of the shipped antibodies.
        max_residues: the bundle's limit; shipped antibodies are cut to it, a file that exceeds it is refused.
        letters: those of the bundle's alphabet; a file with others is refused. The shipped have the 20 residues only.

    Raises:
        InputError: the file cannot be read, holds a sequence that cannot be scored, or fewer than 32; the limit leaves
            too few different antibodies.
    """
    # One of each: a repeated sequence would be judged on what it was fitted on.
    limit = SequenceLimit(max_residues, letters=letters)
    found = [] if file is None else list(dict.fromkeys(read_input(file, limit).sequences))
    if file is not None and len(found) < MIN_CALIBRATION_ROWS:
        raise InputError(
            f"{file}: {len(found)} different sequences to calibrate with, at least {MIN_CALIBRATION_ROWS} are needed",
            f"Give more antibody sequences, or leave {option('calibration')} out.",
        )
    own = [found[index] for index in np.random.default_rng(SEED).permutation(len(found)).tolist()]
    fitted = min(CALIBRATION_ROWS, len(own) // 2)
    judged = own[fitted : fitted + GATE_ROWS]
    shipped = shipped_antibodies()
    calibration = _filled(own[:fitted], shipped.calibration, CALIBRATION_ROWS, max_residues, own)
    gate = _filled(judged, shipped.judging, GATE_ROWS, max_residues, [*own, *calibration])
    if min(len(calibration), len(gate)) < MIN_CALIBRATION_ROWS:
        raise InputError(
            f"cut to {max_residues} residues, {len(calibration)} different antibodies are left to calibrate on and "
            f"{len(gate)} to judge, at least {MIN_CALIBRATION_ROWS} are needed",
            f"Raise {option('max_residues')}, or leave int8 out.",
        )
    parts = [] if file is None else [f"{file.name}: {fitted} of {len(found)} sequences"]
    if len(calibration) > fitted:
        parts.append(f"{len(calibration) - fitted} antibodies of {ANTIBODIES_NAME}")
    return Sequences(calibration, gate, ", ".join(parts))


def _filled(
    own: list[str], shipped: tuple[str, ...], count: int, max_residues: int, taken: Collection[str]
) -> list[str]:
    """`own`, filled up to `count` with shipped rows that are not among those taken."""
    excluded = set(taken)
    usable = dict.fromkeys(row[:max_residues] for row in shipped)
    return own + [row for row in usable if row not in excluded][: max(0, count - len(own))]


def observe(checkpoint: Checkpoint, rows: Tokens) -> Observation:
    """Run the rows through transformers' model, each alone, and look at every product's input.

    Args:
        rows: token rows, CLS and EOS included.
    """
    import torch

    seen: dict[str, list[Float32Array]] = {}
    ranges: dict[str, tuple[Float32Array, Float32Array]] = {}
    layers = checkpoint.model.encoder.layer
    # A block with its norm behind it adds to what its product reads; one with the norm before, to what the norm reads.
    residual = QKV if checkpoint.config.is_post_norm else RESIDUAL
    watched = {name: name for name in PRODUCTS[1:]} | {f"{QKV}.query": QKV}
    if residual == RESIDUAL:
        watched["attention.LayerNorm"] = RESIDUAL
    width = sum(layers[0].get_submodule(product).in_features for product in (f"{QKV}.query", *PRODUCTS[1:]))
    per_row = -(-sampled_tokens(len(layers) * width) // len(rows))

    def watch(name: str) -> Callable[[Any, Any], None]:
        def hook(_module: Any, arguments: Any) -> None:
            values: Float32Array = arguments[0][0].numpy()  # (L, in)
            low, high = values.min(axis=0), values.max(axis=0)
            if name in ranges:
                low, high = np.minimum(low, ranges[name][0]), np.maximum(high, ranges[name][1])
            ranges[name] = (low, high)
            kept = seen.setdefault(name, [])
            rng = np.random.default_rng(len(kept))
            kept.append(values[rng.permutation(len(values))[:per_row]])

        return hook

    hooks = []
    for index, layer in enumerate(layers):
        for module, name in watched.items():
            target = layer.get_submodule(module)
            hooks.append(target.register_forward_pre_hook(watch(f"encoder.layer.{index}.{name}")))
    try:
        with torch.inference_mode():
            for row in rows:
                ids = torch.from_numpy(row)[None]  # (1, L)
                checkpoint.model(input_ids=ids, attention_mask=torch.ones_like(ids))
    finally:
        for handle in hooks:
            handle.remove()
    # popped, so that no more than one product's rows are held twice
    found = {name: Activations(*ranges[name], np.concatenate(seen.pop(name))) for name in list(seen)}
    streams = [found[f"encoder.layer.{index}.{residual}"].sample for index in range(len(layers))]
    power = [float(stream.var(axis=0, dtype=np.float64).sum()) for stream in streams]
    return Observation({name: each for name, each in found.items() if not name.endswith(RESIDUAL)}, np.array(power))


def sampled_tokens(columns: int) -> int:
    """Token rows to keep of all products' inputs, `columns` float32 each."""
    fewest, most = SAMPLED_TOKENS
    return max(fewest, min(most, SAMPLE_BYTES // (4 * columns)))
