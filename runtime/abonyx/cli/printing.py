"""Findings on standard output: rows of names and values, tables, JSON."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import click

from abonyx.output.files import failing_as


def print_json(value: object) -> None:
    """One indented JSON object."""
    import msgspec

    print_text(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_text(text: str) -> None:
    """Text and a line's end. Raises a ConfigError if standard output takes no more."""
    with failing_as("to standard output"):
        click.echo(text)


def print_rows(rows: Iterable[tuple[str, object]]) -> None:
    """Names and values, side by side; rows without a value are left out."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for name, value in rows:
        if value not in (None, "", [], {}):
            table.add_row(name, _plain(value))
    _print_table(table)


def _print_table(table: Any) -> None:
    from rich.console import Console

    with failing_as("to standard output"):
        # A pipe has no width: nothing is cut there.
        Console(width=None if sys.stdout.isatty() else 160, highlight=False).print(table)


def _plain(value: object) -> Any:
    """A cell's text as it is: no markup, whatever a bundle says."""
    from rich.text import Text

    if isinstance(value, dict):
        value = [f"{key} {item}" for key, item in value.items()]
    return Text(", ".join(map(str, value)) if isinstance(value, list) else str(value))


def print_columns(header: list[str], rows: Iterable[list[object]]) -> None:
    """A table with these headings."""
    from rich.table import Table

    table = Table()
    for name in header:
        table.add_column(name)
    for row in rows:
        table.add_row(*map(_plain, row))
    _print_table(table)
