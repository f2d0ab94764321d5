"""abonyx scores antibody sequences for non-specificity wherever ONNX Runtime runs.

    with abonyx.open_session(abonyx.RuntimeConfig(provider="cpu")) as session:
        p = session.score(["EVQLVESGGGLVQPGG..."])

Importing abonyx loads neither ONNX Runtime nor a model.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from abonyx import errors
    from abonyx.config import RuntimeConfig, load_config
    from abonyx.contributions import Contributions
    from abonyx.domain import judge
    from abonyx.explain.scan import scan
    from abonyx.frames import score_frame
    from abonyx.run.file import ScoreRow, ScoreSummary, score_file
    from abonyx.session import Session, close_session, open_session

__version__ = "0.2.0"
__all__ = [
    "Contributions",
    "RuntimeConfig",
    "ScoreRow",
    "ScoreSummary",
    "Session",
    "__version__",
    "close_session",
    "errors",
    "judge",
    "load_config",
    "open_session",
    "scan",
    "score_file",
    "score_frame",
]

_HOMES = {
    **dict.fromkeys(("RuntimeConfig", "load_config"), "config"),
    "Contributions": "contributions",
    "judge": "domain",
    "scan": "explain.scan",
    "score_frame": "frames",
    **dict.fromkeys(("ScoreRow", "ScoreSummary", "score_file"), "run.file"),
    **dict.fromkeys(("Session", "close_session", "open_session"), "session"),
}


def __getattr__(name: str) -> object:
    """Load a public name's module on first use, so that importing abonyx costs next to nothing."""
    if name == "errors":
        return importlib.import_module("abonyx.errors")
    if name in _HOMES:
        return getattr(importlib.import_module(f"abonyx.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'abonyx' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
