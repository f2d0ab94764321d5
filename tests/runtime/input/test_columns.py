from __future__ import annotations

import pytest

from abonyx.errors import InputError
from abonyx.input.columns import Columns, Wanted, find_columns
from abonyx.wording import Interface, in_words

from ..domain.proteins import VH

NONE = Wanted(None, None, None)


def found(header: str, wanted: Wanted = NONE) -> tuple[str | None, str]:
    names = header.split("|")
    columns = find_columns(names, "t.csv:1", wanted)
    return None if columns.id is None else names[columns.id], names[columns.sequence.start]


def notes(header: str, wanted: Wanted = NONE) -> list[str]:
    lines: list[str] = []
    find_columns(header.split("|"), "t.csv:1", wanted, lines)
    return [in_words(line, Interface.PYTHON) for line in lines]


def refusal(header: str, wanted: Wanted = NONE) -> str:
    with pytest.raises(InputError) as caught:
        find_columns(header.split("|"), "t.csv:1", wanted)
    assert caught.value.fix
    return str(caught.value)


@pytest.mark.parametrize(
    ("header", "ids", "sequences"),
    [
        ("id|sequence", "id", "sequence"),
        ("Id|Sequence", "Id", "Sequence"),
        ("ID|id|SEQUENCE|sequence", "id", "sequence"),
        ("name|ID|sequence", "ID", "sequence"),
        ("Clone|Antibody|sequence", "Antibody", "sequence"),
        ("Antibody ID|sequence", "Antibody ID", "sequence"),
        ("sequence-id|name|sequence", "sequence-id", "sequence"),
        ("Name|VH|VL", "Name", "VH"),
        ("mab|VH Sequence|VL Sequence", None, "VH Sequence"),
        ("id|vh_protein_sequence|vl_protein_sequence", "id", "vh_protein_sequence"),
        ("id|heavy|light", "id", "heavy"),
        ("id|Heavy Seq|Light Seq", "id", "Heavy Seq"),
        ("id|heavy_sequence", "id", "heavy_sequence"),
        ("id|sequence|VH", "id", "sequence"),
        ("id|sequence_aa|locus", "id", "sequence_aa"),
        # AIRR
        ("sequence_id|sequence|sequence_aa|sequence_alignment_aa", "sequence_id", "sequence_alignment_aa"),
        ("sequence_id|sequence|v_call|sequence_aa", "sequence_id", "sequence_aa"),
        ("sequence_alignment_aa|sequence_aa", None, "sequence_alignment_aa"),
        ("sequence|locus|sequence_alignment_aa", None, "sequence_alignment_aa"),
        (
            "sequence_id_heavy|sequence_heavy|sequence_alignment_aa_heavy|sequence_alignment_aa_light",
            "sequence_id_heavy",
            "sequence_alignment_aa_heavy",
        ),
    ],
)
def test_columns_by_name(header: str, ids: str | None, sequences: str) -> None:
    assert found(header) == (ids, sequences)


@pytest.mark.parametrize(
    ("header", "candidates"),
    [
        ("id|VH|heavy", "'VH', 'heavy'"),
        ("id|Sequence|SEQUENCE", "'Sequence', 'SEQUENCE'"),
        ("id|vh|V H", "'vh', 'V H'"),
    ],
)
def test_two_candidates_are_listed(header: str, candidates: str) -> None:
    message = refusal(header)
    assert f"several columns could hold the sequences: {candidates}" in message
    assert "sequence_column" in message


def test_an_airr_table_without_amino_acids() -> None:
    message = refusal("sequence_id|sequence|v_call|j_call|productive")
    assert "is an AIRR table without amino acids; its column 'sequence' has nucleotides" in message
    assert found("sequence_id|sequence|rev_comp", Wanted(None, "sequence", None)) == ("sequence_id", "sequence")


def test_ids_that_differ_in_case_alone_are_not_chosen() -> None:
    assert found("ID|Id|sequence") == (None, "sequence")
    (note,) = notes("ID|Id|sequence")
    assert "so they are 1, 2, 3" in note
    assert "'ID', 'Id'" in note


def test_notes() -> None:
    assert notes("id|sequence|x") == notes("sequence") == []
    assert notes("mab|sequence") == [
        "t.csv:1: no column was recognised as the ids, so they are 1, 2, 3, ...; id_column can name one of these: 'mab'"
    ]
    assert notes("id|VH") == ["t.csv:1: the sequences are column 'VH'"]
    assert notes("id|VH", Wanted(None, "VH", None)) == []
    assert notes("id|sequence_alignment_aa")[0].endswith("'sequence_alignment_aa'; gaps are removed")


def test_a_missing_header_is_suggested_for_a_text_alone() -> None:
    for options in ({}, {"in_text": False}, {"in_text": True}):
        with pytest.raises(InputError) as caught:
            find_columns(["EVQL"], "t", NONE, **options)
        assert ("one sequence on each line and no header" in caught.value.fix) == bool(options.get("in_text"))
        assert "sequence_column" in caught.value.fix


def test_a_doubled_name_matters_only_if_it_is_used() -> None:
    assert found("id|note|note|sequence") == ("id", "sequence")
    for header, wanted in [
        ("id|sequence|sequence", NONE),
        ("id|id|sequence", NONE),
        ("id|sequence|y|y", Wanted(None, None, "y")),
        ("id|1|2|2|3", Wanted(None, "1:3", None)),
    ]:
        assert "appears more than once" in refusal(header, wanted)


def test_gaps_of_an_alignment_are_left_out() -> None:
    one = find_columns(["sequence_alignment_aa"], "t", NONE)
    assert one.gapped
    assert one.cells(["EV--Q.L"])[1] == "EVQL"
    assert one.cells(["-"])[1] == "-", "a missing value"
    several = Columns(None, range(0, 5), None)
    assert several.cells(["E", "nan", None, float("nan"), " Q "])[1] == "EQ"
    assert several.cells(["NA", "-", ".", "", "V"])[1] == "V"


@pytest.mark.parametrize("column", [None, VH, VH.lower(), "b"])
def test_a_header_that_is_a_record_is_refused_and_no_record_is_lost(column: str | None) -> None:
    header = f"a|{VH.lower() if column == VH.lower() else VH}"
    said = refusal(header, Wanted(None, column, None))
    assert "so there is no header. Add one, such as id,sequence." in said
    assert (f"t.csv:1: column '{(column or '')[:20]}'... is a sequence" in said) == (column not in (None, "b"))
    assert "Add one, such as sequence." in refusal(VH)


def test_long_words_are_no_sequences() -> None:
    long = "HeavyChainGermlineFamilyAndAlleleAsInTheGermlineTableVersion"
    assert found(f"id|sequence|{long}|HEAVYCHAINGERMLINEFAMILY") == ("id", "sequence")
    assert found(f"id|{long}", Wanted(None, long, None)) == ("id", long)
    assert found(f"a|b|{VH}", Wanted(None, "b", None)) == (None, "b")


@pytest.mark.parametrize("name", ["heavy chain seq", "HEAVY_CHAIN_SEQ"])
def test_a_given_name_is_not_guessed_but_shown(name: str) -> None:
    said = refusal("id|Heavy Chain Seq", Wanted(None, name, None))
    assert f"no column '{name}'" in said and "Did you mean 'Heavy Chain Seq'? Give the name as the file has it." in said


def test_a_title_above_the_table_is_explained() -> None:
    fix = "If it is a title, delete the rows above the names of the columns."
    assert fix in refusal("Polyreactivity screen 2026||") and fix not in refusal("clone|chain")
