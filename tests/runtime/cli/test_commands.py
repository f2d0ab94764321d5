"""The command line as a user sees it: results, summaries, and one clear error for each bad input."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import abonyx

from ...conftest import EXAMPLES, MINI

GOOD = "EVQLVESGGGLVQPGRSLRLSCAASGFTFDDYAMHWVRQAPGKGLEWVSA"


@pytest.fixture
def expected(sequences: list[str]) -> np.ndarray:
    with abonyx.open_session() as session:
        return session.score(sequences)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_csv_to_csv(run: Any, tmp_path: Path, expected: np.ndarray, sequences: list[str]) -> None:
    output = tmp_path / "scores.csv"
    done = run("score", EXAMPLES, "-o", output, "--table")
    assert done.code == 0
    found = rows(output)
    assert list(found[0]) == ["id", "sequence", "p_nonspecific", "nonspecific", "call", "percentile", "flag"]
    assert [row["sequence"] for row in found] == sequences
    assert found[0]["id"] == "adalimumab"
    assert [np.float32(row["p_nonspecific"]) for row in found] == expected.tolist()
    assert [row["nonspecific"] for row in found] == [str(int(p > 0.5)) for p in expected]
    assert done.out == "", "results are on stdout with -o - only"
    for part in (
        "trastuzumab",
        "12 sequences scored",
        "0 rejected",
        " s on cpu (",
        "model: abonyx-mini (",
        "this is the small model that ships with abonyx; docs/heads.md says",
    ):
        assert part in done.err
    for part in ("variant", "nodes", "CPUExecutionProvider"):  # engine facts are for --verbose
        assert part not in done.err
    assert "\x1b" not in done.err  # no bar where stderr is not a terminal
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scores.csv"]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_other_formats(run: Any, tmp_path: Path, expected: np.ndarray, kind: str) -> None:
    output = tmp_path / f"scores.{kind}"
    if kind == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
    assert run("score", EXAMPLES, "-o", output).code == 0
    if kind == "jsonl":
        found = [json.loads(line) for line in output.read_text().splitlines()]
    else:
        table = parquet.read_table(output)
        found = table.to_pylist()
        metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
        assert metadata["abonyx.variant"] == "fp16-weights"
        assert len(metadata["abonyx.config_sha256"]) == 64
    assert [np.float32(row["p_nonspecific"]) for row in found] == expected.tolist()


def test_every_input_format_gives_the_same_scores(run: Any, tmp_path: Path, sequences: list[str]) -> None:
    records = [(f"ab{index}", sequence) for index, sequence in enumerate(sequences)]
    texts = {
        "in.fasta": "".join(f">{name} chain H\n{sequence[:60]}\n{sequence[60:]}\n" for name, sequence in records),
        "in.tsv": "id\tsequence\n" + "".join(f"{name}\t{sequence}\n" for name, sequence in records),
        "in.csv": "\ufeffid,sequence\r\n" + "".join(f'{name},"{sequence.lower()}\n"\r\n' for name, sequence in records),
    }
    found = []
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text.encode())
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
        for source in (name, f"{name}.gz"):
            assert run("score", tmp_path / source, "-o", tmp_path / "out.csv").code == 0
            found.append((tmp_path / "out.csv").read_text())
    assert len(set(found)) == 1


def test_the_summary_says_how_a_file_was_read(run: Any, tmp_path: Path) -> None:
    source, output = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text(f"mab;VH\na;{GOOD}\nb;{GOOD}\n")
    done = run("score", source, "-o", output)
    assert done.code == 0, done.err
    for note in (
        f"{source}: cells are split at semicolons",
        f"{source}:1: the sequences are column 'VH'",
        f"{source}:1: no column was recognised as the ids, so they are 1, 2, 3, ...; "
        "--id-column can name one of these: 'mab'",
    ):
        assert note in done.err.splitlines()
    done = run("score", source, "-o", output, "--id-column", "mab", "--sequence-column", "VH")
    assert "the ids are" not in done.err
    assert [row["id"] for row in rows(output)] == ["a", "b"]


def test_gaps_are_stripped_and_part_of_the_runs_identity(run: Any, tmp_path: Path) -> None:
    from abonyx.cli.options import prepare
    from abonyx.run.resumed import identity

    source, output = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text(f"id,sequence\na,{GOOD[:9]}--{GOOD[9:]}*\n")
    done = run("score", source, "-o", output)
    assert done.code == 3
    assert "--gaps strip" in done.err
    assert run("score", source, "-o", output, "--gaps", "strip").code == 0
    assert [row["sequence"] for row in rows(output)] == [GOOD]
    options = dict.fromkeys(("config_file", "id_column", "sequence_column", "sheet", "bundle", "provider", "variant"))
    facts = [
        identity(prepare(options | {"on_invalid": "fail", "gaps": gaps, "domain": "check", "trim": None}))
        for gaps in ("refuse", "strip")
    ]
    assert [fact["--gaps"] for fact in facts] == ["refuse", "strip"]


def test_a_sheet_of_a_workbook(run: Any, tmp_path: Path) -> None:
    pytest.importorskip("python_calamine")
    from ..input.workbook import sheet_xml, workbook

    source, output = tmp_path / "in.xlsx", tmp_path / "out.csv"
    sheets = {name: sheet_xml([["Name", "VH"], [name.lower(), GOOD]]) for name in ("One", "Two")}
    source.write_bytes(workbook(sheets))
    done = run("score", source, "-o", output)
    assert done.code == 3
    assert "has 2 sheets with values: 'One', 'Two'" in done.err
    done = run("score", source, "-o", output, "--sheet", "Two")
    assert done.code == 0, done.err
    assert [row["id"] for row in rows(output)] == ["two"]
    assert f"{source}: read from sheet 'Two' of 2" in done.err.splitlines()


def test_stdin_to_stdout(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "abonyx", "score", "-", "-o", "-"]
    with EXAMPLES.open("rb") as source:
        done = subprocess.run(command, stdin=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list(csv.reader(io.StringIO(done.stdout)))) == 13


def test_embed(run: Any, tmp_path: Path, sequences: list[str]) -> None:
    output = tmp_path / "embedding.npy"
    assert run("embed", EXAMPLES, "-o", output).code == 0
    with abonyx.open_session() as session:
        assert (np.load(output) == session.embed(sequences)).all()
    assert rows(tmp_path / "embedding.ids.csv")[1] == {"row": "1", "id": "bevacizumab", "flag": ""}
    done = run("embed", EXAMPLES, "-o", tmp_path / "embedding.txt")
    assert done.code == 2
    assert ".npy" in done.err


def test_windows_and_old_pooling(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sequences: list[str]
) -> None:
    """The old pipeline's batches do not depend on windows: they are made from the whole file."""
    whole, windowed = tmp_path / "whole.csv", tmp_path / "windowed.csv"
    options = ("--pooling", "upstream-batch", "--batch-size", "8")
    assert run("score", EXAMPLES, "-o", whole, *options).code == 0
    monkeypatch.setenv("ABONYX_WINDOW_SIZE", "5")
    assert run("score", EXAMPLES, "-o", windowed, *options).code == 0
    one, other = ([float(row["p_nonspecific"]) for row in rows(path)] for path in (whole, windowed))
    assert np.abs(np.subtract(one, other)).max() < 1e-5
    with abonyx.open_session() as session:
        residues = session.score(sequences)
    shorter = [len(sequence) < 127 for sequence in sequences]
    assert (np.abs(np.array(one) - residues) > 1e-5).sum() >= sum(shorter) // 2


def test_thresholds(run: Any, tmp_path: Path, expected: np.ndarray) -> None:
    output = tmp_path / "out.csv"
    exactly = str(expected[0])
    assert run("score", EXAMPLES, "-o", output, "--threshold", repr(float(expected[0]))).code == 0
    assert rows(output)[0]["nonspecific"] == "0", f"strictly greater: {exactly} is not above itself"
    done = run("score", EXAMPLES, "-o", output, "--assay", "psr")
    assert done.code == 2
    assert "declared: none" in done.err
    assert run("score", EXAMPLES, "-o", output, "--threshold", "1.5").code == 2
    assert run("score", EXAMPLES, "-o", output, "--threshold", "0.5", "--assay", "psr").code == 2


BAD_INPUTS = {
    "empty.csv": (b"", ["empty.csv", "empty"]),
    "header_only.csv": (b"id,sequence\n", ["header_only.csv", "no records"]),
    "blank.fasta": (b"\n\n", ["blank.fasta", "no records"]),
    "column.csv": (f"name,seq\na,{GOOD}\n".encode(), ["column.csv", "sequence", "name", "seq", "--sequence-column"]),
    "empty_sequence.csv": (f"id,sequence\na,{GOOD}\nb,\n".encode(), ["empty_sequence.csv:3", "b", "empty sequence"]),
    "stop.csv": (f"id,sequence\na,{GOOD}*\n".encode(), ["stop.csv:2", "'*' at position 51"]),
    "gap.fasta": (f">a\n{GOOD}\n>b\nEV-QL\n".encode(), ["gap.fasta:3", "b", "'-' at position 3"]),
    "dot.csv": (b"id,sequence\na,EV.QL\n", ["dot.csv:2", "'.' at position 3"]),
    **{f"{x}.csv": (f"id,sequence\na,EV{x}QL\n".encode(), [f"{x}.csv:2", f"'{x}' at position 3"]) for x in "BZUOJ7"},
    "accent.csv": ("id,sequence\na,EVéQL\n".encode(), ["accent.csv:2", "'é' at position 3"]),
    "latin1.csv": ("id,sequence\na,EVéQL\n".encode("latin-1"), ["latin1.csv:2", "U+DCE9 at position 3"]),
    "nul.csv": (b"id,sequence\na,EV\0QL\n", ["nul.csv:2", "U+0000 at position 3"]),
    "long.csv": (b"id,sequence\na," + b"ACDEFGHIKL" * 15 + b"\n", ["long.csv:2", "150 residues", "at most 148"]),
    "headless.fasta": (GOOD.encode(), ["headless.fasta:1", ">"]),
    "ragged.csv": (f"id,sequence\na,{GOOD},surplus\n".encode(), ["ragged.csv:2", "3"]),
    "quote.csv": (f'id,sequence\na,"{GOOD}\n'.encode(), ["quote.csv", "quote"]),
    "cut.csv.gz": (gzip.compress(f"id,sequence\na,{GOOD}\n".encode() * 999, mtime=0)[:-40], ["cut.csv.gz", "gzip"]),
    "no.csv.gz": (b"id,sequence\n", ["no.csv.gz", "gzip"]),
    "picture.png": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", ["picture.png", ".fasta"]),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_bad_input_is_one_clear_error_and_an_existing_output_is_untouched(
    run: Any, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, parts = BAD_INPUTS[name]
    source, output = tmp_path / name, tmp_path / "out.csv"
    source.write_bytes(content)
    output.write_text("earlier work")
    monkeypatch.setattr("abonyx.model.open_model", lambda *_: pytest.fail("the model was opened"))
    done = run("score", source, "-o", output)
    assert done.code == 3, done.err
    for part in parts:
        assert part in done.err
    assert "Traceback" not in done.err
    assert output.read_text() == "earlier work"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "out.csv"])


def test_first_ten_problems_of_many(run: Any, tmp_path: Path) -> None:
    source = tmp_path / "many.csv"
    source.write_text("id,sequence\n" + "".join(f"r{index},EV*\n" for index in range(25)) + f"good,{GOOD}\n")
    done = run("score", source, "-o", tmp_path / "out.csv")
    assert done.code == 3
    assert "25 of 26 records" in done.err
    assert "r9:" in done.err
    assert "r10:" not in done.err
    assert "and 15 more" in done.err
    assert "--on-invalid skip" in done.err


def test_skip_scores_the_rest_and_lists_the_rejected(run: Any, tmp_path: Path) -> None:
    source, output = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text(f"id,sequence\na,{GOOD}\nb,EV*\nc,\na,{GOOD}\n")
    done = run("score", source, "-o", output, "--on-invalid", "skip")
    assert done.code == 0
    assert [row["id"] for row in rows(output)] == ["a", "a"]  # duplicate ids are allowed and kept
    rejected = rows(tmp_path / "out.csv.rejected.csv")
    assert [(row["id"], row["line"]) for row in rejected] == [("b", "3"), ("c", "4")]
    assert "'*' at position 3" in rejected[0]["reason"]
    assert "2 sequences scored, 2 rejected" in done.err


def test_skip_with_nothing_left_is_an_error(run: Any, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("id,sequence\nb,EV*\n")
    done = run("score", source, "-o", tmp_path / "out.csv", "--on-invalid", "skip")
    assert done.code == 3
    assert not (tmp_path / "out.csv").exists()


def test_directory_missing_and_unreadable_input(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run("score", tmp_path, "-o", tmp_path / "out.csv")
    assert (done.code, "Name a directory for -o" in done.err) == (2, True)
    done = run("score", tmp_path / "none.csv", "-o", tmp_path / "out.csv")
    assert done.code == 3
    assert "none.csv" in done.err
    closed = tmp_path / "closed.csv"
    closed.write_text(f"id,sequence\na,{GOOD}\n")
    closed.chmod(0)
    if not os.access(closed, os.R_OK):  # root reads everything
        done = run("score", closed, "-o", tmp_path / "out.csv")
        assert done.code == 3
        assert "closed.csv" in done.err


def test_output_that_cannot_be_written(run: Any, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text(f"id,sequence\na,{GOOD}\n")
    for output, part in ((source, "input"), (tmp_path / "none" / "out.csv", "none"), (tmp_path, "directory")):
        done = run("score", source, "-o", output, "--format", "csv")
        assert done.code == 2, done.err
        assert part in done.err
    assert source.read_text() == f"id,sequence\na,{GOOD}\n"
    done = run("score", source, "-o", tmp_path / "out.xlsx")
    assert done.code == 2
    assert "--format" in done.err


def test_exit_codes(run: Any, tmp_path: Path) -> None:
    output = tmp_path / "out.csv"
    assert run("score", EXAMPLES, "-o", output, "--provider", "cuda").code == 5
    assert run("score", EXAMPLES, "-o", output, "--provider", "gpu").code == 2
    assert run("score", EXAMPLES, "-o", output, "--bundle", tmp_path).code == 4
    assert run("score", EXAMPLES, "-o", output, "--variant", "int4").code == 2
    assert run("score", EXAMPLES).code == 2
    assert run("score", EXAMPLES, "-o", output, "--config", tmp_path / "none.toml").code == 2
    assert run("nonsense").code == 2
    assert not output.exists()
    assert run("--version").out.strip() == f"abonyx, version {abonyx.__version__}"


def test_config_file_and_debug(run: Any, tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text(f'bundle = "{MINI}"\nprovidr = "cpu"\n')
    done = run("score", EXAMPLES, "-o", tmp_path / "out.csv", "--config", config)
    assert done.code == 2
    assert "Did you mean provider?" in done.err
    assert "Traceback" in run("--debug", "score", EXAMPLES, "-o", tmp_path / "out.csv", "--config", config).err


def test_interrupt_leaves_the_old_output_and_nothing_else(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.csv"
    output.write_text("earlier work")

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("abonyx.run.windows.run_sequences", interrupt)
    done = run("score", EXAMPLES, "-o", output)
    assert done.code == 130
    assert output.read_text() == "earlier work"
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


def test_help_lists_every_command(run: Any) -> None:
    out = run("--help").out
    for command in ("score", "embed", "export"):
        assert command in out


def test_input_on_stdin_may_not_be_the_output(tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text(f"id,sequence\na,{GOOD}\n")
    with source.open("rb") as stdin:
        command = [sys.executable, "-m", "abonyx", "score", "-", "-o", str(source)]
        done = subprocess.run(command, stdin=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "is the input" in done.stderr
    assert source.read_text() == f"id,sequence\na,{GOOD}\n"


def test_table_does_not_mix_with_results_on_stdout(run: Any) -> None:
    done = run("score", EXAMPLES, "-o", "-", "--table")
    assert len(list(csv.reader(io.StringIO(done.out)))) == 13
    assert "trastuzumab" in done.err
