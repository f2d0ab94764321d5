"""What `abonyx score --table` prints: the first rows, for a look at them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from abonyx.errors import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from abonyx.bundle.chosen import ChosenHead, ChosenHeads

# Rows --table prints; the file has them all.
TABLE_ROWS = 40
_NUMBERS = ("float", "number")


class FirstRows:
    """The first rows that this process scored, to print on stderr: stdout is for results alone.

    Args:
        count: rows of the input.
        heads: whose values and calls are shown.
    """

    def __init__(self, count: int, heads: ChosenHeads) -> None:
        self._count, self._kinds = count, heads.kinds
        self._titles = {name: title for head in heads.of_columns for name, title in _titles(head).items()}
        self._rows: list[tuple[Any, ...]] = []

    def add(self, ids: Sequence[str], cells: Mapping[str, Any], flags: Sequence[str]) -> None:
        """Take the rows of a window, in the order of the input."""
        left = TABLE_ROWS - len(self._rows)
        self._rows += list(zip(ids, *(cells[name] for name in self._titles), flags, strict=True))[:left]

    def print(self) -> None:
        """Print them, and how many more there are."""
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table()
        # Nothing is cut: a narrow terminal gets lines, a file a table as wide as its text.
        table.add_column("id", overflow="fold")
        for name, title in self._titles.items():
            table.add_column(title, overflow="fold", justify="right" if self._kinds[name] in _NUMBERS else "left")
        table.add_column("flag", overflow="fold")
        for name, *cells, flags in self._rows:
            each = zip(self._titles, cells, strict=True)
            shown = [
                f"{cell:.4f}" if self._kinds[column] in _NUMBERS and cell is not None else cell or "-"
                for column, cell in each
            ]
            # Grey: the heads were not trained on such a record.
            style = "dim" if None in cells else None
            table.add_row(Text(printable(name)), *shown, flags, style=style)
        console = Console(stderr=True)
        if not console.is_terminal:
            console = Console(
                stderr=True,
                width=max(
                    console.width, console.measure(table, options=console.options.update(max_width=10_000)).maximum
                ),
            )
        console.print(table)
        if more := self._count - len(self._rows):
            console.print(f"... and {more} more")


def _titles(head: ChosenHead) -> dict[str, str]:
    """A head's columns that are shown -> their titles: what it is called first, then the number it rests on.

    Calls are shown in words alone. The columns of another head than the first are called by its name.
    """
    from abonyx.bundle.panel import PERCENTILE  # loads numpy

    rule, panel, of = head.rule, head.panel, "" if head.first else f"{head.spec.name} "
    kinds = {name: kind for name, kind in head.kinds.items() if kind != "call"}
    titles: dict[str, str] = {}
    for name in sorted(kinds, key=lambda name: (kinds[name] in _NUMBERS, not name.endswith(PERCENTILE))):
        titles[name] = name
        if name.endswith(PERCENTILE):
            if panel is None:
                del titles[name]  # an empty column
            else:
                titles[name] = f"{of}% of {panel.name}"
        elif kinds[name] == "word" and rule is not None and rule.band is None:
            titles[name] = f"{of}> {rule.threshold:g}"
    return titles
