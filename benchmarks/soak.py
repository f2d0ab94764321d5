"""Watch memory over a long run and over many reloads, and look for leaks; writes a JSON record and a picture.

    python benchmarks/soak.py -o benchmarks/records/soak.json --picture benchmarks/records/soak.png
    python benchmarks/soak.py -o RECORD.json --picture PICTURE.png --rows 400 --window 40 --reloads 5 [FILE]

The script scores as many rows as Harvey's set has (141,021) with the shipped bundle, CSV to CSV. It reads the resident
memory and the number of threads of the scoring process every second. The rows are FILE's sequences (default: the
examples). They are repeated with one more random substitution each time, so that almost no row appears twice. Then a
process opens a session, reloads it 50 times, measures its memory, and counts files, threads and semaphores. The exit
code is 1 if memory is over a limit (LIMITS), a count has changed, a row is missing, or a process warns.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from abonyx.alphabet import SequenceLimit
from abonyx.bundle import open_bundle
from abonyx.bundle.manifest import RESIDUES
from abonyx.bundle.tolerances import MEMORY_BYTES, SOAK_RATIO
from abonyx.input.checked import read_input
from commands import ABONYX, REPOSITORY, machine
from faults import rows_done

HARVEY_ROWS = 141_021
LIMITS = {"memory_ratio": SOAK_RATIO, "reload_bytes": MEMORY_BYTES}
# Resident memory changes within a window, so each side of the comparison is a median over this share of the rows.
SPAN = 0.02

RELOADS = """
import json, sys, threading
from pathlib import Path
import psutil
import abonyx
from multiprocessing import resource_tracker

config, cycles, sequences = abonyx.RuntimeConfig(), int(sys.argv[1]), sys.argv[2:]
process = psutil.Process()

def held():
    maps = Path("/proc/self/maps")
    semaphores = maps.read_text().count("/dev/shm/sem.") if maps.exists() else 0
    return {
        "open_files": process.num_fds(),
        "threads": process.num_threads(),
        "semaphores": semaphores,
        "resource_tracker": resource_tracker._resource_tracker._fd is not None,
        "children": len(process.children(recursive=True)),
    }

abonyx.open_session(config).close()  # what the import of the engine allocates is not a leak
before, resident = held(), []
session = abonyx.open_session(config)
for _ in range(cycles):
    session.score(sequences)
    session.reload(config)
    resident.append(process.memory_info().rss)
session.close()
print(json.dumps({"before": before, "after": held(), "resident_bytes": resident}))
"""


def write_input(path: Path, rows: int, source: Path, seed: int = 0) -> None:
    """Write a CSV with `rows` rows: the source's sequences and mutants of them."""
    draw = random.Random(seed)
    sequences = read_input(source, SequenceLimit(open_bundle(None).manifest.max_residues), skip_invalid=True).sequences
    with path.open("w") as file:
        file.write("id,sequence\n")
        for row, sequence in enumerate(itertools.islice(itertools.cycle(sequences), rows)):
            residues = list(sequence)
            for _ in range(row // len(sequences)):
                residues[draw.randrange(len(residues))] = draw.choice(RESIDUES.replace("X", ""))
            file.write(f"row{row},{''.join(residues)}\n")


def watch(process: psutil.Process, output: Path, interval_s: float) -> Iterator[dict[str, float]]:
    """Sample the process's memory and threads until it ends."""
    started = time.monotonic()
    while process.status() != psutil.STATUS_ZOMBIE:
        yield {
            "seconds": round(time.monotonic() - started, 3),
            "rows": max(0, rows_done(output)),
            "resident_bytes": process.memory_info().rss,
            "threads": process.num_threads(),
        }
        time.sleep(interval_s)


def soak(folder: Path, rows: int, window: int | None, source: Path, interval_s: float) -> dict[str, Any]:
    """Score the rows; returns samples over time, and resident memory at 10 % and at 100 % of the rows."""
    given, output = folder / "in.csv", folder / "out.csv"
    write_input(given, rows, source)
    environment = os.environ | ({"ABONYX_WINDOW_SIZE": str(window)} if window else {})
    line = [sys.executable, "-W", "error", *ABONYX[1:], "score", str(given), "-o", str(output)]
    with (folder / "stderr").open("w+") as stderr:
        started = subprocess.Popen(line, env=environment, stderr=stderr)
        samples = list(watch(psutil.Process(started.pid), output, interval_s))
        code = started.wait()
        stderr.seek(0)
        text = stderr.read()
    if code:
        raise SystemExit(f"{line} failed with {code}:\n{text}")
    with output.open() as file:
        written = sum(1 for _ in file) - 1
    early, late = _resident(samples, rows)
    return {
        "rows": rows,
        "rows_written": written,
        "seconds": samples[-1]["seconds"],
        "resident_bytes": {"at 10 %": early, "at 100 %": late, "highest": max(s["resident_bytes"] for s in samples)},
        "memory_ratio": late / early,
        "stderr": text,
        "samples": samples,
    }


def _resident(samples: list[dict[str, float]], rows: int) -> tuple[float, float]:
    """Two medians of resident memory, each over SPAN of the rows: after the first tenth, and before the last window."""
    # After the last row the session closes and returns its memory, so later samples do not count.
    at_work = [sample for sample in samples if sample["resident_bytes"] and sample["rows"] < rows]
    first = next((sample["rows"] for sample in at_work if sample["rows"] >= 0.1 * rows), 0)
    last = max(sample["rows"] for sample in at_work)
    early = [sample for sample in at_work if first <= sample["rows"] <= first + SPAN * rows]
    late = [sample for sample in at_work if sample["rows"] >= last - SPAN * rows]
    return (
        statistics.median(sample["resident_bytes"] for sample in early),
        statistics.median(sample["resident_bytes"] for sample in late),
    )


def reloads(cycles: int, sequences: list[str]) -> dict[str, Any]:
    """Reload a session `cycles` times in a new process."""
    line = [sys.executable, "-W", "error", "-c", RELOADS, str(cycles), *sequences]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"reloading failed with {done.returncode}:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    resident = found["resident_bytes"]
    return found | {"stderr": done.stderr, "highest_over_second_bytes": max(resident[1:]) - resident[1]}


def faults(run: dict[str, Any], reloaded: dict[str, Any], limits: dict[str, float] = LIMITS) -> list[str]:
    """Texts about everything that is over its limit or was left open."""
    found = []
    if abs(run["memory_ratio"] - 1) > limits["memory_ratio"]:
        limit = f"1 +- {limits['memory_ratio']}"
        found.append(f"memory at 100 % is {run['memory_ratio']:.3f} of that at 10 %, limit {limit}")
    if run["rows_written"] != run["rows"]:
        found.append(f"{run['rows_written']} rows written of {run['rows']}")
    if reloaded["highest_over_second_bytes"] > limits["reload_bytes"]:
        over = reloaded["highest_over_second_bytes"]
        found.append(f"a later reload has {over} bytes more than the second one, limit {limits['reload_bytes']}")
    for what, before in reloaded["before"].items():
        after = reloaded["after"][what]
        if after != before:
            found.append(f"{what}: {before} before, {after} after")
    for name, part in (("score", run), ("reload", reloaded)):
        if "resource_tracker" in part["stderr"] or "Warning" in part["stderr"]:
            found.append(f"{name} warned: {part['stderr']}")
    return found


def draw(run: dict[str, Any], reloaded: dict[str, Any], path: Path) -> None:
    """Draw memory over time and over reloads."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 6.0), layout="constrained")
    over_time, over_reloads = figure.subplots(2)
    samples = [sample for sample in run["samples"] if sample["resident_bytes"]]
    early = run["resident_bytes"]["at 10 %"] / 1e6
    over_time.plot([s["seconds"] / 60 for s in samples], [s["resident_bytes"] / 1e6 for s in samples], "#0072B2", lw=1)
    band = f"at 10 % of the rows, +- {SOAK_RATIO:.0%}"
    over_time.axhspan(early * (1 - SOAK_RATIO), early * (1 + SOAK_RATIO), color="#595959", alpha=0.2, label=band)
    at = next((s["seconds"] / 60 for s in samples if s["rows"] >= 0.1 * run["rows"]), 0)
    over_time.axvline(at, color="#D55E00", ls="--", lw=1, label="10 % of the rows")
    over_time.set(xlabel="minutes", ylabel="resident memory, MB", ylim=(0, None))
    over_time.set_title(f"abonyx score, {run['rows']:,} rows, CSV to CSV: end / 10 % = {run['memory_ratio']:.3f}")
    over_time.legend(loc="lower right")
    resident = [value / 1e6 for value in reloaded["resident_bytes"]]
    over_reloads.plot(range(1, len(resident) + 1), resident, "#0072B2", marker=".", lw=1)
    limit = resident[1] + MEMORY_BYTES / 1e6
    over_reloads.axhline(limit, color="#D55E00", ls="--", lw=1, label=f"second + {MEMORY_BYTES / 1e6:.0f} MB")
    over_reloads.set(xlabel="reload", ylabel="resident memory, MB", ylim=(0, None))
    over_reloads.set_title(f"score, then reload, {len(resident)} times in one process")
    over_reloads.legend(loc="lower right")
    figure.savefig(path, format="png", dpi=120, metadata={"Software": None})


def main() -> None:
    """Command line."""
    examples = REPOSITORY / "examples" / "therapeutic_vh.csv"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", type=Path, default=examples, metavar="FILE")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON record")
    parser.add_argument("--picture", type=Path, required=True, help="PNG")
    parser.add_argument("--rows", type=int, default=HARVEY_ROWS)
    parser.add_argument("--window", type=int, help="records per window  [default: the provider's]")
    parser.add_argument("--reloads", type=int, default=50)
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between samples")
    arguments = parser.parse_args()
    for path in (arguments.output, arguments.picture):
        path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        run = soak(Path(scratch), arguments.rows, arguments.window, arguments.source, arguments.interval)
    sequences = read_input(examples, SequenceLimit(open_bundle(None).manifest.max_residues)).sequences
    reloaded = reloads(arguments.reloads, sequences * 8)
    found = faults(run, reloaded)
    draw(run, reloaded, arguments.picture)
    # The record has about 100 of the samples; the picture has all samples.
    step = max(1, len(run["samples"]) // 100)
    record = {
        "machine": machine(),
        "input": arguments.source.name,
        "limits": LIMITS,
        "faults": found,
        "score": run | {"samples": run["samples"][::step]},
        "reload": reloaded,
    }
    arguments.output.write_text(json.dumps(record, indent=2) + "\n")
    print("\n".join(found) or f"no faults: memory at the end / at 10 % {run['memory_ratio']:.4f}, {reloaded['after']}")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
