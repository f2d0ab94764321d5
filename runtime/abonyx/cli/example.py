"""The last lines of a command's help: an example to copy."""

from __future__ import annotations


def example(command: str) -> str:
    r"""A click epilog: "Example:" and the command below it, which click does not wrap because \b comes first.

    The command has at most 76 characters: with the indent of 4 it fits 80 columns.
    """
    return f"\b\nExample:\n  {command}"
