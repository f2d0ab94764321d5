"""Measure the time of a scan of one VH at all positions; the JSON record has the parity of the bundle's variant.

    python benchmarks/scan.py [--bundle DIR] [--provider cuda] --weights trained -o RECORD.json

One session scans trastuzumab's heavy chain --repeats times. A warm-up of one position is not counted. A scan scores
each different sequence once, judges every mutant, and computes charge and pI.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import msgspec

import abonyx
from abonyx.bundle import open_bundle
from commands import machine
from opening import SEQUENCE

POSITIONS = "all"


def main() -> None:
    """Run the benchmark and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--provider", default="cpu")
    parser.add_argument("--device", help="name of the device, for the record")
    parser.add_argument("--weights", required=True, choices=["trained", "random"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    opened = open_bundle(arguments.bundle)
    config = abonyx.RuntimeConfig(
        bundle=None if arguments.bundle is None else str(arguments.bundle), provider=arguments.provider
    )
    seconds, score_seconds = [], []
    with abonyx.open_session(config) as session:
        variant = session.variant
        abonyx.scan(session, SEQUENCE, positions="27")
        for _ in range(arguments.repeats):
            started = time.perf_counter()
            found = abonyx.scan(session, SEQUENCE, positions=POSITIONS)
            seconds.append(time.perf_counter() - started)
            changed = [mutant.of(SEQUENCE) for mutant in found.mutants]
            started = time.perf_counter()
            session.score(changed)
            score_seconds.append(time.perf_counter() - started)
            print(f"scan {seconds[-1]:.2f} s; score of the same {len(changed)} sequences {score_seconds[-1]:.2f} s")
    record: dict[str, Any] = {
        "machine": machine(),
        "device": arguments.device,
        "provider": arguments.provider,
        "bundle_sha256": opened.sha256,
        "layers": opened.manifest.encoder.layers,
        "weights": arguments.weights,
        "variant": variant,
        "parity": msgspec.to_builtins(opened.manifest.variants[variant].parity),
        "mutants": len(found.mutants),
        "seconds": statistics.median(seconds),
        "score_seconds": statistics.median(score_seconds),
        "runs": seconds,
        "score_runs": score_seconds,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
