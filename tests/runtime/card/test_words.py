"""A word that no measurement here supports."""

from __future__ import annotations

from ...conftest import REPOSITORY

FOLDERS = ("runtime", "export", "docs", "training", "configs", "artifacts")
SUFFIXES = {".py", ".md", ".html", ".js", ".toml", ".json"}


def test_nothing_is_guaranteed() -> None:
    """Coverage on Shehata was .66 where .8 was asked for."""
    word = "guarant"
    paths = [path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*") if path.suffix in SUFFIXES]
    paths += REPOSITORY.glob("*.md")
    assert len(paths) > 200
    assert [path for path in paths if word in path.read_text(encoding="utf-8").lower()] == []
