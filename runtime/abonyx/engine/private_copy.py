"""A copy of a variant's files that only this user can reach and nobody writes to, for engines that read files for life.

Copies lie in abonyx's cache, by hash, so that only the first open pays. On file systems that share blocks (Btrfs, XFS)
a copy takes no time and no room.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from abonyx.bundle import Bundle, check_files
from abonyx.bundle.manifest import Variant
from abonyx.cache import cache_dir
from abonyx.errors import BundleError

# Copies that stay; of others the one used longest ago goes first.
KEPT_COPIES = 3
_MODE = 0o400
_UNFINISHED = "unfinished-"
# An unfinished copy older than this is of a process that was killed.
_ABANDONED_SECONDS = 24 * 3600
# From linux/fs.h: share the other file's blocks.
_FICLONE = 0x40049409


def private_copy(bundle: Bundle, variant: Variant) -> tuple[Bundle, dict[str, str]]:
    """The bundle with a path that holds a private copy of this variant's folder, and nothing else.

    Returns:
        The copy, whose hashes are checked, and its files' stamps, as check_files gives them.

    Raises:
        BundleError: the copy cannot be made, or the bundle's files changed meanwhile.
    """
    names = [name for name in bundle.manifest.files if name.startswith(f"{variant.folder}/")]
    contents = "".join(f"{name}\0{bundle.manifest.files[name].sha256}\n" for name in sorted(names))
    cache = cache_dir()
    if cache is None:
        what = "a private copy of the weights is needed, and there is no home directory whose cache could hold it"
        raise BundleError(what, "Set ABONYX_CACHE_DIR to a folder of your own.")
    root = cache / "weights"
    copy = replace(bundle, path=root / hashlib.sha256(contents.encode()).hexdigest()[:32])
    try:
        _make_private(root)
        stamps = _checked(copy, names)
        if stamps is None:
            shutil.rmtree(copy.path, ignore_errors=True)
            _write(bundle.path, names, root, copy.path)
            stamps = check_files(copy, names)
        os.utime(copy.path)
        _tidy(root, copy.path)
    except OSError as error:
        size = sum(bundle.manifest.files[name].size_bytes for name in names)
        raise BundleError(
            f"{root}: a private copy of the weights ({size:,} bytes) cannot be made there: {error.strerror or error}",
            "Free room, or set ABONYX_CACHE_DIR to a folder that can be written and has room; docs/reliability.md says "
            "which engines need the copy.",
        ) from error
    # Not of the folders: another process's open touches theirs, and nobody else can swap them.
    return copy, {name: stamps[name] for name in names}


def _make_private(root: Path) -> None:
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    if hasattr(os, "geteuid"):
        if root.stat().st_uid != os.geteuid():
            what = f"{root}: belongs to another user, who could change the weights"
            raise BundleError(what, "Set ABONYX_CACHE_DIR to a folder of your own.")
        root.chmod(0o700)


def _checked(copy: Bundle, names: list[str]) -> dict[str, str] | None:
    """The files' stamps if they are there with their hashes, and nobody else has a way to them; else None."""
    try:
        if hasattr(os, "geteuid"):
            for status in ((copy.path / name).lstat() for name in names):
                if (status.st_uid, status.st_nlink, stat.S_IMODE(status.st_mode)) != (os.geteuid(), 1, _MODE):
                    return None
        return check_files(copy, names)
    except (BundleError, OSError):  # a file is missing, or cannot be read
        return None


def _write(source: Path, names: list[str], root: Path, target: Path) -> None:
    """Copy the files beside the target, then rename: a copy is there whole or not at all."""
    unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=root))
    try:
        for name in names:
            (unfinished / name).parent.mkdir(exist_ok=True)
            _copy_file(source / name, unfinished / name)
        try:
            unfinished.rename(target)
        except OSError:
            if not target.exists():  # else another process was faster, with the same bytes
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _copy_file(source: Path, target: Path) -> None:
    with source.open("rb") as reader, target.open("xb") as writer:
        if not _share_blocks(reader.fileno(), writer.fileno()):
            shutil.copyfileobj(reader, writer, 2**20)
    target.chmod(_MODE)


def _share_blocks(source: int, target: int) -> bool:
    """Whether the file system made the target a copy that shares the source's blocks until either is written to."""
    if sys.platform != "linux":
        return False
    import fcntl

    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True


def _tidy(root: Path, used: Path) -> None:
    """Remove the copies used longest ago. A process that still has one mapped keeps its pages."""
    others = []
    for path in root.iterdir():
        with contextlib.suppress(OSError):  # another process tidies too
            others.append((path.stat().st_mtime, path))
    finished = sorted(one for one in others if not one[1].name.startswith(_UNFINISHED) and one[1] != used)
    gone = [path for _, path in finished[: -(KEPT_COPIES - 1)]]
    gone += [path for at, path in others if path.name.startswith(_UNFINISHED) and at < time.time() - _ABANDONED_SECONDS]
    for path in gone:
        shutil.rmtree(path, ignore_errors=True)
