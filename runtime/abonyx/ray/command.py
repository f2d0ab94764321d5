"""`abonyx score DIR_OR_GLOB -o DIR --ray`: from a directory of inputs to one of results, and what came of it."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from abonyx.bundle.threshold import choose_threshold
from abonyx.errors import ConfigError
from abonyx.logs import LOGGER
from abonyx.output.files import replacing
from abonyx.output.journal import Fact
from abonyx.ray.cluster import connected, for_worker, load_ray
from abonyx.ray.files import Dispatch, find_files, raise_failed
from abonyx.ray.run_file import Done, File, RunFile, open_run_file, printable_name, run_facts
from abonyx.ray.worker import DirectoryRequest
from abonyx.run.interrupts import Stop, handled
from abonyx.run.request import RunRequest
from abonyx.run.windows import flag_line
from abonyx.wording import Interface, option


class Failed(msgspec.Struct, frozen=True):
    """A file that was not scored."""

    input: str
    error: str


class DirectorySummary(msgspec.Struct, frozen=True):
    """summary.json: the files of the last command, whichever command scored each.

    Attributes:
        run: what the results depend on.
        records, rejected, flagged, uncalled, flags: of all files, as Done has them of one.
        files_now, records_now, workers, run_seconds: of the last command; seconds without starting Ray and the model.
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
    source: Path,
    output: Path,
    address: str,
    restart: bool,
    assay: str | None,
    threshold: float | None,
    kind: Any,
    run: RunRequest,
) -> None:
    """Score every file that `output` does not hold yet.

    Args:
        source: a directory, or a pattern.
        address: of a Ray cluster; "" = start Ray on this machine.
        kind: csv, jsonl, parquet; None = parquet.
        run: what each file is scored as.

    Raises:
        ConfigError: Ray is not installed or does not answer; an output that cannot be made.
        ResumeRefused: the directory has another run's results.
        EngineError: of the first file that failed, once the others are done.
    """
    load_ray()
    if Path("-") in (source, output):
        raise ConfigError(
            f"{option('ray')} with - : standard streams are not files",
            f"Name a directory of files, and one for {option('output')}.",
        )
    run = dataclasses.replace(run, config=for_worker(run.config))
    request = DirectoryRequest(
        run, output.absolute(), kind or "parquet", choose_threshold(run.bundle, assay, threshold)
    )
    files = find_files(source, request.output, request.kind, run.skip)
    made = _make(request.output)
    try:
        with open_run_file(request.output, restart=restart) as run_file:
            _score(request, files, run_file, address, restart)
    except BaseException:  # Ctrl-C while Ray starts, too
        if made and not any(request.output.iterdir()):
            request.output.rmdir()
        raise


def _score(request: DirectoryRequest, files: list[File], run_file: RunFile, address: str, restart: bool) -> None:
    facts = run_facts(request.run, request.kind, request.threshold)
    known = {key: value for key, value in facts.items() if key != "engine"}  # the workers say which they have
    run_file.settle(known)
    left = files if restart else run_file.left(files, request.run.skip)
    if len(left) < len(files):
        LOGGER.info(f"{len(files) - len(left)} of {len(files)} files are done already")
    dispatch = Dispatch(request, run_file, restart)
    if left:
        stop = Stop()
        with connected(address), handled(stop):
            dispatch.run(left, stop)
    summary = _summary(dispatch, files, run_file, known)
    with replacing(request.output / "summary.json") as sink:
        sink.write(msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n")
    for line in _lines(summary, request):
        LOGGER.info(line)
    raise_failed(dispatch.failed, len(files))


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
    """Reason -> records of all files that are flagged for it, most first."""
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


def _lines(summary: DirectorySummary, request: DirectoryRequest) -> list[str]:
    rate = summary.records_now / summary.run_seconds if summary.run_seconds else 0.0
    now = f"{summary.files_now} files scored now by {summary.workers} workers: {summary.records_now} sequences"
    return [
        f"{now}, {summary.run_seconds:.2f} s ({rate:.1f} seq/s)",
        f"{len(summary.files)} files whole: {summary.records} sequences scored, {summary.rejected} rejected; "
        f"{len(summary.failed)} failed",
        f"bundle {request.run.bundle.label()}",
        *_flag_lines(summary, request),
        *dict.fromkeys(note for each in summary.files for note in each.notes),
        f"wrote {request.output}; threshold {request.threshold:g}",
    ]


def _make(output: Path) -> bool:
    """Make the directory; whether it was not there."""
    if output.is_dir():
        if not os.access(output, os.W_OK | os.X_OK):
            raise ConfigError(f"output {output}: is not writable", "Name an output elsewhere.")
        return False
    try:
        output.mkdir()
    except OSError as error:
        fix = f"With {option('ray')} the output is a directory: name one that is there, or a new one in one that is."
        raise ConfigError(f"output {output}: cannot be made: {error.strerror}", fix) from error
    return True
