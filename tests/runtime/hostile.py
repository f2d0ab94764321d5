"""Bundles with right hashes and hostile contents: what a stranger could send."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from abonyx.hashing import file_sha256

FOLDER = "fp16-weights"
MODEL = f"{FOLDER}/model.onnx"
WEIGHTS = "model.onnx.data"


def edit(directory: Path, **changes: Any) -> None:
    """Change keys of manifest.json."""
    path = directory / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def relist(directory: Path) -> None:
    """List every file in the manifest again, so that the hashes are right."""
    names = [
        path for path in directory.rglob("*") if path.is_file() and path.name not in ("manifest.json", "README.md")
    ]
    entries = {
        path.relative_to(directory).as_posix(): {"sha256": file_sha256(path), "size_bytes": path.stat().st_size}
        for path in names
    }
    edit(directory, files=entries)


def shift_head(directory: Path, shift: float) -> None:
    """Shift every logit, in the manifest and in the golden rows, as another head would."""
    with np.load(directory / "golden.npz") as arrays:
        golden = dict(arrays)
    golden |= {name: golden[name] + shift for name in ("value", "head_intercept")}
    np.savez(directory / "golden.npz", **golden)
    (head,) = json.loads((directory / "manifest.json").read_text())["heads"]
    edit(directory, heads=[head | {"intercept": head["intercept"] + shift}])
    relist(directory)


def varint(value: int) -> bytes:
    """A number in protobuf's encoding, 7 bits per byte."""
    low = bytes([value & 0x7F | (0x80 if value > 0x7F else 0)])
    return low + varint(value >> 7) if value > 0x7F else low


def field(number: int, value: bytes | str | int) -> bytes:
    """One field of a protobuf message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def external(entries: Iterable[tuple[str, str]], *, located: bool = True, name: str = "hostile") -> bytes:
    """A TensorProto of one float32 with external data."""
    data = field(1, 1) + field(2, 1) + field(8, name)
    data += b"".join(field(13, field(1, key) + field(2, value)) for key, value in entries)
    return data + (field(14, 1) if located else b"")


WEIGHT = external([("location", WEIGHTS), ("offset", "0"), ("length", "4")], name="weight")


def node(
    op_type: str = "Add", domain: str = "", attribute: bytes = b"", inputs: tuple[str, ...] = ("weight", "weight")
) -> bytes:
    """A NodeProto without outputs."""
    return (
        b"".join(field(1, name) for name in inputs)
        + field(4, op_type)
        + field(7, domain)
        + (field(5, attribute) if attribute else b"")
    )


def graph(*nodes: bytes, tensors: Iterable[bytes] = (WEIGHT,), more: bytes = b"") -> bytes:
    """A GraphProto."""
    return b"".join(field(1, one) for one in nodes or (node(),)) + b"".join(field(5, one) for one in tensors) + more


def model(body: bytes | None = None, *domains: str, more: bytes = b"") -> bytes:
    """A ModelProto."""
    opsets = b"".join(field(8, field(1, domain) + field(2, 20)) for domain in ("", *domains))
    return opsets + field(7, graph() if body is None else body) + more
