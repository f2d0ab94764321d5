"""Measure the seconds from open_session to the first score, each time in a new process; writes a JSON record.

    python benchmarks/opening.py BUNDLE --variant int8 -o benchmarks/records/opening.json

There are three cases, which take turns. first: there is no cache of hashes or self-tests, and the bundle's files are
not in memory. evicted: the caches exist, but the files are not in memory. again: the
caches exist, and the files are in memory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from abonyx.bundle import open_bundle
from commands import machine

CHILD = """
import json, resource, sys, time
begun = time.perf_counter()
import abonyx
config = abonyx.RuntimeConfig(bundle=sys.argv[1], variant=sys.argv[2], provider=sys.argv[3])
started = time.perf_counter()
with abonyx.open_session(config) as session:
    opened = time.perf_counter()
    session.score([sys.argv[4]])
    scored = time.perf_counter()
peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({"open_s": opened - started, "first_score_s": scored - started, "peak_bytes": peak_bytes}))
"""
# The heavy chain of a therapeutic antibody, from the examples.
SEQUENCE = "EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVARIYPTNGYTRYADSVKGRFTISADTSKNTAYLQMNSLRAEDTAVYYCSR"
SEQUENCE += "WGGDGFYAMDYWGQGTLVTVSS"
CASES = ("first", "evicted", "again")


def evict(directory: Path) -> None:
    """Ask the system to remove the files' pages from memory."""
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def opening(case: str, cache: Path, bundle: Path, variant: str, provider: str) -> dict[str, float]:
    """The figures of one process."""
    if case == "first":
        for file in cache.glob("*"):
            file.unlink()
    if case != "again":
        evict(bundle)
    command = [sys.executable, "-c", CHILD, str(bundle), variant, provider, SEQUENCE]
    environment = os.environ | {"ABONYX_CACHE_DIR": str(cache)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{case} failed with {done.returncode}:\n{done.stderr}")
    found: dict[str, float] = json.loads(done.stdout)
    print(f"{case}: open {found['open_s']:.2f} s, first score after {found['first_score_s']:.2f} s", flush=True)
    return found


def main() -> None:
    """Run the benchmark and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--variant", required=True)
    parser.add_argument("--provider", default="cpu")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    opened = open_bundle(arguments.bundle)
    runs: dict[str, list[dict[str, float]]] = {case: [] for case in CASES}
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(arguments.repeats):
            for case in CASES:
                given = (case, Path(cache), arguments.bundle.absolute(), arguments.variant, arguments.provider)
                runs[case].append(opening(*given))
    record: dict[str, Any] = {
        "machine": machine(),
        "bundle_sha256": opened.sha256,
        "layers": opened.manifest.encoder.layers,
        "variant": arguments.variant,
        "provider": arguments.provider,
        "parity": msgspec.to_builtins(opened.manifest.variants[arguments.variant].parity),
        "cases": {
            case: {
                "first_score_s": statistics.median(run["first_score_s"] for run in made),
                "peak_bytes": max(run["peak_bytes"] for run in made),
                "runs": made,
            }
            for case, made in runs.items()
        },
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
