"""The name of a bundle on the Hugging Face hub: `hf:ORG/NAME@REVISION#sha256=HASH`. No network is used here."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

from abonyx.errors import ConfigError, first_line

PREFIX = "hf:"
_SHA256 = "#sha256="
# The hub's own rule. It allows neither "--" nor ".." in a name, so a folder can be named ORG--NAME.
_REPO = re.compile(r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)
_MOST_REPO_CHARS = 96
# The name of a branch or a tag, a commit, or refs/pr/N.
_REVISION = re.compile(r"[A-Za-z0-9_][\w./-]{0,199}", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HASH = re.compile(r"[0-9a-f]{64}")
FORMS = "hf:ORG/NAME, hf:ORG/NAME@REVISION, and either with #sha256=HASH at the end"


@dataclass(frozen=True)
class HubName:
    """The name of a bundle on the hub. str() gives the text that `parse` reads.

    Attributes:
        repo: ORG/NAME.
        revision: branch, tag or commit; None = the branch main.
        sha256: the hash of the bundle; None = any.
    """

    repo: str
    revision: str | None = None
    sha256: str | None = None

    @classmethod
    def parse(cls, text: str) -> HubName:
        """Read the name from a text for which is_hub_name is true.

        Raises:
            ConfigError: the text has another form. The message shows the allowed forms.
        """
        rest, mark, sha256 = text.removeprefix(PREFIX).partition("#")
        repo, at, revision = rest.partition("@")
        right = (
            _REPO.fullmatch(repo)
            and len(repo) <= _MOST_REPO_CHARS
            and not re.search(r"--|\.\.|[-.](/|$)|\.git$", repo)
            and (not at or (_REVISION.fullmatch(revision) and ".." not in revision))
            and (not mark or _HASH.fullmatch(sha256.removeprefix(_SHA256[1:])))
            and (not mark or sha256.startswith(_SHA256[1:]))
        )
        if not right:
            fix = f"Give {FORMS}; HASH has 64 digits of 0-9 and a-f. For a directory, write ./{PREFIX}..."
            raise ConfigError(f"bundle {first_line(repr(text))}: is not a name on the hub", fix)
        return cls(repo, revision if at else None, sha256.removeprefix(_SHA256[1:]) if mark else None)

    @property
    def commit(self) -> str | None:
        """The revision, if it is the full hash of a commit; else None."""
        return self.revision if self.revision and _COMMIT.fullmatch(self.revision) else None

    def pinned(self, commit: str, sha256: str | None) -> HubName:
        """The name of the same bundle with its commit and hash."""
        return dataclasses.replace(self, revision=commit, sha256=sha256)

    @property
    def without_hash(self) -> str:
        """The name up to the revision."""
        return str(dataclasses.replace(self, sha256=None))

    def __str__(self) -> str:
        at = "" if self.revision is None else f"@{self.revision}"
        return f"{PREFIX}{self.repo}{at}" + ("" if self.sha256 is None else f"{_SHA256}{self.sha256}")


def is_hub_name(bundle: object) -> bool:
    """Whether a text or a path names a bundle on the hub, and not a directory."""
    return isinstance(bundle, str | Path) and str(bundle).startswith(PREFIX)


def hub_name(bundle: str | Path) -> HubName:
    """Read the name from a text or a path. Raises ConfigError."""
    return HubName.parse(bundle if isinstance(bundle, str) else bundle.as_posix())
