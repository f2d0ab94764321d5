"""Checks that tie the lines of a journal to each other.

A line of JSON gets one more field at its end, a hash over its own bytes and the check of the line before. So a line
that was changed, added, or removed before another one is noticed, unless the checks were computed again.
"""

from __future__ import annotations

import hashlib

# Two lines have the same check by chance once in 10^19.
DIGITS = 16
_KEY = b',"check":"'
_END = b'"}'


class Chain:
    """The checks of a journal's lines, in their order.

    Attributes:
        check: of the last line, "" before the first.
    """

    def __init__(self) -> None:
        self.check = ""

    def add(self, content: bytes) -> bytes:
        """Return a line, a JSON object with at least one field, with its check."""
        self._extend(content)
        return content[:-1] + _KEY + self.check.encode() + _END

    def follow(self, line: bytes) -> str:
        """Take a line that was read as the next; return the check that it has, "" without one.

        The line is as it was written if that is `check`.
        """
        content, key, found = line.rpartition(_KEY)
        self._extend(content + b"}")
        return found.removesuffix(_END).decode("utf-8", "replace") if key and found.endswith(_END) else ""

    def _extend(self, content: bytes) -> None:
        self.check = hashlib.sha256(self.check.encode() + content).hexdigest()[:DIGITS]
