"""Which files a directory's run reads, and where the results of each go."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from abonyx.errors import ConfigError, InputError
from abonyx.input.recognition import ACCEPTED, named_kind
from abonyx.logs import LOGGER
from abonyx.output.files import input_stem
from abonyx.run.run_file import SHOWN, SIDE, File, printable_name


def find_files(sources: Sequence[Path], output: Path, kind: str) -> list[File]:
    """The files that are named, lie in a directory, or match a pattern, by path; and where their results go.

    Raises:
        InputError: none, or a directory cannot be read.
        ConfigError: two results would be in one place, or an input lies in `output`.
    """
    found = {path.absolute() for source in sources for path in _files_of(source)}
    for path in sorted(found) if output.is_dir() else ():
        if output.samefile(path.parent):
            what = f"output {output}: the input {path.name} lies in it"
            raise ConfigError(what, "Name another directory: results there would be the next run's inputs.")
    return files_to(sorted(found), output, kind)


def files_to(paths: Sequence[Path], output: Path, kind: str) -> list[File]:
    """The files with the place of each one's results.

    Raises:
        ConfigError: two results would be in one place.
    """
    files: list[File] = []
    written: dict[str, File] = {}
    for path in paths:
        file = File(path, output / f"{printable_name(Path(input_stem(path)))}.{kind}")
        other = written.setdefault(file.target.name.casefold(), file)  # some file systems hold only one of A and a
        if other is not file:
            what = f"{other.source} and {path}: both would be written to {file.target}"
            raise ConfigError(what, "Rename one of them, or score it in a run of its own.")
        files.append(file)
    return files


def _files_of(source: Path) -> list[Path]:
    """The files of one source: it, those in it, or those that match it."""
    if source.is_file():
        return [source]
    if source.is_dir():
        try:
            there = [path for path in source.iterdir() if not path.name.startswith(".")]
        except OSError as error:
            raise InputError(f"{source}: cannot be read: {error.strerror}", "Check its permissions.") from error
        found = [path for path in there if path.is_file() and named_kind(path)[0]]
        if ignored := sorted(path.name + "/" * path.is_dir() for path in set(there) - set(found)):
            LOGGER.info(f"{source}: not read: {', '.join(ignored[:SHOWN])}{', ...' * (len(ignored) > SHOWN)}")
    else:
        found = [path for path in map(Path, glob.glob(str(source), recursive=True)) if path.is_file()]  # noqa: PTH207
    if not found:
        what = f"{source}: no file there to score"
        raise InputError(what, f"Give a directory of files, or a quoted pattern of them; accepted: {ACCEPTED}.")
    return found


def make_directory(output: Path) -> bool:
    """Make the directory of results; whether it was not there.

    Raises:
        ConfigError: it cannot be made or written to.
    """
    if output.is_dir():
        if not os.access(output, os.W_OK | os.X_OK):
            raise ConfigError(f"output {output}: is not writable", "Name an output elsewhere.")
        return False
    try:
        output.mkdir()
    except OSError as error:
        fix = "The output of several files is a directory: name one that is there, or a new one in one that is."
        raise ConfigError(f"output {output}: cannot be made: {error.strerror}", fix) from error
    return True


def remove_if_empty(output: Path) -> None:
    """Remove a directory that holds no result."""
    for directory in (output / SIDE, output):
        if directory.is_dir() and not any(directory.iterdir()):
            directory.rmdir()
