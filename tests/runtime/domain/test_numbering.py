"""The numbering of one domain, and sequences without a numbering."""

from __future__ import annotations

import pytest

from abonyx.domain.numbering import imgt_positions

from .proteins import GFP, KAPPA, LAMBDA, SCFV, VH


@pytest.mark.parametrize("sequence", [VH, KAPPA, LAMBDA])
def test_positions_hold_the_residues_in_order(sequence: str) -> None:
    found = imgt_positions(sequence)
    assert "".join(found.values()) in sequence
    assert found["23"] == found["104"] == "C"
    assert found["118"] in "WF"


def test_of_two_domains_the_heavy_one_is_numbered() -> None:
    assert imgt_positions(SCFV) == imgt_positions(VH)


@pytest.mark.parametrize("sequence", ["", "EVQL", GFP, "M" + VH[:20], "\udc80" * 60, "1" * 60, "A" * 1_001])
def test_what_has_no_domain_has_no_positions(sequence: str) -> None:
    assert imgt_positions(sequence) == {}


def test_a_confident_alignment_of_three_residues_is_no_domain() -> None:
    sequence = "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRVGDGTQDNLSGAEKAVQVKVKALPDAQFEVV"
    assert imgt_positions(sequence) == {}
