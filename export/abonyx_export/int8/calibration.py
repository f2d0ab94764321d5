"""Calibration of the int8 variant: observe the inputs of the encoder's matrix products on real sequences."""

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

# The four products of a layer, by the checkpoint's names. Query, key and value have the same input and count as one.
QKV, CONTEXT, WIDEN, NARROW = "attention.self", "attention.output.dense", "intermediate.dense", "output.dense"
PRODUCTS = (QKV, CONTEXT, WIDEN, NARROW)
RESIDUAL = "residual"

# Numbers of sequences that calibrate int8, and of other sequences that judge it. Calibrating on 512 takes four times as
# long and is not better for trained ESM-2 8M (docs/int8.md). At most 0.5 % of the labels may change: five of 1,024
# judging sequences, but only one of 256.
CALIBRATION_ROWS = 128
GATE_ROWS = 1_024
# Fewer sequences show too little of the ranges (issue 4).
MIN_CALIBRATION_ROWS = 32
# Smallest and largest number of token rows to keep of each product's input. Between these two, as many rows are kept
# as fit into SAMPLE_BYTES. With 8,192 rows, rounded weights change trained ESM-2 8M a third less than with 1,024
# (benchmarks/NOTES.md). 1,024 rows of the 33 layers of ESM-1v take 1.2 GB; three times as many made no difference on
# 256 sequences (random weights, mean |dp| 0.0047 and 0.0042).
SAMPLED_TOKENS = (1_024, 8_192)
SAMPLE_BYTES = 2**30


@dataclass(frozen=True)
class Sequences:
    """Sequences that calibrate int8, and other sequences that judge it.

    Attributes:
        calibration: sequences to calibrate on.
        gate: sequences to judge on, none of them in `calibration`.
        source: one line that says where the sequences come from.
    """

    calibration: list[str]
    gate: list[str]
    source: str


@dataclass(frozen=True)
class Activations:
    """The observed input of one product.

    Attributes:
        low, high: (in,) float32, smallest and largest value of each column over all tokens.
        sample: (n, in) float32, about sampled_tokens tokens, equally many from each row; short rows may give fewer.
    """

    low: Float32Array
    high: Float32Array
    sample: Float32Array


@dataclass(frozen=True)
class Observation:
    """The result of one pass of the calibration rows through PyTorch in float32.

    Attributes:
        products: "encoder.layer.{i}.{product}" -> the product's input.
        residual_power: (layers,) variance over tokens of each layer's input, summed over columns.
    """

    products: dict[str, Activations]
    residual_power: Float64Array


def calibration_sequences(file: Path | None, max_residues: int, letters: str = RESIDUES) -> Sequences:
    """The sequences to calibrate and to judge with.

    Args:
        file: the user's sequences; None = no file. Half of them, but at most CALIBRATION_ROWS, calibrate. At most
            GATE_ROWS of the others judge. The shipped antibodies fill up both sets to these numbers.
        max_residues: the bundle's limit. Shipped antibodies are cut to it; a file with longer sequences is refused.
        letters: letters of the bundle's alphabet; a file with other letters is refused. Shipped antibodies only have
            the 20 residues.

    Raises:
        InputError: the file cannot be read, has a sequence that cannot be scored, or has fewer than 32 different
            sequences; or too few different antibodies are left after the cut.
    """
    # Duplicates are removed, so that no sequence both calibrates and judges.
    limit = SequenceLimit(max_residues, letters=letters)
    found = [] if file is None else list(dict.fromkeys(read_input(file, limit).sequences))
    if file is not None and len(found) < MIN_CALIBRATION_ROWS:
        raise InputError(
            f"{file}: only {len(found)} different sequences, at least {MIN_CALIBRATION_ROWS} are needed to calibrate",
            f"Give more antibody sequences, or leave {option('calibration')} out.",
        )
    own = [found[index] for index in np.random.default_rng(SEED).permutation(len(found)).tolist()]
    fitted = min(CALIBRATION_ROWS, len(own) // 2)
    judged = own[fitted : fitted + GATE_ROWS]
    shipped = shipped_antibodies()
    calibration = _fill_up(own[:fitted], shipped.calibration, CALIBRATION_ROWS, max_residues, own)
    gate = _fill_up(judged, shipped.judging, GATE_ROWS, max_residues, [*own, *calibration])
    if min(len(calibration), len(gate)) < MIN_CALIBRATION_ROWS:
        raise InputError(
            f"int8: after a cut to {max_residues} residues, {len(calibration)} different antibodies calibrate and "
            f"{len(gate)} judge, at least {MIN_CALIBRATION_ROWS} each are needed",
            f"Raise {option('max_residues')}, or leave int8 out.",
        )
    parts = [] if file is None else [f"{file.name}: {fitted} of {len(found)} sequences"]
    if len(calibration) > fitted:
        parts.append(f"{len(calibration) - fitted} antibodies of {ANTIBODIES_NAME}")
    return Sequences(calibration, gate, ", ".join(parts))


def _fill_up(
    own: list[str], shipped: tuple[str, ...], count: int, max_residues: int, taken: Collection[str]
) -> list[str]:
    """`own`, filled up to `count` with shipped sequences that are not in `taken`."""
    excluded = set(taken)
    usable = dict.fromkeys(row[:max_residues] for row in shipped)
    return own + [row for row in usable if row not in excluded][: max(0, count - len(own))]


def observe(checkpoint: Checkpoint, rows: Tokens) -> Observation:
    """Run the rows through transformers' model, one at a time, and observe the input of every product.

    Args:
        checkpoint: the loaded encoder.
        rows: token rows, with CLS and EOS.
    """
    import torch

    seen: dict[str, list[Float32Array]] = {}
    ranges: dict[str, tuple[Float32Array, Float32Array]] = {}
    layers = checkpoint.model.encoder.layer
    # The residual stream is the product's input in a post-norm layer, and the norm's input in a pre-norm layer.
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
    # The samples are popped one by one, so that only one product's rows are in memory twice.
    found = {name: Activations(*ranges[name], np.concatenate(seen.pop(name))) for name in list(seen)}
    streams = [found[f"encoder.layer.{index}.{residual}"].sample for index in range(len(layers))]
    power = [float(stream.var(axis=0, dtype=np.float64).sum()) for stream in streams]
    return Observation({name: each for name, each in found.items() if not name.endswith(RESIDUAL)}, np.array(power))


def sampled_tokens(columns: int) -> int:
    """Number of token rows to keep, if the inputs of all products have `columns` float32 columns."""
    fewest, most = SAMPLED_TOKENS
    return max(fewest, min(most, SAMPLE_BYTES // (4 * columns)))
