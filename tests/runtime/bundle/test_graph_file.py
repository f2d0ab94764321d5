"""A graph file is checked before an engine reads it: operators, subgraphs, and the place of its weights."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abonyx.bundle import graph_file
from abonyx.bundle.graph_file import check_graph_file
from abonyx.errors import BundleError

from ...conftest import MINI
from ..hostile import WEIGHT, WEIGHTS, external, field, graph, model, node, varint

SIZES = {"model.onnx": 100, WEIGHTS: 1000}
# ONNX Runtime's mark for weights at an address in memory.
IN_MEMORY = "*/_ORT_MEM_ADDR_/*"


def check(folder: Path, data: bytes) -> tuple[Counter[str], set[str]]:
    path = folder / "model.onnx"
    path.write_bytes(data)
    found = check_graph_file(path, SIZES)
    return found.operators, found.files


def refusal(folder: Path, data: bytes) -> str:
    with pytest.raises(BundleError) as caught:
        check(folder, data)
    assert caught.value.what.startswith(str(folder / "model.onnx"))
    assert len(str(caught.value)) < 1000 and caught.value.fix
    return str(caught.value)


def test_mini_has_the_operators_that_onnx_finds() -> None:
    onnx = pytest.importorskip("onnx")
    path = MINI / "fp16-weights" / "model.onnx"
    sizes = {name.name: name.stat().st_size for name in path.parent.iterdir()}
    graph = check_graph_file(path, sizes)
    loaded = onnx.load(path, load_external_data=False)
    assert graph.operators == Counter(node.op_type for node in loaded.graph.node)
    assert graph.files == {WEIGHTS}


def test_a_graph_of_what_is_known(tmp_path: Path) -> None:
    body = graph(node("Add"), node("Add"), node("Attention", "com.microsoft", inputs=("weight",) * 3))
    # a key and a length with more bytes than needed, and unknown fields of 4 and 8 bytes
    spare = b"\xfd\x07abcd" + b"\xf9\x07abcdefgh" + b"\xfa\x87\x00\x83\x00abc"
    operators, used = check(tmp_path, model(body, "com.microsoft", more=spare))
    assert operators == {"Add": 2, "com.microsoft.Attention": 1}
    assert used == {WEIGHTS}


@pytest.mark.parametrize(
    ("op_type", "domain"),
    [
        ("Loop", ""),
        ("Add", "evil.custom"),
        ("Add", "ai.onnx.ml"),
        ("EPContext", "com.microsoft"),
        ("PythonOp", "com.microsoft"),
        ("ATen", "org.pytorch.aten"),
        ("Add\0", ""),
        ("", ""),
        ("x" * 100_000, "\x1b[31m"),
    ],
)
def test_operators_no_export_writes(tmp_path: Path, op_type: str, domain: str) -> None:
    assert f"operator {op_type[:80]!r} of domain {domain[:80]!r}" in refusal(
        tmp_path, model(graph(node(), node(op_type, domain)))
    )


def test_the_last_of_a_field_that_comes_twice_counts(tmp_path: Path) -> None:
    assert "'Loop'" in refusal(tmp_path, model(graph(node("Add") + field(4, "Loop"))))
    assert check(tmp_path, model(graph(node("Loop") + field(4, "Add"))))[0] == {"Add": 1}
    # a parser merges two graphs into one
    assert "'Loop'" in refusal(tmp_path, model(more=field(7, graph(node("Loop"), tensors=()))))


def test_domains_no_export_imports(tmp_path: Path) -> None:
    assert "operators of domain 'evil.custom'" in refusal(tmp_path, model(None, "evil.custom"))


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (model(graph(node(attribute=field(6, graph(node("Loop")))))), "a subgraph"),
        (model(graph(node(attribute=field(11, graph())))), "a subgraph"),
        (model(graph(node(attribute=field(22, field(1, WEIGHT))))), "a sparse tensor"),
        (model(graph(node(attribute=field(23, field(1, WEIGHT))))), "a sparse tensor"),
        (model(graph(node(attribute=field(5, WEIGHT)))), "a tensor in a node"),
        (model(graph(node(attribute=field(10, WEIGHT)))), "a tensor in a node"),
        (model(graph(more=field(15, field(1, WEIGHT)))), "sparse initializers"),
        (model(more=field(25, field(1, "Add") + field(7, node("Loop")))), "functions"),
        (model(more=field(20, field(1, graph()))), "training information"),
        (b"", "has no nodes"),
        (model(b""), "has no nodes"),
    ],
)
def test_what_holds_nodes_or_tensors_of_its_own(tmp_path: Path, data: bytes, named: str) -> None:
    assert named in refusal(tmp_path, data)


@pytest.mark.parametrize(
    "location",
    [
        *("../model.onnx.data", "/etc/passwd", "other.data", "", ".", "..", "./model.onnx.data", IN_MEMORY),
        *("model.onnx", "sub/model.onnx.data", "model.onnx.data\0", "x" * 100_000, "\\\\host\\share"),
    ],
)
def test_weights_lie_in_a_listed_file_of_the_folder(tmp_path: Path, location: str) -> None:
    tensor = external([("location", location)])
    assert "not a listed file beside it" in refusal(tmp_path, model(graph(tensors=(WEIGHT, tensor))))


@pytest.mark.parametrize(
    ("entries", "named"),
    [
        ([("location", WEIGHTS), ("offset", "997"), ("length", "4")], "end at byte 1001 of model.onnx.data, which has"),
        ([("location", WEIGHTS), ("offset", "-1")], "weights at ['-1', '0']"),
        ([("location", WEIGHTS), ("length", "9" * 19)], "end at byte 9999"),
        ([("location", WEIGHTS), ("length", "9" * 5000)], "weights at"),
        ([("location", WEIGHTS), ("length", "٣")], "weights at"),
        ([("location", WEIGHTS), ("offset", "0x10")], "weights at"),
        ([("location", WEIGHTS), ("prepacked_0", "x")], "described by 'location, prepacked_0'"),
        ([("location", "other"), ("location", WEIGHTS)], "described by"),
        ([("offset", "1")], "weights in ''"),
        ([], "weights in ''"),
    ],
)
def test_weights_within_the_file(tmp_path: Path, entries: list[tuple[str, str]], named: str) -> None:
    assert named in refusal(tmp_path, model(graph(tensors=[external(entries)])))


@pytest.mark.parametrize(
    ("op_type", "domain", "elements", "named"),
    [
        ("Div", "", (7, 7), "operator Div with inputs of types 'ii'"),  # INT64_MIN / -1 ends the process
        ("Div", "", (6, 6), "'hh'"),
        ("Add", "", (1, 10), "'fe'"),
        ("Add", "", (1,), "'f'"),
        ("MatMul", "", (3, 3), "'bb'"),
        ("Cast", "", (1,), "operator Cast with inputs of types 'f'"),  # to nothing
        ("Attention", "com.microsoft", (1, 1, 1, 7), "'fffi'"),
    ],
)
def test_operators_take_the_types_that_exports_give_them(
    tmp_path: Path, op_type: str, domain: str, elements: tuple[int, ...], named: str
) -> None:
    tensors = [field(2, element) + field(8, f"t{place}") for place, element in enumerate(elements)]
    body = graph(node(op_type, domain, inputs=tuple(f"t{place}" for place in range(len(elements)))), tensors=tensors)
    assert named in refusal(tmp_path, model(body, *([domain] if domain else [])))


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (graph(node(inputs=("weight", "nowhere"))), "'f?'"),
        (graph(tensors=(WEIGHT, WEIGHT)), "'weight' is defined twice"),
        (graph(node() + field(2, "weight")), "'weight' is defined twice"),
        (graph(tensors=(WEIGHT, field(2, 11) + field(8, "double"))), "'double' has element type 11"),
        (graph(tensors=(external([("location", WEIGHTS), ("length", "8")]),)), "has 8 bytes"),
    ],
)
def test_values_with_one_type_and_size(tmp_path: Path, body: bytes, named: str) -> None:
    assert named in refusal(tmp_path, model(body))


def test_a_node_gives_its_type_to_its_outputs(tmp_path: Path) -> None:
    sizes = node("Shape", inputs=("weight",)) + field(2, "sizes")
    assert "operator Div with inputs of types 'ii'" in refusal(
        tmp_path, model(graph(sizes, node("Div", inputs=("sizes", "sizes"))))
    )
    assert check(tmp_path, model(graph(sizes, node("Concat", inputs=("sizes", "sizes")))))[0] == {
        "Shape": 1,
        "Concat": 1,
    }


def test_a_location_counts_even_where_nothing_says_external(tmp_path: Path) -> None:
    tensor = external([("location", "/etc/passwd")], located=False)
    assert "/etc/passwd" in refusal(tmp_path, model(graph(tensors=[tensor])))


@pytest.mark.parametrize(
    "data",
    [
        b"not protobuf at all",
        b"\x3b\x3c",  # a group
        b"\x00\x00",  # field 0
        b"\x3a\x05abc",  # longer than the file
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x80" * 20,
        varint((25 + (1 << 29)) << 3 | 2) + b"\x00",  # to a parser that drops bits, functions
        model()[:-1],
    ],
)
def test_damaged(tmp_path: Path, data: bytes) -> None:
    assert "damaged at byte" in refusal(tmp_path, data)


def test_size_and_suffix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.ort").write_bytes(model())
    with pytest.raises(BundleError, match=r"does not end with \.onnx"):
        check_graph_file(tmp_path / "model.ort", SIZES)
    with pytest.raises(BundleError, match="cannot be read: No such file"):
        check_graph_file(tmp_path / "model.onnx", SIZES)
    monkeypatch.setattr(graph_file, "MAX_GRAPH_BYTES", 40)
    assert "larger than 40 bytes" in refusal(tmp_path, model())


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_what_is_accepted_is_what_a_parser_then_finds(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    onnx = pytest.importorskip("onnx")
    whole = model(graph(node(), node("Attention", "com.microsoft", inputs=("weight",) * 3)), "com.microsoft")
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = whole[:at] + data.draw(st.binary(max_size=3)) + whole[at + data.draw(st.integers(0, 2)) :]
    try:
        operators, used = check(tmp_path_factory.getbasetemp(), changed)
    except BundleError:
        return
    assert used <= {WEIGHTS}
    try:
        parsed = onnx.load_from_string(changed)
    except Exception:  # protobuf's own: then ONNX Runtime refuses it too
        return
    found = Counter(f"{one.domain}.{one.op_type}" if one.domain else one.op_type for one in parsed.graph.node)
    assert found == operators
