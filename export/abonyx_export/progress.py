"""Progress of an export: a line for each step. If stderr is a terminal, a bar counts the step's layers or rows."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from abonyx_export.bundle_writer import Report

# Called with the step, the number of finished layers or rows, and the total number (0 = not known).
Show = Callable[[str, int, int], None]


class Steps:
    """Passes on the lines of a report, and shows the progress of the last line's step.

    Args:
        report: called with each line.
        show: called with the line and its progress.
        layers: number of layers of the encoder.
    """

    def __init__(self, report: Report, show: Show, layers: int) -> None:
        self._report, self._show, self._layers, self._line = report, show, layers, ""

    def __call__(self, line: str) -> None:
        self._line = line.strip()
        self._report(line)
        self._show(self._line, 0, 0)

    def at_layer(self, index: int) -> None:
        """Show that layer `index` (from 0) is being read."""
        self._show(f"{self._line}: layer", index + 1, self._layers)

    @contextmanager
    def rows(self, model: Any, total: int) -> Iterator[None]:
        """Count the rows that pass through a torch module, one row per call."""
        done = 0

        def count(*_: object) -> None:
            nonlocal done
            done += 1
            self._show(f"{self._line}: row", done, total)

        handle = model.register_forward_hook(count)
        try:
            yield
        finally:
            handle.remove()


@contextmanager
def step_bar() -> Iterator[Show]:
    """A bar on a terminal's stderr; nothing otherwise."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda step, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def show(step: str, done: int, total: int) -> None:
            bar.update(task, description=step, completed=done, total=total or None)

        yield show
