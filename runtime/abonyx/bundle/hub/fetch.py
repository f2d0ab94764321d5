"""Fetch a bundle by name: find its commit, download it once, and check every hash before it is used."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from pathlib import Path
from typing import NamedTuple

from abonyx.bundle.hub.api import Hub, RepoState, is_offline
from abonyx.bundle.hub.store import HubStore, writing
from abonyx.bundle.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, README_NAME, Manifest, parse_manifest
from abonyx.errors import BundleError, ChecksumMismatch, ConfigError, HubUnreachable, printable
from abonyx.hashing import file_sha256
from abonyx.hub_name import HubName
from abonyx.logs import LOGGER

# Largest README.md that is downloaded. The manifest does not list it, so its size is not checked otherwise.
_MAX_README_BYTES = 2**20
_PUSH_FIX = "Push the bundle again with `abonyx push`, or give another revision."
_MAIN = "main"


class FetchedBundle(NamedTuple):
    """The directory of a bundle's files, and its name with commit and hash."""

    path: Path
    name: HubName


def fetch(name: HubName) -> FetchedBundle:
    """Get the complete bundle of a name. The bundle is downloaded if it is not in the cache.

    If the name has a commit or a hash that is in the cache, the hub is not contacted. Otherwise the hub says which
    commit the name means, and a line is logged. With HF_HUB_OFFLINE, the commit of the hub's last answer is used.

    Raises:
        ConfigError: the extra is missing, or the cache cannot be written.
        ChecksumMismatch: the hash of the bundle is not the hash in the name, or a file differs from the manifest.
        BundleError: the hub cannot be reached, or has no such repository, revision or bundle.
    """
    store = HubStore(name.repo)
    here = store.whole(name) if name.commit or name.sha256 else None
    if here is None and is_offline():
        here = _last_meant(store, name)
    if here is None:
        here = _from_hub(store, name)
    _refuse_other_hash(name, here)
    assert here.commit is not None
    return FetchedBundle(store.path(here.commit), here)


def _last_meant(store: HubStore, name: HubName) -> HubName:
    """The cached bundle that a branch or tag meant when the hub was last asked; for HF_HUB_OFFLINE."""
    commit = None if name.commit else store.known().revisions.get(name.revision or _MAIN)
    here = store.whole(HubName(name.repo, commit)) if commit else None
    if here is None or name.commit:
        fix = "Unset HF_HUB_OFFLINE to download it, or copy abonyx's cache from a machine that has it."
        raise BundleError(f"{name}: is not in the cache, and HF_HUB_OFFLINE is set, so it cannot be downloaded", fix)
    LOGGER.warning(f"note: HF_HUB_OFFLINE is set: {name.without_hash} was commit {commit} when the hub was last asked")
    return here


def _from_hub(store: HubStore, name: HubName) -> HubName:
    hub = Hub(name.repo)
    state = _state(hub, store, name)
    _say_what_is_meant(store, name, state.commit)
    with store.locked():
        here = store.whole(HubName(name.repo, state.commit))  # another process may have fetched it meanwhile
        if here is None:
            sha256 = _download(hub, store, name, state)
            store.remember(commit=(state.commit, sha256))
            here = name.pinned(state.commit, sha256)
        if not name.commit:
            store.remember(revision=(name.revision or _MAIN, state.commit))
    if name.revision is None:
        LOGGER.warning(
            f"note: {name} has no revision, so later it may mean another bundle. The full name of this bundle is {here}"
        )
    return here


def _state(hub: Hub, store: HubStore, name: HubName) -> RepoState:
    try:
        return hub.state(name.revision)
    except HubUnreachable as error:
        commit = store.known().revisions.get(name.revision or _MAIN)
        last = store.whole(HubName(name.repo, commit)) if commit and not name.commit else None
        if last is None:
            raise
        what, _ = error.marked
        fix = (
            f"Last time it was {last.without_hash}. Give that name, or set HF_HUB_OFFLINE=1, to use the cached bundle."
        )
        raise HubUnreachable(what, fix) from error


def _say_what_is_meant(store: HubStore, name: HubName, commit: str) -> None:
    before = store.known().revisions.get(name.revision or _MAIN)
    if name.commit:
        return
    if before not in (None, commit):
        LOGGER.warning(f"note: {name.without_hash} has changed: it was commit {before}, and is now {commit}")
    else:
        LOGGER.info(f"{name.without_hash} is commit {commit}")


def _refuse_other_hash(name: HubName, here: HubName) -> None:
    if name.sha256 not in (None, here.sha256):
        what = f"{here.without_hash}: the bundle's sha256 is {here.sha256}, the name says {name.sha256}"
        raise ChecksumMismatch(what, "Give the commit that has this hash, or ask the person who gave you the name.")


def _download(hub: Hub, store: HubStore, name: HubName, state: RepoState) -> str:
    """Download a commit into the store, and return the bundle's hash. A wrong download is removed."""
    partial, pinned = store.partial(state.commit), name.pinned(state.commit, None)
    with writing(partial):
        partial.mkdir(exist_ok=True)
    try:
        manifest, sha256 = _manifest(hub, partial, name, state)
        _refuse_unlike(manifest, state, pinned)
        _refuse_full(manifest, partial)
        count, size = len(manifest.files), sum(entry.size_bytes for entry in manifest.files.values())
        LOGGER.info(f"downloading {pinned}: {count} files, {size / 1e6:,.1f} MB, to {store.path(state.commit)}")
        for path, entry in manifest.files.items():
            hub.download(path, state.commit, partial)
            _refuse_damaged(partial / path, entry.size_bytes, entry.sha256, f"{pinned}: {printable(path)}")
            LOGGER.debug(f"  {path}: {entry.size_bytes:,} bytes, sha256 as the manifest says")
    except (ChecksumMismatch, _NotABundle):
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if (state.sizes.get(README_NAME) or _MAX_README_BYTES + 1) <= _MAX_README_BYTES:
        hub.download(README_NAME, state.commit, partial)
    with contextlib.suppress(OSError):
        shutil.rmtree(partial / ".cache")  # the library's own files for resuming
    store.place(state.commit)
    return sha256


class _NotABundle(BundleError):
    """A repository that has no bundle or an incomplete one. A second try would give the same result."""


def _manifest(hub: Hub, partial: Path, name: HubName, state: RepoState) -> tuple[Manifest, str]:
    pinned = name.pinned(state.commit, None)
    if MANIFEST_NAME not in state.sizes:
        raise _NotABundle(f"{pinned}: has no {MANIFEST_NAME}, so it is not a bundle", _PUSH_FIX)
    size = state.sizes[MANIFEST_NAME] or 0
    if size > MAX_MANIFEST_BYTES:
        what = f"{pinned}: {MANIFEST_NAME} has {size} bytes; the limit is {MAX_MANIFEST_BYTES}"
        raise _NotABundle(what, _PUSH_FIX)
    hub.download(MANIFEST_NAME, state.commit, partial)
    data = (partial / MANIFEST_NAME).read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    _refuse_other_hash(name, name.pinned(state.commit, sha256))  # before downloading gigabytes
    try:
        return parse_manifest(data, Path(f"{pinned}/{MANIFEST_NAME}")), sha256
    except BundleError as error:
        raise _NotABundle(*error.marked) from error


def _refuse_unlike(manifest: Manifest, state: RepoState, name: HubName) -> None:
    """Refuse a repository whose list of files does not fit the manifest, before the files are downloaded."""
    missing = [path for path in manifest.files if path not in state.sizes]
    if missing:
        shown = ", ".join(map(printable, missing[:5]))
        raise _NotABundle(f"{name}: the repository does not have {shown}, which the manifest lists", _PUSH_FIX)
    for path, entry in manifest.files.items():
        size = state.sizes[path]
        if size not in (None, entry.size_bytes):
            what = f"{name}: {printable(path)}: {size} bytes in the repository, the manifest says {entry.size_bytes}"
            raise ChecksumMismatch(what, _PUSH_FIX)


def _refuse_full(manifest: Manifest, partial: Path) -> None:
    """Refuse a disk that has no room for the rest of the download."""
    with writing(partial):
        here = sum(path.lstat().st_size for path in partial.rglob("*") if path.is_file())
        free = shutil.disk_usage(partial).free
    needed = sum(entry.size_bytes for entry in manifest.files.values()) - here
    if needed > free:
        what = f"{partial}: the bundle needs {needed / 1e6:,.1f} MB more, but only {free / 1e6:,.1f} MB are free"
        raise ConfigError(what, "Free space, or set ABONYX_CACHE_DIR to a directory with room.")


def _refuse_damaged(path: Path, size_bytes: int, sha256: str, what: str) -> None:
    if path.is_symlink() or path.stat().st_size != size_bytes:
        raise ChecksumMismatch(f"{what}: {path.stat().st_size} bytes, the manifest says {size_bytes}", _PUSH_FIX)
    if (found := file_sha256(path)) != sha256:
        raise ChecksumMismatch(f"{what}: sha256 is {found}, the manifest says {sha256}", _PUSH_FIX)
