"""Clean a sequence, or give the reason why it cannot be scored."""

from __future__ import annotations

from typing import Literal

from abonyx import alphabet
from abonyx.domain import refusal
from abonyx.errors import printable
from abonyx.input.cells import MISSING
from abonyx.wording import option

# Gaps and a final stop are refused, or removed.
Gaps = Literal["refuse", "strip"]

_MISSING = frozenset(word.upper() for word in MISSING if word)
_LONGEST_MISSING = max(map(len, _MISSING))
_NO_GAPS = str.maketrans("", "", "-.")


def judge(sequence: str, gaps: Gaps | None = None) -> tuple[str, str | None]:
    """(cleaned sequence, why its letters cannot be scored, or None). The reason may have option marks (see wording.py).

    Args:
        sequence: the sequence in the file.
        gaps: None = gaps are refused, and the reason does not name the option, because the interface does not have it.
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
    """Whether the sequence can be scored after its gaps are removed."""
    without = cleaned.translate(_NO_GAPS).removesuffix("*")
    return (refusal(without) or alphabet.letter_problem(without)) is None
