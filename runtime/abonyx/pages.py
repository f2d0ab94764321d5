"""The place of the files that messages and help texts name: docs/NAME.md, and those of configs, deploy and examples."""

from __future__ import annotations

from pathlib import Path


def shipped_folder() -> Path:
    """The folder that contains them: the package if it is from a wheel, else the clone."""
    package = Path(__file__).resolve().parent
    return package if (package / "docs").is_dir() else package.parents[1]
