"""The word for an option in each interface: `--assay` on the command line, `assay` in JSON and in Python.

Code that raises an error does not know which interface the caller uses. It puts a mark into the message:
`option("assay")`. Each interface replaces the marks with its own words: the command line in logs.py, HTTP in
serve/problems.py, Python in errors.EngineError.
"""

from __future__ import annotations

import enum
import re


class Interface(enum.Enum):
    """Who reads a message."""

    COMMAND_LINE = "command line"
    HTTP = "HTTP"
    PYTHON = "Python"


# Two noncharacters of Unicode, which no text from outside has a reason to contain.
_BEGIN, _END = "\ufdd0", "\ufdd1"
_MARK = re.compile(f"{_BEGIN}([a-z_]+){_END}")

# Options whose word does not follow from their name. "skip" and "strip" are values of on_invalid and gaps.
EXCEPTIONS: dict[Interface, dict[str, str]] = {
    Interface.COMMAND_LINE: {
        "alphas": "--alpha",
        "folds": "--cv",
        "grid": "--C",
        "output": "-o",
        "seeds": "--cv-seeds",
        "skip": "--on-invalid skip",
        "strip": "--gaps strip",
        "with_columns": "--with",
    },
    Interface.HTTP: {"skip": "on_invalid skip", "strip": "gaps strip", "with_columns": "with"},
    Interface.PYTHON: {
        "add": "add=True",
        "allow_encoder_mismatch": "allow_encoder_mismatch=True",
        "ray": "abonyx.ray",
        "recentre_head": "recentre_head=True",
        "restart": "restart=True",
        "scale": "scale=True",
        "skip": "skip_invalid=True",
        "strip": 'gaps="strip"',
        "vary_ends": "vary_ends=True",
    },
}


def option(name: str) -> str:
    """The mark of an option, for use in a message.

    Args:
        name: the name of the argument in Python, e.g. "sequence_column".
    """
    return f"{_BEGIN}{name}{_END}"


def in_words(text: str, interface: Interface) -> str:
    """The text, with each mark replaced by the interface's word."""
    return _MARK.sub(lambda mark: _word(mark[1], interface), text)


def _word(name: str, interface: Interface) -> str:
    usual = "--" + name.replace("_", "-") if interface is Interface.COMMAND_LINE else name
    return EXCEPTIONS[interface].get(name, usual)
