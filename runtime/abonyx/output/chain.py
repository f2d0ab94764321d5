"""Checks that link the lines of a journal.

Each line of JSON gets one more field at its end: a hash over its bytes and the check of the line before. So a line that
was changed, added or removed is noticed, unless the last lines were removed or the checks were computed again.
"""

from __future__ import annotations

import hashlib

# The chance that two lines have the same check is 1 in 10^19.
DIGITS = 16
_KEY = b',"check":"'
_END = b'"}'


class Chain:
    """The checks of a journal's lines, in order.

    Attributes:
        check: the check of the last line; "" before the first line.
    """

    def __init__(self) -> None:
        self.check = ""

    def add(self, content: bytes) -> bytes:
        """Add the check to a line, which must be a JSON object with at least one field."""
        self._extend(content)
        return content[:-1] + _KEY + self.check.encode() + _END

    def follow(self, line: bytes) -> str:
        """Read the next line; returns the check in it, or "" if it has none.

        The line is unchanged if the returned check is equal to the attribute `check`.
        """
        content, key, found = line.rpartition(_KEY)
        self._extend(content + b"}")
        return found.removesuffix(_END).decode("utf-8", "replace") if key and found.endswith(_END) else ""

    def _extend(self, content: bytes) -> None:
        self.check = hashlib.sha256(self.check.encode() + content).hexdigest()[:DIGITS]
