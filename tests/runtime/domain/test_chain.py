"""Domains are found in the same places as by immunum's own search, with bounded work."""

from __future__ import annotations

import random

import pytest
from immunum import Annotator, NumberingResult

from abonyx.domain import chain
from abonyx.domain.chain import search_domains

from . import proteins
from .proteins import CH1, KAPPA, LINKER, NANOBODY, SCFV, VH


def _places(sequence: str) -> list[tuple[str, int, int]]:
    return [(domain.chain, domain.start, domain.end) for domain in search_domains(sequence)[0]]


def test_one_heavy_domain_with_its_positions() -> None:
    assert search_domains(VH) == ((chain.Domain("H", 0, len(VH), 1, 128, 0, 0, 0),), True)
    assert search_domains(NANOBODY)[0][0].hallmarks == 3


@pytest.mark.parametrize(
    ("sequence", "letter"),
    [
        (KAPPA, "K"),
        (proteins.LAMBDA, "L"),
        (proteins.TCR_ALPHA, "A"),
        (proteins.TCR_BETA, "B"),
        (proteins.TCR_GAMMA, "G"),
        (proteins.TCR_DELTA, "D"),
    ],
)
def test_other_chains(sequence: str, letter: str) -> None:
    assert [place[0] for place in _places(sequence)] == [letter]


def test_two_domains_in_any_order_with_and_without_a_linker() -> None:
    heavy, light = len(VH), len(KAPPA)
    assert _places(SCFV) == [("H", 0, heavy), ("K", heavy + 15, heavy + 15 + light)]
    assert _places(KAPPA + LINKER + VH) == [("K", 0, light), ("H", light + 15, light + 15 + heavy)]
    assert _places(VH + KAPPA) == [("H", 0, heavy), ("K", heavy, heavy + light)]
    assert _places(VH + VH) == [("H", 0, heavy), ("H", heavy, 2 * heavy)]


@pytest.mark.parametrize(
    "sequence",
    [
        *(VH, NANOBODY, KAPPA, proteins.LAMBDA, SCFV, VH + CH1, "M" + VH + "HHHHHH", SCFV + LINKER + SCFV),
        *(VH[cut:] for cut in range(1, len(VH), 7)),
        *(KAPPA[:-cut] for cut in range(1, len(KAPPA), 7)),
        *(proteins.GFP, proteins.TCR_BETA + CH1, "CNPQ" * 40, "MKCDW" * 40),
    ],
)
def test_the_search_is_immunums_own(sequence: str) -> None:
    annotator = Annotator(chains=["all"], scheme="imgt", min_confidence=chain.MIN_CONFIDENCE)
    results = [result for result in annotator.number_domains(sequence) if result.chain]
    expected = [(result.chain, result.query_start, (result.query_end or 0) + 1) for result in results]
    domains, _ = chain._search(sequence)
    assert [(domain.chain, domain.start, domain.end) for domain in domains] == expected


class Counting:
    """An annotator that counts the residues it is given."""

    def __init__(self) -> None:
        self.residues = 0
        self.real = Annotator(chains=["all"], scheme="imgt", min_confidence=chain.MIN_CONFIDENCE)

    def number(self, sequence: str) -> NumberingResult:
        self.residues += len(sequence)
        return self.real.number(sequence)


def test_the_work_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    counting = Counting()
    monkeypatch.setattr(chain, "_annotator", lambda chains: counting)
    chain._search("C" * 1_000)  # immunum's own search takes more than a second
    assert 1_000 < counting.residues <= chain.SEARCH_RESIDUES
    counting.residues = 0
    assert len(chain._search((VH + LINKER) * 7)[0]) > 2
    assert counting.residues <= chain.SEARCH_RESIDUES
    counting.residues = 0
    assert search_domains("".join(random.Random(1).choices("ACDEFGHIKLMNPQRSTVWY", k=1_001))) == ((), True)
    assert counting.residues == 0


@pytest.mark.parametrize(
    "sequence",
    ["", "E", "X" * 23, "X" * 100, VH[:29], "\0" + VH, "\ud800" + VH, VH[:50] + "-" + VH[50:], "É" * 60, VH * 9],
)
def test_what_cannot_be_numbered_has_no_domain(sequence: str) -> None:
    assert search_domains(sequence) == ((), True)


def test_an_empty_numbering_is_not_a_domain() -> None:
    empty = NumberingResult("H", "IMGT", 1.0, {}, 0, 0, None, None)
    assert chain._domain("X" * 23 + VH, 0, empty) is None
