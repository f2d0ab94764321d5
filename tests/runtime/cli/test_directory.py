"""`abonyx score` of several inputs, a directory or a pattern: one file of results for each input, in one session."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from abonyx.run.run_file import SIDE

from ..input.test_judged import HEAVY, LIGHT
from ..output.written import contents

BAD = ">x\nEVQL9\n"


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / "a.csv").write_text(f"id,sequence\nh,{HEAVY}\nl,{LIGHT}\n", encoding="utf-8")
    (folder / "b.fasta").write_text(f">h2\n{HEAVY[:-1]}\n", encoding="utf-8")
    (folder / "notes.txt").write_text("not sequences", encoding="utf-8")
    return folder


def results(output: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(output).items() if name not in ("run.journal", "summary.json")}


def test_each_file_has_the_bytes_of_its_own_run(run: Any, parts: Path, tmp_path: Path) -> None:
    single = {}
    for name in ("a.csv", "b.fasta"):
        assert run("score", parts / name, "-o", tmp_path / "single.csv").code == 0
        single[f"{name[0]}.csv"] = (tmp_path / "single.csv").read_bytes()
    for number, inputs in enumerate(([parts], [parts / "a.csv", parts / "b.fasta"], [parts / "[ab].*"])):
        done = run("score", *inputs, "-o", tmp_path / f"out{number}")
        assert done.code == 0, done.err
        assert results(tmp_path / f"out{number}") == single
        assert "2 files done: 3 sequences scored, 0 rejected; 0 failed" in done.err
        assert "flagged: 1 of 3 records (light chain (kappa) 1); 1 without a call" in done.err
    assert "not read" not in done.err, "a pattern reads what it matches"


def test_folders_are_named_as_not_read(run: Any, parts: Path, tmp_path: Path) -> None:
    (parts / "deep").mkdir()
    (parts / "deep" / "c.csv").write_text(f"id,sequence\nx,{HEAVY}\n", encoding="utf-8")
    done = run("score", parts, "-o", tmp_path / "out")
    assert (done.code, "parts: not read: deep/, notes.txt" in done.err) == (0, True), done.err


def test_what_is_done_is_not_done_again(run: Any, parts: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert run("score", parts, "-o", output).code == 0
    stamp = (output / "a.csv").stat().st_mtime_ns
    (output / "b.csv").unlink()
    done = run("score", parts, "-o", output)
    assert "1 of 2 files are already done" in done.err
    assert "1 files scored now: 1 sequences" in done.err
    assert (output / "a.csv").stat().st_mtime_ns == stamp
    summary = json.loads((output / SIDE / "summary.json").read_bytes())
    assert (summary["records"], summary["flagged"], summary["workers"], summary["files_now"]) == (3, 1, 0, 1)
    other = run("score", parts, "-o", output, "--threshold", "0.7")
    assert (other.code, "threshold: 0.5 then, 0.7 now" in other.err) == (2, True), other.err
    again = run("score", parts, "-o", output, "--threshold", "0.7", "--restart")
    assert (again.code, "2 files scored now" in again.err) == (0, True), again.err


def test_a_bad_file_fails_alone(run: Any, parts: Path, tmp_path: Path) -> None:
    (parts / "aa.fasta").write_text(BAD, encoding="utf-8")
    done = run("score", parts, "-o", tmp_path / "out")
    assert done.code == 3
    assert "1 of 3 files failed; the others are done" in done.err
    assert "aa.fasta:1: x: character '9' at position 5" in done.err
    assert sorted(results(tmp_path / "out")) == ["a.csv", "b.csv"]
    (parts / "aa.fasta").write_text(f"{BAD}>y\n{HEAVY}\n", encoding="utf-8")
    options = ["--on-invalid", "skip", "--restart"]
    assert run("score", parts, "-o", tmp_path / "out", *options).code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [SIDE, "a.csv", "aa.csv", "b.csv"]
    rejected = (tmp_path / "out" / SIDE / "aa.csv.rejected.csv").read_text(encoding="utf-8")
    assert rejected.splitlines()[1].startswith("x,1,character '9'")


def test_one_file_into_a_directory_that_is_there(run: Any, parts: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert run("score", parts / "a.csv", "-o", tmp_path / "out", "--format", "jsonl").code == 0
    assert sorted(results(tmp_path / "out")) == ["a.jsonl"]


def test_what_a_directory_run_refuses(run: Any, parts: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"

    def refused(message: str, *arguments: Any, code: int = 2) -> None:
        done = run("score", *arguments)
        assert (done.code, message in done.err) == (code, True), done.err
        assert not output.exists()

    a, b = parts / "a.csv", parts / "b.fasta"
    refused("this is the name of a file, but several inputs give several files", a, b, "-o", tmp_path / "out.csv")
    refused("standard input and output cannot be used with several inputs", a, "-", "-o", output)
    refused("standard input and output cannot be used with several inputs", a, b, "-o", "-")
    refused("--table cannot be used with a directory of results", a, b, "-o", output, "--table")
    refused("the input a.csv is in this directory", a, b, "-o", parts)
    refused("no file to score was found", parts / "*.parquet", "-o", output, code=3)
    refused("cannot be created: No such file or directory", a, b, "-o", output / "in")
    (parts / "a.fasta").write_text(f">h\n{HEAVY}\n", encoding="utf-8")
    refused("both would be written to", parts, "-o", output)
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    (earlier / "run.journal").write_text("", encoding="utf-8")
    done = run("score", a, "-o", earlier)
    assert (done.code, "its results are from an earlier version" in done.err) == (2, True)


def test_the_directory_is_a_data_set(run: Any, parts: Path, tmp_path: Path) -> None:
    dataset = pytest.importorskip("pyarrow.dataset")
    output = tmp_path / "out"
    (parts / "b.fasta").write_text(f"{BAD}>h2\n{HEAVY}\n", encoding="utf-8")
    assert run("score", parts, "-o", output, "--format", "parquet", "--on-invalid", "skip").code == 0
    assert dataset.dataset(output).to_table()["id"].to_pylist() == ["h", "l", "h2"]
    pandas = pytest.importorskip("pandas")
    assert pandas.read_parquet(output)["id"].tolist() == ["h", "l", "h2"]
    polars = pytest.importorskip("polars")
    assert polars.read_parquet(output / "*.parquet")["id"].to_list() == ["h", "l", "h2"]
