"""What an optional extra brings: checked before the command that needs it does anything."""

from __future__ import annotations

import importlib
from typing import Any

from abonyx.errors import ConfigError, first_line
from abonyx.privacy import silence

_TO_FIT = {"onnx": "onnx", "scikit-learn": "sklearn", "scipy": "scipy"}
# What needs something -> the extra that brings it, and distribution -> the module that is imported.
_NEEDED = {
    "evaluate": ("evaluate", {"scikit-learn": "sklearn.metrics", "matplotlib": "matplotlib.figure"}),
    "drawing contributions": ("explain", {"matplotlib": "matplotlib.figure"}),
    "drawing a scan": ("explain", {"matplotlib": "matplotlib.figure"}),
    "serve": ("serve", {"fastapi": "fastapi", "uvicorn": "uvicorn", "prometheus-client": "prometheus_client"}),
    "abonyx.sklearn": ("evaluate", {"scikit-learn": "sklearn.base"}),
    "abonyx.client": ("client", {"httpx": "httpx"}),
    "Parquet": ("parquet", {"pyarrow": "pyarrow.parquet"}),
    "Excel": ("excel", {"python-calamine": "python_calamine"}),
    "score_frame": ("frames", {"narwhals": "narwhals"}),
    "scoring by Ray": ("ray", {"ray": "ray.data"}),
    "export": ("export", {"torch": "torch", "transformers": "transformers", **_TO_FIT}),
    "fit": ("export", _TO_FIT),
    "calibrate": ("export", _TO_FIT),
}

# Extras of what opens no model.
_WITHOUT_ENGINE = ("client",)


def require(what: str) -> None:
    """Raise a ConfigError if something that `what`, a key of the table above, needs cannot be imported.

    The message names each missing distribution, why it cannot be imported, and the command that installs the extra.
    """
    silence()
    extra, needed = _NEEDED[what]
    missing = []
    for distribution, module in needed.items():
        try:
            importlib.import_module(module)
        except ImportError as error:
            missing.append(f"{distribution} ({first_line(error)})")
    if missing:
        fix = f'pip install "abonyx[cpu,{extra}]", with gpu or openvino in place of cpu if that is the engine.'
        if extra in _WITHOUT_ENGINE:
            fix = f'pip install "abonyx[{extra}]"'
        raise ConfigError(f"{what} needs {' and '.join(missing)}", fix)


def load(what: str, module: str) -> Any:
    """A module that an extra brings. Raises as require does."""
    require(what)
    return importlib.import_module(module)
