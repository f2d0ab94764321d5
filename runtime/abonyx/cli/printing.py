"""Print findings on standard output: rows of names and values, tables, JSON."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import click

from abonyx.output.files import failing_as


def print_json(value: object) -> None:
    """Print an indented JSON object."""
    import msgspec

    print_text(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_text(text: str) -> None:
    """Print text and a line end. Raises a ConfigError if standard output cannot be written."""
    with failing_as("to standard output"):
        click.echo(text)


def print_rows(rows: Iterable[tuple[str, object]]) -> None:
    """Print names and values side by side. Rows without a value are left out."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for name, value in rows:
        if value not in (None, "", [], {}):
            table.add_row(name, _plain(value))
    _print_table(table)


def _print_table(table: Any) -> None:
    from rich.console import Console

    with failing_as("to standard output"):
        # A pipe has no width. 160 columns are enough for most lines.
        Console(width=None if sys.stdout.isatty() else 160, highlight=False).print(table)


def _plain(value: object) -> Any:
    """The text of a cell. rich must not read it as markup, because it may come from a bundle."""
    from rich.text import Text

    if isinstance(value, dict):
        value = [f"{key} {item}" for key, item in value.items()]
    return Text(", ".join(map(str, value)) if isinstance(value, list) else str(value))


def print_columns(header: list[str], rows: Iterable[list[object]]) -> None:
    """Print a table with these headings."""
    from rich.table import Table

    table = Table()
    for name in header:
        table.add_column(name)
    for row in rows:
        table.add_row(*map(_plain, row))
    _print_table(table)
