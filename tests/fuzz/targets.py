"""The fuzz targets: one for each reader of files that a stranger may have written.

A target takes bytes. It raises an error if the reader does not return a value or raise its documented error. Examples
are another exception, a very long message, a message with control characters, or a value that the next stage cannot
use. Nothing here needs atheris.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import os
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from abonyx import alphabet
from abonyx.bundle import Bundle, graph_file
from abonyx.bundle.manifest import RESIDUES, parse_manifest
from abonyx.bundle.operators import LETTERS
from abonyx.errors import BundleError, ConfigError, EngineError, HeadRefused, InputError, InputTooLarge, printable
from abonyx.input import excel
from abonyx.input.cells import Record, RejectedRecord
from abonyx.input.columns import Wanted
from abonyx.input.gunzip import unzip
from abonyx.input.limits import ReadLimits
from abonyx.input.lines import read_lines
from abonyx.input.records import read_records
from abonyx.input.sequences import Gaps, judge
from abonyx.wording import Interface, in_words
from abonyx_export.head import head, unpickle

MINI_MANIFEST = json.loads((Path(__file__).parents[2] / "artifacts" / "mini" / "manifest.json").read_text())
SIZES = {"model.onnx": 100, "model.onnx.data": 1000}
# Limits as in a service, but small enough that inputs can exceed them.
_LIMITS = ReadLimits(
    unpacked_bytes=1 << 24,
    gzip_members=100,
    gzip_extra_bytes=1_000,
    lines=100_000,
    line_chars=1 << 20,
    columns=4_096,
    cells=100_000,
)
_GAPS: tuple[Gaps, ...] = ("refuse", "strip")
_ENCODER = alphabet.Alphabet(parse_manifest(json.dumps(MINI_MANIFEST).encode(), Path("m")).alphabet)
# Options of the table reader: id, sequence and label column, sheet, columns to keep.
_COLUMNS = [
    Wanted(None, None, None),
    Wanted("name", "vh", None),
    Wanted(None, "1:3", None),
    Wanted(None, None, "label"),
    Wanted(None, None, None, keep=("all",)),
]


def _fail(why: str) -> None:
    raise AssertionError(why)


def _check_message(error: EngineError) -> None:
    """Check that a message fits on a screen and has no control characters."""
    text = str(error)
    if len(text) > 4000 or not text.replace("\n", "").replace("\t", "").isprintable() or not error.fix:
        _fail(f"message of {len(text)} characters: {text[:500]!a}")


def _read_records(data: bytes, wanted: Wanted) -> None:
    notes: list[str] = []
    _check_records(
        read_records(
            None,
            id_column=wanted.id,
            sequence_column=wanted.sequence,
            label_column=wanted.label,
            keep=wanted.keep,
            stdin=io.BytesIO(data),
            limits=_LIMITS,  # refuses Parquet and workbooks, whose readers are other projects
            notes=notes,
        ),
        notes,
    )


def _check_records(records: Iterable[Record | RejectedRecord], notes: list[str]) -> None:
    line = 0
    try:
        for record in records:
            if record.line < max(line, 1):
                _fail(f"line {record.line} after {line}")
            line = record.line
            if isinstance(record, RejectedRecord):
                if not printable(record.id).isprintable() or not record.reason.isprintable():
                    _fail(f"problem {record!a}")
                continue
            record.id.encode("utf-8")
            "".join(record.kept).encode("utf-8", "surrogateescape")
            if not all(isinstance(cell, str) for cell in record.kept.values()):
                _fail(f"kept {record.kept!a}")
            _check_sequence(record.sequence)
    except InputError as error:
        _check_message(error)
    for note in (in_words(note, Interface.COMMAND_LINE) for note in notes):
        if len(note) > 4000 or not note.isprintable():
            _fail(f"note {note!a}")


def _check_sequence(sequence: str) -> None:
    for gaps in _GAPS:
        cleaned, reason = judge(sequence, gaps)
        if reason is not None:
            reason = in_words(reason, Interface.COMMAND_LINE)
            if not reason.isprintable() or len(reason) > 200:
                _fail(f"reason {reason!a}")
        elif not set(cleaned) <= set(RESIDUES) or _ENCODER.encode([cleaned])[0].min() < 0:
            _fail(f"accepted {cleaned!a}")


def fasta(data: bytes) -> None:
    """FASTA on standard input; without a leading '>' the bytes may be any format."""
    _read_records(b">" + data, _COLUMNS[len(data) % 2 * 4])


def csv(data: bytes) -> None:
    """CSV or TSV on standard input, also as gzip; the first byte chooses the columns."""
    _read_records(data[1:], _COLUMNS[data[0] % len(_COLUMNS)] if data else _COLUMNS[0])


def gunzip(data: bytes) -> None:
    """Gzip data: the reader gives the same bytes and the same error as Python's own, or is over a limit."""
    try:
        ours = _unzipped(unzip(io.BytesIO(data), "x", _LIMITS))
    except InputTooLarge as error:
        _check_message(error)
        return
    theirs = _unzipped(cast("BinaryIO", gzip.GzipFile(fileobj=io.BytesIO(data))))
    if ours != theirs:
        _fail(f"{ours!a:.300} here, {theirs!a:.300} by gzip")


def _unzipped(stream: BinaryIO) -> tuple[bytes, str]:
    """The unpacked bytes (at most one MiB) and the error."""
    found = b""
    try:
        while len(found) < 1 << 20 and (more := stream.read(4096)):
            found += more
    except (EOFError, OSError, zlib.error) as error:
        return found, f"{type(error).__name__}: {error}"
    return found, ""


def jsonl(data: bytes) -> None:
    """JSONL on standard input; the first byte chooses the columns."""
    _read_records(b"{" + data[1:], _COLUMNS[data[0] % len(_COLUMNS)] if data else _COLUMNS[0])


def lines(data: bytes) -> None:
    """One sequence per line, as text/plain in the service; the first byte chooses columns, which are refused."""
    text = io.TextIOWrapper(io.BytesIO(data[1:]), "utf-8-sig", "surrogateescape", newline="")
    columns = _COLUMNS[data[0] % len(_COLUMNS)] if data else _COLUMNS[0]
    _check_records(read_lines(text, "lines", columns), [])


def sheet(data: bytes) -> None:
    """Rows of a workbook, one JSON array per line, as the child process writes them."""
    rows: list[list[Any]] = []
    for number, line in enumerate(data[1:].splitlines(), 1):
        try:
            cells = json.loads(line)
        except (ValueError, RecursionError):
            cells = [line.decode("latin-1")]
        if isinstance(cells, list) and cells:
            plain = [cell if isinstance(cell, str | int | float | None) else {"date": str(number)} for cell in cells]
            rows.append([number, *plain])
    columns = _COLUMNS[data[0] % len(_COLUMNS)] if data else _COLUMNS[0]
    notes: list[str] = []
    _check_records(excel.read_sheet(iter(rows), "sheet", columns, notes), notes)


def manifest(data: bytes) -> None:
    """Bytes of a manifest, or (if the first byte is 1) changes to mini's: a path as numbers, then the new value."""
    if data[:1] == b"\x01":
        data = _edited(data[1:])
    path = Path("bundle/manifest.json")
    try:
        found = parse_manifest(data, path)
    except BundleError as error:
        _check_message(error)
        return
    alphabet.Alphabet(found.alphabet).encode(["ACDEFGHIKLMNPQRSTVWYX"])
    bundle = Bundle(path.parent, found, "0" * 64)
    if not bundle.label().isprintable():
        _fail(f"label {bundle.label()!a}")
    for provider in ("cpu", "cuda", "coreml", "openvino"):
        for name in (None, *found.variants):
            try:
                bundle.variant(provider, name)
            except (ConfigError, BundleError) as error:
                _check_message(error)
    for name in found.files:
        if not os.path.normpath(f"/bundle/{name}").startswith("/bundle/"):
            _fail(f"{name!a} is outside the bundle")


# New values for a change. Some are numbers that JSON allows but Python's json does not write.
_VALUES = [
    *("null", "true", "-1", "0", "0.5", "1", "31", "2147483648", "9223372036854775808", "1e30", "1e308", "1e400"),
    *("-0.0", "1" * 30, "1" * 5000, '""', '"a/b"', '"../x"', '"/etc"', '"a\\u0000b"', '"\\u001b[2J"', '"\\ud800"'),
    *(json.dumps("x" * 2000), "[]", "{}", "[[]]", '{"a": 1}', "[" * 200, "[" * 200 + "]" * 200, '["A"]', '"fp32"'),
    '{"x": {"sha256": "0", "size_bytes": 1}}',
]


def _edited(data: bytes) -> bytes:
    """Mini's manifest with replaced values. A change is the steps down the tree, 255, and an index of _VALUES."""
    whole = {"": json.loads(json.dumps(MINI_MANIFEST))}
    *edits, _ = (data + b"\xff").split(b"\xff")
    texts = []
    for steps in edits[:4]:
        place: Any = whole
        key: Any = ""
        for step in steps[1:9]:
            value = place[key]
            if not isinstance(value, dict | list) or not value:
                break
            place, key = value, list(value)[step % len(value)] if isinstance(value, dict) else step % len(value)
        place[key] = f"@{len(texts)}@"
        texts.append(_VALUES[steps[0] % len(_VALUES)] if steps else "null")
    text = json.dumps(whole[""])
    for number, value in enumerate(texts):
        text = text.replace(f'"@{number}@"', value, 1)
    return text.encode()


class _Watch:
    """An audit hook that fails if a reader imports, opens a file, runs code or connects. It cannot be removed."""

    events = ("import", "open", "exec", "os.", "subprocess.", "socket.", "ctypes.", "shutil.", "pickle.", "builtins.")

    def __init__(self) -> None:
        self.on = False
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.on and event.startswith(self.events) and event != "builtins.id":
            self.on = False
            raise SystemError(f"audit event {event}: {arguments!a:.300}")


_watch: _Watch | None = None


def pickle(data: bytes) -> None:
    """A head's pickle or joblib file, and the head made from its content; nothing in it may run."""
    global _watch
    path = Path("head.pkl")
    if _watch is None:  # after the imports of the first use
        for name in ("raw_unicode_escape", "unicode_escape", "latin-1", "ascii", "utf-8"):
            codecs.lookup(name)  # used by pickle
        _watch = _Watch()
    _watch.on = True
    try:
        found = head._from_pickle(unpickle.parse_pickle(data, path), path)
        if not np.isfinite(found.logit(np.zeros((1, found.coef.size))))[0]:
            return  # weights near the largest float64 are not a fault of the file
    except HeadRefused as error:
        _check_message(error)
    finally:
        _watch.on = False


def graph(data: bytes) -> None:
    """A graph file: the facts that the reader accepts must equal those of protobuf's own parser."""
    try:
        here = graph_file.read_graph(data, SIZES)
    except graph_file.WireError as error:
        if len(str(error)) > 500:
            _fail(f"message of {len(str(error))} characters")
        return
    import onnx
    from google.protobuf.message import DecodeError

    if not here.files <= SIZES.keys():
        _fail(f"weights in {here.files}")
    try:
        parsed = onnx.load_from_string(data)
    except DecodeError:
        return  # ONNX Runtime refuses it too
    found = Counter(f"{node.domain}.{node.op_type}" if node.domain else node.op_type for node in parsed.graph.node)
    if any(node.attribute and _holds_more(node.attribute) for node in parsed.graph.node):
        _fail("a tensor, a subgraph or a sparse tensor in a node")
    tensors = {
        tensor.name: (tensor.data_type, *tensor.dims, *(entry.value for entry in tensor.external_data))
        for tensor in parsed.graph.initializer
        if tensor.external_data or tensor.data_location
    }
    ours = {
        name: (_ELEMENTS[one.element], *one.shape, *(str(size) for size in (one.location, one.offset, one.size_bytes)))
        for name, one in here.tensors.items()
    }
    if found != here.operators or parsed.functions or parsed.graph.sparse_initializer:
        _fail(f"{here.operators} here, {found} to protobuf")
    if tensors.keys() != ours.keys() or any(not _same(tensors[name], ours[name]) for name in ours):
        _fail(f"{ours} here, {tensors} to protobuf")


_ELEMENTS = {letter: number for number, letter in LETTERS.items()}


def _holds_more(attributes: Iterable[Any]) -> bool:
    return any(
        any(one.HasField(name) for name in ("t", "g", "sparse_tensor"))
        or one.tensors
        or one.graphs
        or one.sparse_tensors
        for one in attributes
    )


def _same(theirs: tuple[Any, ...], ours: tuple[Any, ...]) -> bool:
    """Whether element type, shape, and the file's name among the entries are equal, in any order of the entries."""
    shape = len(ours) - 3
    return theirs[:shape] == ours[:shape] and ours[shape] in theirs[shape:]


TARGETS: dict[str, Callable[[bytes], None]] = {
    "fasta": fasta,
    "csv": csv,
    "gunzip": gunzip,
    "jsonl": jsonl,
    "lines": lines,
    "sheet": sheet,
    "manifest": manifest,
    "pickle": pickle,
    "graph": graph,
}
