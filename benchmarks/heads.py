"""Compare the time of 5 and 10 heads with that of one (shipped encoder); the JSON record has each bundle's parity.

    python benchmarks/heads.py FILE -o benchmarks/records/heads.json

FILE has sequences; --rows of them are scored. Bundles with 1, 5 and 10 heads are made in a temporary directory. They
have mini's own head, and linear heads with random weights. In each repeat, every bundle in turn is opened and scored
once. A warm-up comes first and is not counted. The target is at most 1.05 times the time of one head.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx

import abonyx
from abonyx.alphabet import SequenceLimit
from abonyx.bundle import open_bundle
from abonyx.input.checked import read_input
from abonyx_export.bundle_writer import Reference, check_variants
from abonyx_export.head.graph import attach_head, check_heads, head_model
from abonyx_export.head.spec import golden_of, head_spec, stored_heads, sums_intercept
from commands import machine

COUNTS = (1, 5, 10)
TARGET = 1.05
VARIANT = "fp16-weights"


def make_bundle(directory: Path, count: int) -> Path:
    """Write mini with `count` heads, with the same checks as `fit`."""
    mini = open_bundle(None)
    golden, mean = mini.golden(), mini.golden().head_mean
    (own,) = stored_heads(mini.manifest.heads, golden)
    heads = [own]
    for number in range(1, count):
        coef = np.random.default_rng(number).standard_normal(own.coef.size)
        sd = float((golden.embedding @ coef).std())
        more = dataclasses.replace(own, name=f"linear{number}", coef=coef, classes=(), unit="1", training_sd=sd)
        heads.append(dataclasses.replace(more, thresholds={}))
    shutil.copytree(mini.path / VARIANT, directory / VARIANT)
    rows = golden_of(golden.input_ids, golden.lengths, golden.embedding, heads, mean)
    rows.save(directory)
    graph = head_model(heads, mean)
    check_heads(graph, heads, mean)
    path = directory / VARIANT / "model.onnx"
    onnx.save(attach_head(onnx.load(path, load_external_data=False), graph), path)
    manifest = msgspec.structs.replace(
        mini.manifest,
        name=f"heads-{count}",
        heads=[head_spec(head, ("H",), sums_intercept(head, mean)) for head in heads],
        variants={VARIANT: msgspec.structs.replace(mini.manifest.variants[VARIANT], parity=None)},
        files={},
        panels=[],  # the files of panels are not copied
    )
    record = mini.manifest.variants[VARIANT].parity
    assert record is not None
    reference = Reference(golden=rows, torch=record.torch, transformers=record.transformers)
    check_variants(manifest, {VARIANT: reference}, rows, directory, lambda line: None, "")
    return directory


def run(bundle: Path, sequences: list[str]) -> tuple[float, dict[str, Any]]:
    """Seconds to score with all heads, and the scores."""
    with abonyx.open_session(bundle) as session:
        session.score(sequences[:8], heads="all")
        started = time.perf_counter()
        scores = session.score(sequences, heads="all")
        return time.perf_counter() - started, scores


def measure(sequences: list[str], repeats: int, work: Path) -> dict[str, Any]:
    """The record without the facts about the machine."""
    bundles = {count: make_bundle(work / f"heads-{count}", count) for count in COUNTS}
    seconds: dict[int, list[float]] = {count: [] for count in COUNTS}
    scores: dict[int, dict[str, Any]] = {}
    for repeat in range(repeats + 1):
        for count, bundle in bundles.items():
            elapsed, scores[count] = run(bundle, sequences)
            if repeat:
                seconds[count].append(elapsed)
    moved = max(
        float(np.abs(found[name] - values).max())
        for found in scores.values()
        for name, values in scores[max(COUNTS)].items()
        if name in found
    )
    medians = {count: statistics.median(each) for count, each in seconds.items()}
    return {
        "sequences": len(sequences),
        "repeats": repeats,
        "target_ratio": TARGET,
        "heads": {
            str(count): {
                "seconds": each,
                "median_s": medians[count],
                "ratio_to_one": medians[count] / medians[1],
                "parity": msgspec.to_builtins(open_bundle(bundles[count]).manifest.variants[VARIANT].parity),
            }
            for count, each in seconds.items()
        },
        "max_difference_between_bundles": moved,
    }


def main() -> None:
    """Measure, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("-o", "--output", required=True, type=Path)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    limit = SequenceLimit(open_bundle(None).manifest.max_residues)
    sequences = read_input(arguments.file, limit, skip_invalid=True).sequences[: arguments.rows]
    with tempfile.TemporaryDirectory() as work:
        record = {"machine": machine()} | measure(sequences, arguments.repeats, Path(work))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for count, found in record["heads"].items():
        print(f"{count} heads: {found['median_s']:.3f} s, {found['ratio_to_one']:.3f} times as long as one head")


if __name__ == "__main__":
    main()
