"""A progress bar on stderr, if it is a terminal."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from abonyx.run.windows import OnBatch

# (number of all records, number of done records) -> context manager; its value is called with the number of records in
# each batch, or is None.
Bar = Callable[[int, int], "contextlib.AbstractContextManager[OnBatch | None]"]


@contextlib.contextmanager
def progress(total: int, done: int = 0) -> Iterator[OnBatch | None]:
    """Show a bar with rate and remaining time on stderr. If stderr is not a terminal, yields None.

    Args:
        total: number of all records.
        done: number of records that are already done.
    """
    if sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TaskProgressColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.1f} seq/s" if task.speed else "opening the model")

    columns = (BarColumn(), TaskProgressColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("scoring", total=total, completed=done)
        yield functools.partial(bar.advance, task)
