"""The reasons for which a record is flagged."""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abonyx.domain import DomainRule, Judgement, flags, judge, judged_by, reason, scored_part, trimmed
from abonyx.domain.chain import Domains, search_domains
from abonyx.errors import InputError

from . import proteins
from .proteins import CH1, GFP, KAPPA, LAMBDA, LINKER, NANOBODY, SCFV, VH

RESIDUES = "ACDEFGHIKLMNPQRSTVWYX"


def _flags(sequence: str, chains: tuple[str, ...] = ("H",)) -> tuple[str, ...]:
    return judge([sequence], chains)[0].flags


def test_whole_heavy_domains_are_trusted(sequences: list[str]) -> None:
    for judgement, sequence in zip(judge(sequences), sequences, strict=True):
        assert judgement == Judgement((), "H", 0, len(sequence))
        assert judgement.trusted
        assert judgement.text == ""


@pytest.mark.parametrize(
    ("sequence", "flags"),
    [
        (KAPPA, ("light chain (kappa)",)),
        (LAMBDA, ("light chain (lambda)",)),
        (proteins.TCR_ALPHA, ("T-cell receptor alpha chain",)),
        (proteins.TCR_BETA, ("T-cell receptor beta chain", "1 residue outside the domain")),
        (proteins.TCR_GAMMA, ("T-cell receptor gamma chain",)),
        (proteins.TCR_DELTA, ("T-cell receptor delta chain",)),
        (GFP, ("no antibody domain",)),
        (CH1, ("no antibody domain",)),
        ("E", ("no antibody domain",)),
        ("SRWGGDGFYAMDY", ("no antibody domain",)),
        (VH[::-1], ("no antibody domain",)),
        (SCFV, ("two domains", "15 residues outside the domain")),
        (VH + KAPPA, ("two domains",)),
        (SCFV + LINKER + SCFV, ("more than two domains",)),
        ("M" + VH, ("1 residue outside the domain",)),
        (VH + "HHHHHH", ("6 residues outside the domain",)),
        (VH + CH1, ("98 residues outside the domain",)),
        (KAPPA + "HHHHHH", ("light chain (kappa)", "6 residues outside the domain")),
        (VH[2:], ()),
        (VH[3:], ("fragment",)),
        (VH[:-2], ()),
        (VH[:-3], ("fragment",)),
        (VH[:20] + VH[32:], ("fragment",)),
        ("MGSSHHHHHHSSGLV" + VH[15:], ("11 unusual framework residues",)),
        (GFP[:20] + VH[20:], ("10 unusual framework residues",)),
        (VH[:1] + "X" + VH[2:], ("1 unknown residue (X)",)),
        ("X" * 23 + VH, ("23 residues outside the domain", "23 unknown residues (X)")),
        ("X" * 23 + KAPPA, ("light chain (kappa)", "23 residues outside the domain", "23 unknown residues (X)")),
        (NANOBODY, ("nanobody-like",)),
        (NANOBODY + "HH", ("2 residues outside the domain", "nanobody-like")),
        ("MACDEFGHIKLW" * 84, ("longer than 1,000 residues: chain not judged",)),
    ],
)
def test_flags_in_their_order(sequence: str, flags: tuple[str, ...]) -> None:
    (judgement,) = judge([sequence])
    assert judgement.flags == flags
    assert judgement.text == "; ".join(flags)
    assert judgement.refusal is None
    assert judgement.trusted == (set(flags) <= {"nanobody-like"})


def test_an_engineered_domain_within_the_human_range_is_not_nanobody_like() -> None:
    assert _flags(VH.replace("HWVRQ", "HWFRQ")) == ()
    assert _flags(VH.replace("HWVRQ", "HWFRQ").replace("GLEWVA", "ELEWVA")) == ("nanobody-like",)


@pytest.mark.parametrize("loop", ["ARAPLRFLEWSTQDHYYYYY", "ATMVPQGLMTTGARGPRSLSS"])
def test_a_domain_without_framework_4_is_a_fragment(loop: str) -> None:
    # immunum alone reads the end of CDR3, or a shifted reading frame, as framework 4.
    assert _flags(VH[: VH.index("SRWGG")] + loop)[0] == "fragment"


@pytest.mark.parametrize("tag", ["H", "A", "AS", "GS", "HHHHHH", "EPKTPKPQ", "AAAEQKLISEEDL"])
def test_a_tag_is_not_taken_into_a_domain_with_a_long_loop(tag: str) -> None:
    # immunum alone puts one or two residues of the tag into the last positions, and leaves a gap in the loop.
    flag = f"{len(tag)} residue{'s' * (len(tag) > 1)} outside the domain"
    assert _flags(NANOBODY + tag) == (flag, "nanobody-like")
    assert _flags(VH + tag) == (flag,)
    assert _flags(KAPPA + tag, ("K",)) == (flag,)


def test_the_heads_chains_decide() -> None:
    assert _flags(KAPPA, ("K", "L")) == ()
    assert _flags(VH, ("K", "L")) == ("heavy chain",)
    assert _flags(KAPPA, ("H", "K")) == ()
    with pytest.raises(ValueError, match="Z"):
        judge([VH], ("Z",))
    with pytest.raises(ValueError, match="expected one or more"):
        judge([VH], ())


@pytest.mark.parametrize("sequence", ["", "nan", proteins.DNA, "X" * 40, "C" * 1_022, "X" * 10_000, "GPP" * 3_000])
def test_refused_records_are_not_trusted(sequence: str) -> None:
    (judgement,) = judge([sequence])
    assert judgement.refusal
    assert judgement.flags == ()
    assert not judgement.trusted


def test_case_and_white_space_do_not_count() -> None:
    assert judge([f" {VH[:60].lower()}\n{VH[60:].lower()} "]) == judge([VH])


@pytest.mark.parametrize("position", range(3, len(VH) - 2))
def test_a_domain_cut_anywhere_is_flagged(position: int) -> None:
    for piece in (VH[:position], VH[position:]):
        (judgement,) = judge([piece])
        assert not judgement.trusted


def test_trimming_gives_the_domain_of_the_heads_chain() -> None:
    for sequence, start in ((SCFV, 0), (KAPPA + LINKER + VH, len(KAPPA) + 15), ("M" + VH + CH1, 1), (VH, 0)):
        (judgement,) = judge([sequence])
        part = trimmed(sequence, judgement)
        assert part is not None
        assert (part.sequence, part.start, part.end) == (VH, start, start + len(VH))
        assert judge([part.sequence])[0].trusted
    (judgement,) = judge(["M" + KAPPA])
    assert trimmed(f"m {KAPPA}", judgement).sequence == KAPPA  # type: ignore[union-attr]
    assert judge([KAPPA])[0].flags == ("light chain (kappa)",)


@pytest.mark.parametrize("sequence", [VH + LINKER + VH, GFP, "", proteins.DNA, "ACDEFGHIKLMW" * 100])
def test_nothing_is_trimmed_without_a_single_candidate(sequence: str) -> None:
    assert trimmed(sequence, judge([sequence])[0]) is None


def test_a_summary_counts_by_reason() -> None:
    assert reason("1 residue outside the domain") == "residues outside the domain"
    assert reason("98 residues outside the domain") == "residues outside the domain"
    assert reason("1 unknown residue (X)") == reason("23 unknown residues (X)") == "unknown residues (X)"
    assert reason("light chain (kappa)") == "light chain (kappa)"
    assert reason("longer than 1,000 residues: chain not judged") == "longer than 1,000 residues: chain not judged"


def test_what_a_run_records() -> None:
    assert judged_by().startswith("immunum ")


KNOWN = [VH, KAPPA, SCFV, NANOBODY, GFP, proteins.DNA, "M" + VH, VH[5:], "X" + VH, "", "NA"]
TEXTS = st.one_of(
    st.sampled_from(KNOWN),
    st.text(RESIDUES, max_size=200),
    st.text(max_size=60),
    st.builds(
        lambda text, start, end: text[start:end], st.sampled_from(KNOWN), st.integers(0, 80), st.integers(80, 300)
    ),
)


def test_identical_records_are_judged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[str] = []

    def counted(sequence: str) -> tuple[Domains, bool]:
        searched.append(sequence)
        return search_domains(sequence)

    monkeypatch.setattr(flags, "search_domains", counted)
    assert [judgement.chain for judgement in judge([VH, KAPPA, VH])] == ["H", "K", "H"]
    assert searched == [VH, KAPPA]


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXTS, max_size=12), st.randoms(use_true_random=False))
def test_a_judgement_depends_on_its_own_record_alone(texts: list[str], order: random.Random) -> None:
    alone = {text: judge([text])[0] for text in texts}
    assert judge(texts) == [alone[text] for text in texts]
    order.shuffle(texts)
    assert judge(texts) == [alone[text] for text in texts]


@settings(max_examples=200, deadline=None)
@given(st.one_of(TEXTS, st.text(RESIDUES, min_size=900, max_size=1_100)))
def test_any_text_is_refused_flagged_or_a_domain(text: str) -> None:
    (judgement,) = judge([text])
    if judgement.trusted:
        assert judgement.chain == "H"
        assert (judgement.start, judgement.end) == (0, len("".join(text.split())))
    else:
        assert bool(judgement.refusal) != bool(judgement.flags)
    assert all(";" not in flag for flag in judgement.flags)


def test_real_sets(shared_data: Path) -> None:
    with (shared_data / "paired" / "jain_sd02.csv").open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert {judgement.flags for judgement in judge(row["VH"] for row in rows)} == {()}
    light = [judgement.flags for judgement in judge(row["VL"] for row in rows)]
    assert set(light) == {("light chain (kappa)",), ("light chain (lambda)",)}


@pytest.mark.parametrize("bad", ["\x00", "\ud800", "-", "?", "*", "é", "a"])
def test_letters_that_are_not_residues_are_refused_as_by_score(bad: str) -> None:
    (judgement,) = judge([f"{proteins.VH[:5]}{bad}{proteins.VH[5:]}"])
    assert judgement.refusal is not None and "position 6" in judgement.refusal
    assert judgement.flags == () and not judgement.trusted


@pytest.mark.parametrize("wrong", [proteins.VH, b"EVQL", 5, [None], [5], [b"EVQL"]])
def test_anything_but_a_list_of_texts_is_refused_by_name(wrong: Any) -> None:
    with pytest.raises(InputError, match=r"sequences(\[0\])? is .*\n(Give|Leave) "):
        judge(wrong)


@pytest.mark.parametrize("cut", [5, 7, 8, 15])
def test_trimming_a_tag_does_not_make_a_cut_domain_whole(cut: int) -> None:
    record = "MGSSHHHHHHSSGLVPRGSH"[: max(cut + 1, 8)] + VH[cut:]
    part = scored_part(record, judge([record])[0], DomainRule(trim=True))
    assert [reason(flag) for flag in part.judgement.flags] == ["unusual framework residues"]


def test_of_a_record_that_is_not_searched_to_its_end_no_domain_is_trimmed() -> None:
    record = VH + KAPPA * 6 + VH
    (judgement,) = judge([record])
    assert judgement.flags == ("at least two domains",)
    assert scored_part(record, judgement, DomainRule(trim=True)).sequence == record


def test_a_search_that_stops_early_does_not_count_domains() -> None:
    (judgement,) = judge([KAPPA * 9])
    assert judgement.flags == ("at least two domains",)
    assert judgement.chain is None
