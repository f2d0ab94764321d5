"""Profile abonyx's graph on the CPU: time of each operator in one batch, from ONNX Runtime's profiler.

python benchmarks/profile_cpu.py BUNDLE --variant int8 --peak-gops 1900 -o RECORD.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from abonyx.batching import make_inputs
from abonyx.bundle import open_bundle
from abonyx.engine.process import usable_processors

ROWS, TOKENS = 4, 124
RUNS = 5
PRODUCTS = ("MatMul", "Gemm")  # part of the operator name of every matrix product, quantised and fused ones included


def profile(bundle_path: Path, variant_name: str, peak_gops: float | None) -> dict[str, Any]:
    """Milliseconds and share of each operator, over RUNS batches after a first one that is not counted.

    Args:
        bundle_path: the bundle.
        variant_name: the variant to profile.
        peak_gops: peak of the used processors in 1e9 operations per second (a multiplication and an addition are two);
            None = the record has no share of the peak.
    """
    import onnxruntime

    bundle = open_bundle(bundle_path)
    _, variant = bundle.variant("cpu", variant_name)
    spec = bundle.manifest.alphabet
    residues = np.random.default_rng(0).choice(list(spec.residues.values()), (ROWS, TOKENS - 2))
    rows = [np.array([spec.cls_id, *row, spec.eos_id], np.int64) for row in residues]
    feed = make_inputs(rows, variant.inputs, spec.pad_id)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_processors()
    options.log_severity_level = 3
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as scratch:
        options.profile_file_prefix = str(Path(scratch) / "profile")
        session = onnxruntime.InferenceSession(bundle.path / variant.model, options, providers=["CPUExecutionProvider"])
        for _ in range(1 + RUNS):
            session.run(["head_sums"], feed)
        events = json.loads(Path(session.end_profiling()).read_text())
    runs = sorted((event for event in events if event["name"] == "model_run"), key=lambda event: int(event["ts"]))
    counted = runs[1:]
    taken: Counter[str] = Counter()
    for event in events:
        if event["name"].endswith("_kernel_time") and event["ts"] >= counted[0]["ts"]:
            taken[event["args"]["op_name"]] += event["dur"]
    total = sum(taken.values())
    record: dict[str, Any] = {
        "variant": variant_name,
        "rows": ROWS,
        "tokens": TOKENS,
        "runs": RUNS,
        "batch_ms": sum(event["dur"] for event in counted) / RUNS / 1e3,
        "kernels_ms": total / RUNS / 1e3,
        "operators": {
            name: {"ms": dur / RUNS / 1e3, "share": dur / total} for name, dur in taken.most_common() if dur > 0
        },
    }
    encoder = bundle.manifest.encoder
    attention = 4 * encoder.layers * encoder.hidden * TOKENS  # per token: two products with each token of its row
    gop = (2 * _weights(bundle.path / variant.model) + attention) * ROWS * TOKENS / 1e9
    products_s = sum(dur for name, dur in taken.items() if any(part in name for part in PRODUCTS)) / RUNS / 1e6
    record |= {
        "products_gop": gop,
        "products_gops": gop / products_s,
        "batch_gops": gop / (record["batch_ms"] / 1e3),
    }
    if peak_gops:
        record |= {
            "peak_gops": peak_gops,
            "products_of_peak": record["products_gops"] / peak_gops,
            "batch_of_peak": record["batch_gops"] / peak_gops,
        }
    return record


def _weights(path: Path) -> int:
    """Number of elements of the matrices in products: the 2-D initializers without lookup tables."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    looked_up = {node.input[0] for node in graph.node if node.op_type == "Gather"}
    return sum(prod(item.dims) for item in graph.initializer if len(item.dims) == 2 and item.name not in looked_up)


def show(record: dict[str, Any]) -> None:
    """Print a record as lines."""
    print(f"{record['variant']}: {record['batch_ms']:.1f} ms per batch of {ROWS} x {TOKENS} tokens")
    for name, figures in record["operators"].items():
        if figures["share"] >= 0.001:
            print(f"  {name:30s} {figures['share']:6.1%}  {figures['ms']:9.2f} ms")
    peak = f", {record['products_of_peak']:.0%} of the peak" if "peak_gops" in record else ""
    print(f"  matrix products: {record['products_gops']:.0f} GOP/s{peak}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--variant", default="fp32")
    parser.add_argument("--peak-gops", type=float)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    record = profile(arguments.bundle, arguments.variant, arguments.peak_gops)
    show(record)
    if arguments.output:
        arguments.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
