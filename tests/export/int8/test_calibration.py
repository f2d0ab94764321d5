"""The sequences that int8 is calibrated and judged on."""

from __future__ import annotations

from pathlib import Path

import pytest

from abonyx.errors import InputError, RecordsRejected
from abonyx_export.antibodies import shipped_antibodies
from abonyx_export.int8 import calibration


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        (["EVQLVESGGG"] * 40, InputError, "only 1 different sequences, at least 32"),
        ([f"EVQLVESGG{letter}" for letter in "ACDEFGHIKLMNPQRSTVWY"], InputError, "20 different sequences"),
        (["EVQ?"] * 3, RecordsRejected, "cannot be scored"),
        (["EVQLVESGGGLVQPGR" * 75], RecordsRejected, "1200 residues; this bundle takes at most 1022"),
        ([], InputError, "no sequence|empty|no record"),
    ],
)
def test_calibration_files_that_are_refused(
    rows: list[str], error: type[Exception], message: str, tmp_path: Path
) -> None:
    file = tmp_path / "calibration.csv"
    file.write_text("id,sequence\n" + "".join(f"{index},{row}\n" for index, row in enumerate(rows)))
    with pytest.raises(error, match=message):
        calibration.calibration_sequences(file, 1022)


def test_a_file_is_split_into_calibrating_and_judging_sequences(tmp_path: Path) -> None:
    file = tmp_path / "calibration.csv"
    shipped = shipped_antibodies()
    # some of them are shipped rows, and neither half may have a row twice
    own = [*shipped.calibration[:50], *shipped.judging[:48], "EVQLVESGGG", "EVQLVESGGGLVQ"]
    file.write_text("id,sequence\n" + "".join(f"{index},{row}\n" for index, row in enumerate(own)))
    found = calibration.calibration_sequences(file, 1022)
    assert set(found.calibration[:50]) | set(found.gate[:50]) == set(own)
    assert set(found.calibration[50:]) < set(shipped.calibration)
    assert set(found.gate[50:]) < set(shipped.judging)
    for half, rows in ((found.calibration, calibration.CALIBRATION_ROWS), (found.gate, calibration.GATE_ROWS)):
        assert len(half) == len(set(half))
        assert rows - 50 <= len(half) <= rows
    assert not set(found.gate) & set(found.calibration)
    assert "50 of 100 sequences, 78 antibodies of antibodies.csv" in found.source


def test_the_default_judges_real_antibodies_that_did_not_calibrate() -> None:
    found = calibration.calibration_sequences(None, 1022)
    assert len(found.calibration) == calibration.CALIBRATION_ROWS
    assert len(found.gate) == calibration.GATE_ROWS >= 1_000
    assert set(found.gate) == set(shipped_antibodies().judging)
    assert not set(found.gate) & set(found.calibration)


def test_a_limit_that_leaves_too_few_antibodies_is_refused() -> None:
    with pytest.raises(InputError, match=r"after a cut to 2 residues, \d+ different antibodies calibrate"):
        calibration.calibration_sequences(None, 2)


def test_a_file_with_a_letter_that_the_encoder_has_no_token_for_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "calibration.csv"
    file.write_text("id,sequence\n" + "".join(f"{row},EVQLVESGGX{'A' * row}\n" for row in range(40)))
    with pytest.raises(RecordsRejected, match="no token for X"):
        calibration.calibration_sequences(file, 1022, "ACDEFGHIKLMNPQRSTVWY")


@pytest.mark.parametrize(("columns", "tokens"), [(6 * 2_240, 8_192), (33 * 8_960, 1_024), (2**16, 4_096)])
def test_large_encoders_keep_fewer_tokens(columns: int, tokens: int) -> None:
    assert calibration.sampled_tokens(columns) == tokens
