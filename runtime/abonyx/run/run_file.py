"""The journal of a run with a directory as output: a description of the run, and the files that are begun or done.

It stays in the folder SIDE of the directory. So the same command skips files that are done, and never takes the results
of another run for its own. Each fact is a line of JSON.
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

# Folder for everything that is not results. pandas and pyarrow ignore a folder whose name begins with "_".
SIDE = "_abonyx"
# Largest number of files in a message.
SHOWN = 10
_ENGINE = "engine"


class RunHeader(msgspec.Struct, frozen=True, tag="run"):
    """The first line: a description of the run."""

    identity: dict[str, Fact]
    schema: int = SCHEMA


class Begun(msgspec.Struct, frozen=True, tag="begun"):
    """A file was given to a worker. From here on, the file `output` belongs to the run."""

    input: str
    output: str


class Done(msgspec.Struct, frozen=True, tag="done", kw_only=True):
    """The results of a file are complete.

    Attributes:
        input: name of the input.
        input_bytes, input_mtime_ns, input_sha256: size, time and hash of the input that was read.
        records: number of scored records.
        rejected: number of rejected records.
        node: the machine that scored it.
        flagged: number of flagged records.
        uncalled: number of flagged records without a call.
        flags: flag -> number of records that have it.
        output, output_bytes: name and size of the results.
        seconds: seconds of scoring and writing, by the worker that finished it.
        notes: notes of its summary, without those about flags.
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
    """An input, and the path of its results."""

    source: Path
    target: Path

    @property
    def rejected(self) -> Path:
        """The path of the list of its rejected records."""
        return rejected_path(self.target.parent / SIDE / self.target.name)


class RunFile(Journal):
    """The run file of a directory, open and locked. open_run_file makes it."""

    LINES = RunHeader | Started | Begun | Done
    FIRST = RunHeader

    def __init__(self, target: Path, restart: bool) -> None:
        super().__init__(target)
        self._forget = restart  # whether to remove the lines of an earlier run
        self._begun: set[str] = set()  # names of all outputs that belong to the run
        self.shown = str(self.path.parent.parent)  # name of the output in messages

    def done(self) -> dict[str, Done]:
        """Name of an output -> its Done line."""
        return {line.output: line for line in self.lines if isinstance(line, Done)}

    def read(self) -> None:
        """Read all lines. Raises as Journal.read does."""
        super().read()
        self._begun = {line.output for line in self.lines if isinstance(line, Begun)}

    def facts(self) -> dict[str, Fact]:
        """The facts that the results depend on; {} before the first file."""
        return next((line.identity for line in self.lines if isinstance(line, RunHeader)), {})

    def begin(self, file: File) -> None:
        """Note that a file is given to a worker."""
        if file.target.name not in self._begun:
            self._begun.add(file.target.name)
            self.append(Begun(printable_name(file.source), file.target.name))

    def settle(self, facts: dict[str, Fact]) -> None:
        """Write the description of the run, or refuse to resume a different run.

        A restart removes the old lines only here, after a worker has reported its engine. So nothing is lost if a
        cluster does not answer, or a model cannot be opened.

        Args:
            facts: the facts of this command. The workers report the engine; before that, it is missing in the facts.

        Raises:
            ResumeRefused: a fact differs. The message names it, with both values.
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
        """The files that are not done yet.

        Args:
            files: all files of the run.
            skip: whether each file has a list of rejected records.

        Raises:
            ResumeRefused: there are results that the run file does not list, or results or inputs have changed.
            InputError: an input cannot be read.
        """
        left, refused = [], []
        done = self.done()
        for file in files:
            line = done.get(file.target.name)
            there = file.target.exists()
            if line is None:
                if there and file.target.name not in self._begun:
                    refused.append(f"{file.target.name}: exists, but {self.path.name} does not list it")
                left.append(file)
            elif not there or (skip and not file.rejected.exists()):
                left.append(file)
            elif (size := file.target.stat().st_size) != line.output_bytes:
                refused.append(f"{file.target.name}: had {line.output_bytes} bytes, and now has {size}")
            elif (sha256 := _sha256(file.source, line)) != line.input_sha256:
                refused.append(
                    f"{file.source.name}: sha256 was {line.input_sha256} ({line.input}), and is now {sha256}"
                )
        if refused:
            raise self.other_run(refused)
        return left

    def other_run(self, refused: list[str]) -> ResumeRefused:
        """The error about results of another run, with the lines in `refused`."""
        more = [f"... and {len(refused) - SHOWN} more"] if len(refused) > SHOWN else []
        return ResumeRefused(
            f"output {self.shown}: has results of another run or from other inputs:\n  "
            + "\n  ".join([*refused[:SHOWN], *more]),
            f"Name another directory, move those results away, or start again with {option('restart')}, which replaces "
            "them.",
        )


def printable_name(path: Path) -> str:
    """The name of a file in valid UTF-8, for JSON."""
    return path.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


AnyRunFile = TypeVar("AnyRunFile", bound=RunFile)


@contextmanager
def open_run_file(directory: Path, *, restart: bool) -> Iterator[RunFile]:
    """Open the run file of a directory of files; see open_run_file_of."""
    with open_run_file_of(RunFile, directory, restart=restart) as run_file:
        yield run_file


@contextmanager
def open_run_file_of(kind: type[AnyRunFile], directory: Path, *, restart: bool) -> Iterator[AnyRunFile]:
    """Yield the run file of a directory, SIDE/run.journal, after reading it.

    With `restart` it is not read, and keeps its lines until `settle` is called.

    Raises:
        OutputInUse: another run is writing the directory.
        ResumeRefused: the run file cannot be read, or an earlier version wrote it.
        ConfigError: it cannot be created.
    """
    side = directory / SIDE
    if (directory / "run.journal").exists():
        what = f"output {directory}: has run.journal, so its results are from an earlier version of abonyx"
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
            run_file.remove()  # no file was begun
            if made:
                with suppress(OSError):  # not empty
                    side.rmdir()


def run_facts(run: RunRequest, kind: ScoreKind, heads: ChosenHeads) -> dict[str, Fact]:
    """Facts that the results of a run depend on, besides the files. The engine is that of this machine."""
    columns = {"--id-column": run.id_column, "--sequence-column": run.sequence_column, "--sheet": run.sheet}
    columns |= {"--heavy-column": run.heavy_column, "--light-column": run.light_column}
    return score_facts(kind, heads) | columns | identity(run)


def _sha256(source: Path, line: Done) -> str:
    """The hash of a file. If its size and time stamp have not changed, the recorded hash is used."""
    try:
        status = source.stat()
        if (status.st_size, status.st_mtime_ns) == (line.input_bytes, line.input_mtime_ns):
            return line.input_sha256
        return file_sha256(source)
    except OSError as error:
        raise InputError(f"{source}: cannot be read: {error.strerror}", "Check the path.") from error
