"""Measure the stability of calls: the share that flips if a sequence is changed at its ends or has one X.

    python benchmarks/stability.py SEQUENCES -o RECORD [--bundle DIR]

The script scores every sequence of a file unchanged and in each variation, without the check of chain and domain. It
counts the calls that differ, at the head's default threshold.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

import abonyx
from abonyx.alphabet import SequenceLimit
from abonyx.bundle import open_bundle
from abonyx.bundle.threshold import choose_threshold, is_nonspecific
from abonyx.evaluate.variations import VARIATIONS
from abonyx.hashing import file_sha256
from abonyx.input.checked import read_input
from commands import machine


def measure(source: Path, bundle: Path | None) -> dict[str, Any]:
    """The flips for each variation."""
    opened = open_bundle(bundle)
    longest = SequenceLimit(opened.manifest.max_residues - len("AAAHHHHHH"))
    sequences = read_input(source, longest, skip_invalid=True).sequences
    threshold = choose_threshold(opened, None, None)
    with abonyx.open_session(bundle) as session:
        p = session.score(sequences)
        flips = {}
        for name, vary in VARIATIONS.items():
            moved = session.score([vary(sequence) for sequence in sequences])
            changed = is_nonspecific(moved, threshold) != is_nonspecific(p, threshold)
            flips[name] = {"flips": float(changed.mean()), "mean_dp": float(np.abs(moved - p).mean())}
    return {
        "input": source.name,
        "input_sha256": file_sha256(source),
        "n": len(sequences),
        "threshold": threshold,
        "bundle": opened.manifest.name,
        "bundle_sha256": opened.sha256,
        "variations": flips,
        "machine": machine(),
    }


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sequences", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, help="[default: abonyx-mini]")
    arguments = parser.parse_args()
    record = measure(arguments.sequences, arguments.bundle)
    arguments.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    for name, found in record["variations"].items():
        print(f"{name}: {found['flips']:.1%} of {record['n']} calls flip", file=sys.stderr)


if __name__ == "__main__":
    main()
