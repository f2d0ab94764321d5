from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from abonyx.alphabet import SequenceLimit
from abonyx.errors import RecordsRejected
from abonyx.input.cells import MISSING, Record
from abonyx.input.checked import Input, check_records, read_input
from abonyx.input.sequences import judge
from abonyx.output.formats import rejected_bytes
from abonyx.wording import Interface, in_words

LIMIT = SequenceLimit(50)
GOOD = "EVQLVESGG"


def check(*sequences: str, **options: Any) -> Input:
    records = [Record(str(number), sequence, number) for number, sequence in enumerate(sequences, 1)]
    return check_records(records, "x", LIMIT, skip_invalid=True, **options)


@pytest.mark.parametrize("word", sorted(MISSING - {""}))
def test_a_missing_value_is_not_a_peptide(word: str) -> None:
    checked = check(GOOD, word, f" {word} ", word.upper(), word.lower())
    assert checked.sequences == [GOOD]
    assert len(checked.rejected) == 4
    assert checked.rejected[0].reason == f"the sequence is missing: {word!r}"


def test_lower_case_inside_upper_case_is_refused_with_its_position() -> None:
    checked = check(GOOD.lower(), "EVQ LVnanESG", "evqLVES", "EVQ-lv")
    assert checked.sequences == [GOOD]
    assert [problem.reason.split(" of ")[0] for problem in checked.rejected] == [
        "lower-case 'n' at position 6",
        "lower-case 'e' at position 1",
        "character '-' at position 4 is not a residue (ACDEFGHIKLMNPQRSTVWYX)",
    ]


@pytest.mark.parametrize(
    ("sequence", "shown"),
    [
        ("evqlves\u00a0", "U+00A0 (NO-BREAK SPACE) at position 8"),
        ("EVQ\u200bLVES gg", "U+200B (ZERO WIDTH SPACE) at position 4"),
        ("e vé", "'é' at position 3"),
        ("evq\0", "U+0000 at position 4"),
    ],
)
def test_the_character_that_is_wrong_is_named(sequence: str, shown: str) -> None:
    _, reason = judge(sequence, LIMIT)
    assert reason is not None
    assert shown in reason


def test_gaps_are_refused_with_the_option_named_or_stripped() -> None:
    gapped = ("EV--QL..V*", "ev.q*", "EV Q-\n")
    assert check(GOOD, *gapped, gaps="strip").sequences == [GOOD, "EVQLV", "EVQ", "EVQ"]
    refused = check(GOOD, *gapped, gaps="refuse").rejected
    for words, text in ((Interface.COMMAND_LINE, "--gaps strip"), (Interface.PYTHON, 'gaps="strip"')):
        reasons = [in_words(problem.reason, words) for problem in refused]
        assert [reason.endswith(f"; {text} removes gaps and a final *") for reason in reasons] == [True] * 3
    assert rejected_bytes(refused).count(b"; --gaps strip removes gaps and a final *") == 3
    others = check(GOOD, "EV*Q", "EV-B", "-", "EV**", gaps="strip").rejected
    assert len(others) == 4, "a stop inside, another letter, a missing value, two stops"
    assert not any("--gaps" in problem.reason for problem in check(GOOD, "EV*Q", "EV-B", gaps="refuse").rejected)
    assert not any("--gaps" in problem.reason for problem in check(GOOD, *gapped).rejected), "HTTP has no option"


def test_labels() -> None:
    words = {
        0: ["0", "0.0", "false", "False", "FALSE", "no", "No", "specific", "Specific"],
        1: ["1", "1.0", "true", "True", "yes", "YES", "non-specific", "Non-Specific", "nonspecific"],
        None: ["", "NA", "nan", "NaN", "None", "null", "-", "#N/A"],
    }
    for label, spellings in words.items():
        records = [Record(word, GOOD, 1, word) for word in spellings]
        assert check_records(records, "x", LIMIT, label_column="y").labels == [label] * len(spellings)
    with pytest.raises(RecordsRejected, match=r"the label is '0\.5', not 0, 1 or blank"):
        check_records([Record("a", GOOD, 1, "0.5")], "x", LIMIT, label_column="y")
    with pytest.raises(RecordsRejected, match="no label"):
        check_records([Record("a", GOOD, 1, "NA")], "x", LIMIT, label_column="y", label_required=True)


def test_repeated_ids_are_one_note(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(f"mab,VH\na,{GOOD}\nb,{GOOD}\n")
    read = read_input(path, LIMIT, id_column="mab")
    assert read.notes == [f"{path}:1: the sequences are column 'VH'"]
    path.write_text(f"id,sequence\na,{GOOD}\na,{GOOD}\nb,{GOOD}\na,{GOOD}\n")
    read = read_input(path, LIMIT)
    assert read.ids == ["a", "a", "b", "a"]
    assert read.notes == [f"{path}: 2 ids repeat an earlier one; all are kept"]
    path.write_text(f"id,sequence\na,{GOOD}\na,{GOOD}\n")
    assert read_input(path, LIMIT).notes == [f"{path}: 1 id repeats an earlier one; all are kept"]
