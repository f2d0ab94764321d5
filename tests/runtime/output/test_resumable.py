"""An output is complete or can be resumed, at whatever point and for whatever reason the run ends."""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from abonyx.errors import ConfigError, OutputInUse, ResumeRefused
from abonyx.output.files import ids_path, rejected_path
from abonyx.output.formats import (
    Columns,
    Format,
    embedding_columns,
    embeddings_format,
    rejected_bytes,
    results_format,
    score_columns,
)
from abonyx.output.journal import Journal
from abonyx.output.resumable import ResumableOutput, open_resumable
from abonyx.output.stream import open_stream

from .written import CALLS, FLAGS, IDS, SEQUENCES, WORDS, P, contents, header, no_file_over, umask, write_all

KINDS = ["csv", "jsonl", "parquet", "npy", "embedding.parquet"]
EMBEDDING = P[:, None] * 3


class Dies(BaseException):
    """Simulates kill -9: after it, no code of the process runs, not even a clean-up."""


def form(kind: str) -> Format:
    if "parquet" in kind:
        pytest.importorskip("pyarrow")
    if kind == "npy":
        return embeddings_format("npy", 7, 1, {}).beside(rejected_bytes([("x", 3, "empty")]))  # type: ignore[list-item]
    if kind == "embedding.parquet":
        return embeddings_format("parquet", 7, 1, {})
    return results_format(kind, {})  # type: ignore[arg-type]


def targets(folder: Path, kind: str) -> list[Path]:
    path = folder / f"out.{kind}"
    return [rejected_path(path), ids_path(path), path] if kind == "npy" else [path]


def window(kind: str, start: int, stop: int) -> Columns:
    rows = slice(start, stop)
    if kind in ("npy", "embedding.parquet"):
        return embedding_columns(IDS[rows], EMBEDDING[rows], 1, FLAGS[rows])
    return score_columns(IDS[rows], SEQUENCES[rows], P[rows], CALLS[rows], WORDS[rows], FLAGS[rows])


def run(folder: Path, kind: str, *, restart: bool = False, **identity: Any) -> int:
    """One process of a run with three windows; returns the row at which it resumed."""
    with open_resumable(targets(folder, kind), form(kind), header(7, **identity), restart=restart) as output:
        first = output.rows_done
        for start in range(first, 7, 3):
            output.append(min(start + 3, 7), window(kind, start, min(start + 3, 7)))
    return first


def calls_of_a_run(monkeypatch: pytest.MonkeyPatch, act: Callable[[str, int], None]) -> None:
    """Call `act` with the name and number of each system call that changes or flushes a file, before it is made."""
    count = iter(range(10_000))

    def watched(name: str, original: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            act(name, next(count))
            return original(*arguments, **options)

        return call

    for owner, name in ((os, "fsync"), (os, "open"), (Path, "replace"), (Path, "unlink")):
        monkeypatch.setattr(owner, name, watched(name, getattr(owner, name)))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # its files stay open, as in a kill
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_dies_before_any_system_call_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The run dies before each call in turn. Data that is not flushed stays, or in a second round is cut."""
    whole = tmp_path / "whole"
    whole.mkdir()
    seen: list[str] = []
    with monkeypatch.context() as patch:
        calls_of_a_run(patch, lambda name, _: seen.append(name))
        run(whole, kind)
    assert seen.count("replace") == len(targets(whole, kind))
    expected = contents(whole)
    assert set(expected) == {path.name for path in targets(whole, kind)}
    went_on = set()
    for at in range(len(seen)):
        folder = tmp_path / str(at)
        folder.mkdir()

        def die(_: str, number: int, at: int = at) -> None:
            if number >= at:
                raise Dies

        with monkeypatch.context() as patch:
            calls_of_a_run(patch, die)
            patch.setattr(ResumableOutput, "leave", lambda self: self._journal.close())
            with pytest.raises(Dies):
                run(folder, kind)
        if at % 2:  # what a write that was cut short leaves, which no journal line counts
            for path in folder.glob("*.partial"):
                if not (folder / f"out.{kind}.journal").read_bytes().count(b"complete"):
                    path.write_bytes(path.read_bytes() + b"torn")
        went_on.add(run(folder, kind))
        assert contents(folder) == expected, f"died before call {at}, {seen[at]}"
    assert went_on == {0, 3, 6, 7}


def interrupted(folder: Path, kind: str = "csv", **identity: Any) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        open_resumable(targets(folder, kind), form(kind), header(7, **identity), restart=False) as output,
    ):
        output.append(3, window(kind, 0, 3))
        raise KeyboardInterrupt


def test_a_journal_line_that_was_cut_short_is_dropped(tmp_path: Path) -> None:
    run(tmp_path, "csv")
    expected = contents(tmp_path)
    interrupted(tmp_path)
    journal = tmp_path / "out.csv.journal"
    text = journal.read_bytes()
    ends = [at + 1 for at, byte in enumerate(text) if byte == ord("\n")]
    for length in sorted({0, 1, 20, 100, *ends, *(end - 1 for end in ends), *(end + 1 for end in ends[:-1])}):
        journal.write_bytes(text[:length])
        if b"\n" not in text[:length]:  # a header that the disk never had: no partial file can be that run's
            left = contents(tmp_path)
            with pytest.raises(
                ResumeRefused, match=r"out\.csv\.partial: exists, but is not part of an interrupted run: no journal"
            ):
                run(tmp_path, "csv")
            assert contents(tmp_path).items() >= {name: left[name] for name in left if name != journal.name}.items()
            (tmp_path / "out.csv.partial").unlink()
        went_on = run(tmp_path, "csv")
        assert went_on == (3 if text[:length].count(b"\n") >= 4 else 0)
        assert contents(tmp_path) == expected
        interrupted(tmp_path)
        assert journal.read_bytes().count(b"\n") == text.count(b"\n")


def test_what_differs_is_named_with_both_values_and_nothing_is_touched(tmp_path: Path) -> None:
    interrupted(tmp_path, same=1, threshold=0.5, gone="x")
    before = contents(tmp_path)
    with pytest.raises(ResumeRefused) as caught:
        run(tmp_path, "csv", same=1, threshold=0.6, new=None)
    assert "left 3 of 7 rows" in caught.value.what
    assert [line.strip() for line in caught.value.what.splitlines()[1:]] == [
        "threshold: 0.5 then, 0.6 now",
        "gone: 'x' then, None now",
    ]
    assert "restart=True" in caught.value.fix
    assert contents(tmp_path) == before
    assert run(tmp_path, "csv", same=1, threshold=0.6, restart=True) == 0
    assert sorted(contents(tmp_path)) == ["out.csv"]


def test_restart_drops_what_a_run_with_more_files_left(tmp_path: Path) -> None:
    interrupted(tmp_path, "npy")
    assert len(contents(tmp_path)) == 4
    path = tmp_path / "out.npy"
    with open_resumable([path], form("csv"), header(7), restart=True) as output:
        output.append(7, window("csv", 0, 7))
    assert sorted(contents(tmp_path)) == ["out.npy"]


def test_outputs_of_one_stem_do_not_touch_each_others_files(tmp_path: Path) -> None:
    interrupted(tmp_path, "npy")
    expected = contents(tmp_path)
    run(tmp_path, "csv", restart=True)
    assert contents(tmp_path).items() >= expected.items()
    assert run(tmp_path, "npy") == 3


@pytest.mark.parametrize("change", ["shorter", "altered", "missing"])
def test_partial_files_that_are_not_what_the_journal_says(tmp_path: Path, change: str) -> None:
    interrupted(tmp_path)
    partial = tmp_path / "out.csv.partial"
    data = partial.read_bytes()
    if change == "missing":
        partial.unlink()
    else:
        partial.write_bytes(data[:-1] if change == "shorter" else data[:-1] + b"?")
    with pytest.raises(ResumeRefused, match="missing" if change == "missing" else f"the journal says {len(data)}"):
        run(tmp_path, "csv")
    assert run(tmp_path, "csv", restart=True) == 0


@pytest.mark.parametrize(
    "text",
    [
        *(b"my own notes\n", b"my own notes", b'{"type":"started"}\n', b"\0\0notes", b'{"type":"head","x":1}\n'),
        *(b'{\n "mine": 1\n}\n', b"\nmine\n", b"\0\0\nmine\n"),
    ],
)
def test_a_file_that_is_not_a_journal_is_left_alone(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "out.csv.journal").write_bytes(text)
    for restart in (False, True):
        with pytest.raises(ResumeRefused, match=r"out\.csv\.journal") as caught:
            run(tmp_path, "csv", restart=restart)
        assert caught.value.fix == "Move it away."
        assert contents(tmp_path) == {"out.csv.journal": text}


@pytest.mark.parametrize("text", [b'{"type":"header","schema":9}\n', b'{"type":"header",\nsomething\n'])
def test_a_journal_that_cannot_be_read_is_dropped_by_a_restart(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "out.csv.journal").write_bytes(text)
    with pytest.raises(ResumeRefused, match="restart=True"):
        run(tmp_path, "csv")
    assert contents(tmp_path) == {"out.csv.journal": text}
    run(tmp_path, "csv", restart=True)
    assert sorted(contents(tmp_path)) == ["out.csv"]


@pytest.mark.parametrize("text", [b"\0" * 400, b'{"type":"header","iden' + b"\0" * 400])
def test_a_first_line_that_a_power_cut_left_as_zeros_is_dropped(tmp_path: Path, text: bytes) -> None:
    """ext4 may have a file's new length before its bytes."""
    (tmp_path / "out.csv.journal").write_bytes(text)
    assert run(tmp_path, "csv") == 0
    assert sorted(contents(tmp_path)) == ["out.csv"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("journal", [None, b"", b"{"])
def test_a_partial_file_that_no_journal_names_is_somebody_elses(
    tmp_path: Path, kind: str, restart: bool, journal: bytes | None
) -> None:
    """The journal was lost, or the file does not belong to abonyx."""
    suffixes = [".converted.partial", ".partial"] if "parquet" in kind else [".partial"]
    for path in [path.with_name(path.name + suffix) for path in targets(tmp_path, kind) for suffix in suffixes]:
        path.write_bytes(b"somebody's notes")
        if journal is not None:
            (tmp_path / f"out.{kind}.journal").write_bytes(journal)
        with pytest.raises(
            ResumeRefused, match=f"{path}: exists, but is not part of an interrupted run: no journal .*names it"
        ) as caught:
            run(tmp_path, kind, restart=restart)
        assert "Move it away" in caught.value.fix
        assert {name for name, data in contents(tmp_path).items() if data != journal} == {path.name}
        path.unlink()
    assert run(tmp_path, kind, restart=restart) == 0


def test_a_partial_file_that_another_kind_of_run_left_no_name_of_stays(tmp_path: Path) -> None:
    """The journal belongs to a run without a list of rejected records. Its restart removes no file of that name."""
    interrupted(tmp_path)
    notes = tmp_path / "out.csv.rejected.csv.partial"
    notes.write_bytes(b"somebody's notes")
    run(tmp_path, "csv", restart=True)
    assert notes.read_bytes() == b"somebody's notes"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # its files stay open, as in a kill
def test_a_partial_file_that_appears_while_the_run_begins_is_not_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Journal.append

    def late(self: Journal, line: Any) -> None:
        original(self, line)
        (tmp_path / "out.csv.partial").write_bytes(b"somebody's notes")

    monkeypatch.setattr(Journal, "append", late)
    with pytest.raises(ResumeRefused, match=r"out\.csv\.partial: exists"):
        run(tmp_path, "csv")
    assert contents(tmp_path) == {"out.csv.partial": b"somebody's notes"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", [0o444, 0o400, 0o440])
def test_a_run_on_an_output_that_is_protected_can_be_resumed(tmp_path: Path, kind: str, mode: int) -> None:
    """The owner may reopen the partial file. (Root may reopen any file, and some machines run these tests as root.)"""
    for path in targets(tmp_path, kind):
        path.write_bytes(b"old")
        path.chmod(mode)
    interrupted(tmp_path, kind)
    for path in tmp_path.glob("*.partial"):
        assert stat.S_IMODE(path.stat().st_mode) == mode | 0o600
    assert run(tmp_path, kind) == 3
    for path in targets(tmp_path, kind):
        assert stat.S_IMODE(path.stat().st_mode) == mode
        assert path.read_bytes() != b"old"


def test_a_file_missing_at_the_end_is_not_taken_for_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An older OUT does not count as the result."""
    (tmp_path / "out.csv").write_bytes(b"last week's")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "I/O error")))
        with pytest.raises(ConfigError, match="I/O error"):
            run(tmp_path, "csv")
    partial = tmp_path / "out.csv.partial"
    data = partial.read_bytes()
    partial.unlink()
    with pytest.raises(ResumeRefused, match=r"out\.csv\.partial: is missing, but"):
        run(tmp_path, "csv")
    partial.write_bytes(data)
    assert run(tmp_path, "csv") == 7
    assert contents(tmp_path) == {"out.csv": data}


def dies_at_the_rename(folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed when the journal is complete but no file has its final name."""

    def die(*_: object) -> None:
        raise Dies

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", die)
        patch.setattr(ResumableOutput, "leave", lambda self: self._journal.close())
        with pytest.raises(Dies):
            run(folder, kind)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # its files stay open, as in a kill
@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("change", [lambda data: data[:-9], lambda data: data[:-1] + b"?", lambda data: b""])
def test_bytes_that_changed_after_the_run_was_complete_are_not_put_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, change: Callable[[bytes], bytes]
) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "changed"
    whole.mkdir()
    folder.mkdir()
    run(whole, kind)
    dies_at_the_rename(folder, kind, monkeypatch)
    ready = folder / f"out.{kind}{'.converted' * (kind == 'parquet')}.partial"
    ready.write_bytes(change(ready.read_bytes()))
    if kind == "csv":
        with pytest.raises(ResumeRefused, match=r"sha256 is \w+, the journal says \w+"):
            run(folder, kind)
        assert not (folder / "out.csv").exists()
    else:  # made again from the rows, which are still there
        run(folder, kind)
        assert contents(folder) == contents(whole)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_converted_file_that_a_power_cut_took_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    run(tmp_path / "whole", "parquet")
    dies_at_the_rename(tmp_path / "cut", "parquet", monkeypatch)
    (tmp_path / "cut" / "out.parquet.converted.partial").unlink()
    run(tmp_path / "cut", "parquet")
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("name", ["partial", "journal"])
@pytest.mark.parametrize("act", ["remove", "replace"])
def test_a_file_that_is_removed_or_replaced_during_the_run_ends_it(
    tmp_path: Path, kind: str, name: str, act: str
) -> None:
    path = tmp_path / f"out.{kind}.{name}"
    with (
        pytest.raises(ResumeRefused, match=rf"{path.name}: was removed or replaced during the run"),
        open_resumable(targets(tmp_path, kind), form(kind), header(7), restart=False) as output,
    ):
        output.append(3, window(kind, 0, 3))
        data = path.read_bytes()
        path.unlink()
        if act == "replace":
            path.write_bytes(data)
        output.append(6, window(kind, 3, 6))
    assert not (tmp_path / f"out.{kind}").exists()


def test_bytes_that_are_written_over_before_the_end_are_not_put_in_place(tmp_path: Path) -> None:
    with (
        pytest.raises(ResumeRefused, match=r"out\.csv\.partial: sha256"),
        open_resumable(targets(tmp_path, "csv"), form("csv"), header(3), restart=False) as output,
    ):
        output.append(3, window("csv", 0, 3))
        with (tmp_path / "out.csv.partial").open("r+b") as file:
            file.write(b"X")
    assert not (tmp_path / "out.csv").exists()


def test_two_runs_on_one_output(tmp_path: Path) -> None:
    with open_resumable([tmp_path / "out.csv"], form("csv"), header(7), restart=False) as output:
        for restart in (False, True):
            with pytest.raises(OutputInUse, match=rf"another run is writing it \(process {os.getpid()} on"):
                run(tmp_path, "csv", restart=restart)
        output.append(7, window("csv", 0, 7))
    assert sorted(contents(tmp_path)) == ["out.csv"]
    assert run(tmp_path, "csv") == 0, "the lock is gone with the run"


def test_a_run_that_waits_for_a_journal_being_removed_makes_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It opened the journal before the first run removed it, and locked it later: nobody else can find that file."""
    first = Journal(tmp_path / "out.csv")
    lock = Journal._lock

    def late(self: Journal, file: Any) -> bool:
        if first.path.exists() and not first._file.closed:
            first.remove()
        return lock(self, file)

    monkeypatch.setattr(Journal, "_lock", late)
    second = Journal(tmp_path / "out.csv")
    assert os.path.samestat(os.fstat(second._file.fileno()), second.path.stat())
    second.remove()


def test_a_halved_token_budget_outlives_the_process(tmp_path: Path) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        open_resumable(targets(tmp_path, "csv"), form("csv"), header(7), restart=False) as output,
    ):
        output.append(3, window("csv", 0, 3))
        output.halved(256, "note: halved")
        raise KeyboardInterrupt
    later = header(7)
    later = type(later)(later.identity, "config", rows=7, rejected=0, token_budget=4096, window_size=99)
    with (
        pytest.raises(KeyboardInterrupt),
        open_resumable(targets(tmp_path, "csv"), form("csv"), later, restart=False) as output,
    ):
        assert (output.token_budget, output.window_size, output.notes) == (256, 3, ["note: halved"])
        raise KeyboardInterrupt


# All or nothing


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError, OSError, SystemExit])
@pytest.mark.parametrize("before", [None, b"old"])
def test_failure_before_the_first_window_leaves_what_was_there(
    tmp_path: Path, kind: str, failure: type[BaseException], before: bytes | None
) -> None:
    for path in targets(tmp_path, kind):
        if before is not None:
            path.write_bytes(before)
    expected = contents(tmp_path)
    error = failure("the caller's own")
    with (
        pytest.raises(failure) as caught,
        open_resumable(targets(tmp_path, kind), form(kind), header(7), restart=False),
    ):
        assert set(contents(tmp_path)) > set(expected), "the partial file stands beside OUT"
        raise error
    assert caught.value is error, "not taken for a failure to write"
    assert contents(tmp_path) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_failure_later_keeps_the_rows_and_leaves_the_output_alone(tmp_path: Path, kind: str) -> None:
    for path in targets(tmp_path, kind):
        path.write_bytes(b"old")
    interrupted(tmp_path, kind)
    assert {contents(tmp_path)[path.name] for path in targets(tmp_path, kind)} == {b"old"}
    assert run(tmp_path, kind) == 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("limit", [0, 10, 100, 400, 700, 800])
def test_full_disk(tmp_path: Path, kind: str, limit: int) -> None:
    run(tmp_path, kind)
    expected = contents(tmp_path)
    for path in targets(tmp_path, kind):
        path.write_bytes(b"old")
    try:
        with no_file_over(limit):
            run(tmp_path, kind)
    except ConfigError as error:
        assert "out." in error.what
        assert os.strerror(errno.EFBIG) in error.what
        assert isinstance(error.__cause__, OSError)
        assert {contents(tmp_path)[path.name] for path in targets(tmp_path, kind)} == {b"old"}
        run(tmp_path, kind)
    assert contents(tmp_path) == expected


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_new_file_honours_the_umask(tmp_path: Path, mask: int, mode: int) -> None:
    with umask(mask):
        write_all(tmp_path / "out.csv", "csv")
    assert stat.S_IMODE((tmp_path / "out.csv").stat().st_mode) == mode


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o755])
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_replaced_file_keeps_its_mode(tmp_path: Path, mode: int, kind: str) -> None:
    path = tmp_path / f"out.{kind}"
    path.write_bytes(b"old")
    path.chmod(mode)
    with umask(0o022), open_resumable([path], form(kind), header(7), restart=False) as output:
        partial = tmp_path / f"out.{kind}.partial"
        assert stat.S_IMODE(partial.stat().st_mode) == mode, "nobody else reads a private result half way"
        output.append(7, window(kind, 0, 7))
    assert path.read_bytes() != b"old"
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_symbolic_link_stays_and_its_target_changes(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "target.csv", tmp_path / "out.csv"
    target.write_bytes(b"old")
    link.symlink_to(target)
    interrupted(tmp_path)
    assert sorted(contents(target.parent)) == ["target.csv", "target.csv.journal", "target.csv.partial"]
    assert run(tmp_path, "csv") == 3
    assert link.is_symlink()
    assert target.read_bytes().startswith(b"id,")
    assert [path.name for path in target.parent.iterdir()] == ["target.csv"]


def test_parent_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no/out\.csv\S*: cannot be written: No such file or directory"):
        write_all(tmp_path / "no" / "out.csv", "csv")


# Standard output


class Stdout(io.TextIOWrapper):
    terminal = False

    def isatty(self) -> bool:
        return self.terminal


@contextmanager
def standard_output(buffer: io.BytesIO, terminal: bool = False) -> Iterator[Stdout]:
    """Replace sys.stdout. This is not a fixture, because pytest would replace it again before the test's body."""
    stream = Stdout(buffer, encoding="ascii")
    stream.terminal = terminal
    before, sys.stdout = sys.stdout, stream
    try:
        yield stream
    finally:
        sys.stdout = before
        stream.detach()


def stream_all(kind: str) -> None:
    with open_stream(form(kind), header(7)) as stream:
        stream.append(3, window(kind, 0, 3))
        stream.append(7, window(kind, 3, 7))


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_standard_output_gets_the_bytes_of_the_file(tmp_path: Path, kind: Any) -> None:
    buffer = io.BytesIO()
    with standard_output(buffer) as stdout:
        stdout.write("before ")
        stream_all(kind)
        assert not stdout.closed
    write_all(tmp_path / "out", kind)
    assert buffer.getvalue() == b"before " + (tmp_path / "out").read_bytes()


def test_parquet_is_not_for_a_terminal() -> None:
    with standard_output(io.BytesIO(), terminal=True):
        stream_all("csv")
        with pytest.raises(ConfigError, match="standard output is a terminal"):
            stream_all("parquet")


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, ConfigError), (errno.EPIPE, BrokenPipeError)])
def test_standard_output_that_fails(number: int, kind: type[Exception]) -> None:
    class Full(io.BytesIO):
        def write(self, data: object) -> int:
            raise OSError(number, os.strerror(number))

    with standard_output(Full()), pytest.raises(kind, match=os.strerror(number)):
        stream_all("csv")


@pytest.mark.parametrize("full", [False, True])
def test_parquet_that_no_temporary_file_can_hold(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, full: bool) -> None:
    def fail(**_: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/nowhere']")

    if full:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    else:
        monkeypatch.setattr(tempfile, "TemporaryFile", fail)
    buffer = io.BytesIO()
    with standard_output(buffer), no_file_over(1_000 if full else 1 << 30), pytest.raises(ConfigError) as caught:
        stream_all("parquet")
    assert (f"in {tmp_path} " if full else "No usable temporary directory found") in caught.value.what
    assert "Set TMPDIR" in caught.value.fix
    assert buffer.getvalue() == b"", "nothing is written before the whole file can be"
