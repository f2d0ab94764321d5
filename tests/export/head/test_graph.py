"""The head's graph gives the head's numbers with default-domain operators, and is attached to an encoder unchanged."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from abonyx.bundle.heads import head_value
from abonyx.bundle.tolerances import CONTRIBUTION_SUM_GOAL, FP32, HEAD_P
from abonyx.errors import BundleError, HeadRefused, ParityError
from abonyx_export.encoder.writing import IR_VERSION, OPSET
from abonyx_export.head import graph as head_graph
from abonyx_export.head.graph import attach_head, check_heads, common_mean
from abonyx_export.head.head import Head, read_head
from abonyx_export.head.spec import head_spec, sums_intercept

WIDTH = 12
PUBLISHED = (
    "esm1v_logreg/boughter_vh_esm1v_logreg",
    "esm1v_logreg_published_2025-11/boughter_vh_esm1v_logreg",
    "esm1v_logreg_2025-11-06_first/boughter_vh_esm1v_logreg",
    "esm2_650m_logreg/boughter_vh_esm2_650m_logreg",
)


@pytest.fixture(scope="module")
def shared_heads() -> Path:
    folder = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "heads"
    if not folder.is_dir():
        pytest.skip("the published heads are not beside this checkout")
    return folder


CENTRE = np.random.default_rng(8).standard_normal((4, WIDTH))


def head_model(*heads: Head) -> onnx.ModelProto:
    return head_graph.head_model(heads, common_mean(heads, CENTRE[:, : heads[0].coef.size]))


def check_head(model: onnx.ModelProto, *heads: Head, **limit: float) -> float:
    (mean,) = (numpy_helper.to_array(each) for each in model.graph.initializer if each.name == "head/mean")
    return check_heads(model, heads, mean, **limit)


def _p(head: Head, sums: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return head_value(head_spec(head, ("H",), sums_intercept(head, common_mean([head], CENTRE))), sums[:, 0])


def _head(width: int = WIDTH, seed: int = 0, *, mean: bool = False, scale: bool = False) -> Head:
    rng = np.random.default_rng(seed)
    return Head(
        coef=rng.standard_normal(width),
        intercept=0.25,
        mean=rng.standard_normal(width) if mean else None,
        scale=rng.uniform(0.5, 2, width) if scale else None,
        classes=(0, 1),
        source_name=f"head{seed}.npz",
        source_sha256="0" * 64,
    )


def _encoder(folder: Path, width: int = WIDTH, opset: int = OPSET) -> Path:
    """Write ids (batch, length) x table (20, D) -> mean -> embedding, with the table in model.onnx.data."""
    table = np.random.default_rng(9).standard_normal((20, width)).astype(np.float32)
    (folder / "model.onnx.data").write_bytes(table.tobytes())
    weights = TensorProto(name="table", data_type=TensorProto.FLOAT, dims=table.shape)
    weights.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "model.onnx.data"), ("offset", 0), ("length", table.nbytes)):
        weights.external_data.add(key=key, value=str(value))
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"], "rows"),
        helper.make_node("Unsqueeze", ["pool_weights", "axes"], ["row"], "row"),
        helper.make_node("MatMul", ["row", "rows"], ["mean"], "mean"),
        helper.make_node("Squeeze", ["mean", "axes"], ["embedding"], "embedding"),
    ]
    graph = helper.make_graph(
        nodes,
        "encoder",
        [
            helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "length"]),
            helper.make_tensor_value_info("pool_weights", TensorProto.FLOAT, ["batch", "length"]),
        ],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", width])],
        [weights, numpy_helper.from_array(np.array([1], np.int64), "axes")],
    )
    model = helper.make_model(graph, ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", opset)])
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def _load(path: Path) -> onnx.ModelProto:
    return onnx.load(path, load_external_data=False)


def _graph_bytes(model: onnx.ModelProto) -> bytes:
    return bytes(model.graph.SerializeToString(deterministic=True))


def _sigmoid(logit: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return 0.5 * (1 + np.tanh(logit / 2))


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("scale", [False, True])
def test_head_model(mean: bool, scale: bool) -> None:
    head = _head(mean=mean, scale=scale)
    model = head_model(head)
    graph = model.graph
    assert [node.op_type for node in graph.node] == ["Sub", "MatMul"]
    assert {node.domain for node in graph.node} == {""}
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    assert model.ir_version == IR_VERSION
    outputs = [name for node in graph.node for name in node.output]
    assert outputs[-1] == "head_sums" and graph.node[0].input[0] == "embedding"
    names = [*outputs[:-1], *(node.name for node in graph.node), *(tensor.name for tensor in graph.initializer)]
    assert all(name.startswith("head/") for name in names)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    np.testing.assert_array_equal(arrays["head/coef"], head.weights()[0].astype(np.float32)[:, None])
    centre = CENTRE.mean(axis=0) if head.mean is None else head.mean
    np.testing.assert_array_equal(arrays["head/mean"], centre.astype(np.float32))
    assert check_head(model, head) <= HEAD_P


def test_one_row_and_no_rows() -> None:
    head = _head()
    session = onnxruntime.InferenceSession(head_model(head).SerializeToString())
    for count in (0, 1, 5):
        rows = np.ones((count, WIDTH), np.float32)
        found = session.run(None, {"embedding": rows})[0]
        assert found.shape == (count, 1) and found.dtype == np.float32
        np.testing.assert_allclose(_p(head, found), _sigmoid(head.logit(rows)), atol=HEAD_P)


def test_ten_heads_have_a_column_each_whatever_their_order() -> None:
    heads = [
        dataclasses.replace(_head(seed=seed, mean=seed % 2 == 0, scale=seed % 3 == 0), name=f"head{seed}")
        for seed in range(10)
    ]
    heads[4] = dataclasses.replace(heads[4], training_sd=7.0, unit="min", classes=())
    rows = CENTRE.astype(np.float32)
    for order in (range(10), np.random.default_rng(1).permutation(10).tolist()):
        given = [heads[at] for at in order]
        model = head_model(*given)
        check_head(model, *given)
        sums = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"embedding": rows})[0]
        mean = common_mean(given, CENTRE)
        for column, head in zip(sums.T, given, strict=True):
            spec = head_spec(head, ("H",), sums_intercept(head, mean))
            expected = head.logit(rows) if head is heads[4] else _sigmoid(head.logit(rows))
            np.testing.assert_allclose(head_value(spec, column), expected, atol=2e-6)
    with pytest.raises(ParityError, match=r"head\d\.npz: the graph's (p|value, in training sds,) differs"):
        check_head(head_model(*heads), *heads[::-1])


def test_metadata_says_where_the_head_comes_from() -> None:
    head = dataclasses.replace(
        _head(), encoder="some/esm", encoder_revision="main", pooling="upstream-batch", pooling_batch_size=8
    )
    head = dataclasses.replace(head, sklearn_version="1.7.2")
    assert {entry.key: entry.value for entry in head_model(head).metadata_props} == {
        "name": "nonspecificity",
        "encoder": "some/esm",
        "encoder_revision": "main",
        "pooling": "upstream-batch",
        "pooling_batch_size": "8",
        "source_sha256": "0" * 64,
        "sklearn_version": "1.7.2",
        "classes": "0,1",
    }
    plain = {entry.key for entry in head_model(_head()).metadata_props}
    assert plain == {"name", "source_sha256", "classes"}
    assert _graph_bytes(head_model(head)) == _graph_bytes(head_model(_head()))


def test_check_head_finds_another_heads_graph() -> None:
    head = _head()
    model = head_model(head)
    for other in (_head(seed=1), dataclasses.replace(head, coef=2 * head.coef)):
        with pytest.raises(ParityError, match=r"p differs by .* limit 4e-06, at logit"):
            check_head(model, other)
    assert check_head(model, dataclasses.replace(head, coef=(1 + 1e-4) * head.coef), limit=1e-3) > 1e-5
    with pytest.raises(ParityError, match="limit 0"):
        check_head(model, head, limit=0)
    broken = head_model(head)
    numbers = next(tensor for tensor in broken.graph.initializer if tensor.name == "head/coef")
    numbers.CopyFrom(numpy_helper.from_array(np.full((WIDTH, 1), np.nan, np.float32), "head/coef"))
    with pytest.raises(ParityError, match="nan"):
        check_head(broken, head)


def test_check_head_finds_weights_that_float32_cannot_represent() -> None:
    wide = dataclasses.replace(_head(), mean=np.full(WIDTH, 1e4 + 1e-4), scale=np.full(WIDTH, 1e-3), name="wide")
    check_head(head_model(wide), wide)  # passes, because its own mean is subtracted first
    with pytest.raises(ParityError, match="float32"):
        check_head(head_model(_head(), wide), _head(), wide)
    linear = dataclasses.replace(wide, training_sd=1.0, unit="min", classes=())
    with pytest.raises(ParityError, match=rf"value, in training sds, differs by .* limit {FP32.value:g}"):
        check_head(head_model(_head(), linear), _head(), linear)


def test_attach_and_swap_leave_the_encoder_alone(tmp_path: Path) -> None:
    path = _encoder(tmp_path)
    weights = (tmp_path / "model.onnx.data").read_bytes()
    before = _load(path)
    feed = {"input_ids": np.arange(15).reshape(3, 5) % 20, "pool_weights": np.full((3, 5), 0.2, np.float32)}
    first, second = _head(mean=True, scale=True), _head(seed=1)
    saved = []
    for head in (first, second, first):
        merged = attach_head(_load(path), head_model(head))
        onnx.save(merged, path)
        saved.append(path.read_bytes())
        session = onnxruntime.InferenceSession(path)
        assert [output.name for output in session.get_outputs()] == ["embedding", "head_sums", "contributions"]
        embedding, sums, contributions = session.run(None, feed)
        np.testing.assert_allclose(contributions.sum(axis=1), sums, atol=CONTRIBUTION_SUM_GOAL)
        states = (
            np.frombuffer(weights, np.float32).reshape(20, WIDTH)[feed["input_ids"]].astype(np.float64)
        )  # (B, L, D)
        centre = CENTRE.mean(axis=0) if head.mean is None else head.mean
        expected = 0.2 * (states.astype(np.float64) - centre) @ head.weights()[0]  # (B, L)
        np.testing.assert_allclose(contributions[:, :, 0], expected, atol=CONTRIBUTION_SUM_GOAL)
        np.testing.assert_allclose(_p(head, sums), _sigmoid(head.logit(embedding)), atol=HEAD_P)
        assert sums.shape == (3, 1) and sums.dtype == np.float32
        assert (tmp_path / "model.onnx.data").read_bytes() == weights
    assert saved[0] == saved[2] != saved[1]
    graph = _load(path).graph
    assert list(graph.node[:4]) == list(before.graph.node)
    assert list(graph.initializer[:2]) == list(before.graph.initializer)
    assert graph.initializer[0].data_location == TensorProto.EXTERNAL and not graph.initializer[0].raw_data
    assert all(tensor.data_location != TensorProto.EXTERNAL for tensor in graph.initializer[2:])
    onnx.checker.check_model(str(path), full_check=True)


def test_attach_changes_and_returns_the_encoder(tmp_path: Path) -> None:
    encoder = _load(_encoder(tmp_path))
    assert attach_head(encoder, head_model(_head())) is encoder


def test_attach_removes_value_infos_of_the_old_head(tmp_path: Path) -> None:
    encoder = attach_head(_load(_encoder(tmp_path)), head_model(_head(mean=True)))
    encoder.graph.value_info.append(helper.make_tensor_value_info("head/sub", TensorProto.FLOAT, ["batch", WIDTH]))
    attach_head(encoder, head_model(_head()))
    assert not encoder.graph.value_info
    assert sum(node.op_type == "Sub" for node in encoder.graph.node) == 2  # one for the sums, one for contributions


def test_attach_refuses_what_does_not_fit(tmp_path: Path) -> None:
    path = _encoder(tmp_path)
    with pytest.raises(HeadRefused, match="embedding has 12 values, the head takes 7"):
        attach_head(_load(path), head_model(_head(7)))
    with pytest.raises(HeadRefused, match=r"opset \{'': 18\}, the head graph has opset \{'': 20\}"):
        attach_head(_load(_encoder(tmp_path, opset=18)), head_model(_head()))
    with pytest.raises(HeadRefused, match="the head graph has inputs"):
        attach_head(_load(_encoder(tmp_path)), _load(path))
    bare = _load(path)
    del bare.graph.output[:]
    with pytest.raises(BundleError, match="but not embedding"):
        attach_head(bare, head_model(_head()))
    for name in ("head_sums", "contributions"):
        taken = _load(path)
        taken.graph.node.append(helper.make_node("Identity", ["embedding"], [name], "other"))
        with pytest.raises(BundleError, match=f"already has a node for {name}"):
            attach_head(taken, head_model(_head()))
    other = _load(path)
    other.graph.node[1].input[0] = "attention_bias"  # weights of something else
    with pytest.raises(BundleError, match="does not compute embedding as this version writes it"):
        attach_head(other, head_model(_head()))


def test_npz_of_a_head_gives_its_graph(tmp_path: Path) -> None:
    head = _head(mean=True, scale=True)
    stream = io.BytesIO()
    np.savez(
        stream,
        coef=head.coef[None],
        intercept=np.array([head.intercept]),
        classes=np.array([0, 1]),
        mean=np.asarray(head.mean),
        scale=np.asarray(head.scale),
    )
    (tmp_path / "head.npz").write_bytes(stream.getvalue())
    assert _graph_bytes(head_model(read_head(tmp_path / "head.npz"))) == _graph_bytes(head_model(head))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_heads(shared_heads: Path, name: str) -> None:
    models = []
    for suffix in (".pkl", ".npz"):
        if (path := shared_heads / f"{name}{suffix}").exists():
            head = read_head(path)
            mean = common_mean([head], np.zeros((1, head.coef.size)))
            models.append(head_graph.head_model([head], mean))
            assert check_head(models[-1], head) <= HEAD_P
    assert {_graph_bytes(model) for model in models} == {_graph_bytes(models[0])}
    assert len(models) == (1 if "first" in name else 2)
