"""What `abonyx score --table` prints: the first rows, for a look at them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from abonyx.errors import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from abonyx.bundle.chosen import ChosenHeads, ColumnKind

# Rows --table prints; the file has them all.
TABLE_ROWS = 40


class FirstRows:
    """The first rows that this process scored, to print on stderr: stdout is for results alone.

    Args:
        count: rows of the input.
        heads: whose values and calls are shown.
    """

    def __init__(self, count: int, heads: ChosenHeads) -> None:
        self._count, self._heads = count, heads
        self._rows: list[tuple[Any, ...]] = []

    def add(self, ids: Sequence[str], cells: Mapping[str, Any], flags: Sequence[str]) -> None:
        """Take the rows of a window, in the order of the input."""
        left = TABLE_ROWS - len(self._rows)
        self._rows += list(zip(ids, *(cells[name] for name in self._heads.kinds), flags, strict=True))[:left]

    def print(self) -> None:
        """Print them, and how many more there are."""
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table()
        table.add_column("id")
        kinds, chosen = self._heads.kinds, sorted(self._heads.heads, key=lambda head: not head.first)
        thresholds = {name: head.threshold for head in chosen for name in head.kinds}
        for name, kind in kinds.items():
            number = kind == "float"
            table.add_column(name if number else f"> {thresholds[name]:g}", justify="right" if number else "left")
        table.add_column("flag")
        for name, *cells, flags in self._rows:
            shown = [_shown(cell, kind) for cell, kind in zip(cells, kinds.values(), strict=True)]
            # Grey: the heads were not trained on such a record.
            style = "dim" if None in cells else None
            table.add_row(Text(printable(name)), *shown, flags, style=style)
        console = Console(stderr=True)
        console.print(table)
        if more := self._count - len(self._rows):
            console.print(f"... and {more} more")


def _shown(cell: Any, kind: ColumnKind) -> str:
    return f"{cell:.4f}" if kind == "float" else {1: "non-specific", 0: "specific", None: "-"}[cell]
