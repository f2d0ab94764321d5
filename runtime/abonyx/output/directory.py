"""Write a directory under another name, then rename it, so that it is either whole or absent."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from abonyx.errors import ConfigError


def check_directory(output: Path) -> None:
    """Raise a ConfigError if a directory already exists or cannot be created. Its parents may be missing."""
    if os.path.lexists(output):
        raise ConfigError(f"output {output}: exists already", "Name a new directory, or remove this one.")
    parent = next(each for each in output.absolute().parents if os.path.lexists(each))
    # os.path.isdir, because Path.is_dir raises if a parent cannot be searched.
    if not os.path.isdir(parent) or not os.access(parent, os.W_OK | os.X_OK):  # noqa: PTH112
        raise ConfigError(f"output {output}: {parent} is not a writable directory", "Name an output elsewhere.")


@contextmanager
def staged(output: Path) -> Iterator[Path]:
    """Yield a directory beside `output`. It is renamed to `output` if the block succeeds, and removed if it fails.

    Missing parents are created, and removed again if the block fails.

    Raises:
        ConfigError: the directory cannot be written.
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
        raise ConfigError(what, "Free space, or name an output elsewhere. No partial output was left.") from error


@contextmanager
def parents_of(output: Path) -> Iterator[None]:
    """Create the missing parents of a path. If the block fails, remove the created ones that are empty."""
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
