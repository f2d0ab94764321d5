"""Make a plain copy of abonyx-mini: no stored quantiles, no panels, no card, no training rows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from .conftest import MINI

KEPT = ("head.onnx", "golden.npz", "README.md", "manifest.json")


def bare_mini(directory: Path) -> Path:
    """Make the copy in `directory`, which must not exist."""
    shutil.copytree(MINI, directory)
    manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
    manifest.pop("panels", None)
    manifest["heads"][0]["training"].pop("band")
    manifest["files"] = {name: entry for name, entry in manifest["files"].items() if "/" in name or name in KEPT}
    for path in directory.iterdir():
        if path.is_file() and path.name not in KEPT:
            path.unlink()
    (directory / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return directory
