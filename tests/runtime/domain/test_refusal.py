"""Records that are refused and never scored."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import pytest

from abonyx.domain import refusal

from . import proteins


@pytest.mark.parametrize(
    ("sequence", "words"),
    [
        ("", "empty"),
        ("NA", "the sequence is missing: 'NA'"),
        ("NAN", "the sequence is missing: 'NAN'"),
        (proteins.DNA, "sequence_aa or sequence_alignment_aa"),
        (proteins.DNA.replace("T", "U"), "looks like DNA or RNA"),
        ("ACGTN" * 4, "looks like DNA or RNA: 20 letters"),
        ("N" * 400, "low complexity: 1 different letter"),
        ("X", "1 of 1 residues are unknown"),
        ("X" * 23, "more than half"),
        ("X" * 61 + proteins.VH[:60], "61 of 121 residues are unknown (X), more than half"),
        ("W" * 30, "low complexity: 1 different letter in 30 residues"),
        ("GPP" * 40, "low complexity: 2 different letters in 120 residues"),
        ("EVQLSKP" * 9, "low complexity: 7 different letters"),
        (proteins.VH + "Q" * 120, "low complexity: Q makes up"),
    ],
)
def test_refuses(sequence: str, words: str) -> None:
    assert words in (refusal(sequence) or "")


@pytest.mark.parametrize(
    "sequence",
    [
        proteins.VH,
        proteins.SCFV,
        proteins.GFP,
        "ACGTN" * 4 + "E",
        "ACGTACGTACGTACGTACG",  # 19 letters
        "X" * 60 + proteins.VH[:60],  # exactly half
        "W" * 29,
        "EVQLSKPA" * 9,
        proteins.VH + "Q" * 100,
        "\ud800" * 40,  # alphabet.problem's to name
        "-" * 40,
    ],
)
def test_does_not_refuse(sequence: str) -> None:
    assert refusal(sequence) is None


def test_refuses_no_real_antibody(shared_data: Path) -> None:
    for file, columns in (
        ("jain/VH_only_jain.csv", ["sequence"]),
        ("shehata/VH_only_shehata.csv", ["sequence"]),
        ("boughter/VH_only_boughter_training.csv", ["sequence"]),
        ("paired/shehata.csv", ["heavy_seq", "light_seq"]),
        ("paired/jain_sd02.csv", ["VH", "VL"]),
        ("harvey/harvey_1000_labelled.csv.gz", ["heavy_seq"]),
        ("repertoire/vh_vhh_repertoire.csv.gz", ["sequence"]),
    ):
        path = shared_data / file
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
        rows = list(csv.DictReader(text.splitlines()))
        refused = [row[column] for row in rows for column in columns if refusal(row[column])]
        assert len(rows) > 100
        assert refused == []
