"""No text uses the word "guaranteed", which no measurement supports."""

from __future__ import annotations

from ...conftest import REPOSITORY

FOLDERS = ("runtime", "export", "docs", "training", "configs", "artifacts")
SUFFIXES = {".py", ".md", ".html", ".js", ".toml", ".json"}


def test_nothing_is_guaranteed() -> None:
    """Measured coverage on Shehata was .66 for a requested .8."""
    word = "guarant"
    paths = [path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*") if path.suffix in SUFFIXES]
    paths += REPOSITORY.glob("*.md")
    assert len(paths) > 200
    assert [path for path in paths if word in path.read_text(encoding="utf-8").lower()] == []
