"""A message about a missing extra has a pip command that works for the installed abonyx."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import pytest

from abonyx import extras
from abonyx.errors import ConfigError

from ..conftest import REPOSITORY


class Installed:
    def __init__(self, origin: dict[str, Any] | None) -> None:
        self.origin = origin

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"  # PEP 610
        return None if self.origin is None else json.dumps(self.origin)


def command(monkeypatch: pytest.MonkeyPatch, origin: dict[str, Any] | None) -> str:
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Installed(origin))
    return extras.install_command("serve")


def test_a_clone_is_named_as_a_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clone = tmp_path / "my clone"
    clone.mkdir()
    origin = {"url": clone.as_uri(), "dir_info": {"editable": True}}
    assert command(monkeypatch, origin) == f'pip install -e "{clone}[serve]"'
    assert command(monkeypatch, {**origin, "dir_info": {}}) == f'pip install "{clone}[serve]"'


def test_a_wheel_is_named_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "abonyx-0.2.0-py3-none-any.whl"
    origin = {"url": wheel.as_uri(), "archive_info": {}}
    assert command(monkeypatch, origin) == f'pip install "{wheel.name}[serve]"'
    wheel.touch()
    assert command(monkeypatch, origin) == f'pip install "{wheel}[serve]"'


def test_a_repository_and_an_address_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    origin = {"url": "https://host.example/abonyx.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}}
    assert command(monkeypatch, origin) == 'pip install "abonyx[serve] @ git+https://host.example/abonyx.git@abc"'
    address = "https://host.example/abonyx-0.2.0-py3-none-any.whl"
    assert command(monkeypatch, {"url": address, "archive_info": {}}) == f'pip install "abonyx[serve] @ {address}"'


def test_the_name_alone_is_given_only_if_it_was_installed_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert command(monkeypatch, None) == 'pip install "abonyx[serve]"'

    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    assert extras.install_command("serve") == f'pip install -e "{REPOSITORY}[serve]"'
    monkeypatch.setattr(extras, "__file__", "/somewhere/site-packages/abonyx/extras.py")
    assert extras.install_command("serve") == 'pip install "abonyx[serve]"'


def test_a_missing_extra_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(extras._NEEDED, "serve", ("serve", {"a-distribution": "no_such_module"}))
    with pytest.raises(ConfigError) as raised:
        extras.require("serve")
    assert raised.value.what == "serve needs a-distribution (not installed)"
    assert raised.value.fix == f"Install the extra serve: {extras.install_command('serve')}"
