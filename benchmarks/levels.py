"""Compare an encoder that has the levels of an int8 bundle with float32, in speed; writes one JSON record.

    python benchmarks/make_checkpoint.py esm1v out/esm1v
    python benchmarks/levels.py --bundle INT8_BUNDLE --layers 6 --encoder out/esm1v --work out -o RECORD.json

The record shows what the levels of a small trained encoder would cost in a large encoder. For each kind of
product (query-key-value, context, first and second feed-forward), the script counts in how many layers the
bundle uses two terms or float32. It spreads these shares over the encoder's layers. The weights are quantised by plain
rounding, because speed does not depend on their values. The record also has the largest difference between each graph's
embeddings and those of float32. The graphs take turns in one process, from token ids to embeddings.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from abonyx.alphabet import Alphabet
from abonyx.arrays import Float32Array, Int64Array
from abonyx.batching import make_inputs, plan_batches
from abonyx.bundle import open_bundle
from abonyx.bundle.manifest import Quantization
from abonyx.engine.process import usable_processors
from abonyx_export.antibodies import shipped_antibodies
from abonyx_export.encoder.checkpoint import Checkpoint, load_checkpoint
from abonyx_export.encoder.graph import ENCODER_INPUTS, write_encoder
from abonyx_export.int8.calibration import PRODUCTS, observe
from abonyx_export.int8.levels import COSTS, FLOAT32, Name, mean_cost, plan_of
from abonyx_export.int8.quantization import Plan, quantize_encoder
from commands import machine

CALIBRATION = 8  # sequences; only ranges are needed
TOKENS = 2_048  # tokens per batch


@dataclass
class TimedGraph:
    """One graph, and the figures of each of its runs."""

    session: Any
    seconds: list[float] = field(default_factory=list)
    embedding: Float32Array = field(default_factory=lambda: np.empty((0, 0), np.float32))


def shares(quantization: Quantization, layers: int) -> dict[str, dict[int, float]]:
    """Product -> level -> share of the layers with this level."""
    listed = {2: quantization.two_terms, FLOAT32: quantization.float32}
    found = {}
    for product in PRODUCTS:
        counts = {
            level: sum(name.partition(".")[2] == product for name in names) / layers for level, names in listed.items()
        }
        found[product] = {1: 1 - sum(counts.values())} | counts
    return found


def spread(found: dict[str, dict[int, float]], layers: int) -> dict[Name, int]:
    """(layer, product) -> level, with each level spread evenly over the layers."""
    levels: dict[Name, int] = {}
    for product, parts in found.items():
        given = dict.fromkeys(parts, 0)
        for index in range(layers):
            # choose the level that is furthest below its share
            level = max(parts, key=lambda each: parts[each] * (index + 1) - given[each])
            given[level] += 1
            levels[index, product] = level
    return levels


def measure(
    checkpoint: Checkpoint,
    plans: dict[str, Plan | None],
    rows: list[Int64Array],
    work: Path,
    threads: int,
    repeats: int,
) -> dict[str, TimedGraph]:
    """Run the graphs in turn, `repeats` times after one warm-up."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    batches = list(plan_batches(np.array([len(row) for row in rows], np.int64), TOKENS))
    graphs = {}
    for name, plan in plans.items():
        path = work / f"{name}.onnx"
        write_encoder(checkpoint.config, checkpoint.tensor, path, plan=plan)
        graphs[name] = TimedGraph(onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]))
        print(f"{name} is open", flush=True)
    for repeat in range(repeats + 1):
        for name, graph in graphs.items():
            start = time.perf_counter()
            found = np.empty((len(rows), checkpoint.config.embedding_width), np.float32)
            for batch in batches:
                feed = make_inputs([rows[index] for index in batch], ENCODER_INPUTS, checkpoint.config.pad_id)
                found[batch] = graph.session.run(["embedding"], feed)[0]
            graph.embedding = found
            if repeat:
                graph.seconds.append(time.perf_counter() - start)
                print(f"repeat {repeat}: {name} {graph.seconds[-1]:.2f} s", flush=True)
    return graphs


def compare(given: argparse.Namespace) -> dict[str, Any]:
    """The record."""
    manifest = open_bundle(given.bundle).manifest
    quantization = manifest.variants["int8"].quantization
    assert quantization is not None  # the manifest's check requires it for int8
    checkpoint = load_checkpoint(str(given.encoder))
    config, encode = checkpoint.config, Alphabet(checkpoint.alphabet).encode
    found = shares(quantization, given.layers)
    levels = spread(found, config.layers)
    observation = observe(checkpoint, encode(shipped_antibodies().calibration[:CALIBRATION]))
    candidates = quantize_encoder(config, checkpoint.tensor, observation, plain=True)
    del observation
    plans = {"fp32": None, "one-term": candidates.plan(), "levels": plan_of(candidates, levels)}
    rows = encode(shipped_antibodies().judging[: given.sequences])
    given.work.mkdir(parents=True, exist_ok=True)
    graphs = measure(checkpoint, plans, rows, given.work, given.threads, given.repeats)
    exact = graphs["fp32"]
    return {
        "machine": machine(),
        "threads": given.threads,
        "bundle": {"name": manifest.name, "layers": given.layers, "cost": quantization.cost, "shares": found},
        "encoder": {"layers": config.layers, "hidden": config.hidden},
        "costs": COSTS,
        "cost": mean_cost(candidates, levels),
        "sequences": len(rows),
        "engines": {
            name: {
                "seconds": statistics.median(graph.seconds),
                "runs": graph.seconds,
                "times_as_fast": statistics.median(exact.seconds) / statistics.median(graph.seconds),
                "max_embedding_difference": float(np.abs(graph.embedding - exact.embedding).max()),
            }
            for name, graph in graphs.items()
        },
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", required=True, help="bundle with an int8 variant, the source of the levels")
    parser.add_argument("--layers", type=int, required=True, help="number of layers of the bundle's encoder")
    parser.add_argument("--encoder", type=Path, required=True, help="checkpoint that gets the levels")
    parser.add_argument("--work", type=Path, required=True, help="directory for the graphs")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--sequences", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=usable_processors())
    given = parser.parse_args()
    record = compare(given)
    given.output.write_text(json.dumps(record, indent=2) + "\n")
    for engine, figures in record["engines"].items():
        print(f"{engine}: {figures['seconds']:.2f} s, {figures['times_as_fast']:.2f} times as fast as fp32")
