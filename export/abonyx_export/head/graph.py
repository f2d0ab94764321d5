"""Write heads as one ONNX graph, and attach it to an encoder's graph.

The graph subtracts one common mean from the embedding and multiplies by the weights of each head. It has one output
column for each chain of each head. Its nodes are Sub, MatMul and Concat of the default domain, named "head/...".
Each column is a separate product: in one product of all weights, the last bits of a head's sum could depend on the
number of other heads. Scalers are folded into the weights. The mean is subtracted first, because float32 sums of small
terms are more accurate. The runtime adds the intercepts and applies the sigmoid (abonyx.bundle.heads).

After an encoder, the same weights are also applied to the token states before pooling. This gives `contributions`.
Pooling is a weighted mean whose weights sum to 1, so the contributions of a row's tokens sum to its head_sums.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from abonyx.arrays import Float32Array, Float64Array
from abonyx.bundle.heads import CONTRIBUTIONS, EMBEDDING, HEAD_SUMS, PAIR, head_total, head_value, sigmoid
from abonyx.bundle.manifest import LOGISTIC
from abonyx.bundle.tolerances import FP32, HEAD_P
from abonyx.engine.onnx import import_engine
from abonyx.errors import BundleError, HeadRefused, ParityError
from abonyx_export.encoder.writing import IR_VERSION, OPSET
from abonyx_export.head.head import Head
from abonyx_export.head.spec import head_spec, sums_intercept

PREFIX = "head/"


def common_mean(heads: Sequence[Head], embedding: npt.NDArray[np.floating]) -> Float32Array:
    """The mean that the graph subtracts from every embedding, (D,) float32.

    It is the mean of the first head's scaler, or without a scaler the mean of the golden rows.

    Args:
        heads: the bundle's heads.
        embedding: (n, D), embeddings of the golden rows.
    """
    mean = heads[0].parts()[0].mean
    return (embedding.astype(np.float64).mean(axis=0) if mean is None else mean).astype(np.float32)


def head_model(heads: Sequence[Head], mean: Float32Array) -> onnx.ModelProto:
    """The heads as a model: input `embedding` (batch, D) float32, output `head_sums` (batch, K) float32.

    Each chain of each head has one column. Heads with the same numbers have the same graph; only the metadata says
    where they come from.

    Args:
        heads: the bundle's heads.
        mean: (D,) from `common_mean`.
    """
    columns = [part for head in heads for part in head.parts()]
    arrays, places = {f"{PREFIX}mean": mean}, [str(at) if at else "" for at in range(len(columns))]
    nodes = [helper.make_node("Sub", [EMBEDDING, f"{PREFIX}mean"], [f"{PREFIX}sub"], f"{PREFIX}sub")]
    sums = [HEAD_SUMS] if len(columns) == 1 else [f"{PREFIX}sums{at}" for at in places]
    for column, at, name in zip(columns, places, sums, strict=True):
        arrays[f"{PREFIX}coef{at}"] = column.weights()[0].astype(np.float32)[:, None]  # (D, 1)
        nodes.append(helper.make_node("MatMul", [f"{PREFIX}sub", f"{PREFIX}coef{at}"], [name], f"{PREFIX}matmul{at}"))
    if len(columns) > 1:
        nodes.append(helper.make_node("Concat", sums, [HEAD_SUMS], f"{PREFIX}concat", axis=1))
    graph = helper.make_graph(
        nodes,
        "abonyx-head",
        [helper.make_tensor_value_info(EMBEDDING, TensorProto.FLOAT, ["batch", len(mean)])],
        [helper.make_tensor_value_info(HEAD_SUMS, TensorProto.FLOAT, ["batch", len(columns)])],
        [numpy_helper.from_array(values, name) for name, values in arrays.items()],
    )
    model = helper.make_model(
        graph, ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="abonyx"
    )
    helper.set_model_props(model, _metadata(heads))
    onnx.checker.check_model(model, full_check=True)
    return model


def check_heads(model: onnx.ModelProto, heads: Sequence[Head], mean: Float32Array, limit: float = HEAD_P) -> float:
    """Compare the heads' model (float32) with the heads in float64 on random rows.

    Args:
        model: from `head_model`.
        heads: the bundle's heads.
        mean: (D,) from `common_mean`.
        limit: largest allowed difference of p.

    Returns:
        The largest difference of p; 0.0 if all heads are linear.

    Raises:
        ParityError: a difference of p is above `limit`, a difference of a linear head's value is above FP32.value, or
            a difference is NaN.
    """
    engine = import_engine()
    options = engine.SessionOptions()
    session = engine.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    largest, first = 0.0, 0
    for head in heads:
        rows = _probe_rows(head, np.tile(mean, head.chain_count))
        sums = [
            session.run([HEAD_SUMS], {EMBEDDING: chain})[0][:, first + at]
            for at, chain in enumerate(np.split(rows, head.chain_count, axis=1))
        ]
        first += head.chain_count
        spec = head_spec(head, PAIR[: head.chain_count], sums_intercept(head, mean))
        logistic, total = spec.kind == LOGISTIC, head.logit(rows)
        if logistic:
            found, expected, allowed = head_value(spec, *sums).astype(np.float64), sigmoid(total), limit
        else:
            found, expected, allowed = head_total(spec, *sums), total, FP32.value
        difference = np.abs(found - expected) / (head.training_sd or 1.0)
        worst = int(np.argmax(difference))  # a NaN counts as the largest
        if not difference[worst] <= allowed:
            metric, where = ("p", "logit") if logistic else ("value, in training sds,", "value")
            raise ParityError(
                f"{head.source_name}: the graph's {metric} differs by {difference[worst]:.3g}, limit {allowed:.3g}, at "
                f"{where} {total[worst]:.6g} (graph {found[worst]:.9g}, float64 {expected[worst]:.9g})",
                "The range of the weights or the scaler is too large for float32: refit the head on scaled embeddings.",
            )
        largest = max(largest, float(difference[worst])) if logistic else largest
    return largest


def attach_head(encoder: onnx.ModelProto, head: onnx.ModelProto) -> onnx.ModelProto:
    """Attach heads to an encoder, and remove the heads that it has. Changes `encoder` and returns it.

    The encoder gets the outputs `head_sums` (batch, K) and `contributions` (batch, length, K), float32.

    Args:
        encoder: loaded with load_external_data=False, so that its weights are not read.
        head: from `head_model`, or a bundle's head.onnx.

    Raises:
        HeadRefused: the two graphs differ in width or operator set.
        BundleError: `encoder` has no `embedding` output, or its pooling differs from encoder.graph.pool's.
    """
    _check_fit(encoder, head)
    graph = encoder.graph
    for values in (graph.node, graph.initializer, graph.value_info):
        kept = [value for value in values if not value.name.startswith(PREFIX)]
        del values[:]
        values.extend(kept)
    outputs = [output for output in graph.output if output.name not in (HEAD_SUMS, CONTRIBUTIONS)]
    del graph.output[:]
    graph.output.extend([*outputs, *head.graph.output])
    graph.node.extend(head.graph.node)
    graph.initializer.extend(head.graph.initializer)
    _add_contributions(graph, head)
    for name in (HEAD_SUMS, CONTRIBUTIONS):
        if sum(name in node.output for node in graph.node) != 1:
            raise BundleError(f"the encoder graph already has a node for {name}", "Export the encoder again.")
    return encoder


def _add_contributions(graph: onnx.GraphProto, head: onnx.ModelProto) -> None:
    """Add the output `contributions`: pooling weight x (token states - mean) x head weights, for each token.

    Engines skip these nodes unless the output is requested.
    """
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in head.graph.initializer}
    columns = [node.input[1] for node in head.graph.node if node.op_type == "MatMul"]  # in head_sums' order
    weights = np.concatenate([values[name] for name in columns], axis=1)  # (D, K)
    states = _pooled_states(graph)
    arrays = {f"{PREFIX}token_axis": np.array([2], np.int64)}
    parts = []
    for at, (state, mean, weight) in enumerate(
        zip(states, np.split(values[f"{PREFIX}mean"], len(states)), np.split(weights, len(states)), strict=True)
    ):
        name = f"{PREFIX}token_{{}}_{at}"
        arrays |= {name.format("mean"): mean, name.format("coef"): weight}  # (H,), (H, K)
        off, product = name.format("sub"), name.format("matmul")
        graph.node.append(helper.make_node("Sub", [state, name.format("mean")], [off], off))  # (B, L, H)
        graph.node.append(helper.make_node("MatMul", [off, name.format("coef")], [product], product))  # (B, L, K)
        parts.append(product)
    total, share = parts[0], f"{PREFIX}token_share"
    for at, part in enumerate(parts[1:], 1):
        added = f"{PREFIX}token_sum_{at}"
        graph.node.append(helper.make_node("Add", [total, part], [added], added))
        total = added
    graph.node.append(helper.make_node("Unsqueeze", ["pool_weights", f"{PREFIX}token_axis"], [share], share))
    graph.node.append(helper.make_node("Mul", [total, share], [CONTRIBUTIONS], f"{PREFIX}{CONTRIBUTIONS}"))
    graph.initializer.extend(numpy_helper.from_array(np.ascontiguousarray(each), name) for name, each in arrays.items())
    shape = ["batch", "length", weights.shape[1]]
    graph.output.append(helper.make_tensor_value_info(CONTRIBUTIONS, TensorProto.FLOAT, shape))


def _pooled_states(graph: onnx.GraphProto) -> list[str]:
    """Names of the float32 token states (B, L, H) that are pooled into the embedding, in its order."""
    makers = {output: node for node in graph.node for output in node.output}

    def made(name: str, operator: str) -> onnx.NodeProto | None:
        node = makers.get(name)
        return node if node is not None and node.op_type == operator else None

    squeeze = made(EMBEDDING, "Squeeze")
    if squeeze is not None:
        joined = made(squeeze.input[0], "Concat")
        means = [made(name, "MatMul") for name in (joined.input if joined else squeeze.input[:1])]
        rows = [made(mean.input[0], "Unsqueeze") for mean in means if mean]
        if all(means) and all(row and row.input[0] == "pool_weights" for row in rows):
            return [mean.input[1] for mean in means if mean]
    what = (
        f"the encoder graph does not compute {EMBEDDING} as this version writes it: token states, averaged with "
        "pool_weights"
    )
    raise BundleError(what, "Export the encoder again.")


def _metadata(heads: Sequence[Head]) -> dict[str, str]:
    """Metadata of the heads, key -> value. If there are several heads, keys start with the head's name."""
    described: dict[str, str] = {}
    for head in heads:
        values = {
            "name": head.name,
            "encoder": head.encoder,
            "encoder_revision": head.encoder_revision,
            "pooling": head.pooling,
            "pooling_batch_size": head.pooling_batch_size,
            "source_sha256": head.source_sha256,
            "sklearn_version": head.sklearn_version,
            "classes": ",".join(map(str, head.classes)) or None,
            "unit": head.unit,
            "intercept_shift": head.intercept_shift or None,  # a shifted head differs from the file of this sha256
        }
        prefix = f"{head.name}." if len(heads) > 1 else ""
        described |= {f"{prefix}{key}": str(value) for key, value in values.items() if value is not None}
    return described


def _probe_rows(head: Head, mean: Float32Array) -> Float32Array:
    """Random rows (384, D) around the head's mean, in three groups of 128.

    The head's sums have a standard deviation of 1, then of 4, and then go from -40 to 40. For a linear head, the unit
    of these sums is the standard deviation of its training values.

    Args:
        head: the head to check.
        mean: (D,), the centre of the rows if the head has no scaler.
    """
    weights, unit = head.weights()[0], head.training_sd or 1.0
    scale = np.ones(len(mean)) if head.scale is None else head.scale
    coef: Float64Array = weights * scale / unit
    norm = float(np.linalg.norm(coef)) or 1.0
    rows = np.random.default_rng(0).standard_normal((3, 128, coef.size)) / norm
    rows[1] *= 4
    rows[2] += np.linspace(-40, 40, 128)[:, None] * coef / norm**2
    rows = rows.reshape(-1, coef.size) * scale
    return (rows + (mean if head.mean is None else head.mean)).astype(np.float32)


def _check_fit(encoder: onnx.ModelProto, head: onnx.ModelProto) -> None:
    opsets = [
        {entry.domain: entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")}
        for model in (encoder, head)
    ]
    if opsets[0] != opsets[1]:
        what = f"the encoder graph has opset {opsets[0]}, the head graph has opset {opsets[1]}"
        raise HeadRefused(what, "Export the bundle with the older opset again.")
    embeddings = [output for output in encoder.graph.output if output.name == EMBEDDING]
    if len(embeddings) != 1:
        names = ", ".join(output.name for output in encoder.graph.output)
        what = f"the encoder graph has the outputs {names}, but not {EMBEDDING}"
        raise BundleError(what, "Export the encoder again.")
    io = ([value.name for value in head.graph.input], [value.name for value in head.graph.output])
    inner = [value.name for value in (*head.graph.node, *head.graph.initializer)]
    if io != ([EMBEDDING], [HEAD_SUMS]) or not all(name.startswith(PREFIX) for name in inner):
        what = f"the head graph has inputs {io[0]}, outputs {io[1]} and names {inner[:9]}"
        raise HeadRefused(f"{what}, not those of an abonyx head", "Export the bundle again.")
    widths = [value.type.tensor_type.shape.dim[-1].dim_value for value in (*embeddings, head.graph.input[0])]
    if widths[0] != widths[1]:
        what = f"the encoder's embedding has {widths[0]} values, the head takes {widths[1]}"
        raise HeadRefused(what, "Use the encoder and the pooled layers that the head was trained with.")
