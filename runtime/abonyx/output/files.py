"""Write a file under another name in its directory, flush it to the disk, and give it its final name."""

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
# Suffix of a file that is made from the whole partial file (Parquet).
CONVERTED_SUFFIX = f".converted{PARTIAL_SUFFIX}"
_BLOCK_BYTES = 1 << 20
# Permissions that the owner needs to resume a run, even if the output will have fewer.
_OWNER = stat.S_IRUSR | stat.S_IWUSR
# Advice for failures to write that are not about space.
_FIXES = {
    errno.ELOOP: "It is a symbolic link, which abonyx does not follow here: remove it, or name an output elsewhere.",
    errno.ENAMETOOLONG: "Give the output a shorter name.",
}


class Sink(Protocol):
    """Something that bytes can be written to, in order."""

    @property
    def closed(self) -> bool:
        """False. pyarrow needs this attribute."""

    def write(self, data: bytes) -> int: ...


class PartialFile:
    """A file that is written in order, and renamed to `target` when it is whole.

    Args:
        target: the final path. A symbolic link is followed.
        suffix: suffix of its name until it is whole.

    Attributes:
        path: its path until `place` is called.
        size_bytes: number of bytes written so far.
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
        """Hex sha256 of the bytes written so far."""
        return self._digest.hexdigest()

    def begin(self) -> None:
        """Create the file. It gets the permissions of the file that it will replace.

        Raises:
            ResumeRefused: something already exists at `path`.
        """
        try:
            self._open("xb")
        except ConfigError as error:
            if isinstance(error.__cause__, FileExistsError):
                raise not_own(self.path) from error
            raise
        give_mode(self.path, self.target, _OWNER)

    def go_on(self, size_bytes: int, sha256: str) -> None:
        """Open the file to write after its first `size_bytes` bytes. Later bytes, from an unfinished write, are cut.

        Raises:
            ResumeRefused: the file is missing, is shorter, or has other bytes.
        """
        if not os.path.lexists(self.path):
            fix = f"Restore it, or start again with {option('restart')}."
            raise ResumeRefused(f"{self.path}: is missing; the journal says it has {size_bytes} bytes", fix)
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
                    f"{self.path}: has {self.size_bytes} bytes with sha256 {self.sha256}, the journal says "
                    f"{size_bytes} with {sha256}",
                    f"Another program wrote to it. Start again with {option('restart')}.",
                )
            self._file.truncate(size_bytes)
            self._file.seek(size_bytes)

    def write(self, data: bytes) -> int:
        """Append bytes.

        Raises:
            ConfigError: the file cannot be written, e.g. because the disk is full.
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
        """Return when the bytes are on the disk.

        Raises:
            ResumeRefused: `path` is no longer this file.
        """
        assert self._file is not None
        with failing_as(self.target):
            os.fsync(self._file.fileno())
        refuse_replaced(self.path, self._file)

    def place(self) -> None:
        """Rename the file to its final path, with the permissions of the file that it replaces."""
        self.close()
        give_mode(self.path, self.target)
        with failing_as(self.target):
            self.path.replace(resolved(self.target))

    def close(self) -> None:
        """Close the file. It keeps its temporary name."""
        if self._file is not None:
            with failing_as(self.target):
                self._file.close()

    def discard(self) -> None:
        """Remove the file, if this object opened it and it is still at `path`."""
        own = self._opened is not None and is_at(self.path, self._opened)
        for undo in (self.close, self.path.unlink) if own else (self.close,):
            with suppress(OSError, ConfigError):
                undo()

    def _open(self, mode: str) -> None:
        with failing_as(self.target):
            # Unbuffered, so that nothing can fail at close. open and not mkstemp, so that the umask is used. Path.open
            # has no argument `opener`.
            self._file = open(self.path, mode, buffering=0, opener=open_no_link)  # noqa: SIM115
            self._opened = os.fstat(self._file.fileno())


def give_mode(path: Path, target: Path, more: int = 0) -> None:
    """Give a file the permissions of the file at `target`, and the bits in `more`. Does nothing if there is no file."""
    with suppress(OSError):  # there is no file yet, or the file system has no permissions
        path.chmod(stat.S_IMODE(resolved(target).stat().st_mode) | more)


def not_own(path: Path) -> ResumeRefused:
    """The error for a file with the name of a partial file that no journal lists."""
    what = f"{path}: exists, but is not part of an interrupted run: no journal names it"
    return ResumeRefused(what, "Move it away, or remove it if nobody needs it; or name another output.")


def is_at(path: Path, file: os.stat_result) -> bool:
    """Whether the file with this status is at a path."""
    try:
        return os.path.samestat(file, path.lstat())
    except OSError:
        return False


def refuse_replaced(path: Path, file: IO[bytes]) -> None:
    """Raise a ResumeRefused if an open file is no longer at its path."""
    if is_at(path, os.fstat(file.fileno())):
        return
    what = f"{path}: was removed or replaced during the run"
    raise ResumeRefused(what, f"Let no other program write there, and start again with {option('restart')}.")


def open_no_link(path: str, flags: int) -> int:
    """An opener that refuses a symbolic link."""
    # The name is easy to guess, so in a shared directory another user could have put a link there.
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


@contextmanager
def replacing(path: Path) -> Iterator[Sink]:
    """Yield a file that replaces `path` if the block succeeds, and is removed if it fails."""
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
    """The path of a file until it is whole."""
    final = resolved(target)
    return final.with_name(final.name + suffix)


def ids_path(path: Path) -> Path:
    """The path of the CSV file with the ids of a .npy file's rows. Its columns are row (from 0), id and flag."""
    return path.with_name(f"{path.stem}.ids.csv")


def rejected_path(path: Path) -> Path:
    """The path of the list of rejected records."""
    return path.with_name(f"{path.name}.rejected.csv")


def input_stem(source: Path) -> str:
    """The name of an input without .gz and the suffix of its format. The results are named after this stem."""
    name = Path(source.name)
    stem = Path(name.stem).stem if name.suffix.lower() == ".gz" else name.stem
    return stem if stem.strip(".") else source.name


def partial_paths(target: Path) -> list[Path]:
    """All paths at which a run may keep parts of the output `target` and of the files beside it."""
    # Only a .npy has a file of ids. For out.csv it would have the same name as for out.npy.
    beside = [rejected_path(target)] + [ids_path(target)] * (target.suffix.lower() == ".npy")
    return [*map(partial_path, (target, *beside)), partial_path(target, CONVERTED_SUFFIX)]


def check_output(output: Path | None, source: Path | None) -> None:
    """Raise a ConfigError if an output cannot be written, or is the input. None is a standard stream."""
    if output is None:
        if sys.stdout is None:
            raise ConfigError("output -: standard output is closed", f"Name a file with {option('output')}.")
        return
    target = resolved(output)
    if not target.parent.is_dir():
        raise ConfigError(f"output {output}: there is no directory {target.parent}", "Create it, or name another one.")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise ConfigError(f"output {output}: directory {target.parent} is not writable", "Name an output elsewhere.")
    # An input that is missing or cannot be read is reported when it is read.
    with suppress(OSError, ValueError, AttributeError):  # the last two: standard input is not a file, or is closed
        given = os.stat(sys.stdin.fileno() if source is None else source)  # noqa: PTH116  (a descriptor)
        if os.path.samestat(target.stat(), given):
            what = source or "on standard input"
            raise ConfigError(f"output {output} is the input {what} itself", "Name another output.")


def resolved(path: Path) -> Path:
    """The path that a rename must replace: for a symbolic link its target. The link stays, as with `>` in a shell."""
    target = Path(os.path.realpath(path))
    if os.path.isdir(target):  # noqa: PTH112 (Path.is_dir raises if a parent cannot be searched)
        raise ConfigError(f"output {path}: is a directory", "Name a file in it.")
    # A rename would replace a device such as /dev/null with a file.
    if os.path.exists(target) and not os.path.isfile(target):  # noqa: PTH110, PTH113
        raise ConfigError(f"output {path}: is a device or a pipe, not a file", "Name a file, or - for standard output.")
    return target


@contextmanager
def failing_as(name: object) -> Iterator[None]:
    """Turn a failure to write `name` into a ConfigError."""
    try:
        yield
    except BrokenPipeError:
        raise  # the reader of standard output has ended; then the command line ends quietly
    except OSError as error:
        what = f"output {name}: cannot be written: {error.strerror or error}"
        fix = _FIXES.get(error.errno or 0, "Free space, or name an output elsewhere. Then run again.")
        raise ConfigError(what, fix) from error


def flush_directory(path: Path) -> None:
    """Return when the names in a directory are on the disk, if the system supports this."""
    with suppress(OSError):  # Windows cannot open directories, and some file systems cannot flush them
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
