"""The IMGT numbering of a sequence's best domain, for code that compares domains position by position."""

from __future__ import annotations

from immunum import NumberingResult

from abonyx.domain.chain import HEAVY_CONFIDENCE, MAX_RESIDUES, MIN_DOMAIN, annotate


def imgt_positions(sequence: str) -> dict[str, str]:
    """IMGT position ("111A" is an insertion) -> residue of the best domain of one cleaned sequence.

    Empty if there is no domain. chain.search_domains says which texts are not searched. If a record has two domains,
    one is numbered: the heavy domain if it is found with enough confidence.
    """
    return numbered_domain(sequence)[1]


def numbered_domain(sequence: str) -> tuple[int, dict[str, str]]:
    """(start, positions) of the domain of imgt_positions; (0, {}) if there is none. start is its index, from 0.

    The domain's residues follow one another in the sequence, in the order of the positions.
    """
    if not MIN_DOMAIN <= len(sequence) <= MAX_RESIDUES or not (sequence.isascii() and sequence.isalpha()):
        return 0, {}
    heavy = annotate(sequence, "H")
    if (heavy.confidence or 0) >= HEAVY_CONFIDENCE and (found := _numbered(heavy))[1]:
        return found
    return _numbered(annotate(sequence, "all"))


def _numbered(result: NumberingResult) -> tuple[int, dict[str, str]]:
    """Start and numbering; (0, {}) if the alignment is too short. Even three residues can align confidently."""
    numbering, start = result.numbering or {}, result.query_start
    return (start, dict(numbering)) if start is not None and len(numbering) >= MIN_DOMAIN else (0, {})
