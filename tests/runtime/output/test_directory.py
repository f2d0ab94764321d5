"""A directory is complete or does not exist, and so do the parents that were created for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from abonyx.errors import ConfigError
from abonyx.output.directory import check_directory, staged


def test_missing_parents_are_made(tmp_path: Path) -> None:
    output = tmp_path / "eval" / "jain" / "first"
    check_directory(output)
    with staged(output) as staging:
        (staging / "file").touch()
    assert [path.name for path in output.iterdir()] == ["file"]
    assert [path.name for path in output.parent.iterdir()] == ["first"]


def test_parents_are_removed_again_after_a_failure(tmp_path: Path) -> None:
    (tmp_path / "eval").mkdir()
    with pytest.raises(KeyboardInterrupt), staged(tmp_path / "eval" / "a" / "b" / "out"):
        raise KeyboardInterrupt
    assert list(tmp_path.rglob("*")) == [tmp_path / "eval"]


def test_a_parent_that_another_process_uses_stays(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stop"), staged(tmp_path / "a" / "b" / "out"):
        (tmp_path / "a" / "theirs").touch()
        raise ValueError("stop")
    assert list(tmp_path.rglob("*")) == [tmp_path / "a", tmp_path / "a" / "theirs"]


def test_a_file_is_no_parent(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for output in (tmp_path / "file" / "out", tmp_path / "file" / "more" / "out"):
        with pytest.raises(ConfigError, match="file is not a writable directory"):
            check_directory(output)
        with pytest.raises(ConfigError, match="cannot be written"), staged(output):
            pass
