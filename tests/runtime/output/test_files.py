"""Valid places of an output, and files that appear only when they are complete."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from abonyx.errors import ConfigError, ResumeRefused
from abonyx.output.files import check_output

from .written import contents, write_all


def test_a_link_in_the_partial_files_place_is_not_followed(tmp_path: Path) -> None:
    """The name is predictable, so in a shared directory somebody may have created a link with it."""
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / "out.csv.partial").symlink_to(tmp_path / "victim")
    before = contents(tmp_path)
    with pytest.raises(ResumeRefused, match=r"out\.csv\.partial: exists"):
        write_all(tmp_path / "out.csv", "csv")
    assert contents(tmp_path) == before
    assert (tmp_path / "out.csv.partial").is_symlink()


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
