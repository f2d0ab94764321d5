"""An export from a directory opens no connection, and writes nothing outside abonyx's cache."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ..runtime.engine.test_privacy import home, looked_up, written
from .conftest import CheckpointMaker, HeadMaker

__all__ = ["home"]


@pytest.mark.slow
def test_an_export_from_a_directory_looks_nothing_up(
    checkpoint: CheckpointMaker,
    spread_head: HeadMaker,
    home: Path,
) -> None:
    directory = checkpoint("esm1v")
    head = spread_head(directory, name="out.head.npz")
    arguments = ["export", "--encoder", str(directory), "--head", str(head), "-o", str(home / "out"), "--chains", "H"]
    assert looked_up([sys.executable, "-m", "abonyx", *arguments, "--variants", "fp32"], home) == []
    assert written(home) == set()
