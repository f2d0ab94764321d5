"""A bar on a terminal's stderr."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from abonyx.run.windows import OnBatch

# Records in all, and of these done -> what is called with the records of each batch, for as long as it is shown.
Bar = Callable[[int, int], "contextlib.AbstractContextManager[OnBatch | None]"]


@contextlib.contextmanager
def progress(total: int, done: int = 0) -> Iterator[OnBatch | None]:
    """A bar with rate and time left on a terminal's stderr, `done` of them being done; nothing otherwise."""
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
