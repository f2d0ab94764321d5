"""How far the run of a journal is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from abonyx.output.journal import Complete, Halved, Header, Window

if TYPE_CHECKING:
    from abonyx.output.journal import Journal


@dataclass
class Progress:
    """What the lines of a journal add up to.

    Attributes:
        window: the last one; complete: the last of these lines, None before there is one.
        token_budget, window_size: what the rest has to be scored with.
        notes: why budgets were halved.
    """

    token_budget: int
    window_size: int
    window: Window = field(default_factory=lambda: Window(0, [], []))
    complete: Complete | None = None
    notes: list[str] = field(default_factory=list)


def rows_journalled(journal: Journal) -> int:
    """Rows that the partial files hold."""
    return max((line.rows_done for line in journal.lines if isinstance(line, Window)), default=0)


def read_progress(journal: Journal, rows: int, files: int) -> Progress:
    """Add up the lines of a journal with rows.

    Args:
        rows: of the run in all; files: that it writes.

    Raises:
        ResumeRefused: lines that contradict each other, or the run; names the first.
    """
    header = journal.lines[0]
    assert isinstance(header, Header)
    if header.rows != rows:
        journal.refuse(f"line 1 says {header.rows} rows in all, this run has {rows}")
    found = Progress(header.token_budget, header.window_size)
    for number, line in enumerate(journal.lines, 1):
        if isinstance(line, Window):
            if not found.window.rows_done <= line.rows_done <= rows:
                before = found.window.rows_done
                journal.refuse(f"line {number} says {line.rows_done} rows are done, of {rows}, after {before}")
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
