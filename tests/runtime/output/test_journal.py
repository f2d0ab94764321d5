"""A journal with lines that the run did not write, and files that do not belong to the run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from abonyx.errors import ResumeRefused
from abonyx.output.chain import Chain
from abonyx.output.journal import Journal
from abonyx.output.resumable import ResumableOutput, open_resumable

from .test_resumable import dies_at_the_rename, form, interrupted, run, targets, window
from .written import contents, header

# The lines after `interrupted`: header, window of 0 rows, started, window of 3 rows (of 7 rows).
LAST = 4
Lines = list[dict[str, Any]]


def forged(journal: Path, change: Callable[[Lines], object]) -> None:
    """Change the lines of a journal, and compute their checks again."""
    lines = [json.loads(line) for line in journal.read_bytes().splitlines()]
    change(lines)
    chain = Chain()
    for line in lines:
        line.pop("check", None)
    written = [chain.add(json.dumps(line, separators=(",", ":")).encode()) for line in lines]
    journal.write_bytes(b"".join(line + b"\n" for line in written))


def refused(folder: Path, part: str) -> None:
    """Check that the run is refused for this reason and changes nothing, and that it starts again with --restart."""
    before = contents(folder)
    with pytest.raises(ResumeRefused, match=part) as caught:
        run(folder, "csv")
    assert str(folder / "out.csv.journal") in caught.value.what
    assert "restart=True" in caught.value.fix
    assert contents(folder) == before
    assert run(folder, "csv", restart=True) == 0
    assert sorted(contents(folder)) == ["out.csv"]


@pytest.mark.parametrize("rows_done", [b"0", b"2", b"4", b"7", b"40", b"-3"])
def test_a_count_of_rows_that_was_changed_is_refused(tmp_path: Path, rows_done: bytes) -> None:
    """Otherwise rows would be missing or appear twice."""
    interrupted(tmp_path)
    journal = tmp_path / "out.csv.journal"
    text = journal.read_bytes()
    journal.write_bytes(text.replace(b'"rows_done":3,', b'"rows_done":%s,' % rows_done))
    assert journal.read_bytes() != text
    refused(tmp_path, f"line {LAST} ")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda lines: [lines[0].replace(b'"window_size":3', b'"window_size":4'), *lines[1:]], 1),
        (lambda lines: [lines[0], *lines[2:]], 2),
        (lambda lines: [lines[0], lines[2], lines[1], lines[3]], 2),
        (lambda lines: [*lines, lines[1]], LAST + 1),
        (lambda lines: [*lines, b'{"type":"complete","sha256":[]}'], LAST + 1),
        (lambda lines: [*lines[:3], lines[3].replace(b"check", b"chalk")], LAST),
    ],
)
def test_a_line_that_was_changed_removed_or_added_is_refused(
    tmp_path: Path, change: Callable[[list[bytes]], list[bytes]], line: int
) -> None:
    interrupted(tmp_path)
    journal = tmp_path / "out.csv.journal"
    journal.write_bytes(b"".join(each + b"\n" for each in change(journal.read_bytes().splitlines())))
    refused(tmp_path, f"line {line} was changed or moved: its check is [0-9a-z]+, not [0-9a-f]{{16}}")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda lines: lines[3].update(rows_done=40), "line 4 says 40 of 7 rows are done, the lines above say 0"),
        (
            lambda lines: lines.append(lines[1] | {"type": "window"}),
            "line 5 says 0 of 7 rows are done, the lines above say 3",
        ),
        (lambda lines: lines[3].update(rows_done=-3), r"line 4 cannot be read: .*rows_done"),
        (lambda lines: lines[3].update(sha256=[]), "line 4 has 0 hashes, for 1 files"),
        (lambda lines: lines[3].update(sha256=["0" * 63]), r"line 4 cannot be read: .*sha256"),
        (lambda lines: lines[3].update(size_bytes=[]), "line 4 has 0 sizes, for 1 files"),
        (lambda lines: lines[3].update(size_bytes=[1, 2]), "line 4 has 2 sizes, for 1 files"),
        (lambda lines: lines[3].update(size_bytes=[-1]), r"line 4 cannot be read: .*size_bytes"),
        (lambda lines: lines[0].update(rows=8), "line 1 says that the run has 8 rows, but it has 7"),
        (
            lambda lines: lines.append({"type": "complete", "sha256": lines[3]["sha256"]}),
            "line 5 says the files are whole, after 3 of 7 rows",
        ),
        (
            lambda lines: lines.extend([lines[3] | {"rows_done": 7}, {"type": "complete", "sha256": []}]),
            "line 6 has 0 hashes, for 1 files",
        ),
    ],
)
def test_facts_that_contradict_each_other_are_refused(
    tmp_path: Path, change: Callable[[Lines], object], part: str
) -> None:
    """The facts were changed, and the checks were computed again."""
    interrupted(tmp_path)
    forged(tmp_path / "out.csv.journal", change)
    refused(tmp_path, part)


def test_a_journal_that_nobody_changed_is_resumed(tmp_path: Path) -> None:
    """`forged` writes the same lines as a run."""
    interrupted(tmp_path)
    before = contents(tmp_path)
    forged(tmp_path / "out.csv.journal", lambda _: None)
    assert contents(tmp_path) == before
    assert run(tmp_path, "csv") == 3


def test_a_journal_of_another_version_is_refused_as_that(tmp_path: Path) -> None:
    """Version 0.1's lines had no check; another one's may have other fields."""
    for more in ({}, {"identity": 5}):
        interrupted(tmp_path)
        journal = tmp_path / "out.csv.journal"
        lines = [json.loads(line) for line in journal.read_bytes().splitlines()]
        lines[0] |= {"schema": 1}
        for line in lines:
            del line["check"]
        old = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
        journal.write_text(old)
        if not more:
            refused(tmp_path, "its schema is 1, this version of abonyx reads 2")
            continue
        journal.write_text(json.dumps(lines[0] | more, separators=(",", ":")) + "\n")
        with pytest.raises(ResumeRefused, match="its schema is"):
            run(tmp_path, "csv")


@pytest.mark.parametrize("kind", ["csv", "parquet", "npy"])
@pytest.mark.parametrize("rows_done", [0, 3])
def test_a_run_whose_files_were_removed_leaves_those_of_the_next_run(tmp_path: Path, kind: str, rows_done: int) -> None:
    """The first run was paused meanwhile, and ends at its next window."""
    run(tmp_path, kind)
    expected = contents(tmp_path)
    for path in targets(tmp_path, kind):
        path.unlink()
    first = ResumableOutput(targets(tmp_path, kind), form(kind), header(7))
    first.open(restart=False)
    if rows_done:
        first.append(3, window(kind, 0, 3))
    for path in list(tmp_path.iterdir()):
        path.unlink()
    with open_resumable(targets(tmp_path, kind), form(kind), header(7), restart=False) as later:
        later.append(3, window(kind, 0, 3))
        with pytest.raises(ResumeRefused, match="was removed or replaced during the run"):
            first.append(7, window(kind, rows_done, 7))
        first.leave()
        later.append(6, window(kind, 3, 6))
        later.append(7, window(kind, 6, 7))
    assert contents(tmp_path) == expected


def test_a_journal_that_is_another_runs_is_not_removed(tmp_path: Path) -> None:
    first = Journal(tmp_path / "out.csv")
    first.path.unlink()
    second = Journal(tmp_path / "out.csv")
    first.remove()
    assert second.path.exists()
    second.remove()
    assert not second.path.exists()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # its files stay open, as in a kill
def test_a_resumed_run_whose_journal_is_replaced_removes_no_partial_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The partial file is the Arrow stream from which the finished Parquet file was made."""
    pytest.importorskip("pyarrow")
    dies_at_the_rename(tmp_path, "parquet", monkeypatch)
    original = ResumableOutput._place
    others = {"out.parquet.journal": b"another run's", "out.parquet.partial": b"another run's rows"}

    def late(self: ResumableOutput, *arguments: Any) -> None:
        original(self, *arguments)
        for name, data in others.items():
            (tmp_path / name).unlink()
            (tmp_path / name).write_bytes(data)

    monkeypatch.setattr(ResumableOutput, "_place", late)
    with pytest.raises(ResumeRefused, match=r"out\.parquet\.journal: was removed or replaced"):
        run(tmp_path, "parquet")
    assert contents(tmp_path).items() >= others.items()
