"""What other libraries say, and values of any size, fit on one line of a message."""

from __future__ import annotations

import pytest

from abonyx.errors import first_line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError("\n  \n  one  \ntwo"), "one"),
        (RuntimeError("Error(s) in loading:\n\tsize mismatch\nmore"), "Error(s) in loading: size mismatch"),
        (RuntimeError("nothing after it:"), "nothing after it:"),
        (MemoryError(), "MemoryError"),
        ("", ""),
        ("\x1b[31mred\u202e\ud800", "\\x1b[31mred\\u202e\\ud800"),
        ("a\x00b", "a\\x00b"),
        ("x" * 200, "x" * 200),
        ("x" * 201, "x" * 200 + "..."),
        ("é" * 3_000_000, "é" * 200 + "..."),
        (7, "7"),
    ],
)
def test_first_line(text: object, shown: str) -> None:
    assert first_line(text) == shown


def test_first_line_keeps_as_many_characters_as_it_is_told() -> None:
    assert first_line("abcdef", 3) == "abc..."
