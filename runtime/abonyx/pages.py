"""The places of the pages docs/*.md and of the files examples/*.csv, which messages and help texts name."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def pages_folder() -> Path:
    """The folder docs of this installation: in the package if it is from a wheel, else in the clone."""
    return _shipped("docs")


def examples_folder() -> Path:
    """The folder examples of this installation: in the package if it is from a wheel, else in the clone."""
    return _shipped("examples")


def _shipped(name: str) -> Path:
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parents[1] / name
