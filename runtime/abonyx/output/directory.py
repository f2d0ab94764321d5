"""Directories that are either whole or not there: built beside their place, then renamed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from abonyx.errors import ConfigError


def check_directory(output: Path) -> None:
    """Refuse, by a ConfigError, a directory that is there already or cannot be made."""
    if os.path.lexists(output):
        raise ConfigError(f"output {output}: exists already", "Name a new directory, or remove this one.")
    parent = output.absolute().parent
    # os.path's: Path's own raises where a parent is not searchable.
    if not os.path.isdir(parent) or not os.access(parent, os.W_OK | os.X_OK):  # noqa: PTH112
        what = f"output {output}: directory {parent} does not exist or is not writable"
        raise ConfigError(what, "Create it, or name an output elsewhere.")


@contextmanager
def staged(output: Path) -> Iterator[Path]:
    """Give a directory beside `output`, renamed onto it when the block ends well and removed when it does not.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
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
