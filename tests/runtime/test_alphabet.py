from __future__ import annotations

import numpy as np
import pytest

from abonyx.alphabet import Alphabet, SequenceLimit, clean, problem
from abonyx.bundle import open_bundle
from abonyx.bundle.manifest import RESIDUES

from ..conftest import MINI


def test_clean_strips_and_uppercases() -> None:
    assert clean(" evq l\tve\r\nsg ") == "EVQLVESG"


def test_clean_leaves_foreign_letters_to_be_refused() -> None:
    # "ß".upper() is "SS", two residues; a dotless i (U+0131) becomes "I"
    for letter in ("ß", "\u0131", "\ufb01", "\u00a0"):
        assert clean(f"evq{letter}") == f"evq{letter}"
        assert problem(clean(f"EVQ{letter}"), SequenceLimit(100)) is not None


@pytest.mark.parametrize("letter", [*"BZUOJ*-.1", "é", "\x00", "\udc80"])
def test_every_other_character_is_named_with_its_position(letter: str) -> None:
    reason = problem(f"EVQ{letter}LVE", SequenceLimit(100))
    assert reason is not None
    assert "position 4" in reason
    assert repr(letter) in reason or f"U+{ord(letter):04X}" in reason


def test_x_is_refused_where_the_encoder_has_no_token_for_it() -> None:
    without = SequenceLimit(10, letters=RESIDUES.replace("X", ""))
    assert problem("EVQX", SequenceLimit(10)) is None
    assert problem("EVQ", without) is None
    assert problem("EVQX", without) == ("X (unknown residue) at position 4: this bundle's encoder has no token for X")


def test_empty_and_long_are_refused_and_the_limit_itself_is_not() -> None:
    assert problem("", SequenceLimit(10)) == "empty sequence"
    assert problem("A" * 10, SequenceLimit(10)) is None
    reason = problem("A" * 11, SequenceLimit(10))
    assert reason is not None
    assert "11 residues" in reason
    assert "at most 10" in reason


def test_encode_gives_esm_ids() -> None:
    alphabet = Alphabet(open_bundle(MINI).manifest.alphabet)
    (row,) = alphabet.encode(["LAGVSERTIDPKQNFYMHWCX"])
    # ESM's vocabulary: residues from 4 in this order, X is 24, <cls> 0, <eos> 2
    assert row.dtype == np.int64
    assert row.tolist() == [0, *range(4, 25), 2]
    assert set(RESIDUES) == set("LAGVSERTIDPKQNFYMHWCX")
