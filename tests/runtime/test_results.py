from __future__ import annotations

import builtins
import csv
import errno
import io
import json
import os
import resource
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest

from abonyx.errors import ConfigError
from abonyx.records import Problem, read_records
from abonyx.results import RESULT_COLUMNS, check_output, ids_path, open_embeddings, open_results, write_rejected

IDS = ["a", 'with, comma and "quote"', "two\nlines", "carriage\rreturn", "=1+1", " ä ", "007"]
SEQUENCES = [f"EVQL{'QA' * n}" for n in range(len(IDS))]
P = np.array([0.1, 1e-5, 0.54950005, 0.0, 1.0, 1e-45, 1 / 3], dtype=np.float32)
CALLS = P > 0.5
SHORTEST = ["0.1", "1e-05", "0.54950005", "0.0", "1.0", "1e-45", "0.33333334"]
Format = Literal["csv", "jsonl", "parquet"]
EmbeddingFormat = Literal["npy", "parquet"]
Floats = npt.NDArray[np.float32]
FORMATS = ["csv", "jsonl", "parquet"]


def write_all(path: Path | None, format: Format, metadata: dict[str, str] | None = None) -> None:
    if format == "parquet":
        pytest.importorskip("pyarrow")
    with open_results(path, format, metadata or {}) as writer:
        writer.write(IDS[:3], SEQUENCES[:3], P[:3], CALLS[:3])
        writer.write(IDS[3:], SEQUENCES[3:], P[3:], CALLS[3:].astype(np.uint8))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def no_file_over(size_bytes: int) -> Iterator[None]:
    """Let every write past this size fail (EFBIG), as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# Contents


def test_csv_bytes(tmp_path: Path) -> None:
    write_all(tmp_path / "out.csv", "csv")
    lines = (tmp_path / "out.csv").read_bytes().split(b"\n")
    assert lines[0] == b"id,sequence,p_nonspecific,nonspecific"
    assert lines[1] == b"a,EVQL,0.1,0"
    assert lines[2] == b'"with, comma and ""quote""",EVQLQA,1e-05,0'
    assert b"=1+1,EVQLQAQAQAQA,1.0,1" in lines, "ids are not altered for spreadsheets"
    assert lines[-1] == b""


def test_csv_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    write_all(path, "csv")
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file, strict=True)
    assert tuple(header) == RESULT_COLUMNS
    assert [row[0] for row in rows] == IDS
    assert [row[1] for row in rows] == SEQUENCES
    assert [row[2] for row in rows] == SHORTEST
    assert [row[3] for row in rows] == ["0", "0", "1", "0", "1", "0", "0"]
    assert [record.id for record in read_records(path)] == IDS


def test_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    write_all(path, "jsonl")
    text = path.read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.split("\n")[:-1]]
    assert [tuple(row) for row in rows] == [RESULT_COLUMNS] * len(IDS)
    assert [row["id"] for row in rows] == IDS
    assert [row["sequence"] for row in rows] == SEQUENCES
    assert [row["p_nonspecific"] for row in rows] == [float(number) for number in SHORTEST]
    assert [row["nonspecific"] for row in rows] == CALLS.astype(int).tolist()
    assert '"p_nonspecific":0.54950005,"nonspecific":1}' in text


@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_p_reads_back_as_the_same_float32(tmp_path: Path, format: Format) -> None:
    generator = np.random.default_rng(7)
    p = np.concatenate([generator.random(20000), 10 ** generator.uniform(-44, 0, 20000)]).astype(np.float32)
    ids = [str(n) for n in range(len(p))]
    path = tmp_path / "out"
    with open_results(path, format, {}) as writer:
        writer.write(ids, ids, p, p > 1)
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
    assert table.column_names == list(RESULT_COLUMNS)
    assert [str(kind) for kind in table.schema.types] == ["string", "string", "float", "int8"]
    assert table.schema.metadata == {b"abonyx.bundle": b"mini", b"abonyx.threshold": b"0.5"}
    assert table["id"].to_pylist() == IDS
    assert table["sequence"].to_pylist() == SEQUENCES
    np.testing.assert_array_equal(table["p_nonspecific"].to_numpy(), P)
    assert table["nonspecific"].to_pylist() == CALLS.astype(int).tolist()


@pytest.mark.parametrize("format", FORMATS)
def test_no_rows(tmp_path: Path, format: Format) -> None:
    if format == "parquet":
        pq = pytest.importorskip("pyarrow.parquet")
    with open_results(tmp_path / "out", format, {}):
        pass
    if format == "parquet":
        assert pq.read_table(tmp_path / "out").num_rows == 0
    else:
        header = b"id,sequence,p_nonspecific,nonspecific\n"
        assert (tmp_path / "out").read_bytes() == (header if format == "csv" else b"")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_p_that_is_not_finite_leaves_no_file(tmp_path: Path, value: float) -> None:
    p = np.array([0.5, value], dtype=np.float32)
    with (
        pytest.raises(ValueError, match=r"p_nonspecific of 'b' is (nan|inf)"),
        open_results(tmp_path / "out.jsonl", "jsonl", {}) as writer,
    ):
        writer.write(["a", "b"], ["E", "V"], p, p > 0.5)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(
    ("ids", "sequences", "p", "calls", "message"),
    [
        (1, 2, np.zeros(2, np.float32), 2, "'ids': 1, 'sequences': 2"),
        (2, 2, np.zeros(3, np.float32), 2, "'p': 3"),
        (2, 2, np.zeros(2, np.float32), 1, "'nonspecific': 1"),
        (2, 2, np.zeros(2, np.float64), 2, "float64"),
    ],
)
def test_window_that_does_not_fit(
    tmp_path: Path, ids: int, sequences: int, p: Floats, calls: int, message: str
) -> None:
    with (
        pytest.raises(ValueError, match=message),
        open_results(tmp_path / "out.csv", "csv", {}) as writer,
    ):
        writer.write(["a"] * ids, ["E"] * sequences, p, np.zeros(calls, np.bool_))
    assert contents(tmp_path) == {}


# Standard output


class Stdout(io.TextIOWrapper):
    terminal = False

    def isatty(self) -> bool:
        return self.terminal


@contextmanager
def standard_output(buffer: io.BytesIO, terminal: bool = False) -> Iterator[Stdout]:
    """Stand in for sys.stdout; no fixture, because pytest puts its own capture there before the test's body."""
    stream = Stdout(buffer, encoding="ascii")
    stream.terminal = terminal
    before, sys.stdout = sys.stdout, stream
    try:
        yield stream
    finally:
        sys.stdout = before
        stream.detach()


@pytest.mark.parametrize("format", FORMATS)
def test_standard_output_gets_the_bytes_of_the_file(tmp_path: Path, format: Format) -> None:
    buffer = io.BytesIO()
    with standard_output(buffer) as stdout:
        stdout.write("before ")
        write_all(None, format)
        assert not stdout.closed
    write_all(tmp_path / "out", format)
    assert buffer.getvalue() == b"before " + (tmp_path / "out").read_bytes()


def test_parquet_is_not_for_a_terminal() -> None:
    with standard_output(io.BytesIO(), terminal=True):
        write_all(None, "csv")
        with pytest.raises(ConfigError, match="standard output is a terminal"), open_results(None, "parquet", {}):
            pass


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, ConfigError), (errno.EPIPE, BrokenPipeError)])
def test_standard_output_that_fails(number: int, kind: type[Exception]) -> None:
    class Full(io.BytesIO):
        def write(self, data: object) -> int:
            raise OSError(number, os.strerror(number))

    with standard_output(Full()), pytest.raises(kind, match=os.strerror(number)):
        write_all(None, "csv")


# All or nothing


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError, OSError, SystemExit])
@pytest.mark.parametrize("before", [None, b"old"])
def test_failure_leaves_what_was_there(
    tmp_path: Path, format: Format, failure: type[BaseException], before: bytes | None
) -> None:
    if format == "parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"out.{format}"
    if before is not None:
        path.write_bytes(before)
    expected = contents(tmp_path)
    error = failure("the caller's own")
    with pytest.raises(failure) as caught, open_results(path, format, {}) as writer:
        writer.write(IDS, SEQUENCES, P, CALLS)
        assert set(contents(tmp_path)) != set(expected), "the partial file stands beside OUT"
        raise error
    assert caught.value is error, "not taken for a failure to write"
    assert contents(tmp_path) == expected


def test_partial_file_has_its_name_and_is_not_seen_as_the_output(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    with open_results(path, "csv", {}) as writer:
        writer.write(IDS, SEQUENCES, P, CALLS)
        (partial,) = tmp_path.iterdir()
        assert partial.name.startswith(".out.csv.")
        assert partial.name.endswith(".partial")
        assert not path.exists()
    assert [file.name for file in tmp_path.iterdir()] == ["out.csv"]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("limit", [0, 10, 100])
def test_full_disk(tmp_path: Path, format: Format, limit: int) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")
    if format == "parquet":
        pytest.importorskip("pyarrow.parquet")
    with pytest.raises(ConfigError) as caught, no_file_over(limit):
        write_all(path, format)
    assert str(path) in caught.value.what
    assert os.strerror(errno.EFBIG) in caught.value.what
    assert isinstance(caught.value.__cause__, OSError)
    assert contents(tmp_path) == {"out": b"old"}


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_failure_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os if step == "fsync" else Path, step, fail)
    with pytest.raises(ConfigError, match=r"out\.csv: cannot be written: No space left"):
        write_all(tmp_path / "out.csv", "csv")
    assert contents(tmp_path) == {}


def test_flushed_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []
    fsync, replace = os.fsync, Path.replace

    def spy_fsync(descriptor: int) -> None:
        steps.append(f"fsync {os.fstat(descriptor).st_size}")
        fsync(descriptor)

    def spy_replace(self: Path, target: Path) -> Path:
        steps.append("replace")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(Path, "replace", spy_replace)
    write_all(tmp_path / "out.csv", "csv")
    assert steps == [f"fsync {(tmp_path / 'out.csv').stat().st_size}", "replace"]


def test_parent_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no/out\.csv: cannot be written: No such file or directory"):
        write_all(tmp_path / "no" / "out.csv", "csv")


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_new_file_honours_the_umask(tmp_path: Path, mask: int, mode: int) -> None:
    with umask(mask):
        write_all(tmp_path / "out.csv", "csv")
    assert stat.S_IMODE((tmp_path / "out.csv").stat().st_mode) == mode


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o755])
def test_replaced_file_keeps_its_mode(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "out.csv"
    path.write_bytes(b"old")
    path.chmod(mode)
    with umask(0o022), open_results(path, "csv", {}):
        (partial,) = tmp_path.glob(".*.partial")
        assert stat.S_IMODE(partial.stat().st_mode) == mode, "nobody else reads a private result half way"
    assert path.read_bytes() != b"old"
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_symbolic_link_stays_and_its_target_changes(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "target.csv", tmp_path / "out.csv"
    target.write_bytes(b"old")
    link.symlink_to(target)
    write_all(link, "csv")
    assert link.is_symlink()
    assert target.read_bytes().startswith(b"id,")
    assert [path.name for path in target.parent.iterdir()] == ["target.csv"]


def test_missing_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def refuse(name: str, *args: object, **kwargs: object) -> object:
        if name.startswith("pyarrow"):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return original(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", refuse)
    with (
        pytest.raises(ConfigError, match=r"pip install \"abonyx\[parquet\]\""),
        open_results(tmp_path / "out.parquet", "parquet", {}),
    ):
        pass
    assert contents(tmp_path) == {}


# Embeddings


def embedding(rows: int, width: int) -> Floats:
    return np.random.default_rng(3).standard_normal((rows, width)).astype(np.float32)


def test_npy_and_its_ids(tmp_path: Path) -> None:
    path, whole = tmp_path / "e.v1.npy", embedding(7, 5)
    with open_embeddings(path, "npy", 7, 5, {}) as writer:
        writer.write(IDS[:3], whole[:3])
        writer.write([], whole[3:3])
        writer.write(IDS[3:], np.asfortranarray(whole[3:]))
    for mode in (None, "r"):
        read = np.load(path, mmap_mode=mode)
        assert (read.dtype, read.flags["C_CONTIGUOUS"]) == (np.dtype("<f4"), True)
        np.testing.assert_array_equal(read, whole)
    assert ids_path(path) == tmp_path / "e.v1.ids.csv"
    with ids_path(path).open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [["row", "id"], *([str(n), id_] for n, id_ in enumerate(IDS))]
    assert len(list(tmp_path.iterdir())) == 2


def test_parquet_embeddings(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    path, whole = tmp_path / "e.parquet", embedding(7, 5)
    with open_embeddings(path, "parquet", 7, 5, {"bundle": "mini"}) as writer:
        writer.write(IDS[:3], whole[:3])
        writer.write(IDS[3:], whole[3:])
    table = pq.read_table(path)
    assert table.column_names == ["id", "embedding"]
    assert str(table.schema.field("embedding").type) == "fixed_size_list<element: float>[5]"
    assert table.schema.metadata == {b"abonyx.bundle": b"mini"}
    assert table["id"].to_pylist() == IDS
    np.testing.assert_array_equal(np.array(table["embedding"].to_pylist(), dtype=np.float32), whole)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("format", ["npy", "parquet"])
def test_no_embeddings(tmp_path: Path, format: EmbeddingFormat) -> None:
    pytest.importorskip("pyarrow.parquet")
    with open_embeddings(tmp_path / "e.npy", format, 0, 5, {}):
        pass
    if format == "npy":
        assert np.load(tmp_path / "e.npy").shape == (0, 5)


@pytest.mark.parametrize("format", ["npy", "parquet"])
def test_other_number_of_embeddings_than_announced(tmp_path: Path, format: EmbeddingFormat) -> None:
    pytest.importorskip("pyarrow.parquet")
    with (
        pytest.raises(ValueError, match="7 embeddings were written, 8 announced"),
        open_embeddings(tmp_path / "e", format, 8, 5, {}) as writer,
    ):
        writer.write(IDS, embedding(7, 5))
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("wrong", [embedding(7, 4), embedding(6, 5), embedding(7, 5).astype(np.float64)])
def test_embedding_of_another_shape(tmp_path: Path, wrong: Floats) -> None:
    with (
        pytest.raises(ValueError, match=r"needs \(7, 5\) float32, not \(\d, \d\) float"),
        open_embeddings(tmp_path / "e.npy", "npy", 7, 5, {}) as writer,
    ):
        writer.write(IDS, wrong)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("format", ["npy", "parquet"])
def test_interrupted_or_full_embeddings_leave_both_files_alone(tmp_path: Path, format: EmbeddingFormat) -> None:
    pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "e.npy"
    path.write_bytes(b"old")
    ids_path(path).write_bytes(b"old ids")
    expected = contents(tmp_path)
    with pytest.raises(KeyboardInterrupt), open_embeddings(path, format, 7, 5, {}) as writer:
        writer.write(IDS, embedding(7, 5))
        raise KeyboardInterrupt
    assert contents(tmp_path) == expected
    with (
        pytest.raises(ConfigError, match=r"e\.npy: cannot be written: File too large"),
        no_file_over(5000),
        open_embeddings(path, format, 7, 5000, {}) as writer,
    ):
        writer.write(IDS, embedding(7, 5000))
    assert contents(tmp_path) == expected


# Rejected records


def test_rejected(tmp_path: Path) -> None:
    path = tmp_path / "out.csv.rejected.csv"
    problems = [Problem("a,b", 3, "two\nlines"), Problem("c", 9, "character '\udcff' at 2")]
    write_rejected(path, iter(problems))
    expected = b'id,line,reason\n"a,b",3,"two\nlines"\nc,9,character \'\\udcff\' at 2\n'
    assert contents(tmp_path) == {path.name: expected}


def test_rejected_is_atomic(tmp_path: Path) -> None:
    def problems() -> Iterator[Problem]:
        yield Problem("a", 1, "empty")
        raise KeyboardInterrupt

    path = tmp_path / "r.csv"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        write_rejected(path, problems())
    assert contents(tmp_path) == {"r.csv": b"old"}


# check_output


def refused(output: Path, source: Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        check_output(output, source)
    assert str(output) in caught.value.what
    assert caught.value.fix
    return caught.value.what


def test_good_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "in.csv"
    source.write_bytes(b"x")
    (tmp_path / "old.csv").write_bytes(b"x")
    check_output(tmp_path / "new.csv", source)
    check_output(tmp_path / "old.csv", source)
    check_output(tmp_path / "new.csv", None)
    check_output(tmp_path / "new.csv", tmp_path / "missing.csv")
    check_output(None, source)
    monkeypatch.chdir(tmp_path)
    check_output(Path("new.csv"), source)
    assert sorted(contents(tmp_path)) == ["in.csv", "old.csv"]


@pytest.mark.parametrize("way", ["same", "relative", "symbolic", "hard", "source is a link"])
def test_output_that_is_the_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    source, output = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_bytes(b"x")
    if way == "same":
        output = source
    elif way == "relative":
        (tmp_path / "sub").mkdir()
        monkeypatch.chdir(tmp_path / "sub")
        output = Path("../sub/../in.csv")
    elif way == "symbolic":
        output.symlink_to(source)
    elif way == "hard":
        os.link(source, output)
    else:
        output, source = source, output
        source.symlink_to(output)
    message = refused(output, source)
    assert f"is the input {source} itself" in message


def test_output_without_its_directory(tmp_path: Path) -> None:
    assert f"there is no directory {tmp_path / 'no'}" in refused(tmp_path / "no" / "out.csv")
    (tmp_path / "file").write_bytes(b"x")
    assert f"there is no directory {tmp_path / 'file'}" in refused(tmp_path / "file" / "out.csv")


def test_output_that_is_a_directory(tmp_path: Path) -> None:
    assert "is a directory" in refused(tmp_path)


def test_output_that_is_a_device_or_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to(os.devnull)
    for path in (tmp_path / "pipe", tmp_path / "null"):
        assert "is a device or a pipe" in refused(path)
        with pytest.raises(ConfigError, match="is a device or a pipe"):
            write_all(path, "csv")
    assert not Path(os.devnull).is_file()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_output_in_a_directory_that_is_not_writable(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    assert "is not writable" in refused(tmp_path / "out.csv")


def test_output_in_a_directory_that_is_not_writable_as_any_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path or not mode & os.W_OK)
    assert f"directory {tmp_path} is not writable" in refused(tmp_path / "out.csv")
