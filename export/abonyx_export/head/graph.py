"""Write a head as an ONNX graph, and put it behind an encoder's.

skl2onnx converts the estimators; its label branch and two-column output are then cut away, so that what is left is
(Sub, Div,) MatMul, Add, Sigmoid, Squeeze of the default domain, all named "head/...".
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import onnx
import skl2onnx
from onnx import TensorProto, helper, numpy_helper
from skl2onnx.common.data_types import FloatTensorType
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from abonyx.arrays import Float32Array
from abonyx.bundle.tolerances import HEAD_P
from abonyx.engine.onnx import import_engine
from abonyx.errors import BundleError, EngineError, HeadRefused, ParityError
from abonyx_export.encoder.writing import IR_VERSION, OPSET
from abonyx_export.head.head import Head

EMBEDDING = "embedding"
PROBABILITY = "p_nonspecific"
PREFIX = "head/"

_CHAINS = (
    ("MatMul", "Add", "Sigmoid"),
    ("Sub", "MatMul", "Add", "Sigmoid"),
    ("Sub", "Div", "MatMul", "Add", "Sigmoid"),  # with zeros to subtract where the scaler has no mean
)
_ARRAY_NAMES = {"Sub": "mean", "Div": "scale", "MatMul": "coef", "Add": "intercept"}


def head_model(head: Head) -> onnx.ModelProto:
    """Give a head as a model: `embedding` (batch, D) float32 to `p_nonspecific` (batch,) float32.

    Two heads with the same numbers have the same graph; where they come from is in the metadata alone.
    """
    nodes, arrays = _positive_class(_converted(head))
    arrays[f"{PREFIX}axes"] = np.array([1], np.int64)
    nodes.append(helper.make_node("Squeeze", [nodes[-1].output[0], f"{PREFIX}axes"], [PROBABILITY], f"{PREFIX}squeeze"))
    graph = helper.make_graph(
        nodes,
        "abonyx-head",
        [helper.make_tensor_value_info(EMBEDDING, TensorProto.FLOAT, ["batch", head.coef.size])],
        [helper.make_tensor_value_info(PROBABILITY, TensorProto.FLOAT, ["batch"])],
        [numpy_helper.from_array(values, name) for name, values in arrays.items()],
    )
    model = helper.make_model(
        graph, ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="abonyx"
    )
    helper.set_model_props(model, _metadata(head))
    onnx.checker.check_model(model, full_check=True)
    return model


def check_head(model: onnx.ModelProto, head: Head, limit: float = HEAD_P) -> float:
    """Give the largest difference of p between a head's model (float32) and the head in float64.

    Raises:
        ParityError: where it is above `limit`, or not a number.

    """
    rows = _probe_rows(head)
    engine = import_engine()
    options = engine.SessionOptions()
    session = engine.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = session.run([PROBABILITY], {EMBEDDING: rows})[0].astype(np.float64)
    logit = head.logit(rows)
    expected = 0.5 * (1 + np.tanh(logit / 2))  # sigmoid, without overflow
    difference = np.abs(found - expected)
    worst = int(np.argmax(difference))  # a NaN counts as the largest
    if not difference[worst] <= limit:
        raise ParityError(
            f"{head.source_name}: the graph's p differs by {difference[worst]:.3g}, limit {limit:.3g}, at logit "
            f"{logit[worst]:.6g} (graph {found[worst]:.9g}, float64 {expected[worst]:.9g})",
            "The weights or the scaler span more than float32 holds: refit the head on scaled embeddings.",
        )
    return float(difference[worst])


def attach_head(encoder: onnx.ModelProto, head: onnx.ModelProto) -> onnx.ModelProto:
    """Put a head behind an encoder, in place of the one it has; edits `encoder` and gives it back.

    Args:
        encoder: loaded with load_external_data=False, so that its weights stay where they are.
        head: from `head_model`, or a bundle's head.onnx.

    Raises:
        HeadRefused: where the two do not fit, by width or by operator set.
        BundleError: where `encoder` has no `embedding` output.

    """
    _check_fit(encoder, head)
    graph = encoder.graph
    for values in (graph.node, graph.initializer, graph.value_info):
        kept = [value for value in values if not value.name.startswith(PREFIX)]
        del values[:]
        values.extend(kept)
    outputs = [output for output in graph.output if output.name != PROBABILITY]
    del graph.output[:]
    graph.output.extend([*outputs, *head.graph.output])
    graph.node.extend(head.graph.node)
    graph.initializer.extend(head.graph.initializer)
    if sum(PROBABILITY in node.output for node in graph.node) != 1:
        raise BundleError(f"the encoder graph makes {PROBABILITY} itself", "Export the encoder again.")
    return encoder


def _converted(head: Head) -> onnx.GraphProto:
    """Rebuild the fitted estimators from their numbers and let skl2onnx convert them."""
    width = head.coef.size
    logistic = LogisticRegression()
    logistic.coef_ = head.coef[None]
    logistic.intercept_ = np.array([head.intercept])
    logistic.classes_ = np.array(head.classes)
    logistic.n_features_in_ = width
    steps = [("head", logistic)]
    if head.mean is not None or head.scale is not None:
        scaler = StandardScaler(with_mean=head.mean is not None, with_std=head.scale is not None)
        scaler.mean_ = np.zeros(width) if head.mean is None else head.mean
        scaler.scale_ = np.ones(width) if head.scale is None else head.scale
        scaler.var_, scaler.n_features_in_, scaler.n_samples_seen_ = scaler.scale_**2, width, 1
        steps.insert(0, ("scaler", scaler))
    with _quiet():
        model: onnx.ModelProto = skl2onnx.convert_sklearn(
            Pipeline(steps) if len(steps) > 1 else logistic,
            initial_types=[(EMBEDDING, FloatTensorType([None, width]))],
            options={id(logistic): {"zipmap": False}},
            target_opset={"": OPSET, "ai.onnx.ml": 3},
            # LinearClassifier alone leaves ai.onnx.ml's Scaler.
            black_op={"LinearClassifier", "Scaler"},
        )
    return model.graph


def _positive_class(graph: onnx.GraphProto) -> tuple[list[onnx.NodeProto], dict[str, npt.NDArray[np.generic]]]:
    """Give the nodes from embedding to Sigmoid, and their arrays with the second class's column alone."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    kept: dict[str, npt.NDArray[np.generic]] = {}
    source = name = EMBEDDING
    while not nodes or nodes[-1].op_type != "Sigmoid":
        # ArgMax branches off before Sigmoid, to the label.
        found = [node for node in graph.node if source in node.input[:1] and node.op_type in _CHAINS[-1]]
        if len(found) != 1:
            break
        inputs = [name]
        if (kind := found[0].op_type) != "Sigmoid":
            inputs.append(PREFIX + _ARRAY_NAMES[kind])
            values = arrays[found[0].input[1]]
            kept[inputs[1]] = values[:, 1:] if kind in ("MatMul", "Add") else values
        name = f"{PREFIX}{kind.lower()}"
        nodes.append(helper.make_node(kind, inputs, [name], name))
        source = found[0].output[0]
    if (chain := tuple(node.op_type for node in nodes)) not in _CHAINS:
        what = f"skl2onnx {skl2onnx.__version__} wrote {' -> '.join(chain) or 'nothing'}, not {_CHAINS}"
        raise EngineError(what, "Install the skl2onnx version that pyproject.toml names.")
    return nodes, kept


@contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("skl2onnx")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _metadata(head: Head) -> dict[str, str]:
    values = {
        "encoder": head.encoder,
        "encoder_revision": head.encoder_revision,
        "pooling": head.pooling,
        "pooling_batch_size": head.pooling_batch_size,
        "source_sha256": head.source_sha256,
        "sklearn_version": head.sklearn_version,
        "classes": ",".join(map(str, head.classes)),
        "intercept_shift": head.intercept_shift or None,  # the file's sha256 is not of a head that was moved
    }
    return {key: str(value) for key, value in values.items() if value is not None}


def _probe_rows(head: Head) -> Float32Array:
    """Give (384, D) rows, centred on the scaler: logits spread by 1 and 4 about the intercept, and from -40 to 40."""
    norm = float(np.linalg.norm(head.coef)) or 1.0
    rows = np.random.default_rng(0).standard_normal((3, 128, head.coef.size)) / norm
    rows[1] *= 4
    rows[2] += np.linspace(-40, 40, 128)[:, None] * head.coef / norm**2
    rows = rows.reshape(-1, head.coef.size)
    rows = rows if head.scale is None else rows * head.scale
    return (rows if head.mean is None else rows + head.mean).astype(np.float32)


def _check_fit(encoder: onnx.ModelProto, head: onnx.ModelProto) -> None:
    opsets = [
        {entry.domain: entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")}
        for model in (encoder, head)
    ]
    if opsets[0] != opsets[1]:
        what = f"the encoder graph is of opset {opsets[0]}, the head of {opsets[1]}"
        raise HeadRefused(what, "Export the older of the two again.")
    embeddings = [output for output in encoder.graph.output if output.name == EMBEDDING]
    if len(embeddings) != 1:
        names = ", ".join(output.name for output in encoder.graph.output)
        raise BundleError(f"the encoder graph's outputs are {names}; {EMBEDDING} is missing", "Export it again.")
    inner = [value.name for value in (*head.graph.node, *head.graph.initializer)]
    io = ([value.name for value in head.graph.input], [value.name for value in head.graph.output])
    if io != ([EMBEDDING], [PROBABILITY]) or not all(name.startswith(PREFIX) for name in inner):
        raise HeadRefused(f"the head graph goes from {io[0]} to {io[1]}, with names {inner[:9]}", "Export it again.")
    widths = [value.type.tensor_type.shape.dim[-1].dim_value for value in (*embeddings, head.graph.input[0])]
    if widths[0] != widths[1]:
        what = f"the encoder's embedding has {widths[0]} values, the head takes {widths[1]}"
        raise HeadRefused(what, "Use the encoder and the pooled layers that the head was trained with.")
