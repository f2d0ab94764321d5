"""Compare a bundle's files with its manifest, and notice changes while they are read."""

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

# A download from the Hugging Face hub leaves these in its folder. They are not part of a bundle.
_HUB_FILE, _HUB_FOLDER = ".gitattributes", ".cache/huggingface/"
# If a hard link fails with one of these errors, a copy can still work: e.g. another file system, no permission to link.
_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
# Two writes within one tick of the system's clock get the same time stamp. Linux ticks every 1 to 10 ms.
_TICK_NS = 20_000_000


def check_files(bundle: Bundle, names: Iterable[str], *, use_cache: bool = True) -> dict[str, str]:
    """Compare files with the sizes and hashes in the manifest.

    Args:
        bundle: the bundle.
        names: paths in the bundle.
        use_cache: whether a remembered hash for the same path, size, mtime, ctime and inode is enough. If not, every
            file is read.

    Returns:
        Name -> stamp of each file and folder before it was read, for refuse_changed.

    Raises:
        ChecksumMismatch: a file has another size or hash. The message gives both.
        BundleError: a file is missing, is a link, is not a plain file, or cannot be read.
    """
    known, learned, stamps = cache.remembered("hashes"), dict[str, str](), dict[str, str]()
    root, fix = bundle.path.resolve(), bundle.repair
    try:
        for name in names:
            path, entry = bundle.path / name, bundle.manifest.files[name]
            if os.path.realpath(path) != str(root / name):  # Path.resolve raises for a link to itself
                raise BundleError(f"{path}: is a symbolic link, or is in a linked folder", LINK_FIX)
            status = _settled(path)
            if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait forever
                raise BundleError(f"{path}: is not a plain file", fix)
            if status.st_size != entry.size_bytes:
                raise ChecksumMismatch(f"{path}: has {status.st_size} bytes, the manifest says {entry.size_bytes}", fix)
            key = stamps[name] = _stamp(root / name, status)
            # If a folder is replaced by another and then put back, its own change time moves. The change times of its
            # files do not move.
            for folder in {"", name.rpartition("/")[0]} - stamps.keys():
                stamps[folder] = _stamp(root / folder, (bundle.path / folder).stat())
            # If the remembered hash differs from the manifest's, the file is read: the cache may be wrong.
            trusted = use_cache and known.get(key) == entry.sha256
            learned[key] = entry.sha256 if trusted else file_sha256(path)
            if learned[key] != entry.sha256:
                raise ChecksumMismatch(f"{path}: sha256 is {learned[key]}, the manifest says {entry.sha256}", fix)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}", fix) from error
    finally:
        # Hashes of damaged files are remembered too. They differ from the manifest, so the next open reads them again.
        if learned.items() - known.items():
            cache.remember("hashes", learned)
    return stamps


def refuse_changed(bundle: Bundle, stamps: Mapping[str, str]) -> None:
    """Raise a BundleError if a file has changed since check_files, even if it has changed back."""
    root = bundle.path.resolve()
    for name, stamp in stamps.items():
        try:
            now = _stamp(root / name, (bundle.path / name).stat())
        except OSError as error:
            now = str(error.strerror)
        if now != stamp:
            raise BundleError(
                f"{bundle.path / name}: changed while the model was loaded",
                "Another process is changing the bundle. Wait until it ends, run `abonyx verify`, and open again.",
            )


def _settled(path: Path) -> os.stat_result:
    """The status of a file. If the file has just changed, wait first, so that a later write gets another time stamp."""
    status = path.stat()
    if 0 <= time.time_ns() - status.st_ctime_ns < _TICK_NS:
        time.sleep(_TICK_NS / 1e9)
        status = path.stat()
    return status


def _stamp(path: Path, status: os.stat_result) -> str:
    return f"{path}|{status.st_size}|{status.st_mtime_ns}|{status.st_ctime_ns}|{status.st_ino}"


def unlisted_files(bundle: Bundle) -> list[str]:
    """Paths in the bundle that its manifest does not list. A linked folder counts as one file.

    manifest.json, README.md, and the files that a download from the Hugging Face hub leaves are not included.

    Raises:
        BundleError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        what = f"{error.filename}: cannot be read: {error.strerror}"
        raise BundleError(what, "Make the folder readable, or copy the bundle again.") from error

    paths = [
        Path(folder, name).relative_to(bundle.path).as_posix()
        for folder, folders, names in os.walk(bundle.path, onerror=refuse)
        for name in [*names, *(name for name in folders if Path(folder, name).is_symlink())]
    ]
    unlisted = set(paths) - {*bundle.manifest.files, MANIFEST_NAME, README_NAME}
    return sorted(path for path in unlisted if path != _HUB_FILE and not path.startswith(_HUB_FOLDER))


def link_or_copy(source: Path, target: Path, report: Callable[[str], None]) -> None:
    """Link a file, so that two bundles share it; copy it if it cannot be linked. `source` must be a plain file."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        report(f"  copied {source}, because it cannot be linked ({error.strerror})")
        shutil.copy2(source, target, follow_symlinks=False)
