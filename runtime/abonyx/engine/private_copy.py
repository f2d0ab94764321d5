"""Make a private copy of a variant's files, for engines that read the files as long as the model is open.

Only this user can read the copy, and nobody writes to it. Copies are in abonyx's cache, named by hash, so only the
first open has to copy. On file systems that share blocks (Btrfs, XFS), a copy takes no time and no space.
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

# Number of copies that are kept. The least recently used copy is removed first.
KEPT_COPIES = 3
_MODE = 0o400
_UNFINISHED = "unfinished-"
# An unfinished copy older than this was left by a process that was killed.
_ABANDONED_SECONDS = 24 * 3600
# From linux/fs.h: make a file share the blocks of another file.
_FICLONE = 0x40049409


def private_copy(bundle: Bundle, variant: Variant) -> tuple[Bundle, dict[str, str]]:
    """Make, or reuse, a private copy of a variant's folder.

    Returns:
        (bundle with the copy as its path, stamps of its files as from check_files). The hashes are checked.

    Raises:
        BundleError: the copy cannot be made, or the bundle's files changed meanwhile.
    """
    names = [name for name in bundle.manifest.files if name.startswith(f"{variant.folder}/")]
    contents = "".join(f"{name}\0{bundle.manifest.files[name].sha256}\n" for name in sorted(names))
    cache = cache_dir()
    if cache is None:
        what = "a private copy of the weights is needed, but there is no home directory for the cache"
        raise BundleError(what, "Set ABONYX_CACHE_DIR to a folder that belongs to you.")
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
            "Free disk space, or set ABONYX_CACHE_DIR to a folder that can be written and has space. "
            "docs/reliability.md says which engines need the copy.",
        ) from error
    # The stamps of folders are left out: another process may change them. Only this user can replace the folders.
    return copy, {name: stamps[name] for name in names}


def _make_private(root: Path) -> None:
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    if hasattr(os, "geteuid"):
        if root.stat().st_uid != os.geteuid():
            what = f"{root}: belongs to another user, who could change the weights"
            raise BundleError(what, "Set ABONYX_CACHE_DIR to a folder that belongs to you.")
        root.chmod(0o700)


def _checked(copy: Bundle, names: list[str]) -> dict[str, str] | None:
    """The files' stamps if the files have the right hashes and nobody else can access them; else None."""
    try:
        if hasattr(os, "geteuid"):
            for status in ((copy.path / name).lstat() for name in names):
                if (status.st_uid, status.st_nlink, stat.S_IMODE(status.st_mode)) != (os.geteuid(), 1, _MODE):
                    return None
        return check_files(copy, names)
    except (BundleError, OSError):  # a file is missing, or cannot be read
        return None


def _write(source: Path, names: list[str], root: Path, target: Path) -> None:
    """Copy the files to a temporary folder, then rename it, so that a copy is always whole."""
    unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=root))
    try:
        for name in names:
            (unfinished / name).parent.mkdir(exist_ok=True)
            _copy_file(source / name, unfinished / name)
        try:
            unfinished.rename(target)
        except OSError:
            if not target.exists():  # if it exists, another process has made the same copy
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _copy_file(source: Path, target: Path) -> None:
    with source.open("rb") as reader, target.open("xb") as writer:
        if not _share_blocks(reader.fileno(), writer.fileno()):
            shutil.copyfileobj(reader, writer, 2**20)
    target.chmod(_MODE)


def _share_blocks(source: int, target: int) -> bool:
    """Try to make the target a copy that shares the source's blocks; returns whether it worked."""
    if sys.platform != "linux":
        return False
    import fcntl

    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True


def _tidy(root: Path, used: Path) -> None:
    """Remove the least recently used copies. A process that still has one mapped can continue to read it."""
    others = []
    for path in root.iterdir():
        with contextlib.suppress(OSError):  # another process may remove copies too
            others.append((path.stat().st_mtime, path))
    finished = sorted(one for one in others if not one[1].name.startswith(_UNFINISHED) and one[1] != used)
    gone = [path for _, path in finished[: -(KEPT_COPIES - 1)]]
    gone += [path for at, path in others if path.name.startswith(_UNFINISHED) and at < time.time() - _ABANDONED_SECONDS]
    for path in gone:
        shutil.rmtree(path, ignore_errors=True)
