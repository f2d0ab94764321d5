"""What a graph file asks of an engine, read before any engine sees it: its operators, and where its weights lie.

A hostile bundle comes with the right hashes, so the graph itself is looked at. The runtime has no onnx package: the few
fields of onnx.proto that matter are read here from protobuf's wire format
(https://protobuf.dev/programming-guides/encoding/).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from abonyx.errors import BundleError

# What `abonyx export` writes, by domain. An engine knows a thousand more; some read files (EPContext), run code
# (PythonOp) or loop. Every export opens its graphs, so an operator missing here fails there.
OPERATORS: dict[str, frozenset[str]] = {
    "": frozenset(
        {
            *("Add", "Cast", "Concat", "DequantizeLinear", "Div", "Gather", "Gelu", "Gemm", "LayerNormalization"),
            *("MatMul", "Mul", "QuantizeLinear", "Reshape", "Shape", "Sigmoid", "Slice", "Softmax", "Split"),
            *("Squeeze", "Sub", "Transpose", "Unsqueeze"),
        }
    ),
    "com.microsoft": frozenset(
        {"Attention", "BiasGelu", "MultiHeadAttention", "RotaryEmbedding", "SkipLayerNormalization"}
    ),
}
# 33 layers at int8 take 480 kB, the weights lie beside the graph; a hostile file of this length takes seconds to read.
MAX_GRAPH_BYTES = 8 * 2**20

# Wire types: a number; bytes behind their number; 8 bytes and 4. Groups, 3 and 4, onnx.proto has none of.
_VARINT, _BYTES, _FIXED = 0, 2, {1: 8, 5: 4}


def _key(number: int, wire_type: int = _BYTES) -> int:
    return number << 3 | wire_type


# Fields that matter, by message; all others are stepped over, those of another wire type too, as parsers do.
_MODEL = {_key(7): "graph", _key(8): "opset", _key(20): "training information", _key(25): "functions"}
_OPSET = {_key(1): "domain"}
_GRAPH = {_key(1): "node", _key(5): "initializer", _key(15): "sparse initializers"}
_NODE = {_key(4): "op_type", _key(5): "attribute", _key(7): "domain"}
_ATTRIBUTE = {
    **{_key(5): "tensor", _key(10): "tensor", _key(6): "a subgraph", _key(11): "a subgraph"},
    **{_key(22): "a sparse tensor", _key(23): "a sparse tensor"},
}
_TENSOR = {_key(13): "external_data", _key(14, _VARINT): "data_location"}
_ENTRY = {_key(1): "key", _key(2): "value"}
# No export writes these; they hold nodes or tensors of their own.
_REFUSED = {"training information", "functions", "sparse initializers", "a subgraph", "a sparse tensor"}

Fields = Iterator[tuple[str, int, int]]


def check_graph_file(path: Path, sizes: Mapping[str, int]) -> tuple[Counter[str], set[str]]:
    """Refuse a graph that no export writes: an unknown operator or domain, a subgraph, weights from elsewhere.

    Args:
        path: the .onnx file.
        sizes: name -> bytes of the files listed for its folder.

    Returns:
        Operator -> number of nodes (those of another domain than ONNX's as "domain.Operator"), and the names of the
        files its weights lie in.

    Raises:
        BundleError: names the operator, the location or the file.
    """
    try:
        if path.suffix != ".onnx":  # ONNX Runtime goes by the suffix
            raise _GraphRefused("has another suffix than .onnx")
        with path.open("rb") as file:
            data = file.read(MAX_GRAPH_BYTES + 1)
        if len(data) > MAX_GRAPH_BYTES:
            raise _GraphRefused(f"has more than {MAX_GRAPH_BYTES} bytes")
        return _read_model(data, {name: size for name, size in sizes.items() if name != path.name})
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}", "Export the bundle again.") from error
    except _GraphRefused as error:
        fix = "Export the bundle again; use no bundle from somebody you do not trust."
        raise BundleError(f"{path}: {error}: not a graph that abonyx exports", fix) from None


class _GraphRefused(Exception):
    """Why; check_graph_file adds the file's name."""


def _read_model(data: bytes, sizes: Mapping[str, int]) -> tuple[Counter[str], set[str]]:
    operators: Counter[str] = Counter()
    used: set[str] = set()
    for name, start, stop in _fields(data, 0, len(data), _MODEL):
        if name == "opset":
            domain = _texts(data, start, stop, _OPSET).get("domain", "")
            if domain not in OPERATORS:
                raise _GraphRefused(f"operators of domain {domain[:80]!r}")
            continue
        for part, at, end in _fields(data, start, stop, _GRAPH):
            if part == "node":
                operators[_read_node(data, at, end, sizes, used)] += 1
            else:
                _read_tensor(data, at, end, sizes, used)
    if not operators:
        raise _GraphRefused("has no nodes")
    return operators, used


def _read_node(data: bytes, start: int, stop: int, sizes: Mapping[str, int], used: set[str]) -> str:
    """The node's operator; the tensors in its attributes are checked."""
    found = {"op_type": "", "domain": ""}
    for name, at, end in _fields(data, start, stop, _NODE):
        if name != "attribute":
            found[name] = _text(data, at, end)
            continue
        for _, begin, last in _fields(data, at, end, _ATTRIBUTE):
            _read_tensor(data, begin, last, sizes, used)
    op_type, domain = found["op_type"], found["domain"]
    if op_type not in OPERATORS.get(domain, ()):
        raise _GraphRefused(f"operator {op_type[:80]!r} of domain {domain[:80]!r}")
    return f"{domain}.{op_type}" if domain else op_type


def _read_tensor(data: bytes, start: int, stop: int, sizes: Mapping[str, int], used: set[str]) -> None:
    """Check that a tensor lies in the graph, or within a listed file of the same folder."""
    external, entries = False, list[tuple[str, str]]()
    for name, at, end in _fields(data, start, stop, _TENSOR):
        if name == "data_location":
            external = external or at != 0
        else:
            entry = _texts(data, at, end, _ENTRY)
            entries.append((entry.get("key", ""), entry.get("value", "")))
    if not external and not entries:
        return
    found = dict(entries)
    location, ends = found.get("location", ""), [found.get(key, "0") for key in ("offset", "length")]
    # ONNX Runtime knows more keys: weights packed for one machine type, which it would take as they are.
    if len(found) < len(entries) or not found.keys() <= {"location", "offset", "length"}:
        raise _GraphRefused(f"weights described by {', '.join(key for key, _ in entries)[:200]!r}")
    if location not in sizes:  # names of files: nothing with a folder in it is among them
        raise _GraphRefused(f"weights in {location[:200]!r}, which is not a listed file beside it")
    if not all(text.isascii() and text.isdigit() and len(text) < 20 for text in ends):
        raise _GraphRefused(f"weights at {str(ends)[:200]} of {location}")
    if sum(map(int, ends)) > sizes[location]:
        raise _GraphRefused(f"weights up to byte {sum(map(int, ends))} of {location}, which has {sizes[location]}")
    used.add(location)


def _texts(data: bytes, start: int, stop: int, table: Mapping[int, str]) -> dict[str, str]:
    """Text fields by name; of one that comes twice the last, as protobuf has it."""
    return {name: _text(data, at, end) for name, at, end in _fields(data, start, stop, table)}


def _text(data: bytes, start: int, stop: int) -> str:
    return data[start:stop].decode("utf-8", "backslashreplace")


def _fields(data: bytes, start: int, stop: int, table: Mapping[int, str]) -> Fields:
    """(name, start, stop) of the fields in `table`; (name, value, 0) where they are numbers."""
    at = start
    while at < stop:
        key, at = (data[at], at + 1) if data[at] < 0x80 else _varint(data, at, stop)
        name, wire_type = table.get(key), key & 7
        if wire_type == _BYTES:
            size, at = (data[at], at + 1) if at < stop and data[at] < 0x80 else _varint(data, at, stop)
            end = at + size
        elif wire_type == _VARINT:
            value, end = _varint(data, at, stop)
        else:
            end = at + _FIXED.get(wire_type, len(data))
        # Parsers drop a key's bits above the 32nd, and would see another field than this does.
        if end > stop or not 8 <= key < 1 << 32:
            raise _GraphRefused(f"damaged at byte {at}")
        if name is not None:
            if name in _REFUSED:
                raise _GraphRefused(name)
            yield (name, at, end) if wire_type == _BYTES else (name, value, 0)
        at = end


def _varint(data: bytes, at: int, stop: int) -> tuple[int, int]:
    """A number, 7 bits a byte, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= stop:
            break
        byte, at = data[at], at + 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _GraphRefused(f"damaged at byte {at}")
