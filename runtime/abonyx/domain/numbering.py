"""The IMGT numbering of a sequence's best domain, for what compares domains position by position."""

from __future__ import annotations

from immunum import NumberingResult

from abonyx.domain.chain import HEAVY_CONFIDENCE, MAX_RESIDUES, MIN_DOMAIN, annotate


def imgt_positions(sequence: str) -> dict[str, str]:
    """IMGT position ("111A" is an insertion) -> residue of the best domain of one cleaned sequence.

    Empty if there is none: see chain.search_domains for what is not searched. Of a record with two domains, one is
    numbered: the heavy one if it is found with confidence.
    """
    if not MIN_DOMAIN <= len(sequence) <= MAX_RESIDUES or not (sequence.isascii() and sequence.isalpha()):
        return {}
    heavy = annotate(sequence, "H")
    if (heavy.confidence or 0) >= HEAVY_CONFIDENCE and (positions := _positions(heavy)):
        return positions
    return _positions(annotate(sequence, "all"))


def _positions(result: NumberingResult) -> dict[str, str]:
    """The numbering, or nothing: an alignment of three residues can be confident, and is not a domain."""
    numbering = result.numbering or {}
    return dict(numbering) if len(numbering) >= MIN_DOMAIN else {}
