"""The last lines of a command's help: an example to copy."""

from __future__ import annotations


def example(*lines: str) -> str:
    r"""A click epilog: "Example:" and the lines below it, which click does not wrap because \b comes first.

    Lines have at most 76 characters: with the indent of 4 they fit 80 columns.
    """
    return "\n".join(["\b", "Example:", *(f"  {line}" for line in lines)])
