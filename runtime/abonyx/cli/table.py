"""The table that `abonyx score --table` prints: the first rows of the results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from abonyx.errors import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from abonyx.bundle.chosen import ChosenHead, ChosenHeads

# Largest number of rows that --table prints. The output file has all rows.
TABLE_ROWS = 40
_NUMBERS = ("float", "number")


class FirstRows:
    """The first rows that this process scored, to print on stderr, because stdout is only for results.

    Args:
        count: number of rows of the input.
        heads: the heads whose values and calls are shown.
    """

    def __init__(self, count: int, heads: ChosenHeads) -> None:
        self._count, self._kinds = count, heads.kinds
        self._titles = {name: title for head in heads.of_columns for name, title in _titles(head).items()}
        self._rows: list[tuple[Any, ...]] = []

    def add(self, ids: Sequence[str], cells: Mapping[str, Any], flags: Sequence[str]) -> None:
        """Add the rows of a window, in input order. Rows over TABLE_ROWS are dropped."""
        left = TABLE_ROWS - len(self._rows)
        self._rows += list(zip(ids, *(cells[name] for name in self._titles), flags, strict=True))[:left]

    def print(self) -> None:
        """Print the rows, and the number of rows that are not shown."""
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table()
        # No text is cut: in a narrow terminal cells are folded, and in a file the table is as wide as its text.
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
            # Grey marks a record without a call: it is unlike the training set.
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
    """The columns of a head that are shown, as name -> title: percentile and call first, then the number.

    Calls are shown only as words. For heads after the first, the title starts with the head's name.
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
