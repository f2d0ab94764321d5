"""Measure what the check of chain and domain costs: `abonyx score`, CSV to CSV, with --domain off and check in turns.

    python benchmarks/domain_cost.py SEQUENCES -o RECORD --work DIR [--count 141021] [--provider cuda] [--bundle DIR]

SEQUENCES is a file of antibody sequences. If --count is higher than its number of rows, the script adds point mutants
of them (fixed seed). If the two outputs differ in a score, no record is written.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from abonyx.domain import judged_by
from abonyx.engine.cuda_driver import read_cuda_driver
from abonyx.engine.process import usable_processors
from commands import machine
from gpu import harvey_scale
from preparation import read_sequences

CHECKS = ("off", "check")


def scores(path: Path) -> list[str]:
    """The column p_nonspecific."""
    with path.open(newline="", encoding="utf-8") as file:
        return [row["p_nonspecific"] for row in csv.DictReader(file)]


def timed(source: Path, output: Path, check: str, options: list[str]) -> tuple[float, float, str]:
    """Seconds of one run from start to exit, its processor seconds, and its summary."""
    command = [sys.executable, "-m", "abonyx", "score", str(source), "-o", str(output), "--domain", check, *options]
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processors = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - started, processors, done.stderr


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the command with each check in turn, `repeats` times, after a warm-up that is not counted."""
    arguments.work.mkdir(parents=True, exist_ok=True)
    source = arguments.work / "rows.csv"
    rows = harvey_scale(read_sequences(arguments.sequences), arguments.count)
    source.write_text("id,sequence\n" + "".join(f"{at},{row}\n" for at, row in enumerate(rows)), encoding="utf-8")
    options = ["--provider", arguments.provider]
    options += ["--bundle", str(arguments.bundle)] if arguments.bundle else []
    seconds: dict[str, list[float]] = {check: [] for check in CHECKS}
    processor_seconds: dict[str, list[float]] = {check: [] for check in CHECKS}
    summary: dict[str, str] = {}
    for repeat in range(arguments.repeats + 1):
        for check in CHECKS:
            took, busy, summary[check] = timed(source, arguments.work / f"{check}.csv", check, options)
            print(f"{repeat or 'warm-up'} {check}: {took:.2f} s", file=sys.stderr, flush=True)
            if repeat:
                seconds[check].append(took)
                processor_seconds[check].append(busy)
    if scores(arguments.work / "off.csv") != scores(arguments.work / "check.csv"):
        sys.exit(f"the scores in off.csv and check.csv of {arguments.work} differ; no record was written")
    medians = {check: statistics.median(values) for check, values in seconds.items()}
    return {
        "rows": len(rows),
        "provider": arguments.provider,
        "weights": arguments.weights,
        "seconds": seconds,
        "median_seconds": medians,
        "check_over_off": medians["check"] / medians["off"],
        "processor_seconds": processor_seconds,
        "processor_check_over_off": statistics.median(processor_seconds["check"])
        / statistics.median(processor_seconds["off"]),
        "processors": usable_processors(),
        "judged_by": judged_by(),
        "summary": {check: text.splitlines() for check, text in summary.items()},
        "card": [device.name for device in read_cuda_driver().devices] if arguments.provider == "cuda" else None,
        "machine": machine(),
    }


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sequences", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--count", type=int, default=141_021)
    parser.add_argument("--provider", default="cpu")
    parser.add_argument("--bundle", type=Path, help="[default: abonyx-mini]")
    parser.add_argument("--weights", default="trained (abonyx-mini)", help="text about the weights, for the record")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    record = measure(arguments)
    arguments.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(f"time with check / time with off: {record['check_over_off']:.4f}", file=sys.stderr)


if __name__ == "__main__":
    main()
