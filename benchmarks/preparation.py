"""Prepare the inputs of benchmarks/cpu.py (sequences, checkpoints, bundles, the peers' formats) and keep them."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import abonyx_export
from abonyx.bundle.manifest import RESIDUES
from abonyx.domain import judge

SAMPLE_SEED = 20261124
MODELS = ("esm1v", "esm2")
STANDARD = set(RESIDUES) - {"X"}

# These run in separate processes, so that imports and warnings of a peer's exporter do not affect the benchmark.
STOCK_EXPORT = """
import sys
from optimum.exporters.onnx import main_export
main_export(sys.argv[1], output=sys.argv[2], task="feature-extraction", do_validation=False, no_post_process=True)
"""
MASKED_LM = """
import sys, torch
from transformers import EsmForMaskedLM
torch.manual_seed(0)
EsmForMaskedLM.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])
"""


@dataclass(frozen=True)
class Prepared:
    """Paths under the working directory, by model name.

    Attributes:
        checkpoint, bundle: paths for "esm1v" and "esm2".
        stock: optimum's export of "esm1v".
        masked_lm: safetensors file of an EsmForMaskedLM with the encoder "esm2".
    """

    checkpoint: dict[str, Path]
    bundle: dict[str, Path]
    stock: Path
    masked_lm: Path


def read_sequences(file: Path) -> list[str]:
    """The column `sequence` of a CSV file (plain or .gz), without rows that have other letters than the 20 residues."""
    with (gzip.open if file.suffix == ".gz" else open)(file, "rt", encoding="utf-8", newline="") as lines:
        found = [row["sequence"] for row in csv.DictReader(lines)]
    return [sequence for sequence in found if sequence and set(sequence) <= STANDARD]


def sample(sequences: list[str], count: int) -> list[str]:
    """A random sample of `count` sequences (fixed seed), in random order, with the file's mix of lengths."""
    return random.Random(SAMPLE_SEED).sample(sequences, count)


def trusted_sample(sequences: list[str], count: int) -> list[str]:
    """A random sample (fixed seed) of `count` sequences that `abonyx score` gives a call or marks as nanobody-like.

    int8 is judged on complete domains. The repertoire also has parts of domains and other proteins, which get no call.
    """
    found: list[str] = []
    for sequence in random.Random(SAMPLE_SEED).sample(sequences, len(sequences)):
        if len(found) == count:
            break
        found += [sequence] * judge([sequence])[0].trusted
    return found


def digest(sequences: list[str]) -> str:
    """SHA-256 of a workload, with one sequence per line."""
    return hashlib.sha256("".join(f"{sequence}\n" for sequence in sequences).encode()).hexdigest()


def prepare(
    work: Path, layers: int, models: set[str], peers: set[str], export_options: list[str], say: Callable[[str], None]
) -> Prepared:
    """Make the files that do not exist in `work` yet.

    Args:
        work: directory that is kept between runs.
        layers: number of layers of both encoders.
        models: names from MODELS to make.
        peers: formats to make for the peers, from "stock" and "masked_lm".
        export_options: more options for `abonyx export`. If they or the source files of abonyx_export change, a new
            bundle is made.
        say: called with a line before each step.
    """
    sources = sorted(Path(abonyx_export.__file__).parent.rglob("*.py"))
    told = [json.dumps(export_options), *(source.read_text() for source in sources)]
    key = hashlib.sha256("\0".join(told).encode()).hexdigest()[:8]
    prepared = Prepared(
        checkpoint={model: work / f"{model}-{layers}" for model in MODELS},
        bundle={model: work / f"{model}-{layers}-bundle-{key}" for model in MODELS},
        stock=work / f"esm1v-{layers}-stock",
        masked_lm=work / f"esm2-{layers}-masked-lm" / "model.safetensors",
    )
    work.mkdir(parents=True, exist_ok=True)

    def make(path: Path, *command: str | Path) -> None:
        if path.exists():
            return
        say(f"making {path.name}")
        partial = path.with_name(f"{path.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        line = [sys.executable, *(str(partial if part is path else part) for part in command)]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(line)} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
        partial.rename(path)

    script = Path(__file__).with_name("make_checkpoint.py")
    for model in sorted(models):
        checkpoint, bundle = prepared.checkpoint[model], prepared.bundle[model]
        make(checkpoint, script, model, checkpoint, "--layers", str(layers))
        make(bundle, "-m", "abonyx", "export", "--encoder", checkpoint, "-o", bundle, *export_options)
    if "stock" in peers:
        make(prepared.stock, "-W", "ignore", "-c", STOCK_EXPORT, prepared.checkpoint["esm1v"], prepared.stock)
    if "masked_lm" in peers:
        directory = prepared.masked_lm.parent
        make(directory, "-W", "ignore", "-c", MASKED_LM, prepared.checkpoint["esm2"], directory)
    return prepared
