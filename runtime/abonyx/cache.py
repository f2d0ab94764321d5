"""Facts that abonyx remembers between runs, in the user's cache directory: file hashes and passed self-tests.

Losing the cache costs seconds, never a result. An unreadable cache counts as empty. If the cache cannot be written (no
home directory, a read-only one, a full disk), abonyx works without it.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import msgspec
import platformdirs

# Largest number of entries in one file. The oldest are removed first.
MAX_ENTRIES = 1_000


def cache_dir() -> Path | None:
    """$ABONYX_CACHE_DIR, else the platform's cache directory for abonyx. It may not exist yet.

    Returns None if HOME is not set and the system does not know the user's home directory. A folder in /tmp would not
    be safe: its name is easy to guess, and another user could put false hashes there.
    """
    given = os.environ.get("ABONYX_CACHE_DIR")
    if given:
        return Path(os.path.expanduser(given))  # noqa: PTH111  (Path.expanduser raises if there is no such user)
    try:
        found = Path(platformdirs.user_cache_dir("abonyx", appauthor=False))
    except RuntimeError:
        return None
    # Without a home, platformdirs 4.0 leaves "~/.cache/abonyx" unexpanded: a folder in the working directory.
    return found if found.is_absolute() else None


def remembered(name: str) -> dict[str, str]:
    """The facts that were stored under `name`; {} if there are none."""
    directory = cache_dir()
    path = directory and directory / f"{name}.json"
    try:
        if path is None or not path.is_file():  # reading a pipe would wait forever
            return {}
        return msgspec.json.decode(path.read_bytes(), type=dict[str, str])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return {}


def remember(name: str, facts: dict[str, str]) -> None:
    """Store more facts under `name`. A reader sees the old file or the new one, never half of it."""
    directory = cache_dir()
    if directory is None:
        return
    with contextlib.suppress(OSError, UnicodeEncodeError):  # JSON cannot hold a path that is not UTF-8
        directory.mkdir(parents=True, exist_ok=True)
        kept = {key: value for key, value in remembered(name).items() if key not in facts} | facts
        kept = dict(list(kept.items())[-MAX_ENTRIES:])
        with tempfile.TemporaryDirectory(dir=directory) as scratch:
            written = Path(scratch) / name
            written.write_bytes(msgspec.json.encode(kept))
            written.replace(directory / f"{name}.json")
