"""The place of the pages docs/*.md, which messages and help texts name."""

from __future__ import annotations

from pathlib import Path


def pages_folder() -> Path:
    """The folder docs of this installation: in the package if it is from a wheel, else in the clone."""
    package = Path(__file__).resolve().parent
    inside = package / "docs"
    return inside if inside.is_dir() else package.parents[1] / "docs"
