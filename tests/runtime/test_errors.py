"""Messages of other libraries, and values of any size, fit on one line of a message."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest

from abonyx.domain.rule import refuse_rule
from abonyx.errors import EngineError, first_line
from abonyx.input.records import read_records
from abonyx.wording import Interface


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


def test_a_message_is_bounded_whatever_it_quotes() -> None:
    error = EngineError("x" * 3_000_000, "y" * 3_000_000)
    assert len(str(error)) < 25_000
    assert error.what.startswith("xxx") and error.what.endswith("... (2990000 more characters)")
    assert len(error.text(Interface.HTTP)) < 25_000


@pytest.mark.parametrize(
    "raising",
    [
        lambda long: refuse_rule(long, None),
        lambda long: refuse_rule("check", long),
        lambda long: list(read_records(None, stdin=io.BytesIO(b"sequence\nEV\n"), sheet=long)),
        lambda long: list(read_records(None, stdin=io.BytesIO(b">a\nEV\n"), label_column=long)),
        lambda long: list(read_records(None, stdin=io.BytesIO(b"sequence\nEV\n"), sequence_column=long)),
    ],
)
def test_a_users_value_is_quoted_cut(raising: Callable[[str], object]) -> None:
    with pytest.raises(EngineError) as caught:
        raising("v" * 3_000_000)
    assert "vvv" in str(caught.value) and len(str(caught.value)) < 1_000
