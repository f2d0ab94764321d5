"""Variables that stop libraries from sending usage data, or from writing outside abonyx's cache.

They must be set before the libraries are imported.
"""

from __future__ import annotations

import os
import sys

from abonyx.cache import cache_dir

# The user may set these to other values. The variable of ONNX Runtime below always gets this value.
_DEFAULTS = {"RAY_USAGE_STATS_ENABLED": "0", "HF_HUB_DISABLE_TELEMETRY": "1"}
_ENGINE = ("ORT_DISABLE_TELEMETRY", "1")
ENGINE_NOTE = (
    "note: onnxruntime was imported before abonyx with its telemetry on, and may send usage data to Microsoft. "
    "Set ORT_DISABLE_TELEMETRY=1 in the environment, or import abonyx first; see docs/privacy.md"
)


def silence() -> None:
    """Set variables of this process and its children so that no library sends usage data.

    ONNX Runtime reads its variable when it is imported. "0" and an empty value leave its telemetry on.
    """
    global _engine_first
    if "onnxruntime" in sys.modules and os.environ.get(_ENGINE[0]) != _ENGINE[1]:
        _engine_first = True
    os.environ[_ENGINE[0]] = _ENGINE[1]
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    if (directory := cache_dir()) is not None:  # if None, matplotlib uses a temporary directory
        os.environ.setdefault("MPLCONFIGDIR", str(directory / "matplotlib"))


_engine_first = False


def engine_notes() -> list[str]:
    """[ENGINE_NOTE] if ONNX Runtime was imported with telemetry on before silence() ran; else []."""
    return [ENGINE_NOTE] if _engine_first else []
