"""--keep, and the outputs .tsv, .csv.gz and .tsv.gz, as a user sees them."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest

from ..input.test_judged import HEAVY, TAGGED

GFP = "MSKGEELFTGVVPILVELDGDVNGHKFSVSGEGEGDATYGKLTLKFICTTGKLPVPWPTL"

TABLE = f'antibody,VH,PSR,comment,PSR 2\nab1,{HEAVY},0.27,"x, y",\nab2,{HEAVY[:-1]},NA,"a ""b""",7\n'


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.csv"
    path.write_text(TABLE, encoding="utf-8")
    return path


def rows(path: Path, delimiter: str = ",") -> list[dict[str, str]]:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return list(csv.DictReader(io.StringIO(data.decode(), newline=""), delimiter=delimiter))


def test_named_columns_go_to_the_output_as_they_are(run: Any, table: Path, tmp_path: Path) -> None:
    assert run("score", table, "-o", tmp_path / "out.csv", "--keep", "comment, PSR").code == 0
    found = rows(tmp_path / "out.csv")
    assert list(found[0])[6:] == ["flag", "comment", "PSR"]
    assert [(row["id"], row["comment"], row["PSR"]) for row in found] == [
        ("ab1", "x, y", "0.27"),
        ("ab2", 'a "b"', "NA"),
    ]


def test_all_is_every_column_that_the_output_does_not_have_anyway(run: Any, table: Path, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    expected = {"PSR": ["0.27", "NA"], "comment": ["x, y", 'a "b"'], "PSR 2": ["", "7"]}
    assert run("score", table, "-o", tmp_path / "out.jsonl", "--keep", "all").code == 0
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert list(lines[0])[7:] == list(expected)
    assert {name: [line[name] for line in lines] for name in expected} == expected
    for command in ("score", "embed"):
        assert run(command, table, "-o", tmp_path / "out.parquet", "--keep", "all").code == 0
        read = pq.read_table(tmp_path / "out.parquet")
        assert {name: read[name].to_pylist() for name in read.column_names[-3:]} == expected


def test_typed_cells_keep_their_text(run: Any, tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {"id": ["a", "b"], "sequence": [HEAVY] * 2, "n": [1, None], "x": [0.1, float("nan")], "ok": [True, False]}
    pq.write_table(pa.table(columns | {"list": [[1, 2], []]}), tmp_path / "in.parquet")
    assert run("score", tmp_path / "in.parquet", "-o", tmp_path / "out.csv", "--keep", "all").code == 0
    kept = [tuple(row.values())[7:] for row in rows(tmp_path / "out.csv")]
    assert kept == [("1", "0.1", "true", "[1,2]"), ("", "", "false", "[]")]
    lines = [json.dumps({"sequence": HEAVY, "note": note}) for note in ({"a": 1}, 3, None)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert run("score", tmp_path / "in.jsonl", "-o", tmp_path / "out.csv", "--keep", "note").code == 0
    assert [row["note"] for row in rows(tmp_path / "out.csv")] == ['{"a":1}', "3", ""]


def test_a_key_that_appears_late_is_not_lost(run: Any, tmp_path: Path) -> None:
    lines = [json.dumps({"sequence": HEAVY})] * 1000 + [json.dumps({"sequence": HEAVY, "late": 1})]
    (tmp_path / "in.jsonl").write_text("\n".join(lines), encoding="utf-8")
    refused = run("score", tmp_path / "in.jsonl", "-o", tmp_path / "out.csv", "--keep", "all")
    assert refused.code == 3
    assert "in.jsonl:1001: key 'late' is not in the first 1,000 rows" in refused.err


def test_a_fasta_description(run: Any, tmp_path: Path) -> None:
    (tmp_path / "in.fasta").write_bytes(
        f">a phase II, human\n{HEAVY}\n>b\n{HEAVY}\n>c caf\xe9\n{HEAVY}\n".encode("latin-1")
    )
    done = run("score", tmp_path / "in.fasta", "-o", tmp_path / "out.csv", "--keep", "description")
    assert [row["description"] for row in rows(tmp_path / "out.csv")] == ["phase II, human", "", "caf\\xe9"]
    assert "1 kept cells are not valid UTF-8; the wrong bytes are written as \\xNN" in done.err
    refused = run("score", tmp_path / "in.fasta", "-o", tmp_path / "out.csv", "--keep", "species")
    assert refused.code == 3
    assert "is FASTA, which has no column 'species'" in refused.err
    assert "--keep description" in refused.err


@pytest.mark.parametrize(
    ("header", "keep", "code", "message"),
    [
        ("id,sequence,x", "y", 3, "no column 'y'; columns: 'id', 'sequence', 'x'"),
        ("id,sequence,flag", "flag", 2, "--keep flag: the output already has a column with this name"),
        ("id,sequence,flag", "all", 2, "--keep flag: the output already has a column with this name"),
        ("id,sequence,domain", "domain", 2, "--keep domain: the output already has a column with this name"),
        ("id,sequence,x,x", "x", 3, "column 'x' appears more than once"),
        ("id,sequence,x", "x,", 2, "--keep 'x,': a name is empty"),
    ],
)
def test_what_cannot_be_kept(run: Any, tmp_path: Path, header: str, keep: str, code: int, message: str) -> None:
    (tmp_path / "in.csv").write_text(f"{header}\na,{HEAVY}{',1' * (header.count(',') - 1)}\n", encoding="utf-8")
    refused = run("score", tmp_path / "in.csv", "-o", tmp_path / "out.csv", "--keep", keep, "--trim", "domain")
    assert refused.code == code
    assert message in refused.err
    assert not (tmp_path / "out.csv").exists()


def test_a_row_without_a_kept_cell_is_rejected(run: Any, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(f"id,sequence,x\na,{HEAVY},1\nb,{HEAVY}\n", encoding="utf-8")
    assert run("score", tmp_path / "in.csv", "-o", tmp_path / "out.csv").code == 0
    refused = run("score", tmp_path / "in.csv", "-o", tmp_path / "out.csv", "--keep", "x")
    assert refused.code == 3
    assert "in.csv:3: b: the row has 2 columns, the header has 3" in refused.err


def test_kept_columns_stand_behind_the_range_of_a_trimmed_record(run: Any, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(f"id,sequence,x\na,{TAGGED},1\nb,{HEAVY},2\nc,{GFP},3\n", encoding="utf-8")
    done = run("score", tmp_path / "in.csv", "-o", tmp_path / "out.csv", "--keep", "x", "--trim", "domain")
    assert done.code == 0, done.err
    found = [(row["domain"], row["x"]) for row in rows(tmp_path / "out.csv")]
    assert found == [(f"1-{len(HEAVY)}", "1"), (f"1-{len(HEAVY)}", "2"), ("", "3")]
    assert "in.csv: trimmed to the variable domain: 1 of 3 records" in done.err


@pytest.mark.parametrize(("kind", "delimiter"), [("tsv", "\t"), ("csv.gz", ","), ("tsv.gz", "\t")])
def test_tables_of_every_kind_read_back(run: Any, table: Path, tmp_path: Path, kind: str, delimiter: str) -> None:
    (tmp_path / "in.csv").write_text(TABLE.replace("x, y", "x\ty"), encoding="utf-8")
    for name in ("out.csv", f"out.{kind}", f"again.{kind}"):
        assert run("score", tmp_path / "in.csv", "-o", tmp_path / name, "--keep", "all").code == 0
    assert rows(tmp_path / f"out.{kind}", delimiter) == rows(tmp_path / "out.csv")
    assert (tmp_path / f"again.{kind}").read_bytes() == (tmp_path / f"out.{kind}").read_bytes()
    back = run("score", tmp_path / f"out.{kind}", "-o", tmp_path / "back.csv", "--keep", "comment")
    assert back.code == 0, back.err
    assert [row["comment"] for row in rows(tmp_path / "back.csv")] == ["x\ty", 'a "b"']


def test_tsv_refuses_what_it_cannot_hold(run: Any, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(f'id,sequence,x\na,{HEAVY},"1\n2"\n', encoding="utf-8")
    refused = run("score", tmp_path / "in.csv", "-o", tmp_path / "out.tsv", "--keep", "x")
    assert refused.code == 2
    assert "column 'x' of record 1 has a line end, which TSV cannot store" in refused.err
    assert run("score", tmp_path / "in.csv", "-o", tmp_path / "out.tsv").code == 0


def test_a_file_called_gz_is_compressed_or_refused(run: Any, table: Path, tmp_path: Path) -> None:
    assert run("score", table, "-o", tmp_path / "out.gz", "--format", "tsv").code == 0
    assert len(rows(tmp_path / "out.gz", "\t")) == 2
    refused = run("score", table, "-o", tmp_path / "out.jsonl.gz", "--format", "jsonl")
    assert (refused.code, "jsonl cannot be compressed" in refused.err) == (2, True)
    refused = run("score", table, "-o", tmp_path / "out.txt")
    assert "the suffix .txt is not a known format" in refused.err
    assert "Use .csv, .tsv, .csv.gz, .tsv.gz, .jsonl, .parquet or --format." in refused.err
