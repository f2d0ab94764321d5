"""Kill and disturb runs of `abonyx score` and `abonyx embed`, resume them, and compare the output byte by byte.

    python benchmarks/faults.py -o benchmarks/records/faults.json --page docs/reliability.md
    python benchmarks/faults.py --rows 600 --kills 3 --window 64

The script uses the shipped bundle. The rows are random fragments of the examples with 12 to 40 residues, and half of
them are repeated. Fragments run faster than complete domains, and this script only tests the writing. The exit code is
1 if an outcome is not the expected one. The full and the read-only disk are small tmpfs mounts. Without the permission
to mount, the full disk is a limit on file sizes (RLIMIT_FSIZE), and the read-only disk is left out with a message. The
file has over 300 lines, because each fault has its own function.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import faults_table
import power_loss
from abonyx.bundle import locate_mini
from commands import ABONYX, REPOSITORY, machine

EXAMPLES = REPOSITORY / "examples" / "therapeutic_vh.csv"
# A run that neither ends nor makes progress in this time counts as hanging.
PATIENCE_S = 600.0


@dataclass
class Scene:
    """An input in a folder, and a command with the output OUT.

    Attributes:
        command: score or embed.
        suffix: suffix of OUT, which decides its format.
        window: records per window.
        window_s: seconds of one window, including the opening of the model.
    """

    folder: Path
    rows: int
    window: int
    command: str = "score"
    suffix: str = ".csv"
    window_s: float = 0.0

    @property
    def source(self) -> Path:
        """The input."""
        return self.folder / "in.csv"

    def output(self, folder: Path | None = None) -> Path:
        """OUT, in a separate folder."""
        return (folder or self.folder / "out") / f"out{self.suffix}"

    def start(self, output: Path, *options: str, program: Sequence[str] = ABONYX, **how: Any) -> subprocess.Popen[str]:
        """Start the command; `program` replaces abonyx."""
        environment = os.environ | {"ABONYX_WINDOW_SIZE": str(self.window)}
        line = [*program, self.command, str(self.source), "-o", str(output), "--on-invalid", "skip", *options]
        return subprocess.Popen(line, env=environment, stderr=subprocess.PIPE, text=True, **how)

    def run(self, output: Path, *options: str, **how: Any) -> tuple[int, str]:
        """Run the command to its end; returns exit code and standard error."""
        with self.start(output, *options, **how) as process:
            _, text = process.communicate(timeout=PATIENCE_S)
        return process.returncode, text


def write_input(path: Path, rows: int, seed: int = 0) -> None:
    """Fragments of the examples' sequences, half of them repeated, with three records that cannot be scored."""
    draw = random.Random(seed)
    whole = [line.split(",")[1] for line in EXAMPLES.read_text().splitlines()[1:]]
    sequences: list[str] = []
    for _ in range(rows):
        if sequences and draw.random() < 0.5:
            sequences.append(draw.choice(sequences[-1000:]))
            continue
        sequence, length = draw.choice(whole), draw.randint(12, 40)
        start = draw.randrange(len(sequence) - length)
        sequences.append(sequence[start : start + length])
    lines = [f"row{number},{sequence}" for number, sequence in enumerate(sequences)]
    for number in range(3):
        lines.insert(draw.randrange(len(lines)), f"bad{number},EV*")
    path.write_text("\n".join(["id,sequence", *lines]) + "\n")


def make_scene(folder: Path, rows: int, window: int, command: str = "score", suffix: str = ".csv") -> Scene:
    """Make a scene and write its input."""
    scene = Scene(folder, rows, window, command, suffix)
    scene.output().parent.mkdir(parents=True)
    write_input(scene.source, rows)
    return scene


def files(folder: Path) -> dict[str, bytes]:
    """Names and bytes of the files in a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def reference(scene: Scene) -> dict[str, bytes]:
    """The output files of an undisturbed run."""
    folder = scene.folder / "reference"
    folder.mkdir()
    started = time.monotonic()
    code, text = scene.run(scene.output(folder))
    scene.window_s = (time.monotonic() - started) * scene.window / scene.rows
    if code:
        raise SystemExit(f"the undisturbed run failed with {code}:\n{text}")
    return files(folder)


def rows_done(output: Path, process: int | None = None) -> int:
    """Number of rows in the journal of an output; -1 if there is no journal, or if `process` is not in it yet."""
    try:
        text = output.with_name(output.name + ".journal").read_text()
    except FileNotFoundError:
        return -1
    lines = [json.loads(line) for line in text.split("\n")[:-1]]
    if process is not None and process not in [line["process"] for line in lines if line["type"] == "started"]:
        return -1
    return max((line["rows_done"] for line in lines if line["type"] == "window"), default=0)


def wait_for_rows(process: subprocess.Popen[str], output: Path, rows: int) -> None:
    """Wait until this process is running and the journal has this number of rows."""
    until = time.monotonic() + PATIENCE_S
    while rows_done(output, process.pid) < rows:
        if process.poll() is not None or time.monotonic() > until:
            raise SystemExit(f"process {process.pid} ended or hangs before row {rows} of {output}")
        time.sleep(0.002)


def stop_at(scene: Scene, output: Path, rows: int, number: int, delay_s: float = 0.0) -> tuple[int, str]:
    """Start or resume the command, and send a signal some time after row `rows`; returns exit code and stderr."""
    with scene.start(output) as process:
        wait_for_rows(process, output, rows)
        time.sleep(delay_s)
        process.send_signal(number)
        _, text = process.communicate(timeout=PATIENCE_S)
    return process.returncode, text


def kill(scene: Scene, expected: dict[str, bytes], kills: int, seed: int) -> list[str]:
    """Kill one run with SIGKILL at random points, and resume it after each."""
    draw = random.Random(seed)
    output, faults = scene.output(), []
    points = sorted(draw.randrange(scene.rows - 3 * scene.window) for _ in range(kills))
    for point in points:
        # The signal can come anywhere in a window or its writing, not only directly after a line of the journal.
        code, text = stop_at(scene, output, point, signal.SIGKILL, delay_s=draw.random() * scene.window_s)
        if code != -signal.SIGKILL:
            faults.append(f"killed at row {point}: exit code {code}: {text}")
        if output.exists():
            faults.append(f"killed at row {point}: {output.name} exists before it is complete")
        if rows_done(output) < point:
            faults.append(f"killed at row {point}: the journal went back to {rows_done(output)}")
    return faults + end(scene, expected)


def end(scene: Scene, expected: dict[str, bytes], output: Path | None = None) -> list[str]:
    """Resume the run to its end. It must have resumed, and its files must equal those of the undisturbed run."""
    output = output or scene.output()
    code, text = scene.run(output)
    faults = [] if code == 0 else [f"resuming: exit code {code}: {text}"]
    if "resuming after row" not in text:
        faults.append(f"the run started again and did not resume: {text}")
    found = files(output.parent)
    if found != expected:
        differ = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        faults.append(f"differs from the undisturbed run: {', '.join(differ)}")
    return faults


def interrupt(scene: Scene, expected: dict[str, bytes]) -> list[str]:
    """SIGINT, then SIGTERM: the window is finished, the exit code is 130, and the message says how to resume."""
    faults = []
    for part, number in enumerate((signal.SIGINT, signal.SIGTERM), 1):
        before = part * scene.rows // 4
        code, text = stop_at(scene, scene.output(), before, number)
        if code != 130 or "the same command resumes" not in text:
            faults.append(f"{number.name}: exit code {code}: {text}")
    return faults + end(scene, expected)


def full_disk(scene: Scene, expected: dict[str, bytes]) -> tuple[str, list[str]]:
    """A disk with space for half of the output: one clear error, no loss, and the run resumes when there is space."""
    size = sum(map(len, expected.values()))
    with mounted(scene.folder / "small", size // 2) as grow:
        if grow is None:
            limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))  # noqa: E731
            code, text = scene.run(scene.output(), preexec_fn=limit)
            return "RLIMIT_FSIZE", _refused(code, text, 2, "cannot be written") + end(scene, expected)
        output = scene.output(scene.folder / "small")
        code, text = scene.run(output)
        faults = _refused(code, text, 2, "No space left on device")
        if output.exists():
            faults.append("OUT exists before it is complete")
        grow(4 * size, "rw")
        return "tmpfs", faults + end(scene, expected, output)


def read_only(scene: Scene, expected: dict[str, bytes]) -> tuple[str, list[str]]:
    """An output that is read-only at the start, and one that becomes read-only between a kill and the resumed run."""
    size = sum(map(len, expected.values()))
    with mounted(scene.folder / "locked", 4 * size) as grow:
        if grow is None:
            return "left out: mounting is not permitted here", []
        output = scene.output(scene.folder / "locked")
        grow(4 * size, "ro")
        faults = _refused(*scene.run(output), 2, "not writable")
        grow(4 * size, "rw")
        stop_at(scene, output, scene.rows // 2, signal.SIGKILL)
        grow(4 * size, "ro")
        faults += _refused(*scene.run(output), 2, "not writable")
        grow(4 * size, "rw")
        return "tmpfs", faults + end(scene, expected, output)


def another_run(scene: Scene, expected: dict[str, bytes]) -> list[str]:
    """Change input, bundle or config before resuming: an error names the change, the first command still resumes."""
    output = scene.output()
    stop_at(scene, output, scene.rows // 2, signal.SIGKILL)
    kept = files(output.parent)
    before = scene.source.read_bytes()
    at = before.rindex(b",") + 1
    scene.source.write_bytes(before[:at] + (b"A" if before[at : at + 1] != b"A" else b"C") + before[at + 1 :])
    faults = _refused(*scene.run(output), 2, "input, sha256 of its records: ")
    scene.source.write_bytes(before)
    bundle = scene.folder / "bundle"
    shutil.copytree(locate_mini(), bundle)
    manifest = bundle / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"name"', ' "name"', 1))
    faults += _refused(*scene.run(output, "--bundle", str(bundle)), 2, "bundle, sha256: ")
    options = ["--pooling", "upstream-batch", "--batch-size", "8"]
    faults += _refused(*scene.run(output, *options), 2, "config: pooling: 'residues' then, 'upstream-batch' now")
    if files(output.parent) != kept:
        faults.append("a refused command changed the kept files")
    return faults + end(scene, expected)


def two_at_once(scene: Scene, expected: dict[str, bytes]) -> list[str]:
    """A second command on the same OUT is refused, and the error names the first process, which ends without error."""
    output = scene.output()
    stop_at(scene, output, scene.rows // 4, signal.SIGKILL)
    with scene.start(output) as first:
        wait_for_rows(first, output, scene.rows // 2)
        first.send_signal(signal.SIGSTOP)  # a paused run keeps its lock, even if the second command starts slowly
        try:
            faults = _refused(*scene.run(output), 2, f"another run is writing it (process {first.pid} on")
        finally:
            first.send_signal(signal.SIGCONT)
        _, text = first.communicate(timeout=PATIENCE_S)
    if first.returncode or files(output.parent) != expected:
        faults.append(f"the first run was disturbed: exit code {first.returncode}: {text}")
    return faults


def model_changed(scene: Scene, expected: dict[str, bytes]) -> list[str]:
    """While a run scores, the file of the weights is overwritten in place and then emptied."""
    bundle = Path(shutil.copytree(locate_mini(), scene.folder / "changed"))
    weights = next(bundle.glob("*/*.data"))
    output = scene.output()
    with scene.start(output, "--bundle", str(bundle)) as process:
        wait_for_rows(process, output, scene.rows // 4)
        data = weights.read_bytes()
        with weights.open("r+b") as file:
            file.write(data[len(data) // 2 :] + data[: len(data) // 2])
        wait_for_rows(process, output, scene.rows // 2)
        os.truncate(weights, 0)
        _, text = process.communicate(timeout=PATIENCE_S)
    if process.returncode or files(output.parent) != expected:
        return [f"exit code {process.returncode}, or the bytes differ: {text}"]
    return []


def _refused(code: int, text: str, wanted: int, part: str) -> list[str]:
    if code == wanted and part in text and "Traceback" not in text:
        return []
    return [f"exit code {code} (not {wanted}) or no {part!r} in: {text}"]


@contextlib.contextmanager
def mounted(folder: Path, size_bytes: int) -> Iterator[Callable[[int, str], object] | None]:
    """A tmpfs of this size, and a function that mounts it again with another size and mode; None = not permitted."""
    folder.mkdir()

    def mount(*options: str) -> bool:
        line = ["mount", "-t", "tmpfs", "-o", ",".join(options), "abonyx-faults", str(folder)]
        try:
            return subprocess.run(line, capture_output=True, check=False).returncode == 0
        except FileNotFoundError:
            return False

    if not mount(f"size={size_bytes}"):
        yield None
        return
    try:
        yield lambda size, mode: mount("remount", f"size={size}", mode) or sys.exit("cannot mount again")
    finally:
        subprocess.run(["umount", str(folder)], check=True)


# Code of a child process: it runs the command line, and kills itself at the rename with the given number.
_KILLED_AT_RENAME = """
import itertools, os, pathlib, signal, sys
last, folder, count, replace = int(sys.argv[1]), sys.argv[2], itertools.count(1), pathlib.Path.replace
def dies(self, target):
    if str(pathlib.Path(target).parent) == folder and next(count) == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)
pathlib.Path.replace = dies
sys.argv[1:] = sys.argv[3:]
from abonyx.cli import main
main()
"""


def killed_at_renames(folder: Path, rows: int, window: int) -> tuple[int, list[str]]:
    """Kill runs of formats with two and three files before each rename; returns the number of runs, and the faults."""
    times, faults = 0, []
    for command, suffix in (("score", ".csv"), ("score", ".parquet"), ("embed", ".npy")):
        scene = make_scene(folder / f"{command}{suffix}", rows, window, command, suffix)
        expected = reference(scene)
        for number in range(1, len(expected) + 1):
            output = scene.folder / str(number) / scene.output().name
            output.parent.mkdir()
            output.write_text(old := "what stood there before")
            start = [sys.executable, "-c", _KILLED_AT_RENAME, str(number), str(output.parent)]
            code, text = scene.run(output, program=start)
            times += 1
            where = f"{command} {suffix}, killed at rename {number}"
            if code != -signal.SIGKILL or output.read_text() != old:
                faults.append(f"{where}: exit code {code}, or OUT is not the old file: {text}")
            code, text = scene.run(output)
            if code or files(output.parent) != expected:
                faults.append(f"{where}: the same command: exit code {code}: {text}")
    return times, faults


def power_cuts(folder: Path, command: str, suffix: str, seed: int) -> tuple[int, list[str]]:
    """Cut a small run after each file operation (benchmarks/power_loss.py); returns the number of cuts, and the faults.

    A refused run is reported as a fault so that somebody looks at it. Today no run is refused.
    """
    folder.mkdir()
    outcomes, faults = power_loss.cut_everywhere(folder, f"out{suffix}", power_loss.small_run(command, suffix), seed)
    refused = outcomes.get("refused", 0)
    return sum(outcomes.values()), faults + [f"{refused} cuts after which the run was refused"] * bool(refused)


class Row(NamedTuple):
    """A line of the table.

    Attributes:
        run: injects the fault; returns the number of times, how it was done if that depends on the machine (else ""),
            and texts about what went wrong.
    """

    fault: str
    injected: str
    expected: str
    run: Callable[[], tuple[int, str, list[str]]]


def rows_of_runs(scratch: Path, rows: int, window: int, kills: int, seed: int) -> Iterator[Row]:
    """The rows of the table for faults during a run. Each row makes its scene when its `run` is called."""

    def scene(name: str, rows: int, *what: str) -> tuple[Scene, dict[str, bytes]]:
        made = make_scene(scratch / name, rows, window, *what)
        return made, reference(made)

    few, fewer_kills = max(window * 6, rows // 10), max(3, kills // 4)
    resumed = "resumed each time, identical"
    kinds = [("score", ".csv", rows, kills)]
    kinds += [(*one, few, fewer_kills) for one in (("score", ".jsonl"), ("score", ".parquet"))]
    kinds += [(*one, few, fewer_kills) for one in (("embed", ".npy"), ("embed", ".parquet"))]
    for command, suffix, count, times in kinds:

        def killed(command: str = command, suffix: str = suffix, count: int = count, times: int = times) -> Any:
            return times, "", kill(*scene(f"kill-{command}{suffix}", count, command, suffix), times, seed)

        fault = f"`kill -9`, `{command}` to `{suffix}`, {count:,} rows in windows of {window}"
        yield Row(fault, "SIGKILL at random (seeded) points, within a window or its writing", resumed, killed)
    for name, injected, times, expected, fault_ in _DISTURBED:

        def disturbed(times: int = times, fault_: Disturb = fault_) -> Any:
            outcome = fault_(*scene(fault_.__name__, few))
            way, faults = outcome if isinstance(outcome, tuple) else ("", outcome)
            return times, way, faults

        yield Row(name, injected, expected, disturbed)

    def renamed() -> Any:
        times, faults = killed_at_renames(scratch / "renames", window * 2, window)
        return times, "", faults

    formats = "`score` to CSV and Parquet, `embed` to `.npy`"
    done = "OUT is the old one; the same command puts the files in place, identical"
    yield Row(f"`kill -9` at each rename of the end, {formats}", "SIGKILL in the call", done, renamed)


def rows_of_power_loss(scratch: Path, seed: int) -> Iterator[Row]:
    """The rows for a power cut, one for each format."""
    for command, suffix in power_loss.FORMATS:

        def cut(command: str = command, suffix: str = suffix) -> Any:
            times, faults = power_cuts(scratch / f"power-{command}{suffix}", command, suffix, seed)
            return times, "", faults

        injected = "after each file operation, six models of what the disk keeps (benchmarks/power_loss.py)"
        expected = "OUT is the old or the new one; resumed or begun each time, identical"
        yield Row(f"power cut, `{command}` to `{suffix}`, 40 rows in windows of 7", injected, expected, cut)


Disturb = Callable[[Scene, dict[str, bytes]], Any]
_KEPT = "exit code 2, rows kept; then resumed, identical"
_DISTURBED: list[tuple[str, str, int, str, Disturb]] = [
    ("SIGINT, then SIGTERM", "sent in a window", 2, "window finished, exit code 130; resumed, identical", interrupt),
    ("full disk", "half of the space that the output needs", 1, _KEPT, full_disk),
    ("read-only output", "at the start; between a kill and the next command", 2, _KEPT, read_only),
    (
        "input, bundle or config changed",
        "between a kill and the next command",
        3,
        "exit code 2, both values named, nothing touched; the first command resumes, identical",
        another_run,
    ),
    (
        "two runs on one OUT",
        "a second command while the first works",
        1,
        "exit code 2, the first one's process named; the first ends, identical",
        two_at_once,
    ),
    (
        "the weights' file overwritten, then cut to nothing",
        "in place, while a run scores with it",
        2,
        "the run ends, identical",
        model_changed,
    ),
]


def check(rows: int, window: int, kills: int, seed: int, report: Callable[[dict[str, Any]], None]) -> None:
    """Run every fault in its own scene; `report` is called with each row of the record."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for row in itertools.chain(
            rows_of_runs(folder, rows, window, kills, seed),
            rows_of_power_loss(folder, seed),
        ):
            started = time.monotonic()
            times, way, faults = row.run()
            report(
                {
                    "fault": row.fault,
                    "injected": f"{row.injected} ({way})" if way else row.injected,
                    "expected": row.expected,
                    "times": times,
                    "seconds": round(time.monotonic() - started, 1),
                    "faults": faults,
                }
            )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, help="JSON record")
    parser.add_argument("--page", type=Path, help="page with the table of faults, which is replaced")
    parser.add_argument("--rows", type=int, default=10_000, help="rows for the first fault; the others use a tenth")
    parser.add_argument("--window", type=int, default=128)
    parser.add_argument("--kills", type=int, default=20, help="kills for the first fault; other formats use a quarter")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    # A script that starts in the background ignores SIGINT, and its child processes would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    outcomes: list[dict[str, Any]] = []

    def report(outcome: dict[str, Any]) -> None:
        outcomes.append(outcome)
        said = "as expected" if not outcome["faults"] else "; ".join(outcome["faults"])
        print(
            f"{outcome['fault']} | {outcome['injected']} | {outcome['times']} | {outcome['seconds']} s | {said}",
            flush=True,
        )
        if arguments.output:  # after each fault, so that a stopped script keeps its results
            options = {key: value for key, value in vars(arguments).items() if key not in ("output", "page")}
            record = {"machine": machine(), "options": options, "outcomes": outcomes}
            arguments.output.write_text(json.dumps(record, indent=2) + "\n")

    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
    check(arguments.rows, arguments.window, arguments.kills, arguments.seed, report)
    if arguments.output and arguments.page:
        faults_table.write_table(arguments.page, faults_table.table(json.loads(arguments.output.read_text())))
    sys.exit(any(outcome["faults"] for outcome in outcomes))


if __name__ == "__main__":
    main()
