"""How well scores agree with labels: metrics, pictures, a report. Alone in needing the extra `evaluate`."""

from __future__ import annotations

import importlib

from abonyx.errors import ConfigError

_NEEDED = {"scikit-learn": "sklearn.metrics", "matplotlib": "matplotlib.figure"}


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
            f"evaluate needs {' and '.join(missing)}",
            'pip install "abonyx[cpu,evaluate]", with gpu or openvino in place of cpu where that is the engine.',
        )
