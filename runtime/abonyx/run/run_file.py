"""The journal of a directory's run: what it is, which files were begun and which are done, one JSON line a fact.

It stays in the directory's folder SIDE, so that the same command skips what is done, and the results of another run are
never taken for its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import msgspec

from abonyx.errors import InputError, ResumeRefused
from abonyx.hashing import file_sha256
from abonyx.output.files import failing_as, rejected_path
from abonyx.output.journal import SCHEMA, Fact, Journal, Started, differences
from abonyx.output.kinds import ScoreKind
from abonyx.run.resumed import identity, score_facts
from abonyx.wording import option

if TYPE_CHECKING:
    from abonyx.bundle.chosen import ChosenHeads
    from abonyx.run.request import RunRequest

# Of a directory of results: what is not results. pandas and pyarrow read no folder whose name begins so.
SIDE = "_abonyx"
# Files that a message names.
SHOWN = 10
_ENGINE = "engine"


class RunHeader(msgspec.Struct, frozen=True, tag="run"):
    """What the run is; the first line."""

    identity: dict[str, Fact]
    schema: int = SCHEMA


class Begun(msgspec.Struct, frozen=True, tag="begun"):
    """A file was given to a worker: what stands at `output` from here on is the run's."""

    input: str
    output: str


class Done(msgspec.Struct, frozen=True, tag="done", kw_only=True):
    """A file's results are in their place.

    Attributes:
        input, output: names of the files; input_bytes, input_mtime_ns, input_sha256: of what was read.
        records: scored; rejected: not.
        flagged: of the records; uncalled: of these, without a call; flags: reason -> records that have it.
        seconds: scoring and writing, by the worker that ended it.
        notes: what its summary says, but for the flags.
    """

    input: str
    input_bytes: int
    input_mtime_ns: int
    input_sha256: str
    records: int
    rejected: int
    node: str
    flagged: int = 0
    uncalled: int = 0
    flags: dict[str, int] = {}
    output: str = ""
    output_bytes: int = 0
    seconds: float = 0.0
    notes: list[str] = []


class File(NamedTuple):
    """An input and where its results go."""

    source: Path
    target: Path

    @property
    def rejected(self) -> Path:
        """Where its rejected records are listed."""
        return rejected_path(self.target.parent / SIDE / self.target.name)


class RunFile(Journal):
    """The run file of a directory, open and locked. Make it with open_run_file."""

    LINES = RunHeader | Started | Begun | Done
    FIRST = RunHeader

    def __init__(self, target: Path, restart: bool) -> None:
        super().__init__(target)
        self._forget = restart  # what an earlier run left in it
        self._begun: set[str] = set()  # names of the outputs that are the run's, done or not
        self.shown = str(self.path.parent.parent)  # what messages call the output

    def done(self) -> dict[str, Done]:
        """What was done, by the output's name."""
        return {line.output: line for line in self.lines if isinstance(line, Done)}

    def read(self) -> None:
        """As Journal.read."""
        super().read()
        self._begun = {line.output for line in self.lines if isinstance(line, Begun)}

    def facts(self) -> dict[str, Fact]:
        """What the run's results depend on; empty before its first file."""
        return next((line.identity for line in self.lines if isinstance(line, RunHeader)), {})

    def begin(self, file: File) -> None:
        """Note that the file is given to a worker."""
        if file.target.name not in self._begun:
            self._begun.add(file.target.name)
            self.append(Begun(printable_name(file.source), file.target.name))

    def settle(self, facts: dict[str, Fact]) -> None:
        """Note what the run is, or refuse to resume another one.

        A restart forgets what was there only here, once a worker has said its engine: a cluster that does not answer,
        or a model that cannot be opened, loses nothing.

        Args:
            facts: of this command; the engine's is the workers' to say, and left out before there are any.

        Raises:
            ResumeRefused: names what differs, with both values.
        """
        if not self.lines:
            if _ENGINE in facts:
                if self._forget:
                    self.empty()
                    self._forget = False
                self.append(RunHeader(facts))
                self.start()
            return
        header = self.lines[0]
        assert isinstance(header, RunHeader)
        before = header.identity if _ENGINE in facts else header.identity | {_ENGINE: None}
        if found := differences(before, {_ENGINE: None} | facts):
            raise ResumeRefused(
                f"output {self.shown}: has results of another run:\n  " + "\n  ".join(found),
                f"Give that run's command again, name another directory, or start again with {option('restart')}.",
            )

    def left(self, files: Sequence[File], skip: bool) -> list[File]:
        """The files that are still to be scored.

        Args:
            skip: whether rejected records have a file each.

        Raises:
            ResumeRefused: results that the run file does not know, or of other input, or changed since.
            InputError: an input cannot be read.
        """
        left, refused = [], []
        done = self.done()
        for file in files:
            line = done.get(file.target.name)
            there = file.target.exists()
            if line is None:
                if there and file.target.name not in self._begun:
                    refused.append(f"{file.target.name}: is there, and {self.path.name} does not know it")
                left.append(file)
            elif not there or (skip and not file.rejected.exists()):
                left.append(file)
            elif (size := file.target.stat().st_size) != line.output_bytes:
                refused.append(f"{file.target.name}: {line.output_bytes} bytes then, {size} now")
            elif (sha256 := _sha256(file.source, line)) != line.input_sha256:
                refused.append(f"{file.source.name}: sha256 {line.input_sha256} ({line.input}) then, {sha256} now")
        if refused:
            raise self.other_run(refused)
        return left

    def other_run(self, refused: list[str]) -> ResumeRefused:
        """The error about results that are not this run's, a line for each."""
        more = [f"... and {len(refused) - SHOWN} more"] if len(refused) > SHOWN else []
        return ResumeRefused(
            f"output {self.shown}: has results of another run or other input:\n  "
            + "\n  ".join([*refused[:SHOWN], *more]),
            f"Name another directory, move those results away, or start again with {option('restart')}, which replaces "
            "them.",
        )


def printable_name(path: Path) -> str:
    """A file's name as JSON can hold it."""
    return path.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


AnyRunFile = TypeVar("AnyRunFile", bound=RunFile)


@contextmanager
def open_run_file(directory: Path, *, restart: bool) -> Iterator[RunFile]:
    """As open_run_file_of, of files."""
    with open_run_file_of(RunFile, directory, restart=restart) as run_file:
        yield run_file


@contextmanager
def open_run_file_of(kind: type[AnyRunFile], directory: Path, *, restart: bool) -> Iterator[AnyRunFile]:
    """Give the directory's run file, SIDE/run.journal, read; of a restart, not read, and whole until it settles.

    Raises:
        OutputInUse: another run has the directory.
        ResumeRefused: it cannot be read, or an earlier version's is there.
        ConfigError: it cannot be made.
    """
    side = directory / SIDE
    if (directory / "run.journal").exists():
        what = f"output {directory}: has run.journal, the results of a run of an earlier version"
        raise ResumeRefused(what, "Name another directory, or move those results away.")
    made = not side.is_dir()
    with failing_as(side):
        side.mkdir(exist_ok=True)
    run_file = kind(side / "run", restart)
    try:
        if not restart:
            run_file.read()
        yield run_file
    finally:
        if run_file.path.exists() and run_file.path.stat().st_size:
            run_file.close()
        else:
            run_file.remove()  # nothing was begun
            if made:
                with suppress(OSError):  # not empty
                    side.rmdir()


def run_facts(run: RunRequest, kind: ScoreKind, heads: ChosenHeads) -> dict[str, Fact]:
    """What a run's results depend on beside the files, on this node."""
    columns = {"--id-column": run.id_column, "--sequence-column": run.sequence_column, "--sheet": run.sheet}
    columns |= {"--heavy-column": run.heavy_column, "--light-column": run.light_column}
    return score_facts(kind, heads) | columns | identity(run)


def _sha256(source: Path, line: Done) -> str:
    """The file's hash; where size and time stamp are those of then, the one of then."""
    try:
        status = source.stat()
        if (status.st_size, status.st_mtime_ns) == (line.input_bytes, line.input_mtime_ns):
            return line.input_sha256
        return file_sha256(source)
    except OSError as error:
        raise InputError(f"{source}: cannot be read: {error.strerror}", "Check the path.") from error
