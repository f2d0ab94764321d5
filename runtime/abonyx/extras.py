"""The optional extras and their packages. A command checks its extra before it does anything else."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from abonyx.errors import ConfigError, first_line
from abonyx.privacy import silence

_TO_FIT = {"onnx": "onnx", "scikit-learn": "sklearn", "scipy": "scipy"}
# Feature -> (its extra, {distribution: the module that is imported}).
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
    "a bundle by name": ("hub", {"huggingface_hub": "huggingface_hub"}),
    "push": ("hub", {"huggingface_hub": "huggingface_hub"}),
    "scoring by Ray": ("ray", {"ray": "ray.data"}),
    "export": ("export", {"torch": "torch", "transformers": "transformers", **_TO_FIT}),
    "fit": ("fit", _TO_FIT),
    "calibrate": ("fit", _TO_FIT),
}


def require(what: str) -> None:
    """Check that all packages of a feature can be imported. `what` is a key of the table above.

    Raises:
        ConfigError: a package cannot be imported. The message names each missing distribution with the reason, and the
            command that installs the extra.
    """
    silence()
    extra, needed = _NEEDED[what]
    missing = []
    for distribution, module in needed.items():
        try:
            importlib.import_module(module)
        except ImportError as error:
            absent = isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]
            missing.append(f"{distribution} ({'not installed' if absent else first_line(error)})")
    if missing:
        fix = f"Install the extra {extra}: {install_command(extra)}"
        raise ConfigError(f"{what} needs {' and '.join(missing)}", fix)


def install_command(extra: str) -> str:
    """The pip command that adds an extra to the installed abonyx, from the same source.

    With the name alone, pip would look for abonyx in an index, which may not have it. So the command names the clone,
    the wheel file (with its path, if the file still exists), or the repository's address and commit.
    """
    try:
        text = importlib.metadata.distribution("abonyx").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:  # abonyx is not installed; its folder is on the search path
        text = None
        clone = Path(__file__).parents[2]
        if (clone / "pyproject.toml").is_file():
            return f'pip install -e "{clone}[{extra}]"'
    origin = json.loads(text) if text else {}
    address = str(origin.get("url", ""))
    if "vcs_info" in origin:
        vcs = origin["vcs_info"]
        return f'pip install "abonyx[{extra}] @ {vcs["vcs"]}+{address}@{vcs["commit_id"]}"'
    if address.startswith("file:"):
        place = Path(url2pathname(urlsplit(address).path))
        editable = "-e " if origin.get("dir_info", {}).get("editable") else ""
        return f'pip install {editable}"{place if place.exists() else place.name}[{extra}]"'
    return f'pip install "abonyx[{extra}] @ {address}"' if address else f'pip install "abonyx[{extra}]"'


def load(what: str, module: str) -> Any:
    """Import a module of an extra. Raises as `require` does."""
    require(what)
    return importlib.import_module(module)
