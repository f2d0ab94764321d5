"""What `abonyx score --table` prints: the first rows, for a look at them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from abonyx.errors import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from abonyx.arrays import Float32Array
    from abonyx.bundle.threshold import CallRule

# Rows --table prints; the file has them all.
TABLE_ROWS = 40


class FirstRows:
    """The first rows that this process scored, to print on stderr: stdout is for results alone.

    Args:
        count: rows of the input.
        rule: that the calls were made by.
    """

    def __init__(self, count: int, rule: CallRule) -> None:
        self._count, self._rule = count, rule
        self._rows: list[tuple[str, float, str | None, str]] = []

    def add(self, ids: Sequence[str], p: Float32Array, calls: Sequence[str | None], flags: Sequence[str]) -> None:
        """Take the rows of a window, in the order of the input."""
        left = TABLE_ROWS - len(self._rows)
        self._rows += list(zip(ids, p.tolist(), calls, flags, strict=True))[:left]

    def print(self) -> None:
        """Print them, and how many more there are."""
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table()
        table.add_column("id")
        table.add_column("p_nonspecific", justify="right")
        table.add_column("call" if self._rule.band else f"> {self._rule.threshold:g}")
        table.add_column("flag")
        for name, p, call, flags in self._rows:
            # Grey: the head was not trained on such a record.
            style = "dim" if call is None else None
            table.add_row(Text(printable(name)), f"{p:.4f}", call or "-", flags, style=style)
        console = Console(stderr=True)
        console.print(table)
        if more := self._count - len(self._rows):
            console.print(f"... and {more} more")
