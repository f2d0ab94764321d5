from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from abonyx.arrays import Float32Array
from abonyx.errors import ConfigError
from abonyx.input.records import RejectedRecord, read_records
from abonyx.output.files import ids_path
from abonyx.output.formats import (
    embedding_columns,
    embeddings_format,
    results_format,
    score_columns,
    write_rejected,
)

from .written import (
    CALLS,
    FLAGS,
    IDS,
    SEQUENCES,
    WORDS,
    EmbeddingFormat,
    Format,
    P,
    contents,
    open_embeddings,
    open_results,
    write_all,
)

FORMATS = ["csv", "jsonl", "parquet"]
SHORTEST = ["0.1", "1e-05", "0.54950005", "0.0", "1.0", "1e-45", "0.33333334"]


# Contents

HEADER = ("id", "sequence", "p_nonspecific", "nonspecific", "call", "percentile", "flag")


def test_csv_bytes(tmp_path: Path) -> None:
    write_all(tmp_path / "out.csv", "csv")
    lines = (tmp_path / "out.csv").read_bytes().split(b"\n")
    assert lines[0] == b"id,sequence,p_nonspecific,nonspecific,call,percentile,flag"
    assert lines[1] == b"a,EVQL,0.1,0,specific,,"
    assert lines[2] == b'"with, comma and ""quote""",EVQLQA,1e-05,0,specific,,'
    assert b"=1+1,EVQLQAQAQAQA,1.0,1,non-specific,," in lines, "ids are not altered for spreadsheets"
    assert lines[-1] == b""


def test_csv_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    write_all(path, "csv")
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file, strict=True)
    assert tuple(header) == HEADER
    assert [row[0] for row in rows] == IDS
    assert [row[1] for row in rows] == SEQUENCES
    assert [row[2] for row in rows] == SHORTEST
    assert [row[3] for row in rows] == ["0", "0", "1", "", "1", "0", "0"]
    assert [row[4] for row in rows] == [word or "" for word in WORDS]
    assert {row[5] for row in rows} == {""}
    assert [row[6] for row in rows] == FLAGS
    assert [record.id for record in read_records(path)] == IDS


def test_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    write_all(path, "jsonl")
    text = path.read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.split("\n")[:-1]]
    assert [tuple(row) for row in rows] == [HEADER] * len(IDS)
    assert [row["id"] for row in rows] == IDS
    assert [row["sequence"] for row in rows] == SEQUENCES
    assert [row["p_nonspecific"] for row in rows] == [float(number) for number in SHORTEST]
    assert [row["nonspecific"] for row in rows] == CALLS
    assert [row["call"] for row in rows] == WORDS
    assert [row["flag"] for row in rows] == FLAGS
    assert (
        '"p_nonspecific":0.54950005,"nonspecific":1,"call":"uncertain","percentile":null,"flag":"nanobody-like"}'
        in text
    )


@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_p_reads_back_as_the_same_float32(tmp_path: Path, format: Format) -> None:
    generator = np.random.default_rng(7)
    p = np.concatenate([generator.random(20000), 10 ** generator.uniform(-44, 0, 20000)]).astype(np.float32)
    ids = [str(n) for n in range(len(p))]
    path = tmp_path / "out"
    with open_results(path, format, {}, len(p)) as output:
        output.append(len(p), score_columns(ids, ids, p, [0] * len(p), [None] * len(p), [""] * len(p)))
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file)) if format == "csv" else [json.loads(line) for line in file]
    read = np.array([float(row["p_nonspecific"]) for row in rows]).astype(np.float32)
    np.testing.assert_array_equal(read, p)
    assert max(len(str(row["p_nonspecific"])) for row in rows) <= len("1.2345678e-10") + 1


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    write_all(path, "parquet", {"bundle": "mini", "threshold": "0.5"})
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    assert table.column_names == ["id", "sequence", "p_nonspecific", "nonspecific", "call", "percentile", "flag"]
    assert [str(kind) for kind in table.schema.types] == ["string", "string", "float", "int8", *["string"] * 3]
    assert table.schema.metadata == {b"abonyx.bundle": b"mini", b"abonyx.threshold": b"0.5"}
    assert table["id"].to_pylist() == IDS
    assert table["sequence"].to_pylist() == SEQUENCES
    np.testing.assert_array_equal(table["p_nonspecific"].to_numpy(), P)
    assert table["nonspecific"].to_pylist() == CALLS
    assert table["call"].to_pylist() == WORDS
    assert table["flag"].to_pylist() == FLAGS


@pytest.mark.parametrize("format", FORMATS)
def test_no_rows(tmp_path: Path, format: Format) -> None:
    if format == "parquet":
        pq = pytest.importorskip("pyarrow.parquet")
    with open_results(tmp_path / "out", format, {}, 0):
        pass
    if format == "parquet":
        assert pq.read_table(tmp_path / "out").num_rows == 0
    else:
        header = b"id,sequence,p_nonspecific,nonspecific,call,percentile,flag\n"
        assert (tmp_path / "out").read_bytes() == (header if format == "csv" else b"")


@pytest.mark.parametrize("extra", [("flag",), ("domain", "x", "domain")])
def test_two_columns_of_one_name_are_refused(extra: tuple[str, ...]) -> None:
    said = rf"{extra[0]}: the output already has a column with this name\nRename it in the input"
    with pytest.raises(ConfigError, match=said):
        results_format("csv", {}, extra)
    with pytest.raises(ConfigError, match=said):
        embeddings_format("npy", 7, 5, {}, extra)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_p_that_is_not_finite_is_no_score(value: float) -> None:
    p = np.array([0.5, value], dtype=np.float32)
    with pytest.raises(ValueError, match=r"p_nonspecific of 'b' is (nan|inf)"):
        score_columns(["a", "b"], ["E", "V"], p, [0, 1], ["specific"] * 2, ["", ""])


@pytest.mark.parametrize(
    ("ids", "sequences", "p", "calls", "message"),
    [
        (1, 2, np.zeros(2, np.float32), 2, "'ids': 1, 'sequences': 2"),
        (2, 2, np.zeros(3, np.float32), 2, "'p_nonspecific': 3"),
        (2, 2, np.zeros(2, np.float32), 1, "'nonspecific': 1"),
        (2, 2, np.zeros(2, np.float64), 2, "float64"),
        (1, 1, np.zeros(1, np.float32), 1, "'flags': 2"),
    ],
)
def test_window_that_does_not_fit(ids: int, sequences: int, p: Float32Array, calls: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score_columns(["a"] * ids, ["E"] * sequences, p, [0] * calls, ["specific"] * 2, [""] * 2)


def test_missing_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigError, match=r"Parquet needs pyarrow .*(.|\n)*Install the extra parquet: pip install "):
        results_format("parquet", {})


# Embeddings


def embedding(rows: int, width: int) -> Float32Array:
    return np.random.default_rng(3).standard_normal((rows, width)).astype(np.float32)


def test_npy_and_its_ids(tmp_path: Path) -> None:
    path, whole = tmp_path / "e.v1.npy", embedding(7, 5)
    with open_embeddings(path, "npy", 7, 5) as output:
        output.append(3, embedding_columns(IDS[:3], whole[:3], 5, FLAGS[:3]))
        output.append(7, embedding_columns(IDS[3:], np.asfortranarray(whole[3:]), 5, FLAGS[3:]))
    for mode in (None, "r"):
        read = np.load(path, mmap_mode=mode)
        assert (read.dtype, read.flags["C_CONTIGUOUS"]) == (np.dtype("<f4"), True)
        np.testing.assert_array_equal(read, whole)
    assert ids_path(path) == tmp_path / "e.v1.ids.csv"
    with ids_path(path).open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [
            ["row", "id", "flag"],
            *([str(n), id_, flag] for n, (id_, flag) in enumerate(zip(IDS, FLAGS, strict=True))),
        ]
    assert len(list(tmp_path.iterdir())) == 2


def test_parquet_embeddings(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    path, whole = tmp_path / "e.parquet", embedding(7, 5)
    with open_embeddings(path, "parquet", 7, 5) as output:
        output.append(3, embedding_columns(IDS[:3], whole[:3], 5, FLAGS[:3]))
        output.append(7, embedding_columns(IDS[3:], whole[3:], 5, FLAGS[3:]))
    table = pq.read_table(path)
    assert table.column_names == ["id", "embedding", "flag"]
    assert str(table.schema.field("embedding").type) == "fixed_size_list<element: float>[5]"
    assert table.schema.metadata == {b"abonyx.bundle": b"mini"}
    assert table["id"].to_pylist() == IDS
    np.testing.assert_array_equal(np.array(table["embedding"].to_pylist(), dtype=np.float32), whole)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("format", ["npy", "parquet"])
def test_no_embeddings(tmp_path: Path, format: EmbeddingFormat) -> None:
    pytest.importorskip("pyarrow.parquet")
    with open_embeddings(tmp_path / "e.npy", format, 0, 5):
        pass
    if format == "npy":
        assert np.load(tmp_path / "e.npy").shape == (0, 5)


@pytest.mark.parametrize("format", ["npy", "parquet"])
def test_other_number_of_embeddings_than_announced(tmp_path: Path, format: EmbeddingFormat) -> None:
    pytest.importorskip("pyarrow.parquet")
    with (
        pytest.raises(ValueError, match="7 rows were written, 8 announced"),
        open_embeddings(tmp_path / "e.npy", format, 8, 5) as output,
    ):
        output.append(7, embedding_columns(IDS, embedding(7, 5), 5, FLAGS))
    assert not (tmp_path / "e.npy").exists()


@pytest.mark.parametrize("wrong", [embedding(7, 4), embedding(6, 5), embedding(7, 5).astype(np.float64)])
def test_embedding_of_another_shape(wrong: Float32Array) -> None:
    with pytest.raises(ValueError, match=r"needs \(7, 5\) float32, not \(\d, \d\) float"):
        embedding_columns(IDS, wrong, 5, FLAGS)


# Rejected records


def test_rejected(tmp_path: Path) -> None:
    path = tmp_path / "out.csv.rejected.csv"
    problems = [RejectedRecord("a,b", 3, "two\nlines"), RejectedRecord("c", 9, "character '\udcff' at 2")]
    write_rejected(path, iter(problems))
    expected = b'id,line,reason\n"a,b",3,"two\nlines"\nc,9,character \'\\udcff\' at 2\n'
    assert contents(tmp_path) == {path.name: expected}


def test_rejected_is_atomic(tmp_path: Path) -> None:
    def problems() -> Iterator[RejectedRecord]:
        yield RejectedRecord("a", 1, "empty")
        raise KeyboardInterrupt

    path = tmp_path / "r.csv"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        write_rejected(path, problems())
    assert contents(tmp_path) == {"r.csv": b"old"}
