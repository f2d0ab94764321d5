"""abonyx itself, with open_session and score only."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

import abonyx
from peers.pipe import Call, serve


def open_engine(request: dict[str, Any]) -> dict[str, Call]:
    """Open the bundle's variant on the requested provider until the process ends."""
    config = abonyx.RuntimeConfig(
        bundle=request["bundle"],
        variant=request["precision"],
        provider=request["provider"],
        cpu=abonyx.config.CpuOptions(threads=request["threads"]),
    )
    return {"score": abonyx.open_session(config).score}


def _engine() -> str:
    for name in ("onnxruntime", "onnxruntime-openvino"):
        try:
            version(name)
        except PackageNotFoundError:
            continue
        return name
    raise SystemExit("ONNX Runtime is not installed in this environment")


if __name__ == "__main__":
    serve(open_engine, ("abonyx", _engine(), "numpy"))
