"""Where fetched bundles are kept: a folder of abonyx's cache for each repository, in it one for each commit.

CACHE/hub/ORG--NAME/COMMIT/            a whole bundle; every hash was checked before it got this name
CACHE/hub/ORG--NAME/COMMIT.partial/    a download that is not whole
CACHE/hub/ORG--NAME/known.json         commits that are whole, with their hashes; what revisions last meant
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
    """What is remembered of a repository.

    Attributes:
        commits: those that are whole -> their bundle's hash.
        revisions: branch or tag -> the commit that the hub last gave for it.
    """

    commits: dict[str, str] = {}
    revisions: dict[str, str] = {}


class HubStore:
    """The kept bundles of one repository.

    Raises:
        ConfigError: there is no cache directory.
    """

    def __init__(self, repo: str) -> None:
        cache = cache_dir()
        if cache is None:
            what = f"hf:{repo}: there is no cache directory to keep it in: HOME is not set"
            raise ConfigError(what, "Set ABONYX_CACHE_DIR to a directory.")
        self.repo = repo
        self.folder = cache / "hub" / repo.replace("/", "--")

    def path(self, commit: str) -> Path:
        """Where the whole bundle of a commit is."""
        return self.folder / commit

    def partial(self, commit: str) -> Path:
        """Where it is until it is whole."""
        return self.folder / f"{commit}.partial"

    def known(self) -> Known:
        """What is remembered; without a record that can be read, nothing."""
        try:
            return msgspec.json.decode((self.folder / _KNOWN).read_bytes(), type=Known)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return Known()

    def whole(self, name: HubName) -> HubName | None:
        """The pinned name of a whole bundle that a name with a commit or a hash means; None = it is not here."""
        for commit, sha256 in self.known().commits.items():
            wanted = commit == name.commit if name.commit else sha256 == name.sha256
            if wanted and (self.path(commit) / MANIFEST_NAME).is_file():
                return name.pinned(commit, sha256)
        return None

    def remember(self, *, commit: tuple[str, str] | None = None, revision: tuple[str, str] | None = None) -> None:
        """Add (commit, hash), or (revision, commit). Call it under the lock."""
        known = self.known()
        commits = known.commits | dict([commit] if commit else [])
        revisions = known.revisions | dict([revision] if revision else [])
        with writing(self.folder):
            written = self.folder / f"{_KNOWN}.partial"
            written.write_bytes(msgspec.json.encode(Known(commits, revisions)))
            written.replace(self.folder / _KNOWN)

    def place(self, commit: str) -> None:
        """Give the partial bundle of a commit its name. Call it under the lock."""
        with writing(self.folder):
            if self.path(commit).exists():  # what is not remembered as whole
                shutil.rmtree(self.path(commit))
            self.partial(commit).rename(self.path(commit))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the repository's lock; says so if another process has it, and waits for that."""
        filelock = load("a bundle by name", "filelock")  # huggingface_hub's own dependency
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(self.folder / "lock")
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                LOGGER.info(f"hf:{self.repo}: another process fetches from there; waiting for it")
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
