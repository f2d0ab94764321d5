"""The progress of a run, from its journal."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from abonyx.output.journal import Complete, Halved, Header, Window

if TYPE_CHECKING:
    from abonyx.output.journal import Journal


@dataclass
class Progress:
    """The state of a run after all lines of its journal.

    Attributes:
        token_budget, window_size: the values for the remaining rows.
        window: the last Window line.
        complete: the last Complete line; None if there is none.
        notes: the reasons why the budget was halved.
    """

    token_budget: int
    window_size: int
    window: Window = field(default_factory=lambda: Window(0, [], []))
    complete: Complete | None = None
    notes: list[str] = field(default_factory=list)


def rows_journalled(journal: Journal) -> int:
    """Number of rows in the partial files."""
    return max((line.rows_done for line in journal.lines if isinstance(line, Window)), default=0)


def read_progress(journal: Journal, rows: int, files: int) -> Progress:
    """Read the progress of a run that has finished rows.

    Args:
        journal: its journal.
        rows: number of all rows of the run.
        files: number of files that it writes.

    Raises:
        ResumeRefused: a line contradicts another line or the run. The message names the first such line.
    """
    header = journal.lines[0]
    assert isinstance(header, Header)
    if header.rows != rows:
        journal.refuse(f"line 1 says that the run has {header.rows} rows, but it has {rows}")
    found = Progress(header.token_budget, header.window_size)
    for number, line in enumerate(journal.lines, 1):
        if isinstance(line, Window):
            if not found.window.rows_done <= line.rows_done <= rows:
                before = found.window.rows_done
                what = f"line {number} says {line.rows_done} of {rows} rows are done, the lines above say {before}"
                journal.refuse(what)
            _refuse_other_count(journal, number, "sizes", len(line.size_bytes), files)
            _refuse_other_count(journal, number, "hashes", len(line.sha256), files)
            found.window = line
        elif isinstance(line, Halved):
            found.token_budget = line.token_budget
            found.notes.append(line.note)
        elif isinstance(line, Complete):
            if found.window.rows_done != rows:
                done = found.window.rows_done
                journal.refuse(f"line {number} says the files are whole, after {done} of {rows} rows")
            _refuse_other_count(journal, number, "hashes", len(line.sha256), files)
            found.complete = line
    return found


def _refuse_other_count(journal: Journal, number: int, what: str, found: int, files: int) -> None:
    if found != files:
        journal.refuse(f"line {number} has {found} {what}, for {files} files")
