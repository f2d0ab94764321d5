"""Compare the processor seconds that this checkout and another one need to read and check a file.

    git worktree add BASE COMMIT
    python benchmarks/reading.py --base BASE -o benchmarks/records/reading.json

The script makes the files with a fixed seed: 141,021 records of 110 to 130 residues, as CSV and as FASTA. The checkouts
take turns. In every turn, each checkout reads the file once in a new process. Imports are not counted, and the medians
are compared.
Both checkouts must read the same records (compared by hash).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
RECORDS = 141_021
SEED = 20261125
RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
# Largest allowed ratio of the time to the base's time.
MOST = 1.10

WORKER = """
import json, sys, time
from pathlib import Path
from abonyx.alphabet import SequenceLimit
from abonyx.input.checked import read_input
started = time.process_time()
checked = read_input(Path(sys.argv[1]), SequenceLimit(1022))
seconds = time.process_time() - started
print(json.dumps([seconds, len(checked.ids), checked.sha256()]))
"""


def write_files(folder: Path, records: int) -> list[Path]:
    """Write a CSV and a FASTA file with the same records."""
    draw = random.Random(SEED)
    rows = [(f"ab{number}", "".join(draw.choices(RESIDUES, k=draw.randint(110, 130)))) for number in range(records)]
    table, fasta = folder / "records.csv", folder / "records.fasta"
    table.write_text("id,sequence,source\n" + "".join(f"{id_},{text},made\n" for id_, text in rows))
    lines = (f">{id_} made\n{text[:60]}\n{text[60:]}\n" for id_, text in rows)
    fasta.write_text("".join(lines))
    return [table, fasta]


def read(checkout: Path, file: Path) -> tuple[float, int, str]:
    """Processor seconds, number of records and their hash, with a checkout's runtime."""
    environment = os.environ | {"PYTHONPATH": str(checkout / "runtime")}
    done = subprocess.run(
        [sys.executable, "-c", WORKER, str(file)], capture_output=True, text=True, check=True, env=environment
    )
    seconds, count, sha256 = json.loads(done.stdout)
    return seconds, count, sha256


def compare(checkouts: dict[str, Path], file: Path, turns: int) -> dict[str, Any]:
    """Medians over the turns; each checkout runs once per turn."""
    seconds: dict[str, list[float]] = {name: [] for name in checkouts}
    hashes = set()
    for turn in range(turns):
        for name in sorted(checkouts, reverse=turn % 2 == 1):
            taken, count, sha256 = read(checkouts[name], file)
            seconds[name].append(taken)
            hashes.add((count, sha256))
    if len(hashes) != 1:
        raise SystemExit(f"{file.name}: the checkouts read different records: {sorted(hashes)}")
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {"median_s": medians, "seconds": seconds, "ratio": medians["this"] / medians.get("base", medians["this"])}


def main() -> None:
    """Measure, print, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, help="the other checkout")
    parser.add_argument("--turns", type=int, default=11)
    parser.add_argument("--records", type=int, default=RECORDS)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    checkouts = {"this": REPOSITORY} | ({"base": arguments.base.resolve()} if arguments.base else {})
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(Path(folder), arguments.records)
        found = {file.suffix[1:]: compare(checkouts, file, arguments.turns) for file in files}
    for kind, result in found.items():
        times = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in result["median_s"].items())
        print(f"{kind}: {times}; ratio {result['ratio']:.3f}")
    record = {
        "records": arguments.records,
        "turns": arguments.turns,
        "python": platform.python_version(),
        "processors": os.cpu_count(),
        "files": found,
    }
    if arguments.output:
        arguments.output.write_text(json.dumps(record, indent=1) + "\n")
    if any(result["ratio"] > MOST for result in found.values()):
        raise SystemExit(f"reading takes more than {MOST:g} times as long as in the base")


if __name__ == "__main__":
    main()
