"""The journal of a directory's run."""

from __future__ import annotations

from pathlib import Path

import pytest

from abonyx.errors import ResumeRefused
from abonyx.run.run_file import SIDE, File, open_run_file

FACTS = {"threshold": 0.5, "engine": "one"}


def test_a_line_that_was_changed_is_refused_until_a_restart(tmp_path: Path) -> None:
    with open_run_file(tmp_path, restart=False) as run_file:
        run_file.settle(FACTS)
        run_file.begin(File(tmp_path / "in.csv", tmp_path / "out.csv"))
    journal = tmp_path / SIDE / "run.journal"
    text = journal.read_bytes()
    for old, new, line in ((b"0.5", b"0.6", 1), (b'"output":"out.csv"', b'"output":"own.csv"', 3)):
        journal.write_bytes(text.replace(old, new))
        with (
            pytest.raises(ResumeRefused, match=rf"run\.journal: line {line} was changed or moved") as caught,
            open_run_file(tmp_path, restart=False),
        ):
            pass
        assert "restart=True" in caught.value.fix
        assert journal.read_bytes() == text.replace(old, new)
    with open_run_file(tmp_path, restart=True) as run_file:
        run_file.settle(FACTS)
    with open_run_file(tmp_path, restart=False) as run_file:
        assert run_file.facts() == FACTS


def test_a_run_file_of_another_version_is_refused_as_that(tmp_path: Path) -> None:
    journal = tmp_path / SIDE / "run.journal"
    journal.parent.mkdir()
    journal.write_text('{"type":"run","identity":{"threshold":0.5},"schema":1}\n')
    with (
        pytest.raises(ResumeRefused, match=r"run\.journal: its schema is 1") as caught,
        open_run_file(tmp_path, restart=False),
    ):
        pass
    assert "restart=True" in caught.value.fix
