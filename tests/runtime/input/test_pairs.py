"""Records of both chains: found in every kind of file, judged chain by chain, and none is lost."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from abonyx.alphabet import SequenceLimit
from abonyx.domain import DomainRule
from abonyx.errors import InputError
from abonyx.input.checked import Input, read_input

from ...conftest import EXAMPLES
from .workbook import one_sheet

BOTH = ("H", "L")
LIGHT = "DIQMTQSPSSLSASVGDRVTITCRASQDISNYLAWYQQKPGKAPKLLIYYTSKIHSGVPSRFSGSGSGTDYTFTISSLQPEDIATYYCQQGNTFPYTFGQGTKVEIK"


def heavy_chains() -> list[str]:
    with EXAMPLES.open(newline="") as file:
        return [row["sequence"] for row in csv.DictReader(file)]


HEAVY = heavy_chains()[0]


def read(path: Path | str, tmp_path: Path | None = None, suffix: str = ".csv", **options: Any) -> Input:
    """Read a file, or a text that is written to a file, and skip bad records."""
    if tmp_path is not None:
        (tmp_path / f"given{suffix}").write_text(str(path))
        path = tmp_path / f"given{suffix}"
    given = {"chains": BOTH, "skip_invalid": True, "rule": DomainRule("check", chains=("H", "K", "L")), **options}
    return read_input(Path(path), SequenceLimit(200), **given)


@pytest.mark.parametrize(
    "names",
    [
        *(("heavy", "light"), ("VH", "VL"), ("vh_sequence", "vl_sequence"), ("Heavy Chain", "Light Chain")),
        *(("heavy_seq", "light_seq"), ("sequence_heavy", "sequence_light")),
        ("sequence_alignment_aa_heavy", "sequence_alignment_aa_light"),
    ],
)
def test_both_columns_are_found_by_name(tmp_path: Path, names: tuple[str, str]) -> None:
    found = read(f"id,{names[1]},x,{names[0]}\na,{LIGHT},1,{HEAVY}\n", tmp_path)
    assert (found.ids, found.sequences, found.light, found.rejected) == (["a"], [HEAVY], [LIGHT], [])
    assert found.judgements[0].text == ""
    assert any(f"the heavy chains are column {names[0]!r}" in note and repr(names[1]) in note for note in found.notes)


def test_a_paired_airr_table_is_read_without_its_gaps(tmp_path: Path) -> None:
    header = "sequence_id_heavy,sequence_heavy,sequence_alignment_aa_heavy,sequence_light,sequence_alignment_aa_light\n"
    found = read(f"{header}a,GATTACA,{HEAVY[:5]}--{HEAVY[5:]},GATTACA,{LIGHT[:3]}..{LIGHT[3:]}\n", tmp_path)
    assert (found.ids, found.sequences, found.light) == (["a"], [HEAVY], [LIGHT])


def write_kinds(directory: Path) -> dict[str, Path]:
    """The same three pairs in every kind of file; the third pair has no light chain."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [("a", HEAVY, LIGHT), ("b", heavy_chains()[1], LIGHT), ("c", HEAVY, None)]
    files = {kind: directory / f"pairs.{kind}" for kind in ("csv", "tsv", "jsonl", "parquet", "xlsx", "fasta")}
    for kind, delimiter in (("csv", ","), ("tsv", "\t")):
        with files[kind].open("w", newline="") as file:
            csv.writer(file, delimiter=delimiter).writerows([("id", "VH", "VL"), *rows])
    files["jsonl"].write_text(
        "".join(json.dumps(dict(zip(("id", "VH", "VL"), row, strict=True))) + "\n" for row in rows)
    )
    pq.write_table(
        pa.table(dict(zip(("id", "VH", "VL"), map(list, zip(*rows, strict=True)), strict=True))), files["parquet"]
    )
    files["xlsx"].write_bytes(one_sheet([("id", "VH", "VL"), *rows]))
    entries = [(f">{id_}|{chain}", text) for id_, *both in rows for chain, text in zip("HL", both, strict=True) if text]
    files["fasta"].write_text("".join(f"{header}\n{text}\n" for header, text in entries))
    return files


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet", "xlsx", "fasta"])
def test_every_kind_of_file(tmp_path: Path, kind: str) -> None:
    if kind == "xlsx":
        pytest.importorskip("python_calamine", reason="the extra excel is not installed")
    found = read(write_kinds(tmp_path)[kind])
    assert (found.ids, found.light) == (["a", "b"], [LIGHT, LIGHT])
    (rejected,) = found.rejected
    assert (rejected.id, rejected.reason) == ("c", "no light chain: the heads need both chains of a record")


def test_columns_can_be_named(tmp_path: Path) -> None:
    text = f"id,first,second\na,{HEAVY},{LIGHT}\n"
    with pytest.raises(InputError, match="no column was recognised as the heavy chains; columns: 'id', 'first'"):
        read(text, tmp_path)
    with pytest.raises(InputError, match="as the light chains"):
        read(text, tmp_path, sequence_column="first")
    with pytest.raises(InputError, match="no column 'third'"):
        read(text, tmp_path, sequence_column="first", light_column="third")
    with pytest.raises(InputError, match="column 'first' would be used for both chains"):
        read(text, tmp_path, sequence_column="first", light_column="first")
    found = read(text, tmp_path, sequence_column="first", light_column="second")
    assert (found.sequences, found.light) == ([HEAVY], [LIGHT])
    with pytest.raises(InputError, match="several columns could hold the light chains: 'VL', 'light'"):
        read(f"id,VH,VL,light\na,{HEAVY},{LIGHT},{LIGHT}\n", tmp_path)


def test_a_missing_or_bad_chain_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    rows = {
        "good": (HEAVY, LIGHT),
        "no light": (HEAVY, ""),
        "no heavy": ("NA", LIGHT),
        "neither": ("", "-"),
        "bad light": (HEAVY, LIGHT + "1"),
        "bad heavy": ("1" + HEAVY, LIGHT),
        "long light": (HEAVY, LIGHT * 2),
        "nucleotides": (HEAVY, "GATTACA" * 10),
    }
    text = "id,heavy,light\n" + "".join(f"{id_},{heavy},{light}\n" for id_, (heavy, light) in rows.items())
    found = read(text, tmp_path)
    assert found.ids == ["good"] and len(found.ids) + len(found.rejected) == len(rows)
    reasons = {problem.id: problem.reason for problem in found.rejected}
    assert reasons["no heavy"].startswith("no heavy chain: ")
    assert "no heavy chain" in reasons["neither"] and "no light chain" in reasons["neither"]
    assert reasons["bad light"].startswith("light chain: ") and reasons["bad heavy"].startswith("heavy chain: ")
    assert reasons["long light"].startswith("light chain: ") and "200" in reasons["long light"]
    assert reasons["nucleotides"].startswith("light chain: looks like DNA")


def test_flags_say_which_chain(tmp_path: Path) -> None:
    text = (
        f"id,heavy,light\nswapped,{LIGHT},{HEAVY}\nlonger,{HEAVY},{LIGHT}GGGSGG\nX,{HEAVY},{LIGHT[:50]}X{LIGHT[51:]}\n"
    )
    found = read(text, tmp_path)
    assert [judgement.text for judgement in found.judgements] == [
        "heavy: light chain (kappa); light: heavy chain",
        "light: 6 residues outside the domain",
        "light: 1 unknown residue (X)",
    ]
    assert not any(judgement.trusted for judgement in found.judgements)
    assert dict(found.flag_counts())["light: residues outside the domain"] == 1
    with pytest.raises(InputError, match=r"heavy chain: light chain \(kappa\); light chain: heavy chain"):
        read(text, tmp_path, rule=DomainRule("require", chains=("H", "K", "L")))


def test_both_chains_are_trimmed(tmp_path: Path) -> None:
    text = f"id,heavy,light\na,MK{HEAVY},{LIGHT}GGG\nb,{HEAVY},{LIGHT}\n"
    found = read(text, tmp_path, rule=DomainRule("check", trim=True, chains=("H", "K", "L")))
    assert (found.sequences, found.light) == ([HEAVY] * 2, [LIGHT] * 2)
    assert (found.shown[0], found.shown_light[0]) == ("MK" + HEAVY, LIGHT + "GGG")
    assert found.places[0] == f"heavy 3-{len(HEAVY) + 2}; light 1-{len(LIGHT)}"
    assert "trimmed to the variable domain: 1 of 2 records" in found.notes[-1]


def test_fasta_names_the_chain_behind_the_id(tmp_path: Path) -> None:
    headers = ("b:L", "a|H one", "a|L two", "b:H", "c", "a|H", "|H")
    text = "".join(f">{header}\n{LIGHT if 'L' in header else HEAVY}\n" for header in headers)
    found = read(text, tmp_path, ".fasta", keep=("description",))
    assert found.ids == ["b", "a"] and found.kept == {"description": ["", "one"]}
    assert [(problem.id, problem.line) for problem in found.rejected] == [("c", 9), ("a|H", 11), ("|H", 13)]
    assert found.rejected[0].reason == "the header names no chain: the heads need both, >c|H and >c|L"
    assert found.rejected[1].reason == "a second heavy chain of a"


@pytest.mark.parametrize(("chain", "own", "other"), [("H", HEAVY, "light"), ("L", LIGHT, "heavy")])
def test_heads_of_one_chain_take_it_of_a_pair_and_say_so(tmp_path: Path, chain: str, own: str, other: str) -> None:
    rule = DomainRule("check", chains=("H",) if chain == "H" else ("K", "L"))
    for suffix, text in (
        (".csv", f"id,VH,VL\na,{HEAVY},{LIGHT}\n"),
        (".fasta", f">a|H\n{HEAVY}\n>a|L\n{LIGHT}\n"),
    ):
        found = read(text, tmp_path, suffix, chains=(chain,), rule=rule)
        assert (found.ids, found.sequences, found.light) == (["a"], [own], [])
        assert found.judgements[0].text == ""
        said = f"the {other} chains (" if suffix == ".csv" else f"1 record has both chains: the {other} chain is"
        assert any(said in note and "not scored" in note for note in found.notes)


def test_in_a_file_of_pairs_each_record_is_known_by_its_chains(tmp_path: Path) -> None:
    """One wrong header does not change how the others are read."""
    headers = ("a|H", "a|L", "b|H", "a|H", "a|L", "c|L", "d")
    text = "".join(f">{header}\n{LIGHT if 'L' in header else HEAVY}\n" for header in headers)
    found = read(text, tmp_path, ".fasta", chains=("H",), rule=DomainRule("check"))
    assert found.ids == ["a", "b", "d"] and set(found.sequences) == {HEAVY}
    assert [(problem.id, problem.line, problem.reason) for problem in found.rejected] == [
        ("a|H", 7, "a second heavy chain of a"),
        ("c|L", 11, "no heavy chain, which the heads expect"),
    ]


def test_fasta_names_that_are_no_pairs_stay(tmp_path: Path) -> None:
    for text, ids in (
        (f">a|H\n{HEAVY}\n>b|H\n{HEAVY}\n", ["a|H", "b|H"]),
        (f">a|L\n{LIGHT}\n>b|H\n{HEAVY}\n", ["a|L", "b|H"]),
    ):
        assert read(text, tmp_path, ".fasta", chains=("H",), rule=DomainRule("check")).ids == ids


def test_the_hash_is_of_both_chains(tmp_path: Path) -> None:
    one = read(f"id,heavy,light\na,{HEAVY},{LIGHT}\n", tmp_path).sha256()
    assert read(f"id,heavy,light\na,{HEAVY},{LIGHT[:-1]}\n", tmp_path).sha256() != one
