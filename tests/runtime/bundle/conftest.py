"""The hub of a test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .hub_server import HubServer, hub_server
from .hubs import use_hub


@pytest.fixture
def hub(isolated: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub without repositories, which abonyx asks in this test."""
    with hub_server() as server:
        use_hub(server, tmp_path, monkeypatch)
        yield server
