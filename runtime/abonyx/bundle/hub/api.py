"""Access a repository on the hub through huggingface_hub, and turn the library's errors into errors of abonyx."""

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
_LATER_RESUMES = "Try again later. The downloaded part is kept, and the same command resumes the download."
# Status codes below 500 after which a later request may succeed.
_PASSING = (408, 429)


@dataclass(frozen=True)
class RepoState:
    """The content of a repository at one commit.

    Attributes:
        commit: the full hash of the commit.
        sizes: path -> size in bytes; None if the hub does not report it.
        private: whether readers need a token.
    """

    commit: str
    sizes: Mapping[str, int | None]
    private: bool


def is_offline() -> bool:
    """Whether $HF_HUB_OFFLINE forbids every request. It is read at each call; the library reads it only once."""
    return os.environ.get(_OFFLINE, "").upper() in {"1", "ON", "YES", "TRUE"}


class Hub:
    """One repository on the hub. Every method may raise the errors that `_answers` lists.

    Args:
        repo: ORG/NAME.
        what: the feature that needs the extra, a key of the table in extras.py.

    Raises:
        ConfigError: huggingface_hub is not installed. The message names the extra.
    """

    def __init__(self, repo: str, what: str = "a bundle by name") -> None:
        # Xet uses other servers than the hub, and its downloads do not resume. The library reads this when imported.
        os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
        self._library = load(what, "huggingface_hub")
        self._errors = load(what, "huggingface_hub.errors")
        # Before 1.0 the library uses requests, whose errors are OSErrors. Later versions have another HTTPError.
        roots = [one for one in self._errors.HfHubHTTPError.__mro__ if one.__name__ == "HTTPError"]
        self._failures: tuple[type[Exception], ...] = (OSError, ValueError, *roots)
        self.repo = repo
        self.token = os.environ.get(_TOKEN) or None
        self._api = self._library.HfApi(
            endpoint=os.environ.get(_ENDPOINT) or None,  # the library reads the variable only when imported
            token=self.token or False,  # False: do not use a token that a login left on the disk
        )
        self.endpoint: str = self._api.endpoint

    def state(self, revision: str | None) -> RepoState:
        """The content of the repository at a revision (None = main)."""
        with self._answers(PREFIX + self.repo + (f"@{revision}" if revision else "")):
            found = self._api.model_info(
                self.repo, revision=revision or "main", files_metadata=True, timeout=_TIMEOUT_S
            )
        return RepoState(found.sha, {one.rfilename: one.size for one in found.siblings or ()}, bool(found.private))

    def download(self, path: str, commit: str, folder: Path) -> None:
        """Download a file to its path below a folder. Resumes a download that an earlier call did not finish."""
        with self._answers(f"{PREFIX}{self.repo}@{commit}: {path}", folder), _quiet(self._library.utils):
            self._api.hf_hub_download(self.repo, path, revision=commit, local_dir=folder, etag_timeout=_TIMEOUT_S)

    def create(self, *, private: bool) -> None:
        """Create the repository."""
        with self._answers(PREFIX + self.repo):
            self._api.create_repo(self.repo, private=private)

    def commit(self, files: Iterable[tuple[str, Path | bytes]], message: str) -> str:
        """Upload files as one commit on main, and return its hash."""
        with self._answers(PREFIX + self.repo), _quiet(self._library.utils), _warnings_as_notes():
            operations = [
                self._library.CommitOperationAdd(path, str(data) if isinstance(data, Path) else data)
                for path, data in files
            ]
            return str(self._api.create_commit(self.repo, operations, commit_message=message).oid)

    def exists(self) -> RepoState | None:
        """The content of the repository on main; None if there is no such repository, or it is not visible."""
        try:
            return self.state(None)
        except _NoSuchRepository:
            return None

    @contextlib.contextmanager
    def _answers(self, what: str, folder: Path | None = None) -> Iterator[None]:
        """Turn the library's errors into errors of abonyx.

        Raises:
            _NoSuchRepository: the repository does not exist, or this token may not see it.
            HubUnreachable: the hub gives no answer or a broken answer, or cannot serve the request now.
            ConfigError: a file cannot be written in the folder.
            BundleError: the hub refuses for another reason.
        """
        theirs = logging.getLogger("huggingface_hub")
        level = theirs.level
        theirs.setLevel(logging.ERROR)  # hide its messages about retries; the error at the end is enough
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
            problem = "gives an answer that cannot be used" if unusable else "gives no answer"
            return HubUnreachable(f"{what}: the hub at {self.endpoint} {problem}: {_cause(error)}", later)
        if isinstance(error, errors.GatedRepoError):
            fix = f"Ask for access on the repository's page, and set {_TOKEN} to a token of the account with access."
            return BundleError(f"{what}: the hub at {self.endpoint} requires permission to read it", fix)
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
                else f"Check the name. If the repository is private, set {_TOKEN} to a token that may read it."
            )
            seen = "no such repository, or it is private"
            return _NoSuchRepository(f"{what}: the hub at {self.endpoint} has {seen}", private)
        problem = f"{what}: the hub at {self.endpoint} answers {status}: {first_line(error)}"
        if status in (401, 403):
            fix = f"Check that the token in {_TOKEN} is valid and may do this."
            return BundleError(problem, fix if self.token else f"Set {_TOKEN} to a token that may do this.")
        if status >= 500 or status in _PASSING:
            return HubUnreachable(problem, later)
        return BundleError(problem, "Check the name, and the repository's page on the hub.")


class _NoSuchRepository(BundleError):
    """The hub has no repository with this name, or does not show it to this token."""


def unwritable(folder: Path, error: OSError) -> ConfigError:
    """The error for a folder of the cache that cannot be written."""
    fix = "Free space, or set ABONYX_CACHE_DIR to a directory with room. Then run the same command again."
    return ConfigError(f"{folder}: cannot be written: {error.strerror or first_line(error)}", fix)


def _status(error: BaseException) -> int | None:
    """The HTTP status in an error or in its causes; None if no answer came."""
    of: BaseException | None = error
    while of is not None:
        status = getattr(getattr(of, "response", None), "status_code", None)
        if status is not None:
            return int(status)
        of = of.__cause__
    return None


def _cause(error: BaseException) -> str:
    """The text of the innermost error. The outer errors name pools, retries and addresses, which do not help."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return (isinstance(error, OSError) and error.strerror) or first_line(error)


@contextlib.contextmanager
def _warnings_as_notes() -> Iterator[None]:
    """Log the library's warnings as notes."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        yield
    for one in told:
        LOGGER.warning(f"note: the hub says: {first_line(one.message)}")


@contextlib.contextmanager
def _quiet(utils: Any) -> Iterator[None]:
    """Disable the library's progress bars unless stderr is a terminal. In a log file, every refresh would be a line."""
    off = utils.are_progress_bars_disabled()
    if off or sys.stderr is None or sys.stderr.isatty():
        yield
        return
    utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.enable_progress_bars()
