"""Check a graph file before an engine reads it: its operators, and the place of its weights.

A hostile bundle can have the right hashes, so the graph itself must be checked. The runtime does not have the package
onnx, so this module reads the few fields of onnx.proto that matter from protobuf's wire format.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from abonyx.bundle.operators import ABSENT, FLOAT16, FLOAT32, ITEM_BYTES, LETTERS, OPERATORS, known, output_type, takes
from abonyx.bundle.wire import VARINT, Fields, WireError, key, read_fields, read_text, read_texts
from abonyx.errors import BundleError

# A graph of 33 layers at int8 takes 480 kB, without weights. A hostile file of MAX_GRAPH_BYTES takes seconds to read.
MAX_GRAPH_BYTES = 8 * 2**20

# The fields that matter, by message. All others are skipped.
_MODEL = {key(7): "graph", key(8): "opset", key(20): "training information", key(25): "functions"}
_OPSET = {key(1): "domain"}
_GRAPH = {key(1): "node", key(5): "initializer", key(11): "input", key(15): "sparse initializers"}
_NODE = {key(1): "input", key(2): "output", key(4): "op_type", key(5): "attribute", key(7): "domain"}
_ATTRIBUTE = {
    **{key(1): "name", key(3, VARINT): "i", key(5): "a tensor in a node", key(10): "a tensor in a node"},
    **{key(6): "a subgraph", key(11): "a subgraph", key(22): "a sparse tensor", key(23): "a sparse tensor"},
}
_TENSOR = {
    **{key(1, VARINT): "dim", key(1): "packed dimensions", key(2, VARINT): "data_type", key(8): "name"},
    **{key(13): "external_data", key(14, VARINT): "data_location"},
}
_ENTRY = {key(1): "key", key(2): "value"}
_VALUE_INFO, _TYPE, _TENSOR_TYPE = {key(1): "name", key(2): "type"}, {key(1): "tensor"}, {key(1, VARINT): "element"}
# abonyx never exports these.
_REFUSED = {
    *("training information", "functions", "sparse initializers", "packed dimensions"),
    *("a subgraph", "a sparse tensor", "a tensor in a node"),
}
# (operator, input number): engines pack or convert the weights of these inputs at loading, and keep their own copy.
_PACKED = {("MatMul", 1), ("Gemm", 1), ("Cast", 0), ("DequantizeLinear", 0)}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor whose values are in a file beside the graph.

    Attributes:
        name: its name.
        element: its element type, a letter of operators.LETTERS.
        shape: its shape.
        location: name of the file.
        offset, size_bytes: place of its values in the file.
        packed: whether engines pack or convert it for every node that reads it.
    """

    name: str
    element: str
    shape: tuple[int, ...]
    location: str
    offset: int
    size_bytes: int
    packed: bool


@dataclass
class GraphFile:
    """The content of a graph file.

    Attributes:
        operators: operator -> number of nodes. Operators outside ONNX's own domain are "domain.Operator".
        tensors: name -> tensor, for tensors whose values are in a file beside the graph.
    """

    operators: Counter[str] = field(default_factory=Counter)
    tensors: dict[str, StoredTensor] = field(default_factory=dict)

    @property
    def files(self) -> set[str]:
        """Names of the files that contain the weights."""
        return {tensor.location for tensor in self.tensors.values()}


def check_graph_file(path: Path, sizes: Mapping[str, int]) -> GraphFile:
    """Read a graph file, and check that an export could have written it.

    Args:
        path: the .onnx file.
        sizes: name -> size in bytes, for the files that the manifest lists in its folder.

    Raises:
        BundleError: the graph has an unknown operator, type or domain, a subgraph, or weights outside the listed
            files. The message names the operator, the location or the file.
    """
    try:
        if path.suffix != ".onnx":  # ONNX Runtime chooses the file format by the suffix
            raise WireError("does not end with .onnx")
        with path.open("rb") as file:
            data = file.read(MAX_GRAPH_BYTES + 1)
        if len(data) > MAX_GRAPH_BYTES:
            raise WireError(f"is larger than {MAX_GRAPH_BYTES} bytes")
        return read_graph(data, {name: size for name, size in sizes.items() if name != path.name})
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}", "Export the bundle again.") from error
    except WireError as error:
        fix = "Export the bundle again. Do not use a bundle from somebody you do not trust."
        raise BundleError(f"{path}: {error}: not a graph that abonyx exports", fix) from None


def read_graph(data: bytes, sizes: Mapping[str, int]) -> GraphFile:
    """Read the bytes of an .onnx file.

    Args:
        data: the bytes.
        sizes: name -> size in bytes, for the files that may contain weights.

    Raises:
        WireError: an export could not have written it. The message says why.
    """
    return _Reader(data, sizes).read()


class _Reader:
    """Reader of one graph. Raises WireError with the reason; check_graph_file adds the file's name."""

    def __init__(self, data: bytes, sizes: Mapping[str, int]) -> None:
        self._data, self._sizes = data, sizes
        self._types: dict[str, str] = {}  # name of a value -> its letter
        self._found = GraphFile()
        self._readers: dict[str, set[tuple[str, int]]] = {}  # name of a value -> {(operator, input number)}

    def read(self) -> GraphFile:
        nodes: list[tuple[int, int]] = []
        for name, start, stop in self._fields(0, len(self._data), _MODEL):
            if name == "opset":
                domain = read_texts(self._data, start, stop, _OPSET).get("domain", "")
                if domain not in OPERATORS:
                    raise WireError(f"operators of domain {domain[:80]!r}")
                continue
            for part, at, end in self._fields(start, stop, _GRAPH):
                if part == "node":
                    nodes.append((at, end))
                elif part == "input":
                    self._read_input(at, end)
                else:
                    self._read_tensor(at, end)
        for at, end in nodes:  # after the tensors: nodes need their types, but come first in the file
            self._read_node(at, end)
        if not nodes:
            raise WireError("has no nodes")
        for name, tensor in self._found.tensors.items():
            packed = self._readers.get(name, set()) <= _PACKED
            self._found.tensors[name] = StoredTensor(**{**vars(tensor), "packed": packed})
        return self._found

    def _fields(self, start: int, stop: int, table: Mapping[int, str]) -> Fields:
        for name, at, end in read_fields(self._data, start, stop, table):
            if name in _REFUSED:
                raise WireError(name)
            yield name, at, end

    def _read_input(self, start: int, stop: int) -> None:
        name, element = "", 0
        for part, at, end in self._fields(start, stop, _VALUE_INFO):
            if part == "name":
                name = read_text(self._data, at, end)
                continue
            for _, begin, last in self._fields(at, end, _TYPE):
                for _, value, _ in self._fields(begin, last, _TENSOR_TYPE):
                    element = value
        self._define(name, element)

    def _define(self, name: str, element: int) -> None:
        if name in self._types:
            raise WireError(f"{name[:80]!r} is defined twice")
        if element not in LETTERS:
            raise WireError(f"{name[:80]!r} has element type {element}")
        self._types[name] = LETTERS[element]

    def _read_node(self, start: int, stop: int) -> None:
        """Check the operator and the types of a node, count the node, and record the type of its outputs."""
        texts, inputs, outputs, cast_to = {"op_type": "", "domain": ""}, list[str](), list[str](), 0
        for name, at, end in self._fields(start, stop, _NODE):
            if name == "attribute":
                cast_to = self._read_attribute(at, end, cast_to)
            elif name in texts:
                texts[name] = read_text(self._data, at, end)
            else:
                (inputs if name == "input" else outputs).append(read_text(self._data, at, end))
        op_type, domain = texts["op_type"], texts["domain"]
        if not known(domain, op_type):
            raise WireError(f"operator {op_type[:80]!r} of domain {domain[:80]!r}")
        letters = "".join(self._types.get(name, "?") if name else ABSENT for name in inputs)
        if not takes(domain, op_type, letters) or (
            op_type == "Cast" and LETTERS.get(cast_to) not in (FLOAT32, FLOAT16)
        ):
            raise WireError(f"operator {op_type} with inputs of types {letters[:80]!r}")
        for place, name in enumerate(inputs):
            self._readers.setdefault(name, set()).add((op_type, place))
        made = output_type(op_type, letters, LETTERS.get(cast_to, ""))
        for name in outputs:
            if name in self._types:
                raise WireError(f"{name[:80]!r} is defined twice")
            if name:
                self._types[name] = made
        self._found.operators[f"{domain}.{op_type}" if domain else op_type] += 1

    def _read_attribute(self, start: int, stop: int, cast_to: int) -> int:
        """The number of the attribute if its name is `to` (of Cast); else `cast_to`."""
        name, number = "", 0
        for part, at, end in self._fields(start, stop, _ATTRIBUTE):
            if part == "name":
                name = read_text(self._data, at, end)
            else:
                number = at
        return number if name == "to" else cast_to

    def _read_tensor(self, start: int, stop: int) -> None:
        """Record a tensor whose values are in the graph, or in a listed file of the same folder."""
        name, element, shape, external = "", 0, list[int](), False
        entries = list[tuple[str, str]]()
        for part, at, end in self._fields(start, stop, _TENSOR):
            if part == "dim":
                shape.append(at)
            elif part == "data_type":
                element = at
            elif part == "name":
                name = read_text(self._data, at, end)
            elif part == "data_location":
                external = external or at != 0
            else:
                entry = read_texts(self._data, at, end, _ENTRY)
                entries.append((entry.get("key", ""), entry.get("value", "")))
        if external or entries:
            location, offset, length = self._place(entries)
            self._define(name, element)
            letter = self._types[name]
            # A dimension of 0 is refused, because then the other dimensions could have any size.
            if min(shape, default=1) < 1 or length != math.prod(shape) * ITEM_BYTES[letter]:
                raise WireError(f"{name[:80]!r} of shape {str(shape)[:80]} and type {letter!r} has {length} bytes")
            self._found.tensors[name] = StoredTensor(name, letter, tuple(shape), location, offset, length, packed=False)
        else:
            self._define(name, element)

    def _place(self, entries: list[tuple[str, str]]) -> tuple[str, int, int]:
        """(file, first byte, length) of a tensor's values."""
        found = dict(entries)
        location, ends = found.get("location", ""), [found.get(name, "0") for name in ("offset", "length")]
        # ONNX Runtime knows more keys, e.g. for weights packed for one type of machine. It would use those unchecked.
        if len(found) < len(entries) or not found.keys() <= {"location", "offset", "length"}:
            raise WireError(f"weights described by {', '.join(name for name, _ in entries)[:200]!r}")
        if location not in self._sizes:  # _sizes has plain names, so a path with a folder is refused
            raise WireError(f"weights in {location[:200]!r}, which is not a listed file beside it")
        if not all(text.isascii() and text.isdigit() and len(text) < 20 for text in ends):
            raise WireError(f"weights at {str(ends)[:200]} of {location}")
        offset, length = map(int, ends)
        if offset + length > self._sizes[location]:
            raise WireError(f"weights end at byte {offset + length} of {location}, which has {self._sizes[location]}")
        return location, offset, length
