"""The journal of a run: a description of the run, and the progress of its partial files. Each fact is a line of JSON.

A line is written only after the bytes that it describes are on the disk. So if a run dies at any point, its journal is
true. Only the last line may be incomplete, and partial files may be longer than the journal says. Each line has a check
(chain.py).
"""

from __future__ import annotations

import datetime
import os
import platform
import re
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import IO, Annotated, Any, ClassVar, NoReturn

import msgspec

from abonyx.errors import OutputInUse, ResumeRefused, first_line
from abonyx.output.chain import DIGITS, Chain
from abonyx.output.files import failing_as, is_at, open_no_link, partial_path, refuse_replaced
from abonyx.wording import option

try:
    import fcntl as _fcntl
except ImportError:  # Windows, where a second run with the same output is not refused
    fcntl: ModuleType | None = None
else:
    fcntl = _fcntl

# 2: lines have a check.
SCHEMA = 2
JOURNAL_SUFFIX = ".journal"

Fact = str | int | float | bool | None
Count = Annotated[int, msgspec.Meta(ge=0)]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
_FOREIGN = "is not a journal of abonyx"


class Header(msgspec.Struct, frozen=True, tag="header"):
    """The first line: a description of the run.

    Attributes:
        identity: the facts that must be equal for a command to resume the run, with names that a user knows.
        config_sha256: RuntimeConfig.sha256(). The identity also has each field of the config.
        rows: number of records to score.
        rejected: number of rejected records.
        token_budget, window_size: the values at the start of the run. They are stored because later versions may
            have other defaults.
        files: the partial files, relative to the journal's directory. The journal was written before they were
            created, so they belong to the run, and a later process may remove them.
    """

    identity: dict[str, Fact]
    config_sha256: str
    rows: int
    rejected: int
    token_budget: int
    window_size: int
    schema: int = SCHEMA
    files: list[str] = []


class Started(msgspec.Struct, frozen=True, tag="started"):
    """A process started or resumed the run."""

    process: int
    host: str
    at: str


class Window(msgspec.Struct, frozen=True, tag="window"):
    """The partial files have `rows_done` rows. For each file: its size and its sha256 at this point."""

    rows_done: Count
    size_bytes: list[Count]
    sha256: list[Sha256]


class Halved(msgspec.Struct, frozen=True, tag="halved"):
    """From here on the token budget is smaller, for the reason in the note."""

    token_budget: Annotated[int, msgspec.Meta(ge=1)]
    note: str


class Complete(msgspec.Struct, frozen=True, tag="complete"):
    """The files are whole, with these sha256, and are being renamed."""

    sha256: list[Sha256]


Line = Header | Started | Window | Halved | Complete


class Journal:
    """The journal beside an output, open and locked, so that no second run writes the same output.

    The class attributes are LINES, the types of all lines, and FIRST, the type of the first line, which has a schema.

    Args:
        target: the output.

    Attributes:
        path: path of the journal.
        lines: its lines.

    Raises:
        OutputInUse: another run holds the lock.
        ConfigError: the journal cannot be opened.
    """

    LINES: ClassVar[Any] = Line
    FIRST: ClassVar[type[msgspec.Struct]] = Header

    def __init__(self, target: Path) -> None:
        self._target, self.path = target, journal_path(target)
        self._file = self._locked()
        self.lines: list[msgspec.Struct] = []
        self._chain = Chain()

    def read(self) -> None:
        """Read all lines. An incomplete last line is dropped, also from the file.

        Raises:
            ResumeRefused: a complete line cannot be read or was changed, or another version wrote the journal.
        """
        text = self._text()
        whole, _, rest = text.rpartition(b"\n")
        for number, line in enumerate(whole.splitlines(), 1):
            if number == 1:
                self._refuse_another_version(line)
            try:
                found = msgspec.json.decode(line, type=self.LINES)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                restart = number > 1 or self._is_own(line, whole=True)
                self.refuse(f"line {number} cannot be read: {first_line(error)}", restart=restart)
            if isinstance(found, self.FIRST) != (number == 1):
                self.refuse(f"line {number} is a {type(found).__name__.lower()} line", restart=number > 1)
            if (check := self._chain.follow(line)) != self._chain.check:
                shown = first_line(check, DIGITS) or "missing"
                self.refuse(f"line {number} was changed or moved: its check is {shown}, not {self._chain.check}")
            self.lines.append(found)
        if rest and not (self.lines or self._is_own(rest, whole=False)):
            self.refuse(_FOREIGN, restart=False)
        with failing_as(self.path):
            self._file.truncate(len(text) - len(rest))

    def read_first(self) -> None:
        """Read only the first line, if possible, for a run that starts again.

        Raises:
            ResumeRefused: the file is not a journal.
        """
        first, end, _ = self._text().partition(b"\n")
        if not self._is_own(first, whole=bool(end)):
            self.refuse(_FOREIGN, restart=False)
        with suppress(msgspec.DecodeError, UnicodeDecodeError):
            self.lines = [msgspec.json.decode(first, type=self.FIRST)]

    def is_empty(self) -> bool:
        """Whether the file is empty."""
        return os.fstat(self._file.fileno()).st_size == 0

    def _text(self) -> bytes:
        with failing_as(self.path):
            self._file.seek(0)
            return self._file.read()

    def _is_own(self, first: bytes, *, whole: bool) -> bool:
        """Whether a first line is from a journal. An incomplete line may be cut, or be zeros after a power cut."""
        written = first if whole else first.rstrip(b"\0")
        first_bytes = f'{{"type":"{self.FIRST.__struct_config__.tag}",'.encode()
        return written.startswith(first_bytes) if whole else first_bytes.startswith(written[: len(first_bytes)])

    def append(self, line: msgspec.Struct) -> None:
        """Add a line. It is on the disk when this returns."""
        with failing_as(self.path):
            data = self._chain.add(msgspec.json.encode(line)) + b"\n"
            while data:
                data = data[self._file.write(data) :]
            os.fsync(self._file.fileno())
        self.refuse_replaced()
        self.lines.append(line)

    def start(self) -> None:
        """Add a line: this process started or resumed the run."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self.append(Started(os.getpid(), platform.node(), now))

    def empty(self) -> None:
        """Remove all lines."""
        with failing_as(self.path):
            self._file.truncate(0)
        self.lines.clear()
        self._chain = Chain()

    def close(self) -> None:
        """Close the file, which releases the lock."""
        self._file.close()

    def remove(self) -> None:
        """Remove the file, if it is still at its path, and release the lock."""
        own = is_at(self.path, os.fstat(self._file.fileno()))
        if fcntl is None:
            self.close()  # Windows cannot remove an open file
        if own:
            with failing_as(self.path):
                self.path.unlink(missing_ok=True)
        self.close()

    def refuse_replaced(self) -> None:
        """Raise a ResumeRefused if the file is no longer at its path: the partial files may now be another run's."""
        refuse_replaced(self.path, self._file)

    def refuse(self, what: str, restart: bool = True) -> NoReturn:
        """Raise a ResumeRefused about the journal. restart: whether the advice is to start again."""
        again = f"Start again with {option('restart')}, which discards that run's results; or name another output."
        fix = again if restart else "Move it away."
        raise ResumeRefused(f"{self.path}: {what}", fix)

    def _refuse_another_version(self, first: bytes) -> None:
        """Refuse a journal with another schema. This check comes first, because other fields may differ too."""
        with suppress(msgspec.DecodeError, UnicodeDecodeError):
            found = msgspec.json.decode(first, type=_AnyFirst)
            if found.type == self.FIRST.__struct_config__.tag and found.schema != SCHEMA:
                what = f"{self.path}: its schema is {found.schema}, this version of abonyx reads {SCHEMA}"
                fix = f"Resume the run with the version that started it, or start again with {option('restart')}."
                raise ResumeRefused(what, fix)

    def _locked(self) -> IO[bytes]:
        while True:
            with failing_as(self.path):
                file = open(self.path, "a+b", buffering=0, opener=open_no_link)  # noqa: SIM115
            if self._lock(file) and self._still_there(file):
                return file
            file.close()  # the run that held the lock has just ended and removed the file

    def _lock(self, file: IO[bytes]) -> bool:
        if fcntl is None:
            return True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            what = f"output {self._target}: another run is writing it ({self._last_start(file)}; lock: {self.path})"
            file.close()
            raise OutputInUse(what, "Wait until it ends, end it, or name another output.") from None
        except OSError:
            return True  # a file system without locks (e.g. some mounts of Lustre): as on Windows
        return True

    def _last_start(self, file: IO[bytes]) -> str:
        """The process that last started or resumed the other run, from its journal."""
        found = "process unknown"
        file.seek(0)
        for line in file.read().splitlines():
            try:
                read = msgspec.json.decode(line, type=self.LINES)
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
            if isinstance(read, Started):
                found = f"process {read.process} on {read.host}, since {read.at}"
        return found

    def _still_there(self, file: IO[bytes]) -> bool:
        try:
            return os.path.samestat(os.fstat(file.fileno()), self.path.stat())
        except FileNotFoundError:
            return False


class _AnyFirst(msgspec.Struct):
    """The fields of a first line that every version has."""

    type: str
    schema: int


def journal_path(target: Path) -> Path:
    """The path of the journal, which exists as long as the output is not whole."""
    return partial_path(target, JOURNAL_SUFFIX)


def differences(before: dict[str, Fact], now: dict[str, Fact]) -> list[str]:
    """A line for each fact that differs, with both values.

    The keys in a journal are always words of the command line, so that every interface can resume a run.
    """
    keys = [*before, *(key for key in now if key not in before)]
    return [
        f"{_named(key)}: {first_line(repr(before.get(key)), 1_000)} then, {first_line(repr(now.get(key)), 1_000)} now"
        for key in keys
        if before.get(key) != now.get(key)
    ]


def _named(key: str) -> str:
    return option(key[2:].replace("-", "_")) if re.fullmatch("--[a-z-]+", key) else key
