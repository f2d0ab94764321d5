"""`abonyx score INPUT... -o DIR`: score files into a directory of results, with a summary."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from abonyx.errors import EngineError, OutOfDeviceMemory, ProviderError, RunInterrupted
from abonyx.logs import LOGGER
from abonyx.model import open_model
from abonyx.output.files import replacing
from abonyx.output.journal import Fact
from abonyx.run.files import find_files, make_directory, remove_if_empty
from abonyx.run.run_file import SHOWN, SIDE, Done, File, RunFile, open_run_file, printable_name, run_facts
from abonyx.run.scorer import DirectoryRequest, FileScorer
from abonyx.run.windows import flag_line
from abonyx.wording import Interface, option


class Dispatch(Protocol):
    """A way to score the files of a run: one after another in this process, or with Ray's workers.

    Attributes:
        done: the files that this command scored.
        failed: file -> error.
        workers: number of workers at the start; 0 = this process scores.
        run_seconds: seconds from the start of the first file to the end of the last.
    """

    done: list[Done]
    failed: dict[File, EngineError]
    workers: int
    run_seconds: float

    def run(self, files: Sequence[File]) -> None:
        """Score the files. A file that cannot be scored goes to `failed`, and the others are still scored."""


# (request, run file, restart) -> the dispatch of a run.
Dispatcher = Callable[[DirectoryRequest, RunFile, bool], Dispatch]


class InTurn:
    """The Dispatch of one process. It opens the model once, and scores files one after another."""

    def __init__(self, request: DirectoryRequest, run_file: RunFile, restart: bool) -> None:
        self._request, self._run_file, self._restart = request, run_file, restart
        self.done: list[Done] = []
        self.failed: dict[File, EngineError] = {}
        self.workers, self.run_seconds = 0, 0.0

    def run(self, files: Sequence[File]) -> None:
        """Score the files.

        Raises:
            RunInterrupted: a signal ended the run at the end of a window.
            ResumeRefused: the run was started with another engine.
            EngineError: the model cannot be opened, or the engine failed.
        """
        request, run_file = self._request, self._run_file
        scorer = FileScorer(request, in_children=True)
        with open_model(scorer.config) as model:
            scorer.use(model)
            run_file.settle(run_facts(request.run, request.kind, request.heads))
            started = time.perf_counter()
            for file in files:
                run_file.begin(file)
                try:
                    done = scorer.score(file, self._restart)
                except RunInterrupted as error:
                    what = f"{error.marked[0]}; {len(self.done)} of {len(files)} files are done"
                    fix = f"The same command resumes the run; {option('restart')} starts it again."
                    raise RunInterrupted(what, fix) from error
                except EngineError as error:
                    if isinstance(error, ProviderError) and not isinstance(error, OutOfDeviceMemory):
                        raise
                    self.failed[file] = error
                    LOGGER.info(f"{printable_name(file.source)}: failed: {failure(error)}")
                    continue
                run_file.append(done)
                self.done.append(done)
                LOGGER.info(f"{done.input}: {done.records} scored, {done.rejected} rejected")
            self.run_seconds = time.perf_counter() - started


def failure(error: EngineError) -> str:
    """The first line of an error, for the log."""
    return error.worded(Interface.COMMAND_LINE)[0].splitlines()[0]


class Failed(msgspec.Struct, frozen=True):
    """A file that was not scored."""

    input: str
    error: str


class DirectorySummary(msgspec.Struct, frozen=True):
    """summary.json: all files of the last command, also those that an earlier command scored.

    Attributes:
        run: the facts that the results depend on.
        records, rejected, flagged, uncalled, flags: sums over all files of the fields of Done.
        files_now, records_now: number of files and records that the last command scored.
        workers: number of Ray workers in the last command; 0 = without Ray.
        run_seconds: seconds of scoring in the last command, without starting Ray and the model.
        files: all scored files.
        failed: files that could not be scored.
    """

    run: dict[str, Fact]
    records: int
    rejected: int
    flagged: int
    uncalled: int
    flags: dict[str, int]
    files_now: int
    records_now: int
    workers: int
    run_seconds: float
    files: list[Done]
    failed: list[Failed]


def score_directory(
    request: DirectoryRequest, sources: Sequence[Path], restart: bool, dispatcher: Dispatcher = InTurn
) -> None:
    """Score every file that has no results in the output yet.

    Args:
        request: the run. Its output must be an absolute path.
        sources: files, directories and patterns.
        restart: whether to replace existing results.
        dispatcher: makes the dispatch.

    Raises:
        ConfigError: the output cannot be created.
        ResumeRefused: the directory has results of another run.
        EngineError: a file failed. The error of the first one is raised when the others are done.
    """
    files = find_files(sources, request.output, request.kind)
    made = make_directory(request.output)
    try:
        with open_run_file(request.output, restart=restart) as run_file:
            score_files(request, files, run_file, restart, dispatcher)
    except BaseException:  # also Ctrl-C while Ray starts
        if made:
            remove_if_empty(request.output)
        raise


def score_files(
    request: DirectoryRequest, files: list[File], run_file: RunFile, restart: bool, dispatcher: Dispatcher
) -> None:
    """Score the files that are not done according to the run file; write summary.json, and log the summary.

    Raises:
        ResumeRefused, EngineError: as for score_directory.
    """
    facts = run_facts(request.run, request.kind, request.heads)
    known = {key: value for key, value in facts.items() if key != "engine"}  # added by the process that opens the model
    run_file.settle(known)
    left = files if restart else run_file.left(files, request.run.skip)
    if len(left) < len(files):
        LOGGER.info(f"{len(files) - len(left)} of {len(files)} files are already done")
    dispatch = dispatcher(request, run_file, restart)
    if left:
        dispatch.run(left)
    summary = _summary(dispatch, files, run_file, known)
    with replacing(request.output / SIDE / "summary.json") as sink:
        sink.write(msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n")
    for line in _lines(summary, request, run_file.shown):
        LOGGER.info(line)
    _raise_failed(dispatch.failed, len(files))


def _summary(dispatch: Dispatch, files: list[File], run_file: RunFile, facts: dict[str, Fact]) -> DirectorySummary:
    done = run_file.done()
    whole = [done[file.target.name] for file in files if file.target.name in done and file not in dispatch.failed]
    return DirectorySummary(
        run=facts | run_file.facts(),
        records=sum(each.records for each in whole),
        rejected=sum(each.rejected for each in whole),
        flagged=sum(each.flagged for each in whole),
        uncalled=sum(each.uncalled for each in whole),
        flags=_counted(whole),
        files_now=len(dispatch.done),
        records_now=sum(each.records for each in dispatch.done),
        workers=dispatch.workers,
        run_seconds=dispatch.run_seconds,
        files=whole,
        failed=[
            Failed(printable_name(file.source), error.worded(Interface.COMMAND_LINE)[0])
            for file, error in dispatch.failed.items()
        ],
    )


def _counted(files: list[Done]) -> dict[str, int]:
    """Reason -> number of flagged records in all files, most frequent first."""
    counts: Counter[str] = Counter()
    for each in files:
        counts.update(each.flags)
    return dict(counts.most_common())


def _flag_lines(summary: DirectorySummary, request: DirectoryRequest) -> list[str]:
    if request.run.check == "off":
        return [f"note: {option('domain')} off: chain and domain were not looked at; no record is flagged"]
    if not summary.flagged:
        return []
    return [flag_line(summary.flagged, summary.records, summary.uncalled, summary.flags)]


def _lines(summary: DirectorySummary, request: DirectoryRequest, output: str) -> list[str]:
    rate = summary.records_now / summary.run_seconds if summary.run_seconds else 0.0
    by = f" by {summary.workers} workers" if summary.workers else ""
    counts = f"{summary.files_now} files scored now{by}: {summary.records_now} sequences"
    now = [f"{counts}, {summary.run_seconds:.2f} s ({rate:.1f} seq/s)"] if summary.files_now else []
    return [
        *now,
        f"{len(summary.files)} files done: {summary.records} sequences scored, {summary.rejected} rejected; "
        f"{len(summary.failed)} failed",
        f"bundle {request.run.bundle.label()}",
        *_flag_lines(summary, request),
        *dict.fromkeys(note for each in summary.files for note in each.notes),
        *([f"rejected records are listed in {output}{os.sep}{SIDE}"] if summary.rejected else []),
        f"wrote {output}; {request.heads.summary()}",
    ]


def _raise_failed(failed: dict[File, EngineError], total: int) -> None:
    """If files failed, raise the error of the first one, with the errors of the others in its text."""
    if not failed:
        return
    lines = [f"  {error.marked[0]}" for error in list(failed.values())[:SHOWN]]
    more = [f"  ... and {len(failed) - SHOWN} more"] if len(failed) > SHOWN else []
    first = next(iter(failed.values()))
    raise type(first)(
        "\n".join([f"{len(failed)} of {total} files failed; the others are done", *lines, *more]),
        f"{first.marked[1]} Then give the same command again to score the files that failed.".strip(),
    )
