"""Every relative link of a Markdown page leads to a file of the repository, and every #heading to a heading."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from .conftest import REPOSITORY

# Folders that git ignores, or that have pages of other projects.
_IGNORED = re.compile(r"^(\.|out/|dist/|artifacts/(?!mini/)|.*egg-info)")
_FENCED = re.compile(r"^```.*?^```", flags=re.M | re.S)
_LINK = re.compile(r"\]\(([^()\s]+)\)")
_PATH = re.compile(r"(?<![\w./-])(?:runtime|export|tests|docs|configs|benchmarks|training)/[\w./-]+\.\w+")
# A pattern, not the name of one file.
_PATTERNS = {"configs/NAME.toml"}


def pages() -> list[Path]:
    paths = (path.relative_to(REPOSITORY) for path in REPOSITORY.rglob("*.md"))
    return sorted(path for path in paths if not _IGNORED.match(path.as_posix()))


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to the page's headings."""
    text = _FENCED.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.*)$", text, flags=re.M)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower() for heading in headings)
    return {re.sub(r"[^\w -]", "", heading).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", pages(), ids=str)
def test_links(page: Path) -> None:
    source = REPOSITORY / page
    for link in _LINK.findall(_FENCED.sub("", source.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, heading = link.partition("#")
        target = (source.parent / name).resolve() if name else source
        assert target.is_relative_to(REPOSITORY), link
        assert target.exists(), link
        assert not heading or heading in anchors(target), link


_NAME_FILES = ["CONTRIBUTING.md", "RELEASE.md", "SECURITY.md", "benchmarks/NOTES.md", "training/README.md"]
_NAME_FILES += [f"docs/{name}.md" for name in ("bundle", "coreml", "export", "int8", "providers", "reliability")]
_NAME_FILES += ["docs/privacy.md", "docs/scale.md"]


@pytest.mark.parametrize("page", _NAME_FILES)
def test_files_that_a_page_names_exist(page: str) -> None:
    named = set(_PATH.findall((REPOSITORY / page).read_text(encoding="utf-8"))) - _PATTERNS
    assert named
    missing = sorted(name for name in named if not (REPOSITORY / name).exists())
    assert not missing


def test_links_are_to_committed_files() -> None:
    """A file that git ignores may exist here, but not in a clone."""
    if not (REPOSITORY / ".git").exists():
        pytest.skip("not a git checkout")
    targets = {
        ((REPOSITORY / page).parent / link.partition("#")[0]).resolve()
        for page in pages()
        for link in _LINK.findall(_FENCED.sub("", (REPOSITORY / page).read_text(encoding="utf-8")))
        if not re.match(r"[a-z]+:|#", link)
    }
    done = subprocess.run(
        ["git", "check-ignore", *map(str, sorted(targets))], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.stdout == ""
