"""Resume a stopped export: OUT.partial keeps the finished steps, and a record of their inputs and files.

A finished step is reused only if the inputs are the same and its files have the recorded bytes. A step is recorded
after its files are complete. Files without a record are removed and made again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import msgspec

from abonyx.bundle.manifest import Encoder, FileEntry, Parity
from abonyx.errors import ConfigError, OutputInUse
from abonyx.hashing import file_sha256
from abonyx.output.directory import check_directory, parents_of
from abonyx.output.files import PARTIAL_SUFFIX
from abonyx.output.journal import differences
from abonyx_export.encoder.checkpoint import Checkpoint
from abonyx_export.head.head import Head
from abonyx_export.head.spec import head_spec
from abonyx_export.int8.calibration import Sequences
from abonyx_export.request import ExportRequest

try:
    import fcntl as _fcntl
except ImportError:  # Windows, where two exports to the same output are not detected
    fcntl: ModuleType | None = None
else:
    fcntl = _fcntl

RECORD_NAME = "export.json"
GOLDEN_STEP = "golden rows"
_SCHEMA = 1
# Fields whose text is no input. What the paths and the revision lead to is an input; the output's path is not.
_HASHED = ("encoder", "revision", "heads", "output", "golden", "calibration")
T = TypeVar("T")


class _Step(msgspec.Struct, frozen=True):
    """The result of one step.

    Attributes:
        value: the part of the result that is not in a file, as JSON.
        files: files that the step made or depends on, by their path in OUT.partial.
    """

    value: msgspec.Raw
    files: dict[str, FileEntry]


class _Record(msgspec.Struct, forbid_unknown_fields=True):
    schema_version: int
    inputs: dict[str, str]
    steps: dict[str, _Step]


class Unfinished:
    """The finished steps of one export.

    Attributes:
        directory: OUT.partial.
        bundle: the folder in OUT.partial that becomes OUT.
        reference: the file in OUT.partial with PyTorch's embeddings of the golden rows.
    """

    def __init__(self, directory: Path, record: _Record) -> None:
        self.directory, self.bundle = directory, directory / "bundle"
        self.reference = directory / "reference.npy"
        self._record = record

    @property
    def inputs(self) -> dict[str, str]:
        """Inputs of the steps, name -> value."""
        return self._record.inputs

    @property
    def steps(self) -> list[str]:
        """Names of the finished steps."""
        return list(self._record.steps)

    def value(self, step: str, kind: type[T]) -> T | None:
        """The value of a finished step; None if it is not finished."""
        found = self._record.steps.get(step)
        return None if found is None else msgspec.json.decode(found.value, type=kind)

    def finish(self, step: str, value: object, files: Iterable[Path]) -> None:
        """Record a finished step.

        Args:
            value: the result that the method `value` returns later; JSON must be able to hold it.
            files: files and folders that the step made or depends on.
        """
        paths = [each for path in files for each in ([path] if path.is_file() else sorted(path.rglob("*")))]
        entries = {path.relative_to(self.directory).as_posix(): _entry(path) for path in paths if path.is_file()}
        for other, found in list(self._record.steps.items()):
            if any(found.files.get(name, entry) != entry for name, entry in entries.items()):
                del self._record.steps[other]  # made from files that have changed
        self._record.steps[step] = _Step(msgspec.Raw(msgspec.json.encode(value)), entries)
        self._save()

    def parity(self, variant: str) -> Parity | None:
        """The record of a variant's check; None if it is not finished."""
        return self.value(f"{variant} check", Parity)

    def keep(self, variant: str, record: Parity) -> None:
        """Record a variant's check."""
        self.finish(f"{variant} check", record, [self.bundle / variant, self.reference])

    def begin(self, inputs: dict[str, str]) -> None:
        """Set new inputs, and forget every step."""
        self._record = _Record(_SCHEMA, inputs, {})
        self._save()

    def drop_damaged(self) -> dict[str, str]:
        """Forget the steps with a file that differs from its record; returns step -> file."""
        entries = {entry for step in self._record.steps.values() for entry in step.files.items()}
        wrong = {entry for entry in entries if not _is_whole(self.directory / entry[0], entry[1])}
        dropped = {}
        for step, found in list(self._record.steps.items()):
            damaged = sorted(name for name, entry in found.files.items() if (name, entry) in wrong)
            if damaged:
                dropped[step] = damaged[0]
                del self._record.steps[step]
        self._save()
        return dropped

    def clear(self) -> None:
        """Remove every file that belongs to no step."""
        known = {name for step in self._record.steps.values() for name in step.files}
        for path in sorted(self.directory.rglob("*"), reverse=True):  # files come before their folder
            name = path.relative_to(self.directory).as_posix()
            if path.is_dir() and not path.is_symlink():
                with suppress(OSError):  # not empty
                    path.rmdir()
            elif name not in known and name != RECORD_NAME:
                path.unlink()
        self.bundle.mkdir(exist_ok=True)

    def _save(self) -> None:
        aside = self.directory / f"{RECORD_NAME}.new"
        with aside.open("wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(self._record), indent=1))
            file.flush()
            os.fsync(file.fileno())
        aside.replace(self.directory / RECORD_NAME)


def _entry(path: Path) -> FileEntry:
    return FileEntry(sha256=file_sha256(path), size_bytes=path.stat().st_size)


def _is_whole(path: Path, entry: FileEntry) -> bool:
    return path.is_file() and not path.is_symlink() and _entry(path) == entry


def export_inputs(
    request: ExportRequest,
    checkpoint: Checkpoint,
    encoder: Encoder,
    heads: Sequence[Head],
    packages: Mapping[str, str],
    sequences: Sequence[str],
    fitted_on: Sequences | None,
) -> dict[str, str]:
    """Everything that the bundle depends on, name -> value.

    Args:
        encoder: description of the checkpoint.
        sequences: the golden sequences.
        fitted_on: the sequences that calibrate and judge int8; None without int8.
    """
    facts = {
        "encoder": encoder,
        "encoder's config and alphabet": (repr(checkpoint.config), checkpoint.alphabet),
        "heads": [(head_spec(head, request.chains, head.weights()[1]), head.weights()[0].tolist()) for head in heads],
        "golden rows": sequences,
        "sequences of int8": None if fitted_on is None else (fitted_on.calibration, fitted_on.gate, fitted_on.source),
    }
    inputs = {name: _sha256(value) for name, value in facts.items()}
    for field in dataclasses.fields(request):
        if field.name not in _HASHED:
            inputs[f"--{field.name.replace('_', '-')}"] = msgspec.json.encode(getattr(request, field.name)).decode()
    return inputs | {f"version of {name}": version for name, version in packages.items()}


def _sha256(value: object) -> str:
    return hashlib.sha256(msgspec.json.encode(value)).hexdigest()


def partial_directory(output: Path) -> Path:
    """Directory of an unfinished export."""
    return output.with_name(output.name + PARTIAL_SUFFIX)


@contextmanager
def resumable(output: Path, inputs: Mapping[str, str], report: Callable[[str], None]) -> Iterator[Unfinished]:
    """Open OUT.partial with the steps that an earlier call finished; rename its bundle to OUT if the block succeeds.

    After an interrupt, the finished steps stay for the next call. After an error, nothing stays.

    Args:
        inputs: everything that the bundle depends on, name -> value.
        report: called with a line for what is reused and what is made again.

    Raises:
        ConfigError: OUT.partial is not an unfinished export, has other inputs, or cannot be written.
        OutputInUse: another process exports to OUT.
    """
    check_directory(output)
    directory = partial_directory(output)
    try:
        with parents_of(output), _locked(directory):
            unfinished = _open(directory, dict(inputs), report)
            try:
                yield unfinished
                unfinished.bundle.rename(output)
            except Exception:
                shutil.rmtree(directory)
                raise
            except BaseException:
                if not unfinished.steps:
                    shutil.rmtree(directory)
                else:
                    report(f"{directory} keeps the finished steps; run the same command again to resume")
                raise
            shutil.rmtree(directory)
    except OSError as error:
        what = f"output {output}: cannot be written: {error.strerror or error}"
        raise ConfigError(what, "Nothing was left behind. Free some space, or give another output.") from error


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Create the directory if it does not exist, and lock it against other exports."""
    if directory.is_symlink() or (os.path.lexists(directory) and not directory.is_dir()):
        raise _not_ours(directory, "is not a directory")
    directory.mkdir(exist_ok=True)
    if fcntl is None:
        yield
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            what = f"output {directory}: another export is writing to it"
            raise OutputInUse(what, "Wait for that export or stop it, or give another output.") from None
        except OSError:  # a file system without locks, as in journal.py
            pass
        yield
    finally:
        os.close(handle)


def _open(directory: Path, inputs: dict[str, str], report: Callable[[str], None]) -> Unfinished:
    """Load the steps that can be reused; remove everything else from the directory."""
    if not (directory / RECORD_NAME).exists():
        if any(path.name != f"{RECORD_NAME}.new" for path in directory.iterdir()):
            raise _not_ours(directory, f"has no {RECORD_NAME}")
        unfinished = Unfinished(directory, _Record(_SCHEMA, inputs, {}))
        unfinished.begin(inputs)
    else:
        unfinished = Unfinished(directory, _read(directory))
        changed = differences(dict(unfinished.inputs), dict(inputs))
        if changed and unfinished.steps:  # a mistyped option must not delete finished steps
            shown = "; ".join(changed[:3]) + (f"; and {len(changed) - 3} more" if len(changed) > 3 else "")
            what = f"{directory} holds an unfinished export with other inputs ({shown})"
            fix = "Give the same inputs as before to resume it, or remove the directory to start again."
            raise ConfigError(what, fix)
        if changed:
            unfinished.begin(inputs)
        for step, file in unfinished.drop_damaged().items():
            report(f"{directory / file} has changed since it was written; the step is run again: {step}")
        if unfinished.steps:
            report(f"resumed; already finished: {', '.join(unfinished.steps)}")
    unfinished.clear()
    return unfinished


def _read(directory: Path) -> _Record:
    try:
        record = msgspec.json.decode((directory / RECORD_NAME).read_bytes(), type=_Record)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _not_ours(directory, f"{RECORD_NAME} cannot be read") from error
    if record.schema_version != _SCHEMA:
        raise _not_ours(directory, f"another version of abonyx wrote {RECORD_NAME}")
    return record


def _not_ours(directory: Path, what: str) -> ConfigError:
    return ConfigError(f"{directory}: {what}, so it is not an unfinished export", "Remove it, or give another output.")
