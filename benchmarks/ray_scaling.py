"""Measure rows per second of `abonyx score DIR --ray` with one and two single-threaded workers; writes a JSON record.

    python benchmarks/ray_scaling.py FILE -o benchmarks/records/ray.json

The first records of FILE that can be scored are split into files. Each run scores them with the shipped bundle, and
the record says whether its results have the same bytes as those of `abonyx score`, file by file. The script also
measures the cost of reading, writing and the run file, for docs/scale.md. (The script is not named ray.py, because
`import ray` would then import it.)
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from abonyx.alphabet import SequenceLimit
from abonyx.bundle import open_bundle
from abonyx.hashing import file_sha256
from abonyx.input.checked import Input, read_input
from abonyx.output.formats import results_format, score_columns, write_table
from abonyx.run.run_file import SIDE, File, open_run_file
from commands import ABONYX, machine

TARGET = 1.8
# Runs the command with a Ray that has room for the given number of workers.
RUN = """
import sys, ray
ray.init("local", num_cpus=int(sys.argv[1]), include_dashboard=False, log_to_driver=False, logging_level="ERROR")
from abonyx.cli import main
sys.argv = ["abonyx", *sys.argv[2:]]
main()
"""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=1_600)
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    whole = read_input(arguments.file, SequenceLimit(open_bundle(None).manifest.max_residues), skip_invalid=True)
    os.environ |= {"ABONYX_CPU_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        costs = _costs(whole, work)
        inputs = work / "inputs"
        inputs.mkdir()
        for number in range(arguments.files):
            part = slice(number, arguments.rows, arguments.files)
            rows = zip(whole.ids[part], whole.sequences[part], strict=True)
            write_table(inputs / f"{number}.csv", ("id", "sequence"), rows)
        expected = _without_ray(inputs, work / "single")
        runs = []
        for repeat in range(arguments.repeats):
            for workers in (1, 2) if repeat % 2 == 0 else (2, 1):
                runs.append(_run(inputs, work / f"{repeat}-{workers}", workers))
                runs[-1]["same_bytes"] = _hashes(work / f"{repeat}-{workers}") == expected["files"]
                print(runs[-1])
    rates = {
        workers: statistics.median(run["rows_per_s"] for run in runs if run["workers"] == workers) for workers in (1, 2)
    }
    record = {
        "machine": machine() | {name: version(name) for name in ("ray", "pyarrow")},
        "workload": {"file": arguments.file.name, "rows": arguments.rows, "files": arguments.files},
        "bundle_sha256": open_bundle(None).sha256,
        "without_ray": {"threads": 1, "seconds": expected["seconds"], "rows_per_s": expected["rows_per_s"]},
        "runs": runs,
        "rows_per_s": rates,
        "two_workers_over_one": rates[2] / rates[1],
        "target": {"limit": TARGET, "held": rates[2] / rates[1] >= TARGET},
        "costs": costs,
    }
    arguments.output.write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps({key: record[key] for key in ("rows_per_s", "two_workers_over_one", "without_ray", "costs")}))


def _run(inputs: Path, output: Path, workers: int) -> dict[str, Any]:
    load = os.getloadavg()
    command = [sys.executable, "-P", "-c", RUN, str(workers), "score", str(inputs), "-o", str(output), "--ray"]
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, text=True)
    wall = time.perf_counter() - started
    summary = json.loads((output / SIDE / "summary.json").read_bytes())
    assert summary["workers"] == workers and summary["failed"] == []
    return {
        "workers": workers,
        "rows_per_s": summary["records_now"] / summary["run_seconds"],
        "run_seconds": summary["run_seconds"],
        "wall_s": wall,
        "load_average_before": load,
    }


def _without_ray(inputs: Path, output: Path) -> dict[str, Any]:
    """Run the command without Ray, file by file. The seconds are those of scoring, without starting the command."""
    output.mkdir()
    seconds, rows = 0.0, 0
    for source in sorted(inputs.iterdir()):
        command = [*ABONYX, "score", str(source), "-o", str(output / f"{source.stem}.parquet")]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stderr.splitlines()[0]
        rows += int(said.split()[0])
        seconds += float(said.partition(", in ")[2].split()[0])
    return {"files": _hashes(output), "seconds": seconds, "rows_per_s": rows / seconds}


def _hashes(output: Path) -> dict[str, str]:
    return {path.name: file_sha256(path) for path in sorted(output.glob("*.parquet"))}


def _costs(whole: Input, work: Path) -> dict[str, Any]:
    """The cost of a row and of a file, apart from the model."""
    count = len(whole.ids)
    results = {}
    p = np.random.default_rng(0).random(count, np.float32)
    columns = score_columns(
        whole.ids, whole.sequences, p, (p > 0.5).astype(int).tolist(), ["uncertain"] * count, [""] * count
    )
    for kind in ("csv", "parquet"):
        path = work / f"whole.{kind}"
        started = time.perf_counter()
        form = results_format(kind, {})
        with path.open("wb") as sink, (work / "gathered").open("w+b") as gathered:
            encoded = b"".join([*form.head, *form.encode(0, columns)])
            (gathered if form.convert else sink).write(encoded)
            gathered.seek(0)
            if form.convert:
                form.convert(gathered, sink)
        written = time.perf_counter()
        before = _resident_bytes()
        read = read_input(path, SequenceLimit(1_022))
        ended = time.perf_counter()
        grown = _resident_bytes() - before
        file_sha256(path)
        assert len(read.sha256()) == 64
        results[kind] = {
            "bytes_per_row": path.stat().st_size / count,
            "bytes_per_row_until_whole": len(encoded) / count,  # for Parquet: the size of the Arrow stream
            "write_rows_per_s": count / (written - started),
            "read_rows_per_s": count / (ended - written),
            "hash_rows_per_s": count / (time.perf_counter() - ended),
            "memory_bytes_per_row": grown / count,
        }
    started, files = time.perf_counter(), [File(work / f"{number}.csv", work / f"{number}.pq") for number in range(500)]
    (work / "run").mkdir()
    with open_run_file(work / "run", restart=False) as run_file:
        run_file.settle({"engine": "one"})
        for file in files:
            run_file.begin(file)
    return {"rows": count, **results, "run_file_lines_per_s": len(files) / (time.perf_counter() - started)}


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
