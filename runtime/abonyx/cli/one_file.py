"""Read one input and write one output: the part that score and embed share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from abonyx.errors import printable
from abonyx.logs import LOGGER

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from abonyx.input.checked import Input
    from abonyx.run.request import RunRequest
    from abonyx.run.resumed import FileRun


def read(
    run: RunRequest, source: Path, target: Path | None, *, single: bool = False, summary: Path | None = None
) -> Input:
    """Check the outputs and read the input, so that a wrong file is reported before the model is opened."""
    from abonyx.run.summary_file import check_summary

    source_file = file_or_none(source)
    check_summary(summary, target, source_file)
    run.check_outputs(target, source_file)
    checked = run.read(source_file, single=single)
    LOGGER.debug(f"read {source}: {len(checked.ids)} records to score, {len(checked.rejected)} rejected")
    return checked


def carry_out(
    file_run: FileRun,
    restart: bool,
    detail: str,
    before_summary: Callable[[], None] | None = None,
    summary_file: Path | None = None,
) -> None:
    """Run, and log the summary and the files that were written."""
    from abonyx.output.files import rejected_path
    from abonyx.run.resumed import run_file
    from abonyx.run.summary_file import summary_of_file_run, write_summary

    target, rejected = file_run.target, file_run.records.rejected
    summary = run_file(file_run, restart=restart)
    if summary_file is not None:
        write_summary(summary_file, summary_of_file_run(file_run, summary))
    if before_summary:
        before_summary()
    for line in summary.lines() if summary else ["an interrupted run had scored every row; its files are now in place"]:
        LOGGER.info(line)
    if target is None:
        for problem in rejected:
            LOGGER.info(f"rejected: line {problem.line}: {printable(problem.id)}: {problem.reason}")
        return
    LOGGER.info(f"wrote {target}; {detail}")
    if file_run.run.skip:
        LOGGER.info(f"wrote {rejected_path(target)}; {len(rejected)} rejected")


def file_or_none(path: Path) -> Path | None:
    """The path; None if it is -, standard input or output."""
    return None if str(path) == "-" else path
