"""The journal of one run: what the run is, and how far its partial files are, one JSON line a fact.

A line is appended and flushed to the disk only after the bytes that it speaks of. So a run that dies at any point
leaves a journal that is true, but for a last line that may be cut short, and partial files that may be longer than it
says. Each line has a check (chain.py).
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
except ImportError:  # Windows: the second of two runs is not refused there
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
    """What the run is; the first line.

    Attributes:
        identity: what another command must equal to resume the run, by the name a user knows it by.
        config_sha256: RuntimeConfig.sha256(); the identity has its fields one by one.
        rows: records that are scored in all; rejected: those that are not.
        token_budget, window_size: as the run began, whatever a later version's defaults are.
        files: the partial files, from the journal's directory: what a later process may remove. Made by the run,
            since the journal was there first.
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
    """A process took the run up."""

    process: int
    host: str
    at: str


class Window(msgspec.Struct, frozen=True, tag="window"):
    """The partial files hold `rows_done` rows: so many bytes, of this sha256, file by file."""

    rows_done: Count
    size_bytes: list[Count]
    sha256: list[Sha256]


class Halved(msgspec.Struct, frozen=True, tag="halved"):
    """From here on batches have another token budget, for the reason in the note."""

    token_budget: Annotated[int, msgspec.Meta(ge=1)]
    note: str


class Complete(msgspec.Struct, frozen=True, tag="complete"):
    """The files are whole, of this sha256, and are being renamed."""

    sha256: list[Sha256]


Line = Header | Started | Window | Halved | Complete


class Journal:
    """The journal beside an output, open and locked: no second run writes the same output.

    Args:
        target: the output.

    Attributes:
        lines: what it says. LINES are the types of its lines, FIRST that of the first and of no other, which has a
            schema.

    Raises:
        OutputInUse: another run has it.
        ConfigError: it cannot be opened.
    """

    LINES: ClassVar[Any] = Line
    FIRST: ClassVar[type[msgspec.Struct]] = Header

    def __init__(self, target: Path) -> None:
        self._target, self.path = target, journal_path(target)
        self._file = self._locked()
        self.lines: list[msgspec.Struct] = []
        self._chain = Chain()

    def read(self) -> None:
        """Read what is there; a last line that was cut short is dropped, from the file too.

        Raises:
            ResumeRefused: a whole line that is none of a journal's, or is not as it was written; or another version's
                journal.
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
        """Read no more than its first line, if that can be read, for a run that starts again.

        Raises:
            ResumeRefused: it is not a journal.
        """
        first, end, _ = self._text().partition(b"\n")
        if not self._is_own(first, whole=bool(end)):
            self.refuse(_FOREIGN, restart=False)
        with suppress(msgspec.DecodeError, UnicodeDecodeError):
            self.lines = [msgspec.json.decode(first, type=self.FIRST)]

    def is_empty(self) -> bool:
        """Whether it holds no byte."""
        return os.fstat(self._file.fileno()).st_size == 0

    def _text(self) -> bytes:
        with failing_as(self.path):
            self._file.seek(0)
            return self._file.read()

    def _is_own(self, first: bytes, *, whole: bool) -> bool:
        """Whether a first line is a journal's; one without its end may be cut short, or zeros that a power cut left."""
        written = first if whole else first.rstrip(b"\0")
        first_bytes = f'{{"type":"{self.FIRST.__struct_config__.tag}",'.encode()
        return written.startswith(first_bytes) if whole else first_bytes.startswith(written[: len(first_bytes)])

    def append(self, line: msgspec.Struct) -> None:
        """Add a line; the disk has it when this returns."""
        with failing_as(self.path):
            data = self._chain.add(msgspec.json.encode(line)) + b"\n"
            while data:
                data = data[self._file.write(data) :]
            os.fsync(self._file.fileno())
        self.refuse_replaced()
        self.lines.append(line)

    def start(self) -> None:
        """Note that this process takes the run up."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self.append(Started(os.getpid(), platform.node(), now))

    def empty(self) -> None:
        """Forget what it says."""
        with failing_as(self.path):
            self._file.truncate(0)
        self.lines.clear()
        self._chain = Chain()

    def close(self) -> None:
        """Let another run have the output."""
        self._file.close()

    def remove(self) -> None:
        """Remove it, if it is still what is at its path, then let another run have the output."""
        own = is_at(self.path, os.fstat(self._file.fileno()))
        if fcntl is None:
            self.close()  # Windows removes no open file
        if own:
            with failing_as(self.path):
                self.path.unlink(missing_ok=True)
        self.close()

    def refuse_replaced(self) -> None:
        """Raise a ResumeRefused if another file, or none, is at its path: then what it names may be another run's."""
        refuse_replaced(self.path, self._file)

    def refuse(self, what: str, restart: bool = True) -> NoReturn:
        """Raise a ResumeRefused about it; `restart`: whether starting again would help."""
        again = f"Start again with {option('restart')}, which drops what that run did; or name another output."
        fix = again if restart else "Move it away."
        raise ResumeRefused(f"{self.path}: {what}", fix)

    def _refuse_another_version(self, first: bytes) -> None:
        """Before the line is read in full: its other fields are that version's."""
        with suppress(msgspec.DecodeError, UnicodeDecodeError):
            found = msgspec.json.decode(first, type=_AnyFirst)
            if found.type == self.FIRST.__struct_config__.tag and found.schema != SCHEMA:
                what = f"{self.path}: another version of abonyx wrote it: schema {found.schema}, this one's is {SCHEMA}"
                fix = f"Give the command to that version to resume the run, or start again with {option('restart')}."
                raise ResumeRefused(what, fix)

    def _locked(self) -> IO[bytes]:
        while True:
            with failing_as(self.path):
                file = open(self.path, "a+b", buffering=0, opener=open_no_link)  # noqa: SIM115
            if self._lock(file) and self._still_there(file):
                return file
            file.close()  # the run that had it has just ended and removed it

    def _lock(self, file: IO[bytes]) -> bool:
        if fcntl is None:
            return True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            what = f"output {self._target}: another run is writing it ({self._last_start(file)}; lock: {self.path})"
            file.close()
            raise OutputInUse(what, "Wait for it or end it, or name another output.") from None
        except OSError:
            return True  # a file system without locks (Lustre can be mounted so): as on Windows
        return True

    def _last_start(self, file: IO[bytes]) -> str:
        """Which process took the run up last, as the journal of another run tells."""
        found = "no process noted yet"
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
    """Of a first line, what every version has."""

    type: str
    schema: int


def journal_path(target: Path) -> Path:
    """Return where the journal of an output stands while the output is not whole."""
    return partial_path(target, JOURNAL_SUFFIX)


def differences(before: dict[str, Fact], now: dict[str, Fact]) -> list[str]:
    """A line for each fact that differs, with both values.

    Journals have the command line's words as keys, whoever wrote them: that is how a run is known again.
    """
    keys = [*before, *(key for key in now if key not in before)]
    return [
        f"{_named(key)}: {first_line(repr(before.get(key)), 1_000)} then, {first_line(repr(now.get(key)), 1_000)} now"
        for key in keys
        if before.get(key) != now.get(key)
    ]


def _named(key: str) -> str:
    return option(key[2:].replace("-", "_")) if re.fullmatch("--[a-z-]+", key) else key
