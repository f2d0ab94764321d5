"""A separate hub for a test, and huggingface_hub as in a process that has just imported it."""

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
    """Make this process and its children use the server, with bundles in tmp_path/cache."""
    pytest.importorskip("huggingface_hub", reason="the hub extra is not installed")
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf_home"))
    monkeypatch.setenv("ABONYX_CACHE_DIR", str(tmp_path / "cache"))
    constants, http = map(importlib.import_module, ("huggingface_hub.constants", "huggingface_hub.utils._http"))
    # huggingface_hub reads these at import, and another test may have imported it offline. Its sessions keep them.
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
    """Run `abonyx` in a separate process."""
    command = [sys.executable, "-m", "abonyx", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
