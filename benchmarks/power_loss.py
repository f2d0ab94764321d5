"""Simulate power cuts: record the file operations of a run, and cut after each one under six models of a disk.

A model says which names and bytes are on the disk after the cut. Flushed data is there in every model. In addition:

    kill      everything is there (only the process died)
    strict    nothing is added: a name is there only if its directory was flushed
    ext4      the name of a flushed new file is there too
    names     every name is there, but only the flushed bytes of each file
    zeros     every name is there, with zeros in place of bytes that were not flushed; also with ext4's names
    random    a random choice of names is there, with one of these contents or a prefix; DRAWS choices for each cut

After each cut the same run starts again. OUT must then be the old file or the complete new file. The run must end with
the bytes of an undisturbed run, or say why it does not.
"""

from __future__ import annotations

import builtins
import contextlib
import os
import random
import shutil
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast
from unittest import mock

import numpy as np

from abonyx.errors import EngineError
from abonyx.input.cells import RejectedRecord
from abonyx.output import files as output_files
from abonyx.output import journal as output_journal
from abonyx.output.files import ids_path, rejected_path
from abonyx.output.formats import (
    embedding_columns,
    embeddings_format,
    rejected_bytes,
    results_format,
    score_columns,
)
from abonyx.output.journal import Header
from abonyx.output.kinds import SCORE_KINDS, ScoreKind
from abonyx.output.resumable import open_resumable

DRAWS = 6
MODELS = ("kill", "strict", "ext4", "names", "zeros", "ext4 zeros", *["random"] * DRAWS)
OLD = b"what stood there before\n"
# (name, subject, values): names are paths, files are inodes.
Operation = tuple[Any, ...]
Run = Callable[[Path], object]


@dataclass
class Disk:
    """Names and bytes, as the process sees them and as they are on the disk."""

    cached_names: dict[str, int]
    cached: dict[int, bytearray]
    names: dict[str, int] = field(default_factory=dict)
    flushed: dict[int, bytes] = field(default_factory=dict)
    pending: list[Operation] = field(default_factory=list)  # operations on names

    def __post_init__(self) -> None:
        self.names = dict(self.cached_names)
        self.flushed = {file: bytes(data) for file, data in self.cached.items()}

    def apply(self, operation: Operation, flushes_names: bool) -> None:
        """Apply one operation of the process."""
        kind, subject, *rest = operation
        if kind in ("create", "rename", "unlink"):
            change_names(self.cached_names, operation)
            self.pending.append(operation)
        if kind == "create":
            self.cached[rest[0]], self.flushed[rest[0]] = bytearray(), b""
        elif kind == "write":
            self.cached[subject][rest[0] : rest[0] + len(rest[1])] = rest[1]
        elif kind == "truncate":
            del self.cached[subject][rest[0] :]
        elif kind == "flush directory":
            self.names, self.pending = dict(self.cached_names), []
        elif kind == "flush":
            self.flushed[subject] = bytes(self.cached[subject])
            for made in [one for one in self.pending if flushes_names and one[0] == "create" and one[2] == subject]:
                change_names(self.names, made)
                self.pending.remove(made)

    def after_cut(self, model: str, draw: random.Random) -> dict[str, bytes]:
        """Path -> bytes after the power cut."""
        if model == "kill":
            names, data = self.cached_names, {file: bytes(all_) for file, all_ in self.cached.items()}
        elif model in ("strict", "ext4"):
            names, data = self.names, self.flushed
        elif model == "random":
            names = self._with([one for one in self.pending if draw.random() < 0.5])
            data = {file: draw.choice(self._remains(file, draw)) for file in self.flushed}
        else:
            names = self._with(self.pending)
            data = {file: self._zeros(file) if "zeros" in model else done for file, done in self.flushed.items()}
        return {name: data[file] for name, file in names.items()}

    def _with(self, pending: list[Operation]) -> dict[str, int]:
        names = dict(self.names)
        for operation in pending:
            change_names(names, operation)
        return names

    def _zeros(self, file: int) -> bytes:
        return self.flushed[file].ljust(len(self.cached[file]), b"\0")

    def _remains(self, file: int, draw: random.Random) -> list[bytes]:
        done, all_ = self.flushed[file], bytes(self.cached[file])
        prefix = all_[: draw.randint(len(done), len(all_))] if len(all_) >= len(done) else done
        return [done, all_, self._zeros(file), prefix]


def change_names(names: dict[str, int], operation: Operation) -> None:
    """Apply an operation to the names that exist."""
    kind, path, *rest = operation
    if kind == "create":
        names[path] = rest[0]
    elif path in names:
        file = names.pop(path)
        if kind == "rename":
            names[rest[0]] = file


class _Recorded:
    """An open file whose writes are recorded."""

    def __init__(self, file: IO[bytes], operations: list[Operation]) -> None:
        self._file, self._operations = file, operations
        self._number = os.fstat(file.fileno()).st_ino

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, data: bytes) -> int:
        at = os.fstat(self.fileno()).st_size if "a" in self._file.mode else self._file.tell()
        written = self._file.write(data)
        self._operations.append(("write", self._number, at, bytes(data[:written])))
        return written

    def truncate(self, size: int) -> None:
        self._file.truncate(size)
        self._operations.append(("truncate", self._number, size))


@contextlib.contextmanager
def recorded(operations: list[Operation]) -> Iterator[None]:
    """Record what abonyx.output does to files and names."""
    fsync, replace, unlink = os.fsync, Path.replace, Path.unlink

    def open_(path: Path, *arguments: Any, **options: Any) -> Any:
        there = os.path.lexists(path)
        file = builtins.open(path, *arguments, **options)  # noqa: SIM115, PTH123
        if not there:
            operations.append(("create", str(path), os.fstat(file.fileno()).st_ino))
        return _Recorded(file, operations)

    def fsync_(number: int) -> None:
        fsync(number)
        status = os.fstat(number)
        directory = stat.S_ISDIR(status.st_mode)
        operations.append(("flush directory" if directory else "flush", status.st_ino))

    def replace_(self: Path, target: Path) -> Path:
        result = replace(self, target)
        operations.append(("rename", str(self), str(target)))
        return result

    def unlink_(self: Path, missing_ok: bool = False) -> None:
        if os.path.lexists(self):
            operations.append(("unlink", str(self)))
        unlink(self, missing_ok=missing_ok)

    with (
        mock.patch.object(output_files, "open", open_, create=True),
        mock.patch.object(output_journal, "open", open_, create=True),
        mock.patch.object(os, "fsync", fsync_),
        mock.patch.object(Path, "replace", replace_),
        mock.patch.object(Path, "unlink", unlink_),
    ):
        yield


def cut_everywhere(folder: Path, name: str, run: Run, seed: int = 0) -> tuple[Mapping[str, int], list[str]]:
    """Cut the power after each operation of a run under each model, and start the run again.

    Args:
        folder: an empty folder.
        run: writes OUT at the given path.
        name: name of OUT.

    Returns:
        Outcome ("same bytes" or "refused") -> number of cuts; and one line of text for each fault.
    """
    (folder / "undisturbed").mkdir()
    run(folder / "undisturbed" / name)
    expected = contents(folder / "undisturbed")
    work = folder / "work"
    work.mkdir()
    (work / name).write_bytes(OLD)
    before = {str(work / name): (work / name).stat().st_ino}
    operations: list[Operation] = []
    with recorded(operations):
        run(work / name)
    outcomes: Counter[str] = Counter()
    faults: list[str] = []
    for cut in range(len(operations) + 1):
        for number, model in enumerate(MODELS):
            disk = Disk(dict(before), {file: bytearray(OLD) for file in before.values()})
            for operation in operations[:cut]:
                disk.apply(operation, model.startswith("ext4"))
            left = disk.after_cut(model, random.Random(f"{seed} {cut} {number}"))
            outcome = _again(work, name, run, left, expected)
            outcomes[outcome.partition(":")[0]] += 1
            if not outcome.startswith(("same bytes", "refused")):
                faults.append(f"cut after operation {cut} of {len(operations)}, {model}: {outcome}")
    return outcomes, faults


def _again(work: Path, name: str, run: Run, left: Mapping[str, bytes], expected: Mapping[str, bytes]) -> str:
    """Write the files that a cut left and start the run again; returns the outcome."""
    shutil.rmtree(work)
    work.mkdir()
    for path, data in left.items():
        Path(path).write_bytes(data)
    output = work / name
    if output.exists() and output.read_bytes() not in (OLD, expected[name]):
        return f"{name} is neither the old nor the new file"
    try:
        run(output)
    except EngineError as error:
        return f"refused: {error}"
    except Exception as error:  # any error of another class is a fault
        return f"an error that is not abonyx's: {error!r}"
    return "same bytes" if contents(work) == expected else f"other files: {sorted(contents(work))}"


def contents(folder: Path) -> dict[str, bytes]:
    """Name -> bytes of a folder's files."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# Every format that a run can write, as the command and the suffix of OUT.
FORMATS = (
    *(("score", f".{kind}") for kind in SCORE_KINDS),
    ("embed", ".npy"),
    ("embed", ".parquet"),
)


def small_run(command: str, suffix: str, rows: int = 40, window: int = 7) -> Run:
    """A run that writes this format and a list of rejected records. Its values are made up and need no model."""
    ids = [f"row{number}" for number in range(rows)]
    p = np.linspace(0, 1, rows, dtype=np.float32)
    embedding = np.outer(p, np.arange(4, dtype=np.float32))
    rejected = rejected_bytes([RejectedRecord("bad", 3, "no residues")])
    header = Header({}, "", rows=rows, rejected=1, token_budget=1, window_size=window)

    def run(output: Path) -> None:
        if command == "score":
            form = results_format(cast(ScoreKind, suffix[1:]), {})
        else:
            form = embeddings_format("npy" if suffix == ".npy" else "parquet", rows, 4, {})
        ids_file = [ids_path(output)] if suffix == ".npy" else []
        targets = [rejected_path(output), *ids_file, output]
        with open_resumable(targets, form.beside(rejected), header, restart=False) as out:
            for start in range(out.rows_done, rows, window):
                part = slice(start, min(start + window, rows))
                count, flags = len(ids[part]), [""] * len(ids[part])
                if command == "score":
                    columns = score_columns(
                        ids[part], ["EVQL"] * count, p[part], [0] * count, ["specific"] * count, flags
                    )
                else:
                    columns = embedding_columns(ids[part], embedding[part], 4, flags)
                out.append(part.stop, columns)

    return run
