"""A hub of its own for a test, and huggingface_hub as it is in a process that only now imports it."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .hub_server import HubServer

REPO = "acme/mini"


def use_hub(server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process and its children ask the server, and keep bundles in tmp_path/cache."""
    pytest.importorskip("huggingface_hub", reason="the hub extra is not installed")
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf_home"))
    monkeypatch.setenv("ABONYX_CACHE_DIR", str(tmp_path / "cache"))
    constants, http = map(importlib.import_module, ("huggingface_hub.constants", "huggingface_hub.utils._http"))
    # Read at its import, which another test may have done offline; its sessions remember it.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
    for module in (constants, importlib.import_module("huggingface_hub.file_download")):
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + template, raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "hf_home" / "token"))
    (http.reset_sessions if hasattr(http, "reset_sessions") else http.close_session)()


def start(*arguments: object) -> subprocess.Popen[str]:
    """`abonyx` in a process of its own."""
    command = [sys.executable, "-m", "abonyx", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
