"""From a sequence as the file has it to one that can be scored, or the reason why it cannot."""

from __future__ import annotations

from typing import Literal

from abonyx import alphabet
from abonyx.domain import refusal
from abonyx.errors import printable
from abonyx.input.cells import MISSING
from abonyx.wording import option

# What happens to gaps and a final stop: refused, or taken out.
Gaps = Literal["refuse", "strip"]

_MISSING = frozenset(word.upper() for word in MISSING if word)
_LONGEST_MISSING = max(map(len, _MISSING))
_NO_GAPS = str.maketrans("", "", "-.")


def judge(sequence: str, gaps: Gaps | None = None) -> tuple[str, str | None]:
    """The cleaned sequence, and why it cannot be scored whatever its length, or None; options are marks in it.

    Args:
        gaps: None = refused, by an interface that has no such option.
    """
    cleaned = alphabet.clean(sequence)
    if len(cleaned) <= _LONGEST_MISSING and cleaned.upper() in _MISSING:
        return "", f"the sequence is missing: {printable(sequence.strip())!r}"
    if gaps == "strip":
        cleaned = cleaned.translate(_NO_GAPS).removesuffix("*")
    reason = refusal(cleaned) or alphabet.letter_problem(cleaned)
    if reason and gaps == "refuse" and _only_gaps(cleaned):
        reason += f"; {option('strip')} removes gaps and a final *"
    return cleaned, reason


def _only_gaps(cleaned: str) -> bool:
    """Whether the sequence could be scored without its gaps."""
    without = cleaned.translate(_NO_GAPS).removesuffix("*")
    return (refusal(without) or alphabet.letter_problem(without)) is None
