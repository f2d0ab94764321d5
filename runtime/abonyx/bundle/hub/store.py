"""The store of fetched bundles: abonyx's cache has a folder for each repository, with a folder for each commit.

CACHE/hub/ORG--NAME/COMMIT/            a complete bundle; every hash was checked before the folder got this name
CACHE/hub/ORG--NAME/COMMIT.partial/    an unfinished download
CACHE/hub/ORG--NAME/known.json         complete bundles: commit and hash; and the last known commit of each revision
CACHE/hub/ORG--NAME/lock               held during a download
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from abonyx.bundle.hub.api import unwritable
from abonyx.bundle.manifest import MANIFEST_NAME
from abonyx.cache import cache_dir
from abonyx.errors import ConfigError
from abonyx.extras import load
from abonyx.hub_name import HubName
from abonyx.logs import LOGGER

_KNOWN = "known.json"


class Known(msgspec.Struct, frozen=True):
    """The remembered facts about a repository.

    Attributes:
        commits: commit of a complete bundle -> hash of the bundle.
        revisions: branch or tag -> the commit that the hub last gave for it.
    """

    commits: dict[str, str] = {}
    revisions: dict[str, str] = {}


class HubStore:
    """The stored bundles of one repository.

    Raises:
        ConfigError: there is no cache directory.
    """

    def __init__(self, repo: str) -> None:
        cache = cache_dir()
        if cache is None:
            what = f"hf:{repo}: there is no cache directory to store it in, because HOME is not set"
            raise ConfigError(what, "Set ABONYX_CACHE_DIR to a directory.")
        self.repo = repo
        self.folder = cache / "hub" / repo.replace("/", "--")

    def path(self, commit: str) -> Path:
        """The folder of the complete bundle of a commit."""
        return self.folder / commit

    def partial(self, commit: str) -> Path:
        """The folder of an unfinished download."""
        return self.folder / f"{commit}.partial"

    def known(self) -> Known:
        """The remembered facts; none if the file is missing or cannot be read."""
        try:
            return msgspec.json.decode((self.folder / _KNOWN).read_bytes(), type=Known)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return Known()

    def whole(self, name: HubName) -> HubName | None:
        """The stored bundle that a name means, as a name with commit and hash; None if it is not stored."""
        for commit, sha256 in self.known().commits.items():
            wanted = commit == name.commit if name.commit else sha256 == name.sha256
            if wanted and (self.path(commit) / MANIFEST_NAME).is_file():
                return name.pinned(commit, sha256)
        return None

    def remember(self, *, commit: tuple[str, str] | None = None, revision: tuple[str, str] | None = None) -> None:
        """Remember a (commit, hash) or a (revision, commit). The caller must hold the lock."""
        known = self.known()
        commits = known.commits | dict([commit] if commit else [])
        revisions = known.revisions | dict([revision] if revision else [])
        with writing(self.folder):
            written = self.folder / f"{_KNOWN}.partial"
            written.write_bytes(msgspec.json.encode(Known(commits, revisions)))
            written.replace(self.folder / _KNOWN)

    def place(self, commit: str) -> None:
        """Rename a finished download to its final name. The caller must hold the lock."""
        with writing(self.folder):
            if self.path(commit).exists():  # a folder that known.json does not list as complete
                shutil.rmtree(self.path(commit))
            self.partial(commit).rename(self.path(commit))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the repository's lock. If another process holds it, log a line and wait."""
        filelock = load("a bundle by name", "filelock")  # a dependency of huggingface_hub
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(self.folder / "lock")
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                LOGGER.info(f"hf:{self.repo}: another process is downloading from this repository; waiting for it")
                lock.acquire()
        try:
            yield
        finally:
            lock.release()


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn a failure to write below a folder of the cache into a ConfigError."""
    try:
        yield
    except OSError as error:
        raise unwritable(folder, error) from error
