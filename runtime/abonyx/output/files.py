"""Files on their way to their place: written beside it under another name, flushed to the disk, renamed onto it."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from abonyx.errors import ConfigError, ResumeRefused
from abonyx.wording import option

if TYPE_CHECKING:
    from collections.abc import Iterator

PARTIAL_SUFFIX = ".partial"
# Of a file made from the partial one once that is whole (Parquet).
CONVERTED_SUFFIX = f".converted{PARTIAL_SUFFIX}"
_BLOCK_BYTES = 1 << 20
# What the owner needs to resume a run, whatever mode the output will have.
_OWNER = stat.S_IRUSR | stat.S_IWUSR
# What to do about a failure to write, if it is not about space.
_FIXES = {
    errno.ELOOP: "It is a symbolic link, which is not followed there: remove it, or name an output elsewhere.",
    errno.ENAMETOOLONG: "Give the output a shorter name.",
}


class Sink(Protocol):
    """What takes bytes in order."""

    @property
    def closed(self) -> bool:
        """False; pyarrow asks for it."""

    def write(self, data: bytes) -> int: ...


class PartialFile:
    """A file on its way to `target`, written in order from its start.

    Args:
        target: where it will stand; of a symbolic link, where that leads.
        suffix: of the name it has until then, beside its place.

    Attributes:
        path: where it is until `place`.
        size_bytes: written so far; sha256 is of these bytes.
    """

    closed = False

    def __init__(self, target: Path, suffix: str = PARTIAL_SUFFIX) -> None:
        self.target, self.path = target, partial_path(target, suffix)
        self.size_bytes = 0
        self._digest = hashlib.sha256()
        self._file: IO[bytes] | None = None
        self._opened: os.stat_result | None = None

    @property
    def sha256(self) -> str:
        """Hex digest of what was written so far."""
        return self._digest.hexdigest()

    def begin(self) -> None:
        """Make it, empty. Nobody can read it who cannot read what it will replace.

        Raises:
            ResumeRefused: something is at `path`.
        """
        try:
            self._open("xb")
        except ConfigError as error:
            if isinstance(error.__cause__, FileExistsError):
                raise not_own(self.path) from error
            raise
        give_mode(self.path, self.target, _OWNER)

    def go_on(self, size_bytes: int, sha256: str) -> None:
        """Open it to write behind its first bytes; the rest, a write that was cut short, is dropped.

        Raises:
            ResumeRefused: fewer bytes than that, or others.
        """
        if not os.path.lexists(self.path):
            fix = f"Put it back, or start again with {option('restart')}."
            raise ResumeRefused(f"{self.path}: missing; the journal says it has {size_bytes} bytes", fix)
        self._open("r+b")
        assert self._file is not None
        with failing_as(self.path):
            while rest := size_bytes - self.size_bytes:
                block = self._file.read(min(rest, _BLOCK_BYTES))
                if not block:
                    break
                self._digest.update(block)
                self.size_bytes += len(block)
            if (self.size_bytes, self.sha256) != (size_bytes, sha256):
                raise ResumeRefused(
                    f"{self.path}: {self.size_bytes} bytes of sha256 {self.sha256}, the journal says {size_bytes} of "
                    f"{sha256}",
                    f"Something else wrote to it: start again with {option('restart')}.",
                )
            self._file.truncate(size_bytes)
            self._file.seek(size_bytes)

    def write(self, data: bytes) -> int:
        """Append bytes.

        Raises:
            ConfigError: the disk is full, or another failure to write.
        """
        assert self._file is not None
        rest = memoryview(data)
        with failing_as(self.target):
            while rest:
                rest = rest[self._file.write(rest) :]
        self._digest.update(data)
        self.size_bytes += len(data)
        return len(data)

    def flush(self) -> None:
        """Return once the disk has what was written.

        Raises:
            ResumeRefused: something else is at `path` by now.
        """
        assert self._file is not None
        with failing_as(self.target):
            os.fsync(self._file.fileno())
        refuse_replaced(self.path, self._file)

    def place(self) -> None:
        """Rename it onto its place, with the mode of what it replaces."""
        self.close()
        give_mode(self.path, self.target)
        with failing_as(self.target):
            self.path.replace(resolved(self.target))

    def close(self) -> None:
        """Close the file; it stays where it is."""
        if self._file is not None:
            with failing_as(self.target):
                self._file.close()

    def discard(self) -> None:
        """Remove it, if it was opened here and is still what is at `path`."""
        own = self._opened is not None and is_at(self.path, self._opened)
        for undo in (self.close, self.path.unlink) if own else (self.close,):
            with suppress(OSError, ConfigError):
                undo()

    def _open(self, mode: str) -> None:
        with failing_as(self.target):
            # Unbuffered: nothing is left to fail at close. Made by open, not mkstemp, so that the umask holds.
            # Path.open has no opener.
            self._file = open(self.path, mode, buffering=0, opener=open_no_link)  # noqa: SIM115
            self._opened = os.fstat(self._file.fileno())


def give_mode(path: Path, target: Path, more: int = 0) -> None:
    """Give a file the mode of the one at `target`, and the bits `more`; without one, it keeps its own."""
    with suppress(OSError):  # nothing there yet, or a file system without modes
        path.chmod(stat.S_IMODE(resolved(target).stat().st_mode) | more)


def not_own(path: Path) -> ResumeRefused:
    """The error about something at the place of a partial file that no journal vouches for."""
    what = f"{path}: is there, and no journal of an interrupted run names it"
    return ResumeRefused(what, "Move it away, or remove it if nobody needs it; or name another output.")


def is_at(path: Path, file: os.stat_result) -> bool:
    """Whether the file of that status is what is at a path."""
    try:
        return os.path.samestat(file, path.lstat())
    except OSError:
        return False


def refuse_replaced(path: Path, file: IO[bytes]) -> None:
    """Raise a ResumeRefused if an open file is no longer the one at its path."""
    if is_at(path, os.fstat(file.fileno())):
        return
    what = f"{path}: was removed or replaced during the run"
    raise ResumeRefused(what, f"Let nothing else write there, and start again with {option('restart')}.")


def open_no_link(path: str, flags: int) -> int:
    """An opener that refuses a symbolic link."""
    # The name is known beforehand: in a shared directory somebody else could have laid a link there.
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


@contextmanager
def replacing(path: Path) -> Iterator[Sink]:
    """Give a file that takes its place when the block ends well, and is removed when it does not."""
    partial = PartialFile(path, f".{secrets.token_hex(4)}{PARTIAL_SUFFIX}")
    try:
        partial.begin()
        yield partial
        partial.flush()
        partial.place()
    except BaseException:
        partial.discard()
        raise


def partial_path(target: Path, suffix: str = PARTIAL_SUFFIX) -> Path:
    """Return where a file is kept until it is whole."""
    final = resolved(target)
    return final.with_name(final.name + suffix)


def ids_path(path: Path) -> Path:
    """Return where the ids of a .npy file's rows stand: a CSV file with the columns row (0-based) and id."""
    return path.with_name(f"{path.stem}.ids.csv")


def rejected_path(path: Path) -> Path:
    """Return where the records that were not scored are listed."""
    return path.with_name(f"{path.name}.rejected.csv")


def input_stem(source: Path) -> str:
    """Return a file's name without .gz and the format's suffix: what its results are named for."""
    name = Path(source.name)
    stem = Path(name.stem).stem if name.suffix.lower() == ".gz" else name.stem
    return stem if stem.strip(".") else source.name


def partial_paths(target: Path) -> list[Path]:
    """Return every place where a run may keep a part of the output `target`, and of what stands beside it."""
    # Only a .npy has ids: out.csv's would have the same name as out.npy's.
    beside = [rejected_path(target)] + [ids_path(target)] * (target.suffix.lower() == ".npy")
    return [*map(partial_path, (target, *beside)), partial_path(target, CONVERTED_SUFFIX)]


def check_output(output: Path | None, source: Path | None) -> None:
    """Refuse, by a ConfigError, an output that cannot be written or is the input itself; None is a standard stream."""
    if output is None:
        if sys.stdout is None:
            raise ConfigError("output -: standard output is closed", f"Name a file with {option('output')}.")
        return
    target = resolved(output)
    if not target.parent.is_dir():
        raise ConfigError(f"output {output}: there is no directory {target.parent}", "Create it, or name another one.")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise ConfigError(f"output {output}: directory {target.parent} is not writable", "Name an output elsewhere.")
    # An input that is missing or may not be looked at is reported when it is read.
    with suppress(OSError, ValueError, AttributeError):  # the last two: a standard input that is no file, or closed
        given = os.stat(sys.stdin.fileno() if source is None else source)  # noqa: PTH116  (a descriptor)
        if os.path.samestat(target.stat(), given):
            what = source or "on standard input"
            raise ConfigError(f"output {output} is the input {what} itself", "Name another output.")


def resolved(path: Path) -> Path:
    """Return what a rename has to replace: a symbolic link stays, as with a shell's `>`, and its target changes."""
    target = Path(os.path.realpath(path))
    if os.path.isdir(target):  # noqa: PTH112 (Path.is_dir raises where a parent is not searchable)
        raise ConfigError(f"output {path}: is a directory", "Name a file in it.")
    # A rename would put a regular file in the place of, for one, /dev/null.
    if os.path.exists(target) and not os.path.isfile(target):  # noqa: PTH110, PTH113
        raise ConfigError(f"output {path}: is a device or a pipe, not a file", "Name a file, or - for standard output.")
    return target


@contextmanager
def failing_as(name: object) -> Iterator[None]:
    """Turn a failure to write `name` into a ConfigError."""
    try:
        yield
    except BrokenPipeError:
        raise  # the reader of standard output has left, which is for the command line to end quietly
    except OSError as error:
        what = f"output {name}: cannot be written: {error.strerror or error}"
        fix = _FIXES.get(error.errno or 0, "Free space or name an output elsewhere, then run again.")
        raise ConfigError(what, fix) from error


def flush_directory(path: Path) -> None:
    """Return once the disk has the names in the directory, where the system can tell."""
    with suppress(OSError):  # Windows opens no directories, and some file systems flush none
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
