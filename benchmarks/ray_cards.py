"""Score harvey-scale in 16 files on one GPU and on two, with Ray and as two commands; writes one JSON record.

    python benchmarks/ray_cards.py -o RECORD.json --work DIR --bundle BUNDLE --sequences FILE

harvey-scale is the 141,021 sequences that gpu.harvey_scale makes from FILE.

All results must have the same bytes as those of one worker, which must equal `abonyx score` of two of the files. In one
run a worker is killed in the middle. For a trial without a GPU, use --provider cpu and --rows.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from abonyx.bundle import open_bundle
from abonyx.hashing import file_sha256
from abonyx.output.formats import write_table
from abonyx.run.run_file import SIDE
from commands import ABONYX, machine
from gpu import HARVEY_SCALE, harvey_scale
from preparation import read_sequences

TARGET = 1.9
FILES_WITHOUT_RAY = 2  # few, because each command opens the model
SCORED = re.compile(r"(\d+) sequences scored.*?, in ([\d.]+) s on ")
# Runs the command with a local Ray that has the given numbers of processors and GPUs.
RUN = """
import sys, ray
ray.init("local", num_cpus=int(sys.argv[1]), num_gpus=int(sys.argv[2]), include_dashboard=False, log_to_driver=False,
         logging_level="ERROR")
from abonyx.cli import main
sys.argv = ["abonyx", *sys.argv[3:]]
main()
"""


def make_inputs(folder: Path, sequences: list[str], files: int) -> None:
    """Write the rows to CSV files of about equal size."""
    folder.mkdir(parents=True)
    for number in range(files):
        rows = [(f"h{index}", sequences[index]) for index in range(number, len(sequences), files)]
        write_table(folder / f"{number:02}.csv", ("id", "sequence"), zip(*zip(*rows, strict=True), strict=True))


def hashes(output: Path) -> dict[str, str]:
    """SHA-256 of each result file."""
    return {path.name: file_sha256(path) for path in sorted(output.glob("*.parquet"))}


def summary(output: Path) -> dict[str, Any]:
    """Facts from the run's own output."""
    found: dict[str, Any] = json.loads((output / SIDE / "summary.json").read_bytes())
    return found


class Runs:
    """The runs of one bundle on one folder of files. Each run has a separate output folder.

    Args:
        options: options of every command: provider, bundle, domain check.
        cards: whether each worker has a GPU; otherwise it has a processor.
    """

    def __init__(self, inputs: Path, work: Path, options: list[str], cards: bool) -> None:
        self.inputs, self.work, self.options, self.cards = inputs, work, options, cards
        self.expected: dict[str, str] = {}  # hashes of the first run with Ray

    def ray_command(self, workers: int, output: Path) -> list[str]:
        """The command for `abonyx score DIR --ray` with a local Ray that has room for this number of workers."""
        room = [str(2 * workers if self.cards else workers), str(workers if self.cards else 0)]
        return [sys.executable, "-P", "-c", RUN, *room, *self.score(self.inputs, output), "--ray"]

    def score(self, inputs: Path, output: Path) -> list[str]:
        return ["score", str(inputs), "-o", str(output), *self.options]

    def ray(self, workers: int, name: str, kill_after_s: float | None = None) -> dict[str, Any]:
        """One run with Ray. If kill_after_s is given, a worker is killed that many seconds after the first result."""
        output = self.work / name
        started = time.perf_counter()
        process = subprocess.Popen(self.ray_command(workers, output), stderr=subprocess.PIPE, text=True)
        killed = _kill_one(process.pid, output, kill_after_s) if kill_after_s is not None else None
        _, said = process.communicate()
        wall = time.perf_counter() - started
        if process.returncode:
            raise SystemExit(f"{name} failed with {process.returncode}:\n{said[-4000:]}")
        found = summary(output)
        self.expected = self.expected or hashes(output)
        row = {
            "name": name,
            "workers": found["workers"],
            "wall_s": wall,
            "run_s": found["run_seconds"],
            "records": found["records"],
            "failed": found["failed"],
            "killed_worker": killed,
            "same_bytes": hashes(output) == self.expected,
        }
        print(row, flush=True)
        return row

    def single(self) -> dict[str, Any]:
        """Run `abonyx score` on the first files, without Ray."""
        output = self.work / "single"
        output.mkdir()
        started, scoring, rows = time.perf_counter(), 0.0, 0
        for source in sorted(self.inputs.iterdir())[:FILES_WITHOUT_RAY]:
            command = [*ABONYX, *self.score(source, output / f"{source.stem}.parquet")]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{source} failed with {done.returncode}:\n{done.stderr[-4000:]}")
            said = SCORED.search(done.stderr)
            assert said is not None
            rows += int(said[1])
            scoring += float(said[2])
        row = {
            "name": "single",
            "wall_s": time.perf_counter() - started,
            "scoring_s": scoring,
            "records": rows,
            "same_bytes": hashes(output).items() <= self.expected.items(),
        }
        print(row, flush=True)
        return row

    def two_commands(self) -> dict[str, Any]:
        """Run two `abonyx score` processes, each with one GPU and one file of half the records."""
        halves = [self.work / f"half{number}.csv" for number in range(2)]
        for number, half in enumerate(halves):
            lines: list[str] = []
            for source in sorted(self.inputs.iterdir())[number::2]:
                header, *rest = source.read_text().splitlines(keepends=True)
                lines += rest if lines else [header, *rest]
            half.write_text("".join(lines))
        row: dict[str, Any] = {"name": "two commands"}
        for count in (1, 2):
            started = time.perf_counter()
            processes = []
            for number, half in enumerate(halves[:count]):
                environment = os.environ | ({"ABONYX_CUDA_DEVICE_ID": str(number)} if self.cards else {})
                command = [*ABONYX, *self.score(half, self.work / f"half{number}-{count}.csv")]
                processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
            said = [process.communicate()[1] for process in processes]
            if any(process.returncode for process in processes):
                raise SystemExit(f"two commands failed:\n{said}")
            row[f"wall_s_of_{count}"] = time.perf_counter() - started
            row[f"summary_of_{count}"] = [text.splitlines()[:2] for text in said]
        # If only the GPUs limit the speed, one command takes as long as both at the same time, and the ratio is 2.
        row["two_over_one"] = 2 * row["wall_s_of_1"] / row["wall_s_of_2"]
        print(row, flush=True)
        return row


def _kill_one(driver: int, output: Path, after_s: float) -> int:
    """Kill one worker `after_s` seconds after any worker has finished a file; returns its process id."""
    while not any(output.glob("*.parquet")):
        time.sleep(0.1)
    time.sleep(after_s)
    workers = [
        process
        for process in psutil.process_iter(["name", "cmdline"])
        if "ray::Worker" in " ".join(process.info["cmdline"] or [process.info["name"]])
    ]
    if not workers:
        raise SystemExit("no worker was found to kill")
    workers[0].send_signal(signal.SIGKILL)
    return int(workers[0].pid)


def main() -> None:
    """Run the benchmark and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("-o", "--output", type=Path, required=True)
    add("--work", type=Path, required=True)
    add("--bundle", help="default: the shipped one")
    add("--provider", default="cuda", choices=["cuda", "cpu"])
    add("--domain", default="off", choices=["off", "check"])
    add("--rows", type=int, default=HARVEY_SCALE)
    add("--files", type=int, default=16)
    add("--repeats", type=int, default=1)
    add("--sequences", type=Path, required=True)
    add("--kill-after-s", type=float, default=2.0)
    arguments = parser.parse_args()
    cards = arguments.provider == "cuda"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["ABONYX_CPU_THREADS"] = "1"  # as in a worker: the configuration's hash is part of a result
    shutil.rmtree(arguments.work, ignore_errors=True)
    arguments.work.mkdir(parents=True)
    inputs = arguments.work / "inputs"
    make_inputs(inputs, harvey_scale(read_sequences(arguments.sequences), arguments.rows), arguments.files)
    options = ["--provider", arguments.provider, "--domain", arguments.domain]
    options += ["--bundle", arguments.bundle] if arguments.bundle else []
    runs = Runs(inputs, arguments.work, options, cards)
    found: list[dict[str, Any]] = []
    for repeat in range(arguments.repeats):
        found += [runs.ray(workers, f"ray-{workers}-{repeat}") for workers in (1, 2)]
    found += [runs.ray(2, "ray-2-killed", arguments.kill_after_s), runs.single(), runs.two_commands()]
    seconds = {
        workers: statistics.median(
            row["run_s"] for row in found if row.get("workers") == workers and row.get("killed_worker") is None
        )
        for workers in (1, 2)
    }
    bundle = open_bundle(arguments.bundle)
    record = {
        "machine": machine()
        | {name: version(name) for name in ("ray", "pyarrow")}
        | {"gpus": _cards() if cards else []},
        "bundle_sha256": bundle.sha256,
        "layers": bundle.manifest.encoder.layers,
        "rows": arguments.rows,
        "files": arguments.files,
        "domain": arguments.domain,
        "runs": found,
        "two_workers_over_one": seconds[1] / seconds[2],
        "target": {"limit": TARGET, "held": seconds[1] / seconds[2] >= TARGET},
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(record, indent=2) + "\n")
    wrong = [row["name"] for row in found if not row.get("same_bytes", True)]
    if wrong:
        sys.exit(f"the results of {wrong} differ from those of one worker")


def _cards() -> list[str]:
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    return subprocess.run(query, check=True, capture_output=True, text=True).stdout.split("\n")[:-1]


if __name__ == "__main__":
    main()
