"""Make sure that an open model computes with the weights that were hashed, and that nobody can change them.

ONNX Runtime maps a file of weights. As long as the model is open, it reads from the file every tensor that it has not
copied. If somebody writes to the file, scores change; if somebody shortens it, the process crashes (SIGBUS). So abonyx
reads the tensors that the engine would not copy, and passes them in memory. Afterwards no part of the file may be
mapped. If a part is mapped, or if this is not known, the model is loaded from a private copy.
docs/reliability.md describes both ways.
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
# The engine reads larger tensors that it packs itself: packing makes a copy, and a second copy of gigabytes would stay
# in memory. benchmarks/NOTES.md shows how much memory is used if tensors are passed.
LEFT_TO_ENGINE_BYTES = 64 * 2**10
_MAPS = Path("/proc/self/maps")
_CHANGED_FIX = "Another process is changing the bundle. End that process, and open again."


def handed_over(graph: GraphFile) -> list[StoredTensor]:
    """The tensors to pass in memory: those that the engine does not pack, so does not copy, and all small ones."""
    return [one for one in graph.tensors.values() if not one.packed or one.size_bytes <= LEFT_TO_ENGINE_BYTES]


def read_tensors(folder: Path, tensors: Iterable[StoredTensor]) -> list[npt.NDArray[np.generic]]:
    """Read the values of tensors into memory, in the order of `tensors`.

    Raises:
        BundleError: a file cannot be read, or has become shorter.
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
                            raise BundleError(f"{folder / location}: is shorter than when it was hashed", _CHANGED_FIX)
                        values[tensor.name] = np.frombuffer(data, _DTYPES[tensor.element]).reshape(tensor.shape)
        except OSError as error:
            raise BundleError(f"{folder / location}: cannot be read: {error.strerror}", _CHANGED_FIX) from error
    return [values[tensor.name] for tensor in tensors]


def mapped(paths: Collection[Path]) -> bool | None:
    """Whether this process has a part of one of these files mapped; None if this is not known (no /proc)."""
    try:
        lines = _MAPS.read_bytes().splitlines()
        wanted = {(status.st_dev, status.st_ino) for status in map(os.stat, paths)}
    except OSError:
        return None
    # Names are compared too, because files of an overlay have other numbers in the list. The list writes a line end in
    # a name as \012.
    names = {os.fsencode(os.path.realpath(path)).replace(b"\n", b"\\012") for path in paths}
    for line in lines:  # "start-end perms offset major:minor inode path"; all but the inode are hexadecimal
        fields = line.split(None, 5)
        major, minor = fields[3].split(b":")
        file = os.makedev(int(major, 16), int(minor, 16)), int(fields[4])
        if file in wanted or not names.isdisjoint(fields[5:]):
            return True
    return False
