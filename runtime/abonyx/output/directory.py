"""Directories that are either whole or not there: built beside their place, then renamed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from abonyx.errors import ConfigError


def check_directory(output: Path) -> None:
    """Refuse, by a ConfigError, a directory that is there already or cannot be made. Parents may be missing."""
    if os.path.lexists(output):
        raise ConfigError(f"output {output}: exists already", "Name a new directory, or remove this one.")
    parent = next(each for each in output.absolute().parents if os.path.lexists(each))
    # os.path's: Path's own raises where a parent is not searchable.
    if not os.path.isdir(parent) or not os.access(parent, os.W_OK | os.X_OK):  # noqa: PTH112
        raise ConfigError(f"output {output}: {parent} is not a writable directory", "Name an output elsewhere.")


@contextmanager
def staged(output: Path) -> Iterator[Path]:
    """Give a directory beside `output`, renamed onto it when the block ends well and removed when it does not.

    Missing parents are made, and removed again if the block fails.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        with parents_of(output):
            staging = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".partial", dir=output.absolute().parent))
            try:
                yield staging
                staging.chmod(0o755)  # mkdtemp gives 0700
                staging.rename(output)
            except BaseException:
                shutil.rmtree(staging)
                raise
    except OSError as error:
        what = f"output {output}: cannot be written: {error.strerror or error}"
        raise ConfigError(what, "Nothing was left behind; free space or name an output elsewhere.") from error


@contextmanager
def parents_of(output: Path) -> Iterator[None]:
    """Make the missing parents of a path; if the block fails, remove those that hold nothing else."""
    made: list[Path] = []
    try:
        for parent in [each for each in reversed(output.absolute().parents) if not os.path.lexists(each)]:
            with suppress(FileExistsError):
                parent.mkdir()
                made.append(parent)
        yield
    except BaseException:
        with suppress(OSError):  # another process has put something there
            for parent in reversed(made):
                parent.rmdir()
        raise
