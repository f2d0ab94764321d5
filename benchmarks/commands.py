"""Measure wall time and peak memory of whole commands, from process start to exit; writes a JSON record.

    python benchmarks/commands.py -o benchmarks/records/commands.json
    python benchmarks/commands.py -o RECORD.json --repeats 1 --bundle DIR FILE.csv ...

Without files, the commands are an import, --help, and scoring the examples with the shipped bundle. With files, each is
scored with the bundle, and the record includes the bundle's parity record. A run that fails its self-test ends the
benchmark.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from abonyx.bundle import open_bundle
from abonyx.engine.onnx import import_engine
from abonyx.engine.process import usable_processors
from abonyx.engine.processor import this_processor

REPOSITORY = Path(__file__).resolve().parents[1]
ABONYX = [sys.executable, "-m", "abonyx"]


def measure(command: list[str], repeats: int) -> dict[str, Any]:
    """Run a command `repeats` times. If repeats > 1, one more run comes first and is not counted."""
    seconds, peaks_bytes, last_line = [], [], ""
    for index in range(repeats + (repeats > 1)):
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        text = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        elapsed = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{command} failed with {process.returncode}:\n{text}")
        if index or repeats == 1:
            seconds.append(elapsed)
            peaks_bytes.append(usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
        last_line = text.splitlines()[0] if text else ""
    return {
        "runs": repeats,
        "wall_s": {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)},
        "peak_memory_bytes": max(peaks_bytes),
        "summary": last_line,
    }


def machine() -> dict[str, Any]:
    """The machine and versions that the figures depend on."""
    processor = this_processor()
    commit = ""
    if shutil.which("git"):
        command = ["git", "rev-parse", "HEAD"]
        commit = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit,
        "cpu": processor.name,
        # The processor's generation and instruction sets matter: ratios differ between generations.
        "processor": msgspec.to_builtins(processor),
        "threads": usable_processors(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("abonyx", "numpy")},
        # The version comes from the module: for a GPU or OpenVINO the distribution has another name.
        "onnxruntime": str(import_engine().__version__),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--variant")
    parser.add_argument("--repeats", type=int, default=10)
    arguments = parser.parse_args()
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    bundle = open_bundle(arguments.bundle)
    name, variant = bundle.variant("cpu", arguments.variant)
    weights = bundle.manifest.files[variant.model + ".data"].size_bytes
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        options = ["-o", str(Path(scratch) / "scores.csv"), "--variant", name, "--on-invalid", "skip"]
        options += ["--bundle", str(arguments.bundle)] if arguments.bundle else []
        if not arguments.files:
            figures["python -c pass"] = measure([sys.executable, "-c", "pass"], arguments.repeats)
            figures["import abonyx"] = measure([sys.executable, "-c", "import abonyx"], arguments.repeats)
            figures["abonyx --help"] = measure([*ABONYX, "--help"], arguments.repeats)
        for file in arguments.files or [REPOSITORY / "examples" / "therapeutic_vh.csv"]:
            figure = measure([*ABONYX, "score", str(file), *options], arguments.repeats)
            figure["peak_memory_over_weights"] = figure["peak_memory_bytes"] / weights
            figures[f"abonyx score {file.name}"] = figure
            print(f"{file.name}: {figure['summary']}")
    record = {
        "machine": machine(),
        "bundle": bundle.name,
        "bundle_sha256": bundle.sha256,
        "variant": name,
        "weights_bytes": weights,
        "parity": msgspec.to_builtins(variant.parity),
        "commands": figures,
    }
    arguments.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
