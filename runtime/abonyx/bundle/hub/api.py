"""The hub, by huggingface_hub: what a repository holds, its files, and its errors in our words."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from abonyx.errors import BundleError, ConfigError, EngineError, HubUnreachable, first_line
from abonyx.extras import load
from abonyx.hub_name import PREFIX
from abonyx.logs import LOGGER

_TIMEOUT_S = 10.0
_TOKEN, _OFFLINE, _ENDPOINT = "HF_TOKEN", "HF_HUB_OFFLINE", "HF_ENDPOINT"
_LATER = "Try again later."
_LATER_RESUMES = "Try again later. What was downloaded is kept, and the same command resumes."
# Answers of a hub that has too much to do, or is broken.
_PASSING = (408, 429)


@dataclass(frozen=True)
class RepoState:
    """What a repository holds at one commit.

    Attributes:
        commit: its whole hash.
        sizes: path -> bytes; None if the hub does not say.
        private: whether the hub asks readers for a token.
    """

    commit: str
    sizes: Mapping[str, int | None]
    private: bool


def is_offline() -> bool:
    """Whether $HF_HUB_OFFLINE forbids every request; read each time, unlike by the library."""
    return os.environ.get(_OFFLINE, "").upper() in {"1", "ON", "YES", "TRUE"}


class Hub:
    """One repository. Every method may raise what `answers` makes of a failure.

    Args:
        repo: ORG/NAME.
        what: what the extra is needed for: a key of abonyx.extras.

    Raises:
        ConfigError: huggingface_hub is not installed; names the extra.
    """

    def __init__(self, repo: str, what: str = "a bundle by name") -> None:
        # Xet's servers are others than the hub's, and its downloads do not resume. The library reads it at its import.
        os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
        self._library = load(what, "huggingface_hub")
        self._errors = load(what, "huggingface_hub.errors")
        # requests' errors are OSErrors. From 1.0 on the library asks by another package, with an HTTPError at the root.
        roots = [one for one in self._errors.HfHubHTTPError.__mro__ if one.__name__ == "HTTPError"]
        self._failures: tuple[type[Exception], ...] = (OSError, ValueError, *roots)
        self.repo = repo
        self.token = os.environ.get(_TOKEN) or None
        self._api = self._library.HfApi(
            endpoint=os.environ.get(_ENDPOINT) or None,  # the library reads the variable at its import alone
            token=self.token or False,  # no other token: not one that a login left on the disk
        )
        self.endpoint: str = self._api.endpoint

    def state(self, revision: str | None) -> RepoState:
        """What the repository holds at a revision; None = main."""
        with self._answers(PREFIX + self.repo + (f"@{revision}" if revision else "")):
            found = self._api.model_info(
                self.repo, revision=revision or "main", files_metadata=True, timeout=_TIMEOUT_S
            )
        return RepoState(found.sha, {one.rfilename: one.size for one in found.siblings or ()}, bool(found.private))

    def download(self, path: str, commit: str, folder: Path) -> None:
        """Put a file below a folder, under its path; what an earlier call left of it is resumed."""
        with self._answers(f"{PREFIX}{self.repo}@{commit}: {path}", folder), _quiet(self._library.utils):
            self._api.hf_hub_download(self.repo, path, revision=commit, local_dir=folder, etag_timeout=_TIMEOUT_S)

    def create(self, *, private: bool) -> None:
        """Make the repository."""
        with self._answers(PREFIX + self.repo):
            self._api.create_repo(self.repo, private=private)

    def commit(self, files: Iterable[tuple[str, Path | bytes]], message: str) -> str:
        """Put files into the repository, as one commit on main; return its hash."""
        with self._answers(PREFIX + self.repo), _quiet(self._library.utils), _warnings_as_notes():
            operations = [
                self._library.CommitOperationAdd(path, str(data) if isinstance(data, Path) else data)
                for path, data in files
            ]
            return str(self._api.create_commit(self.repo, operations, commit_message=message).oid)

    def exists(self) -> RepoState | None:
        """What the repository holds on main; None if there is none that can be seen."""
        try:
            return self.state(None)
        except _NoSuchRepository:
            return None

    @contextlib.contextmanager
    def _answers(self, what: str, folder: Path | None = None) -> Iterator[None]:
        """Turn the library's errors into ours.

        Raises:
            _NoSuchRepository: none that this token, or no token, can see.
            HubUnreachable: no answer, or a broken one.
            ConfigError: a file cannot be written in the folder.
            BundleError: every other refusal.
        """
        theirs = logging.getLogger("huggingface_hub")
        level = theirs.level
        theirs.setLevel(logging.ERROR)  # its retries: the error at the end says enough
        try:
            yield
        except EngineError:
            raise
        except self._failures as error:
            if folder is not None and isinstance(error, OSError) and error.errno is not None:
                raise unwritable(folder, error) from error
            raise self._refusal(what, error, _LATER if folder is None else _LATER_RESUMES) from error
        finally:
            theirs.setLevel(level)

    def _refusal(self, what: str, error: Exception, later: str) -> EngineError:
        errors, status = self._errors, _status(error)
        if status is None:
            unusable = isinstance(error, ValueError) and not isinstance(error, OSError)
            said = "gives an answer that cannot be used" if unusable else "gives no answer"
            return HubUnreachable(f"{what}: the hub at {self.endpoint} {said}: {_cause(error)}", later)
        if isinstance(error, errors.GatedRepoError):
            fix = f"Ask for access on its page, and set {_TOKEN} to a token of that account."
            return BundleError(f"{what}: the hub at {self.endpoint} gives it only to those with access", fix)
        if isinstance(error, errors.RevisionNotFoundError):
            return BundleError(
                f"{what}: the repository has no such revision", "Give a branch, a tag or a commit of it."
            )
        if isinstance(error, errors.EntryNotFoundError):
            return BundleError(f"{what}: the repository has no such file", "Push the bundle again.")
        if isinstance(error, errors.RepositoryNotFoundError):
            private = (
                f"Check the name, and that the token in {_TOKEN} may read it."
                if self.token
                else f"Check the name. If it is private, set {_TOKEN} to a token that may read it."
            )
            seen = "no such repository, or it is private"
            return _NoSuchRepository(f"{what}: the hub at {self.endpoint} has {seen}", private)
        said = f"{what}: the hub at {self.endpoint} answers {status}: {first_line(error)}"
        if status in (401, 403):
            fix = f"Check that the token in {_TOKEN} is valid and may do this."
            return BundleError(said, fix if self.token else f"Set {_TOKEN} to a token that may do this.")
        if status >= 500 or status in _PASSING:
            return HubUnreachable(said, later)
        return BundleError(said, "Check the name, and what the hub says of it.")


class _NoSuchRepository(BundleError):
    """The hub has no repository of this name, or none that it shows without another token."""


def unwritable(folder: Path, error: OSError) -> ConfigError:
    """The error about a cache that takes no more."""
    fix = "Free space, or set ABONYX_CACHE_DIR to a directory with room. The same command resumes."
    return ConfigError(f"{folder}: cannot be written: {error.strerror or first_line(error)}", fix)


def _status(error: BaseException) -> int | None:
    """The status of the answer that an error, or the one that it was made of, is about; None = no answer came."""
    of: BaseException | None = error
    while of is not None:
        status = getattr(getattr(of, "response", None), "status_code", None)
        if status is not None:
            return int(status)
        of = of.__cause__
    return None


def _cause(error: BaseException) -> str:
    """The innermost error's words: the outer ones quote pools, retries and addresses."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return (isinstance(error, OSError) and error.strerror) or first_line(error)


@contextlib.contextmanager
def _warnings_as_notes() -> Iterator[None]:
    """Log what the library warns of."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        yield
    for one in told:
        LOGGER.warning(f"note: the hub says: {first_line(one.message)}")


@contextlib.contextmanager
def _quiet(utils: Any) -> Iterator[None]:
    """Leave the library's progress bars to a terminal: a log file would have a line a refresh."""
    off = utils.are_progress_bars_disabled()
    if off or sys.stderr is None or sys.stderr.isatty():
        yield
        return
    utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.enable_progress_bars()
