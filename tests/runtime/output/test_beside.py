"""Requested columns beside a score describe the numbered domain only, in every interface."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

import abonyx
from abonyx.bundle import open_bundle
from abonyx.bundle.chosen import choose_heads
from abonyx.domain import judge
from abonyx.errors import ConfigError
from abonyx.output.beside import column_cells, refuse_columns

from ...conftest import MINI
from ..domain.proteins import GFP, KAPPA, NANOBODY, VH

ALL = ("charge", "pI", "length", "cdr3")
# Counted by hand in VH (trastuzumab): 4 K, 7 R, 1 H, 6 D, 4 E, 9 Y, and one free end each.
POSITIVE = {8.6: 1, 10.8: 4, 12.5: 7, 6.5: 1}
NEGATIVE = {3.6: 1, 3.9: 6, 4.1: 4, 10.1: 9}
CDR3 = "SRWGGDGFYAMDY"
KAPPA_CDR3 = "QQHYTTPPT"
CSV = f"id,sequence\nvh,{VH}\ntagged,{VH}HHHHHH\nkappa,{KAPPA}\ngfp,{GFP[:140]}\ncut,{VH[:100]}\n"


def charge(ph: float) -> float:
    bases = sum(count / (1 + 10 ** (ph - pka)) for pka, count in POSITIVE.items())
    return bases - sum(count / (1 + 10 ** (pka - ph)) for pka, count in NEGATIVE.items())


def cells(*sequences: str) -> list[tuple[Any, ...]]:
    found = column_cells(ALL, sequences, judge(sequences), choose_heads(open_bundle(MINI), None))
    assert tuple(found) == ALL
    return list(zip(*found.values(), strict=True))


def test_values_computed_by_hand() -> None:
    ((net, pi, length, cdr3),) = cells(VH)
    assert net == round(charge(7.4), 2) == 1.04
    assert charge(pi - 0.01) > 0 > charge(pi + 0.01)
    assert (length, cdr3) == (len(VH), CDR3)


def test_they_are_of_the_domain_and_of_nothing_else() -> None:
    tagged, leader = f"{VH}HHHHHH", f"MKKKK{VH}"
    assert cells(tagged) == cells(leader) == cells(VH)
    assert cells(KAPPA)[0][3] == KAPPA_CDR3, "a light chain has them, too"


@pytest.mark.parametrize("sequence", [GFP, f"{VH}GGGGSGGGGSGGGGS{VH}", VH * 9])
def test_without_a_single_domain_they_are_empty_and_the_record_is_flagged(sequence: str) -> None:
    assert cells(sequence) == [(None,) * 4]
    assert judge([sequence])[0].flags


def test_the_cdr3_of_a_fragment_is_not_cut() -> None:
    cut = VH[: VH.index(CDR3) + 6]
    (net, _, length, cdr3) = cells(cut)[0]
    assert (net is not None, length, cdr3) == (True, len(cut), None)


def test_insertions_are_part_of_the_cdr3() -> None:
    assert cells(NANOBODY)[0][3] == "AAAGVRAEDGRVRTLPSEYTF"


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_every_format_has_them_behind_the_heads(run: Any, tmp_path: Path, suffix: str) -> None:
    (tmp_path / "in.csv").write_text(CSV)
    output = tmp_path / f"out.{suffix}"
    done = run("score", tmp_path / "in.csv", "-o", output, "--bundle", MINI, "--with", "cdr3,charge,length")
    assert done.code == 0, done.err
    if suffix == "parquet":
        table = pytest.importorskip("pyarrow.parquet").read_table(output)
        kinds = dict(zip(table.column_names, map(str, table.schema.types), strict=True))
        assert (kinds["charge"], kinds["length"], kinds["cdr3"]) == ("float", "int32", "string")
        rows = table.to_pylist()
    elif suffix == "jsonl":
        rows = [json.loads(line) for line in output.read_text().splitlines()]
    else:
        with output.open(newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t" if suffix == "tsv" else ","))
    assert list(rows[0])[-4:] == ["flag", "cdr3", "charge", "length"]
    vh, tagged, kappa, gfp, cut = ([row["cdr3"], row["charge"], row["length"]] for row in rows)
    assert vh == tagged and vh[0] == CDR3 and float(vh[1]) == pytest.approx(1.04) and int(vh[2]) == len(VH)
    assert (kappa[0], cut[0] or None, gfp) == (KAPPA_CDR3, None, [gfp[0]] * 3) and not gfp[0]
    assert rows[3]["flag"] == "no antibody domain"


def test_python(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(CSV)
    first, *_, gfp, _ = abonyx.score_file(tmp_path / "in.csv", config=MINI, with_columns=["charge", "cdr3"]).rows
    assert (dict(first.added), dict(gfp.added)) == (
        {"charge": 1.04, "cdr3": CDR3},
        {"charge": None, "cdr3": None},
    )
    assert not abonyx.score_file(tmp_path / "in.csv", config=MINI).rows[0].added


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames(library: str) -> None:
    pytest.importorskip("narwhals")
    frame = pytest.importorskip(library).DataFrame({"VH": [VH, GFP[:140], None]})
    scored = abonyx.score_frame(frame, config=MINI, with_columns=ALL)
    assert list(scored.columns)[-6:] == ["flag", *ALL, "rejected"]
    rows = scored.to_dict("records") if library == "pandas" else scored.to_dicts()
    assert (rows[0]["length"], rows[0]["cdr3"]) == (len(VH), CDR3)
    assert rows[0]["charge"] == pytest.approx(1.04)
    if library == "pandas":
        assert scored["length"].isna().tolist() == scored["charge"].isna().tolist() == [False, True, True]
    with pytest.raises(abonyx.errors.InputError, match=r"has columns \['length'\] already"):
        renamed = frame.rename(columns={"VH": "length"}) if library == "pandas" else frame.rename({"VH": "length"})
        abonyx.score_frame(renamed, config=MINI, sequence_column="length", with_columns=["length"])


def test_http() -> None:
    pytest.importorskip("fastapi", reason="the extra serve is not installed")
    from ..serve.serving import service

    with service(abonyx.RuntimeConfig(bundle=str(MINI))) as running:
        first, gfp = running.score([VH, GFP[:140]], **{"with": ["length", "cdr3"]}).json["results"]
        assert first["added"] == {"length": len(VH), "cdr3": CDR3}
        assert gfp["added"] == {"length": None, "cdr3": None}
        assert "added" not in running.score([VH]).json["results"][0]
        for fields, words in (
            ({"with": ["x"]}, "with: no column 'x'"),
            ({"domain": "off"}, "with cdr3 with domain off"),
        ):
            refused = running.score([VH], **({"with": ["cdr3"]} | fields))
            assert refused.status == 422 and words in refused.json["detail"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ("--with", "hydrophobicity"),
            "--with: no column 'hydrophobicity'\nGive names of: charge, pI, length,",
        ),
        (("--with", "pI,pI"), "--with: pI is given twice"),
        (("--with", "pI,"), "a name is empty"),
        (("--with", "pI", "--domain", "off"), "--with pI with --domain off: these columns need the domain"),
        (("--with", "length", "--keep", "length"), "--keep length: the output already has a column with this name"),
    ],
)
def test_refused(run: Any, tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    (tmp_path / "in.csv").write_text(f"id,sequence,length\na,{VH},3\n")
    done = run("score", tmp_path / "in.csv", "-o", tmp_path / "out.csv", "--bundle", MINI, *options)
    assert done.code == 2 and said in done.err
    assert not (tmp_path / "out.csv").exists()


def test_python_is_refused_in_its_own_words() -> None:
    with pytest.raises(ConfigError, match="with_columns: no column 3"):
        refuse_columns([3], "check")
    with pytest.raises(ConfigError, match="with_columns is 3"):
        refuse_columns(3, "check")
    assert refuse_columns("pI", "check") == ("pI",)
