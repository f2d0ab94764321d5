"""Weights that nobody else can change: what an open model computes with is what was hashed.

ONNX Runtime maps a weights' file and, for as long as the model is open, reads from it whatever it has not copied.
Somebody who writes to that file changes scores; somebody who cuts it ends the process (SIGBUS). So tensors that the
engine would not copy are handed over as memory of this process, and afterwards nothing of the file may be mapped. If
something is, or if the system does not say, the model is loaded from a private copy instead. docs/reliability.md says
what each way proves.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from abonyx.bundle.graph_file import GraphFile, StoredTensor
from abonyx.bundle.operators import FLOAT16, FLOAT32, INT8, INT32, INT64, UINT8
from abonyx.errors import BundleError

_DTYPES: dict[str, npt.DTypeLike] = {
    **{FLOAT32: "<f4", FLOAT16: "<f2", UINT8: "u1", INT8: "i1", INT32: "<i4", INT64: "<i8"},
}
# Packed tensors over this are left to the engine: it copies them as it packs them, and a second copy of gigabytes would
# stay for life. What is handed over costs memory: benchmarks/NOTES.md.
LEFT_TO_ENGINE_BYTES = 64 * 2**10
_MAPS = Path("/proc/self/maps")
_CHANGED_FIX = "Something writes to the bundle: end that first, and open again."


def handed_over(graph: GraphFile) -> list[StoredTensor]:
    """The tensors that the engine would read from their file for life: small ones, and those it does not pack."""
    return [one for one in graph.tensors.values() if not one.packed or one.size_bytes <= LEFT_TO_ENGINE_BYTES]


def read_tensors(folder: Path, tensors: Iterable[StoredTensor]) -> list[npt.NDArray[np.generic]]:
    """Their values, as memory of this process, in the order of `tensors`.

    Raises:
        BundleError: a file that cannot be read, or is shorter than it was.
    """
    values: dict[str, npt.NDArray[np.generic]] = {}
    tensors = list(tensors)
    for location in {tensor.location for tensor in tensors}:
        try:
            with (folder / location).open("rb") as file:
                for tensor in tensors:
                    if tensor.location == location:
                        file.seek(tensor.offset)
                        data = file.read(tensor.size_bytes)
                        if len(data) < tensor.size_bytes:
                            raise BundleError(f"{folder / location}: shorter than when it was hashed", _CHANGED_FIX)
                        values[tensor.name] = np.frombuffer(data, _DTYPES[tensor.element]).reshape(tensor.shape)
        except OSError as error:
            raise BundleError(f"{folder / location}: cannot be read: {error.strerror}", _CHANGED_FIX) from error
    return [values[tensor.name] for tensor in tensors]


def mapped(paths: Collection[Path]) -> bool | None:
    """Whether this process has part of one of these files mapped; None if the system does not say (no /proc)."""
    try:
        lines = _MAPS.read_bytes().splitlines()
        wanted = {(status.st_dev, status.st_ino) for status in map(os.stat, paths)}
    except OSError:
        return None
    # By name too: an overlay's files have other numbers in the list. It writes a line's end in a name as \\012.
    names = {os.fsencode(os.path.realpath(path)).replace(b"\n", b"\\012") for path in paths}
    for line in lines:  # "start-end perms offset major:minor inode path", hexadecimal but for the inode
        fields = line.split(None, 5)
        major, minor = fields[3].split(b":")
        file = os.makedev(int(major, 16), int(minor, 16)), int(fields[4])
        if file in wanted or not names.isdisjoint(fields[5:]):
            return True
    return False
