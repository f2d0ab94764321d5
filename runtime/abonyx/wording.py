"""The word for an option in each interface: `--assay` on the command line, `assay` in JSON and in Python.

Code that raises an error does not know which interface the caller uses. It puts a mark into the message:
`option("assay")`. Each interface replaces the marks with its own words: the command line in logs.py, HTTP in
serve/problems.py (also for its page), Python in errors.EngineError.
"""

from __future__ import annotations

import enum
import re


class Interface(enum.Enum):
    """Who reads a message."""

    COMMAND_LINE = "command line"
    HTTP = "HTTP"
    PAGE = "page"
    PYTHON = "Python"


# Two noncharacters of Unicode, which no text from outside has a reason to contain.
_BEGIN, _END = "\ufdd0", "\ufdd1"
_MARK = re.compile(f"{_BEGIN}([a-z_]+){_END}")

# Options whose word does not follow from their name. Three names mean an option with one value: "skip" leaves bad
# records out, "strip" takes gaps out, "trim_domain" cuts records to their domain.
EXCEPTIONS: dict[Interface, dict[str, str]] = {
    Interface.COMMAND_LINE: {
        "alphas": "--alpha",
        "folds": "--cv",
        "grid": "--C",
        "output": "-o",
        "seeds": "--cv-seeds",
        "skip": "--on-invalid skip",
        "strip": "--gaps strip",
        "trim_domain": "--trim domain",
        "with_columns": "--with",
    },
    Interface.HTTP: {
        "skip": "on_invalid skip",
        "strip": "gaps strip",
        "trim_domain": "trim domain",
        "with_columns": "with",
    },
    # The labels of serve/page/index.html.
    Interface.PAGE: {
        "heavy_column": 'the field "Column of the heavy chains"',
        "id_column": 'the field "Column of the ids"',
        "light_column": 'the field "Column of the light chains"',
        "sequence_column": 'the field "Column of the sequences"',
        "skip": 'the box "Leave out records that cannot be scored, and list them"',
        "strip": 'the box "Take out gaps (- and .) and a final *"',
        "trim_domain": 'the box "For longer records (Fab, scFv, tags), score only the variable domain"',
    },
    Interface.PYTHON: {
        "add": "add=True",
        "allow_encoder_mismatch": "allow_encoder_mismatch=True",
        "ray": "abonyx.ray",
        "recentre_head": "recentre_head=True",
        "restart": "restart=True",
        "scale": "scale=True",
        "skip": "skip_invalid=True",
        "strip": 'gaps="strip"',
        "trim_domain": 'trim="domain"',
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
