"""Scores over HTTP: one session, one scoring thread, many clients. Alone in needing the extra `serve`.

A request is let in (gate), read and checked (requests), waits with others for the one thread that scores (scheduler),
and is answered (app, answers).
"""

from __future__ import annotations

import importlib

from abonyx.errors import ConfigError

_NEEDED = {"fastapi": "fastapi", "uvicorn": "uvicorn", "prometheus-client": "prometheus_client"}


def require_extra() -> None:
    """Raise a ConfigError that names what of the extra cannot be imported."""
    missing = []
    for name, module in _NEEDED.items():
        try:
            importlib.import_module(module)
        except ImportError as error:
            missing.append(f"{name} ({error})")
    if missing:
        raise ConfigError(
            f"serve needs {' and '.join(missing)}",
            'pip install "abonyx[cpu,serve]", with gpu or openvino in place of cpu where that is the engine.',
        )
