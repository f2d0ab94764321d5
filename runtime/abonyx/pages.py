"""Where the pages of docs/ are, which messages and help texts name."""

from __future__ import annotations

from pathlib import Path


def pages_folder() -> Path:
    """The folder docs of this installation: in the package, if a wheel was installed, or in the clone."""
    package = Path(__file__).resolve().parent
    carried = package / "docs"
    return carried if carried.is_dir() else package.parents[1] / "docs"
