"""A bundle's files: compared with the manifest, and watched for changes while they are read."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from abonyx import cache
from abonyx.bundle.bundle import Bundle
from abonyx.bundle.manifest import LINK_FIX, MANIFEST_NAME, README_NAME
from abonyx.errors import BundleError, ChecksumMismatch
from abonyx.hashing import file_sha256

# What a download from the Hugging Face hub into a folder leaves there; nothing of a bundle is read from it.
_HUB_FILE, _HUB_FOLDER = ".gitattributes", ".cache/huggingface/"
# Where a file cannot be linked and can still be copied: another file system, or one (or a rule) without hard links.
_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
# Two writes within one tick of the system's clock have one time stamp; Linux ticks every 1 to 10 ms.
_TICK_NS = 20_000_000


def check_files(bundle: Bundle, names: Iterable[str], *, use_cache: bool = True) -> dict[str, str]:
    """Compare files with the manifest's sizes and hashes.

    Args:
        names: paths in the bundle.
        use_cache: trust a hash remembered for the same path, size, mtime, ctime and inode instead of reading the file.

    Returns:
        Name -> a stamp of the file as it was before it was read, for refuse_changed; of the folders too.

    Raises:
        ChecksumMismatch: another size or hash; gives both.
        BundleError: missing, a link, no plain file, or unreadable.
    """
    known, learned, stamps = cache.remembered("hashes"), dict[str, str](), dict[str, str]()
    root, fix = bundle.path.resolve(), bundle.repair
    try:
        for name in names:
            path, entry = bundle.path / name, bundle.manifest.files[name]
            if os.path.realpath(path) != str(root / name):  # Path.resolve raises at a link to itself
                raise BundleError(f"{path}: is or lies behind a symbolic link", LINK_FIX)
            status = _settled(path)
            if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
                raise BundleError(f"{path}: is not a plain file", fix)
            if status.st_size != entry.size_bytes:
                raise ChecksumMismatch(f"{path}: {status.st_size} bytes, manifest says {entry.size_bytes}", fix)
            key = stamps[name] = _stamp(root / name, status)
            # A folder that is swapped for another and back has another change time, unlike its files.
            for folder in {"", name.rpartition("/")[0]} - stamps.keys():
                stamps[folder] = _stamp(root / folder, (bundle.path / folder).stat())
            # A remembered hash that disagrees is looked at again: the cache may be what is wrong.
            trusted = use_cache and known.get(key) == entry.sha256
            learned[key] = entry.sha256 if trusted else file_sha256(path)
            if learned[key] != entry.sha256:
                raise ChecksumMismatch(f"{path}: sha256 {learned[key]}, manifest says {entry.sha256}", fix)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}", fix) from error
    finally:
        # A damaged file's too: the next open then looks at it again, whatever its time stamp says.
        if learned.items() - known.items():
            cache.remember("hashes", learned)
    return stamps


def refuse_changed(bundle: Bundle, stamps: Mapping[str, str]) -> None:
    """Raise a BundleError if a file is no longer what check_files saw, even if its bytes are the same again."""
    root = bundle.path.resolve()
    for name, stamp in stamps.items():
        try:
            now = _stamp(root / name, (bundle.path / name).stat())
        except OSError as error:
            now = str(error.strerror)
        if now != stamp:
            raise BundleError(
                f"{bundle.path / name}: changed while the model was loaded",
                "Something writes to the bundle. Wait for it to end, run `abonyx verify`, and open again.",
            )


def _settled(path: Path) -> os.stat_result:
    """The file's status, at a time when another write to it would give it another time stamp."""
    status = path.stat()
    if 0 <= time.time_ns() - status.st_ctime_ns < _TICK_NS:
        time.sleep(_TICK_NS / 1e9)
        status = path.stat()
    return status


def _stamp(path: Path, status: os.stat_result) -> str:
    return f"{path}|{status.st_size}|{status.st_mtime_ns}|{status.st_ctime_ns}|{status.st_ino}"


def unlisted_files(bundle: Bundle) -> list[str]:
    """Paths in the bundle that its manifest does not list; a linked folder counts as one file.

    README.md and what a download from the Hugging Face hub leaves are left out.

    Raises:
        BundleError: a folder that cannot be looked into.
    """

    def refuse(error: OSError) -> None:
        what = f"{error.filename}: cannot be looked into: {error.strerror}"
        raise BundleError(what, "A bundle's folders are readable. Copy it again.") from error

    paths = [
        Path(folder, name).relative_to(bundle.path).as_posix()
        for folder, folders, names in os.walk(bundle.path, onerror=refuse)
        for name in [*names, *(name for name in folders if Path(folder, name).is_symlink())]
    ]
    unlisted = set(paths) - {*bundle.manifest.files, MANIFEST_NAME, README_NAME}
    return sorted(path for path in unlisted if path != _HUB_FILE and not path.startswith(_HUB_FOLDER))


def link_or_copy(source: Path, target: Path, report: Callable[[str], None]) -> None:
    """A hard link: one copy on the disk, which outlives either bundle. check_files has seen that it is a plain file."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        report(f"  {source} is copied: it cannot be linked ({error.strerror})")
        shutil.copy2(source, target, follow_symlinks=False)
