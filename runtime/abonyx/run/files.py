"""Find the files that a run with a directory as output reads, and the places of their results."""

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
    """The files that are named, are in a directory, or match a pattern, sorted by path; with the places of results.

    Raises:
        InputError: there are no files, or a directory cannot be read.
        ConfigError: two files would have the same results file, or an input is in `output`.
    """
    found = {path.absolute() for source in sources for path in _files_of(source)}
    for path in sorted(found) if output.is_dir() else ():
        if output.samefile(path.parent):
            what = f"output {output}: the input {path.name} is in this directory"
            raise ConfigError(what, "Name another directory: the next run would read the results as inputs.")
    return files_to(sorted(found), output, kind)


def files_to(paths: Sequence[Path], output: Path, kind: str) -> list[File]:
    """The files, each with the path of its results.

    Raises:
        ConfigError: two files would have the same results file.
    """
    files: list[File] = []
    written: dict[str, File] = {}
    for path in paths:
        file = File(path, output / f"{printable_name(Path(input_stem(path)))}.{kind}")
        other = written.setdefault(file.target.name.casefold(), file)  # in some file systems A and a are the same file
        if other is not file:
            what = f"{other.source} and {path}: both would be written to {file.target}"
            raise ConfigError(what, "Rename one of them, or score it in a separate run.")
        files.append(file)
    return files


def _files_of(source: Path) -> list[Path]:
    """The files of one source: the file itself, the files in a directory, or those that match a pattern."""
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
        what = f"{source}: no file to score was found"
        raise InputError(what, f"Give a file, a directory of files, or a quoted pattern; accepted: {ACCEPTED}.")
    return found


def make_directory(output: Path) -> bool:
    """Create the directory of results; returns whether it was created here.

    Raises:
        ConfigError: it cannot be created or written to.
    """
    if output.is_dir():
        if not os.access(output, os.W_OK | os.X_OK):
            raise ConfigError(f"output {output}: is not writable", "Name an output elsewhere.")
        return False
    try:
        output.mkdir()
    except OSError as error:
        fix = "For several inputs, name a directory that exists, or a new one in a directory that exists."
        raise ConfigError(f"output {output}: cannot be created: {error.strerror}", fix) from error
    return True


def remove_if_empty(output: Path) -> None:
    """Remove the directory of results if it is empty."""
    for directory in (output / SIDE, output):
        if directory.is_dir() and not any(directory.iterdir()):
            directory.rmdir()
