"""The example at the end of each command's help."""

from __future__ import annotations


def example(command: str) -> str:
    r"""A click epilog with "Example:" and the command below it. \b stops click from wrapping the lines.

    The command may have at most 76 characters: with the indent of 4, it fits 80 columns.
    """
    return f"\b\nExample:\n  {command}"
