"""abonyx itself: open_session and score, nothing else."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

import abonyx
from peers.pipe import Call, serve


def open_engine(request: dict[str, Any]) -> dict[str, Call]:
    """The bundle's variant on the provider asked for, open until the process ends."""
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
    raise SystemExit("no ONNX Runtime in this environment")


if __name__ == "__main__":
    serve(open_engine, ("abonyx", _engine(), "numpy"))
