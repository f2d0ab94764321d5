"""What an optional extra brings: asked for before the command that needs it does anything."""

from __future__ import annotations

import importlib

from abonyx.errors import ConfigError

# Extra -> distribution -> the module that its command imports.
_NEEDED = {
    "evaluate": {"scikit-learn": "sklearn.metrics", "matplotlib": "matplotlib.figure"},
    "serve": {"fastapi": "fastapi", "uvicorn": "uvicorn", "prometheus-client": "prometheus_client"},
}


def how_to_install(extra: str) -> str:
    """The command that brings it."""
    return f'pip install "abonyx[cpu,{extra}]", with gpu or openvino in place of cpu where that is the engine.'


def require(extra: str) -> None:
    """Raise a ConfigError that names what of an extra, "evaluate" or "serve", cannot be imported."""
    missing = []
    for name, module in _NEEDED[extra].items():
        try:
            importlib.import_module(module)
        except ImportError as error:
            missing.append(f"{name} ({error})")
    if missing:
        raise ConfigError(f"{extra} needs {' and '.join(missing)}", how_to_install(extra))
