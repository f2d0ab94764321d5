"""Small facts worth remembering between runs, in the user's cache directory: file hashes and passed self-tests.

Losing the cache costs seconds, never a result: an unreadable cache is an empty one, and a cache that cannot be
written (no home, a read-only one, a full disk) is done without.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import msgspec
import platformdirs

# Entries kept a file; the oldest go first.
MAX_ENTRIES = 1_000


def cache_dir() -> Path | None:
    """$ABONYX_CACHE_DIR, else the platform's cache directory for abonyx. Not created here.

    None = there is no such directory: HOME is not set, and the system knows no home of the user. Not a folder of /tmp
    then: its name would be known, and another user could put hashes there.
    """
    given = os.environ.get("ABONYX_CACHE_DIR")
    if given:
        return Path(os.path.expanduser(given))  # noqa: PTH111  (Path's own raises where there is no such user)
    try:
        found = Path(platformdirs.user_cache_dir("abonyx", appauthor=False))
    except RuntimeError:
        return None
    # Without a home, platformdirs 4.0 gives "~/.cache/abonyx" as it is: a folder of the working directory.
    return found if found.is_absolute() else None


def remembered(name: str) -> dict[str, str]:
    """The facts kept under `name`."""
    directory = cache_dir()
    path = directory and directory / f"{name}.json"
    try:
        if path is None or not path.is_file():  # a pipe would be waited for
            return {}
        return msgspec.json.decode(path.read_bytes(), type=dict[str, str])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return {}


def remember(name: str, facts: dict[str, str]) -> None:
    """Add facts under `name`; readers see the file before or after, never half of it."""
    directory = cache_dir()
    if directory is None:
        return
    with contextlib.suppress(OSError, UnicodeEncodeError):  # JSON holds no path that is not UTF-8
        directory.mkdir(parents=True, exist_ok=True)
        kept = {key: value for key, value in remembered(name).items() if key not in facts} | facts
        kept = dict(list(kept.items())[-MAX_ENTRIES:])
        with tempfile.TemporaryDirectory(dir=directory) as scratch:
            written = Path(scratch) / name
            written.write_bytes(msgspec.json.encode(kept))
            written.replace(directory / f"{name}.json")
