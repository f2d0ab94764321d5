"""Records are judged before they are scored: refusals, flags, trimming and rejections, and their order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from abonyx.alphabet import SequenceLimit
from abonyx.domain import NO_RULE, DomainRule, Judgement, judge
from abonyx.errors import RecordsRejected
from abonyx.input.checked import Input, check_records
from abonyx.input.judged import judged
from abonyx.input.records import Record

HEAVY = (
    "EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVARIYPTNGYTRYADSVKGRFTISADTSKNTAYLQMNSLRAED"
    "TAVYYCSRWGGDGFYAMDYWGQGTLVTVSS"
)
LIGHT = "DIQMTQSPSSLSASVGDRVTITCRASQDVNTAVAWYQQKPGKAPKLLIYSASFLYSGVPSRFSGSRSGTDFTLTISSLQPEDFATYYCQQHYTTPPTFGQGTKVEIK"
SCFV = HEAVY + "GGGGSGGGGSGGGGS" + LIGHT
TAGGED = HEAVY + "AAAHHHHHH"
DNA = "GAGGTGCAGCTGGTGGAGTCTGGGGGAGGCTTGGTA"
LIMIT = SequenceLimit(300)
CHECK = DomainRule()


def read(*sequences: str, rule: DomainRule = CHECK, limit: SequenceLimit = LIMIT) -> Input:
    records = [Record(f"r{number}", sequence, number) for number, sequence in enumerate(sequences, 1)]
    return check_records(records, "x.csv", limit, skip_invalid=True, rule=rule)


def flags(found: Input) -> list[str]:
    return [judgement.text for judgement in found.judgements]


def test_each_record_has_its_flags_whatever_its_neighbours() -> None:
    sequences = [HEAVY, LIGHT, SCFV, TAGGED, HEAVY[:90], HEAVY.replace("W", "X", 1)]
    found = read(*sequences)
    assert flags(found)[:2] == ["", "light chain (kappa)"]
    assert "two domains" in flags(found)[2]
    assert flags(found)[3] == "9 residues outside the domain"
    assert "fragment" in flags(found)[4]
    assert "1 unknown residue (X)" in flags(found)[5]
    assert flags(read(*reversed(sequences))) == flags(found)[::-1]
    assert [flags(read(sequence))[0] for sequence in sequences] == flags(found)
    assert [judgement.text for judgement in judge(sequences)] == flags(found)
    assert [judgement.trusted for judgement in found.judgements] == [True] + [False] * 5


def test_a_value_that_comes_again_is_judged_and_trimmed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[str] = []

    def counted(sequences: list[str], chains: tuple[str, ...]) -> Iterator[Judgement]:
        looked_at.extend(dict.fromkeys(sequences))
        return iter(judge(sequences, chains))

    monkeypatch.setattr("abonyx.input.judged.judge_in_turn", counted)  # of the values
    monkeypatch.setattr("abonyx.domain.rule.judge_in_turn", counted)  # of what is trimmed
    rows = judged([TAGGED, None, TAGGED, HEAVY, TAGGED], DomainRule(trim=True), LIMIT)
    assert looked_at == [TAGGED, HEAVY, HEAVY], "the whole values, then what was trimmed"
    assert [row.part.sequence for row in rows] == [HEAVY, "", HEAVY, HEAVY, HEAVY]
    assert [row.part.place for row in rows] == [f"1-{len(HEAVY)}", "", *[f"1-{len(HEAVY)}"] * 3]
    assert [row.rejected for row in rows] == [None, "the sequence is null, not text", None, None, None]


@pytest.mark.parametrize(
    ("sequence", "why"),
    [
        (DNA, "looks like DNA or RNA"),
        (DNA.replace("T", "U"), "looks like DNA or RNA"),
        ("XXXX", "more than half"),
        ("NA", "the sequence is missing"),
        ("S" * 40, "low complexity"),
        ("EVQ*LV", "character '*' at position 4"),
    ],
)
@pytest.mark.parametrize("rule", [DomainRule(), DomainRule("off"), DomainRule("require"), NO_RULE])
def test_what_is_not_a_protein_is_refused_with_its_place(sequence: str, why: str, rule: DomainRule) -> None:
    found = read(HEAVY, sequence, rule=rule)
    assert found.ids == ["r1"]
    ((id_, line, reason),) = found.rejected
    assert (id_, line) == ("r2", 2)
    assert why in reason


def test_require_rejects_what_check_flags_and_off_looks_at_nothing() -> None:
    found = read(LIGHT, HEAVY, TAGGED, rule=DomainRule("require"))
    assert found.ids == ["r2"]
    assert [(one.id, one.reason) for one in found.rejected] == [
        ("r1", "light chain (kappa)"),
        ("r3", "9 residues outside the domain"),
    ]
    assert flags(read(LIGHT, HEAVY, rule=DomainRule("off"))) == ["", ""]
    with pytest.raises(RecordsRejected, match="light chain"):
        check_records([Record("a", LIGHT, 1)], "x.csv", LIMIT, rule=DomainRule("require"))


def test_a_light_chain_head_takes_light_chains() -> None:
    found = read(LIGHT, HEAVY, rule=DomainRule(chains=("K", "L")))
    assert flags(found) == ["", "heavy chain"]


def test_trim_scores_the_domain_and_shows_the_original() -> None:
    found = read(HEAVY, SCFV, TAGGED, LIGHT, rule=DomainRule(trim=True))
    assert found.sequences == [HEAVY, HEAVY, HEAVY, LIGHT]
    assert found.shown == [HEAVY, SCFV, TAGGED, LIGHT]
    assert found.places == [*[f"1-{len(HEAVY)}"] * 3, f"1-{len(LIGHT)}"]
    assert flags(found) == ["", "", "", "light chain (kappa)"]


def test_the_length_limit_applies_after_trimming_and_names_what_is_there() -> None:
    short = SequenceLimit(len(HEAVY))
    found = read(SCFV, HEAVY, limit=short)
    assert found.ids == ["r2"]
    assert "two domains" in found.rejected[0].reason
    assert f"at most {len(HEAVY)}" in found.rejected[0].reason
    assert "what was found: " in found.rejected[0].reason
    assert read(SCFV, rule=DomainRule(trim=True), limit=short).sequences == [HEAVY]


def test_the_hash_of_a_trimmed_input_is_of_the_originals_too() -> None:
    rule = DomainRule(trim=True)
    assert read(SCFV, rule=rule).sha256() != read(HEAVY, rule=rule).sha256()


def test_flags_are_counted_by_reason_without_their_numbers() -> None:
    found = read(TAGGED, HEAVY + "A", LIGHT)
    assert found.flag_counts() == [("residues outside the domain", 2), ("light chain (kappa)", 1)]
