"""Write heads as one ONNX graph, and put it behind an encoder's.

Sub, MatMul and Concat of the default domain, named "head/...": the embedding less one common mean, times the weights
of each head, a column a chain. Each column has a product of its own: in one product of all weights, the last bits of a
head's sum could depend on how many other heads there are. Scalers are folded into the weights. The mean comes off first
because float32 sums are the more accurate the smaller their terms are. Intercepts and the sigmoid are the runtime's
(abonyx.bundle.heads).

Behind an encoder the same weights also meet the states before they are pooled: `contributions`, whose sum over a row's
tokens is its head_sums, because pooling is a weighted mean and the weights of a row sum to 1.
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
    """Give what the graph subtracts from every embedding, (D,) float32.

    The first head's scaler says best where its embeddings lie; without one the golden rows do.

    Args:
        embedding: (n, D) of the golden rows.
    """
    mean = heads[0].parts()[0].mean
    return (embedding.astype(np.float64).mean(axis=0) if mean is None else mean).astype(np.float32)


def head_model(heads: Sequence[Head], mean: Float32Array) -> onnx.ModelProto:
    """Give heads as a model: `embedding` (batch, D) float32 to `head_sums` (batch, K) float32, a column a chain.

    Heads with the same numbers have the same graph; where they come from is in the metadata alone.

    Args:
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
    """Give the largest difference of p between heads' model (float32) and the heads in float64; 0.0 of linear ones.

    Raises:
        ParityError: where it is above `limit`, or a linear head's value above FP32.value, or not a number.

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
                "The weights or the scaler span more than float32 holds: refit the head on scaled embeddings.",
            )
        largest = max(largest, float(difference[worst])) if logistic else largest
    return largest


def attach_head(encoder: onnx.ModelProto, head: onnx.ModelProto) -> onnx.ModelProto:
    """Put heads behind an encoder, in place of those it has; edits `encoder` and gives it back.

    The encoder gets the outputs `head_sums` (batch, K) and `contributions` (batch, length, K), float32.

    Args:
        encoder: loaded with load_external_data=False, so that its weights stay where they are.
        head: from `head_model`, or a bundle's head.onnx.

    Raises:
        HeadRefused: where the two do not fit, by width or by operator set.
        BundleError: where `encoder` has no `embedding` output, or another pooling than encoder.graph.pool writes.

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
            raise BundleError(f"the encoder graph makes {name} itself", "Export the encoder again.")
    return encoder


def _add_contributions(graph: onnx.GraphProto, head: onnx.ModelProto) -> None:
    """Add the output `contributions`: each token's pooling weight times its states, less the mean, times the weights.

    Nothing of it runs, but for what engines do not leave out, unless it is asked for.
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
    """Names of the float32 states (B, L, H) that make up the embedding, in its order: what encoder.graph.pool takes."""
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
    what = f"{EMBEDDING} is not the mean of token states by pool_weights that this version writes"
    raise BundleError(f"the encoder graph's {what}", "Export the encoder again.")


def _metadata(heads: Sequence[Head]) -> dict[str, str]:
    """What is known of each head; keys begin with its name if there are several."""
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
            "intercept_shift": head.intercept_shift or None,  # the file's sha256 is not of a head that was moved
        }
        prefix = f"{head.name}." if len(heads) > 1 else ""
        described |= {f"{prefix}{key}": str(value) for key, value in values.items() if value is not None}
    return described


def _probe_rows(head: Head, mean: Float32Array) -> Float32Array:
    """Give (384, D) rows about the head's own mean: sums spread by 1 and 4 about the intercept, and from -40 to 40.

    Of a linear head in training sds.

    Args:
        mean: (D,) where the head has no scaler that says where its embeddings lie.
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
        what = f"the encoder graph is of opset {opsets[0]}, the head of {opsets[1]}"
        raise HeadRefused(what, "Export the older of the two again.")
    embeddings = [output for output in encoder.graph.output if output.name == EMBEDDING]
    if len(embeddings) != 1:
        names = ", ".join(output.name for output in encoder.graph.output)
        raise BundleError(f"the encoder graph's outputs are {names}; {EMBEDDING} is missing", "Export it again.")
    io = ([value.name for value in head.graph.input], [value.name for value in head.graph.output])
    inner = [value.name for value in (*head.graph.node, *head.graph.initializer)]
    if io != ([EMBEDDING], [HEAD_SUMS]) or not all(name.startswith(PREFIX) for name in inner):
        raise HeadRefused(f"the head graph goes from {io[0]} to {io[1]}, with names {inner[:9]}", "Export it again.")
    widths = [value.type.tensor_type.shape.dim[-1].dim_value for value in (*embeddings, head.graph.input[0])]
    if widths[0] != widths[1]:
        what = f"the encoder's embedding has {widths[0]} values, the head takes {widths[1]}"
        raise HeadRefused(what, "Use the encoder and the pooled layers that the head was trained with.")
