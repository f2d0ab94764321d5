"""Write an ESM or BERT encoder as one ONNX graph, straight from the checkpoint's tensors.

The graph is built node by node with onnx.helper and not traced. So this file chooses every operator and name, only one
tensor is in memory at a time, and the graph shares no code with its reference (transformers' own model, parity.py).
The file has over 300 lines, so that all nodes from the tokens to the pooled embedding can be read in one place.
Shapes: B batch, L tokens, H hidden, N attention heads, D hidden per head.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from abonyx.arrays import Float32Array
from abonyx_export.encoder.config import EncoderConfig
from abonyx_export.encoder.rotary import Pair, rotary_rows, rotate
from abonyx_export.encoder.writing import WEIGHTS_SUFFIX, Graph, model
from abonyx_export.int8.calibration import CONTEXT, NARROW, QKV, WIDEN
from abonyx_export.int8.quantization import Plan, Product, fold_into_values, folded_products
from abonyx_export.int8.rounding import REST_STEPS, REST_ZERO_POINT

# An ESM that was trained with masked tokens multiplies its token embeddings by this factor at inference. The value
# 1 - 0.15 * 0.8 is a constant in every ESM (transformers' EsmEmbeddings, fair-esm's ProteinBertModel). It is the same
# for every row, because scored rows have no <mask>.
TOKEN_DROPOUT_SCALE = np.float32(1 - 0.15 * 0.8)

ENCODER_INPUTS = ("input_ids", "position_ids", "attention_bias", "pool_weights")


def write_encoder(
    config: EncoderConfig,
    tensor: Callable[[str], Float32Array],
    path: Path,
    *,
    storage: npt.DTypeLike = np.float32,
    arithmetic: npt.DTypeLike = np.float32,
    plan: Plan | None = None,
) -> None:
    """Write `path` (graph) and `path`.data (weights): the encoder with its pooling, without a head.

    The graph's inputs are ENCODER_INPUTS; its output is `embedding` (B, H x pooled layers).

    Args:
        config: the encoder's shape, from `checkpoint.load_checkpoint`.
        tensor: function from a tensor's name in transformers to its float32 values.
        path: the .onnx file to write; the weights go beside it.
        storage: float32 or float16, for the weight matrices on disk.
        arithmetic: float32 or float16, for the encoder. The pooling is always float32.
        plan: the products that are int8; None = no product. An int8 graph has Shape nodes; CPU and OpenVINO run it.
    """
    weights_path = path.with_name(path.name + WEIGHTS_SUFFIX)
    with weights_path.open("wb") as weights_file:
        graph = Graph(weights_file, weights_path.name, storage, arithmetic)
        half = np.dtype(arithmetic) == np.float16
        bias = graph.node("Cast", ["attention_bias"], "attention_bias/cast", to=TensorProto.FLOAT16) if half else ""
        rotary = rotary_rows(graph, config, tensor) if config.positions == "rotary" else [None] * config.layers
        hidden = embed(graph, config, tensor)
        states = {"embedding": hidden}
        if plan is not None:  # Gemm adds the bias in the same pass, but only takes matrices, so states are (B x L, H)
            shape = graph.node("Shape", ["input_ids"], "shape")
            for name, dims in (("heads", (config.heads, config.head_dim)), ("hidden", (config.hidden,))):
                parts = [shape, graph.constant(f"const/{name}", np.array(dims, np.int64))]
                graph.node("Concat", parts, f"shape/{name}", axis=0)
            hidden = graph.node("Reshape", [hidden, graph.shape(-1, config.hidden)], "embeddings/flat")
        for index in range(config.layers):
            if plan is None:
                hidden = _layer(graph, config, tensor, index, hidden, bias or "attention_bias", rotary[index])
            else:
                hidden = _flat_layer(graph, config, tensor, index, hidden, rotary[index], plan.layers[index])
            if str(index + 1) in config.pooled_layers:
                states[str(index + 1)] = (
                    _unflat(graph, hidden, f"encoder/unflat_{index + 1}") if plan is not None else hidden
                )
        if not config.is_post_norm:
            hidden = layer_norm(graph, config, tensor, "encoder.emb_layer_norm_after", hidden)
        states["last"] = hidden if plan is None else _unflat(graph, hidden, "encoder/unflat")
        pool(graph, states, config.pooled_layers, half)
    onnx.save(model(graph, config, ENCODER_INPUTS), path)


def _unflat(graph: Graph, hidden: str, name: str) -> str:
    """Reshape (B x L, H) to (B, L, H)."""
    return graph.node("Reshape", [hidden, "shape/hidden"], name)


def embed(graph: Graph, config: EncoderConfig, tensor: Callable[[str], Float32Array]) -> str:
    """Token embedding (B, L, H), plus the position embedding if positions are absolute."""
    words = tensor("embeddings.word_embeddings.weight")
    if config.token_dropout:
        words = words * TOKEN_DROPOUT_SCALE
    if config.is_post_norm:  # the token type is always 0
        words = words + tensor("embeddings.token_type_embeddings.weight")[0]
    # These few dozen rows are scaled, so they are stored in the arithmetic type. float16 storage must only round values
    # of the checkpoint.
    hidden = graph.node("Gather", [graph.weight("embeddings.words", words), "input_ids"], "embeddings/words")
    if config.positions == "absolute":
        values = tensor("embeddings.position_embeddings.weight")
        unused = config.pad_id + 1 - config.first_position  # the runtime's position ids start at pad_id + 1
        if unused:
            values = np.concatenate([np.zeros_like(values, shape=(unused, config.hidden)), values])
        table = graph.matrix("embeddings.positions", values)
        positions = graph.node("Gather", [table, "position_ids"], "embeddings/positions")
        hidden = graph.node("Add", [hidden, positions], "embeddings/sum")
    if config.emb_layer_norm_before:
        hidden = layer_norm(graph, config, tensor, "embeddings.layer_norm", hidden)
    if config.is_post_norm:
        hidden = layer_norm(graph, config, tensor, "embeddings.LayerNorm", hidden)
    return hidden


def _layer(
    graph: Graph,
    config: EncoderConfig,
    tensor: Callable[[str], Float32Array],
    index: int,
    hidden: str,
    bias: str,
    rotary: Pair | None,
) -> str:
    """One transformer layer with its norms before or after the blocks; input and output are (B, L, H)."""
    source = f"encoder.layer.{index}"
    post = config.is_post_norm
    normed = hidden if post else layer_norm(graph, config, tensor, f"{source}.attention.LayerNorm", hidden)
    # The query's scale D^-1/2 is multiplied into its weights. This is exact for D = 64, as in every published ESM.
    scale = config.head_dim**-0.5
    projected = {
        part: _linear(graph, tensor, f"{source}.attention.self.{part}", normed, scale if part == "query" else 1.0)
        for part in ("query", "key", "value")
    }
    heads = graph.shape(0, 0, config.heads, config.head_dim)
    context = _attention(graph, config, source, projected, heads, bias, rotary)
    context = graph.node("Reshape", [context, graph.shape(0, 0, config.hidden)], f"{source}/context_joined")
    attended = _linear(graph, tensor, f"{source}.attention.output.dense", context)
    hidden = graph.node("Add", [hidden, attended], f"{source}/attention_residual")

    norm = f"{source}.attention.output.LayerNorm" if post else f"{source}.LayerNorm"
    normed = layer_norm(graph, config, tensor, norm, hidden)
    wide = _linear(graph, tensor, f"{source}.intermediate.dense", normed)  # (B, L, FFN)
    wide = graph.node("Gelu", [wide], f"{source}/gelu")  # the erf form, as in ESM and BERT
    narrow = _linear(graph, tensor, f"{source}.output.dense", wide)
    added = graph.node("Add", [normed if post else hidden, narrow], f"{source}/residual")
    return layer_norm(graph, config, tensor, f"{source}.output.LayerNorm", added) if post else added


def _attention(
    graph: Graph,
    config: EncoderConfig,
    source: str,
    projected: dict[str, str],
    heads_shape: str,
    bias: str,
    rotary: Pair | None,
) -> str:
    """Attention from query, key and value; returns the context (B, L, N, D)."""
    heads = {}
    for part, values in projected.items():
        split = graph.node("Reshape", [values, heads_shape], f"{values}/heads")  # (B, L, N, D)
        order = [0, 2, 3, 1] if part == "key" and rotary is None else [0, 2, 1, 3]
        # (B, N, L, D), but (B, N, D, L) for a key without rotary positions
        heads[part] = graph.node("Transpose", [split], f"{values}/transposed", perm=order)
    query, key = heads["query"], heads["key"]
    if rotary is not None:
        query = rotate(graph, config, query, rotary)
        key = graph.node("Transpose", [rotate(graph, config, key, rotary)], f"{key}/last", perm=[0, 1, 3, 2])
    scores = graph.node("MatMul", [query, key], f"{source}/scores")  # (B, N, L, L)
    masked = graph.node("Add", [scores, bias], f"{source}/scores_masked")
    weights = graph.node("Softmax", [masked], f"{source}/attention", axis=-1)
    context = graph.node("MatMul", [weights, heads["value"]], f"{source}/context")  # (B, N, L, D)
    return graph.node("Transpose", [context], f"{source}/context_transposed", perm=[0, 2, 1, 3])  # (B, L, N, D)


def _flat_layer(
    graph: Graph,
    config: EncoderConfig,
    tensor: Callable[[str], Float32Array],
    index: int,
    hidden: str,
    rotary: Pair | None,
    products: dict[str, Product],
) -> str:
    """One layer with the given products in int8; input and output are (B x L, H)."""
    source, post, context8 = f"encoder.layer.{index}", config.is_post_norm, products.get(CONTEXT)
    if context8 and QKV in products:
        products = products | {QKV: fold_into_values(products[QKV], context8, config.hidden)}
    folded = {name: products[name] for name in folded_products(config) if name in products}

    def linear(name: str, x: str, columns: str = "", part: slice = slice(None)) -> str:
        path = f"{source}.{name}{columns}"
        if name in products:
            return _quantized_linear(graph, products[name], path, x, part)
        behind = context8 if columns == ".value" else None
        return _linear(graph, tensor, path, x, config.head_dim**-0.5 if columns == ".query" else 1.0, behind)

    def shifted(name: str, x: str) -> str:
        """Subtract the columns' means from the input, if the product needs this and no earlier operator does it."""
        if name in folded or name not in products or not products[name].shift.any():
            return x
        return graph.node("Add", [x, graph.weight(f"{x}/shift", -products[name].shift)], f"{x}/shifted")

    before = f"{source}.attention.LayerNorm"
    normed = hidden if post else layer_norm(graph, config, tensor, before, hidden, folded.get(QKV))
    normed = shifted(QKV, normed)
    projected = {}
    # Three products are as fast as one product of three times the width and a Split (benchmarks/NOTES.md).
    for number, name in enumerate(("query", "key", "value")):
        part = slice(number * config.hidden, (number + 1) * config.hidden)
        projected[name] = linear(QKV, normed, f".{name}", part)
    context = _attention(graph, config, source, projected, "shape/heads", "attention_bias", rotary)
    context = graph.node("Reshape", [context, graph.shape(-1, config.hidden)], f"{source}/context_joined")
    hidden = graph.node("Add", [hidden, linear(CONTEXT, context)], f"{source}/attention_residual")
    norm = f"{source}.attention.output.LayerNorm" if post else f"{source}.LayerNorm"
    normed = layer_norm(graph, config, tensor, norm, hidden, folded.get(WIDEN))
    wide = graph.node("Gelu", [linear(WIDEN, shifted(WIDEN, normed))], f"{source}/gelu")  # (B x L, FFN)
    narrow = linear(NARROW, shifted(NARROW, wide))
    added = graph.node("Add", [normed if post else hidden, narrow], f"{source}/residual")
    return layer_norm(graph, config, tensor, f"{source}.output.LayerNorm", added) if post else added


def _quantized_linear(graph: Graph, product: Product, source: str, x: str, columns: slice) -> str:
    """Write `columns` of a product in the QuantizeLinear/DequantizeLinear pattern that engines run in int8."""
    restored = _quantized_terms(graph, product, x)
    scale = product.weight_scale[columns]
    weight = [
        graph.weight(f"{source}.weight.int8", product.weight[:, columns], np.int8),
        graph.weight(f"{source}.weight.scale", scale),
        graph.weight(f"{source}.weight.zero_point", np.zeros(len(scale)), np.int8),
    ]
    # The bias is int32 in the unit of the sums (both scales). Its rounding changes an output by at most half a unit,
    # about 1e-6.
    unit = (scale * np.float32(product.input_scale)).astype(np.float32)
    bias = [
        graph.weight(f"{source}.bias.int32", np.rint(product.bias[columns] / unit), np.int32),
        graph.weight(f"{source}.bias.scale", unit),
        graph.weight(f"{source}.bias.zero_point", np.zeros(len(scale)), np.int32),
    ]
    name = f"{source}/out"
    inputs = [
        restored[0],
        graph.node("DequantizeLinear", weight, f"{source}.weight", axis=1),
        graph.node("DequantizeLinear", bias, f"{source}.bias", axis=0),
    ]
    if product.terms == 1:
        return graph.node("Gemm", inputs, name)
    # A second node for the same weights, because engines fuse a DequantizeLinear with only one Gemm.
    again = graph.node("DequantizeLinear", weight, f"{source}.weight_again", axis=1)
    parts = [
        graph.node("Gemm", inputs, f"{source}/first"),
        graph.node("Gemm", [restored[1], again], f"{source}/rest"),
    ]
    return graph.node("Add", parts, name)


def _quantized_terms(graph: Graph, product: Product, x: str) -> list[str]:
    """Quantize and restore the product's input in one or two int8 terms. Query, key and value share these nodes."""
    scales = {"": (product.input_scale, product.input_zero_point)}
    if product.terms == 2:
        scales["rest_"] = (product.input_scale / REST_STEPS, REST_ZERO_POINT)
    names = [f"{x}/{term}restored" for term in scales]
    if any(node.name == names[0] for node in graph.nodes):
        return names
    values = x
    for (term, (scale, zero_point)), name in zip(scales.items(), names, strict=True):
        if term:
            values = graph.node("Sub", [x, names[0]], f"{x}/rest")
        constants = [
            graph.constant(f"{x}/{term}scale", np.array(scale, np.float32)),
            graph.constant(f"{x}/{term}zero_point", np.array(zero_point, np.uint8)),
        ]
        quantized = graph.node("QuantizeLinear", [values, *constants], f"{x}/{term}quantized")
        graph.node("DequantizeLinear", [quantized, *constants], name)
    return names


def _linear(
    graph: Graph,
    tensor: Callable[[str], Float32Array],
    source: str,
    x: str,
    scale: float = 1.0,
    behind: Product | None = None,
) -> str:
    """A float32 product. If its output goes to an int8 product `behind`, it applies that product's shift and scale."""
    values = (tensor(f"{source}.weight") * np.float32(scale)).T  # (in, out)
    offset = tensor(f"{source}.bias") * np.float32(scale)
    if behind:
        values, offset = values / behind.scale, (offset - behind.shift) / behind.scale
    weight, bias = graph.matrix(f"{source}.weight", values), graph.weight(f"{source}.bias", offset)
    return graph.node("Add", [graph.node("MatMul", [x, weight], f"{source}/matmul"), bias], f"{source}/out")


def layer_norm(
    graph: Graph,
    config: EncoderConfig,
    tensor: Callable[[str], Float32Array],
    source: str,
    x: str,
    product: Product | None = None,
) -> str:
    """LayerNorm. If its output goes to an int8 `product`, it also applies that product's shift and scale."""
    weight, bias = tensor(f"{source}.weight"), tensor(f"{source}.bias")
    if product is not None:
        weight, bias = weight / product.scale, (bias - product.shift) / product.scale
    inputs = [x, graph.weight(f"{source}.weight", weight), graph.weight(f"{source}.bias", bias)]
    return graph.node("LayerNormalization", inputs, f"{source}/out", axis=-1, epsilon=config.layer_norm_eps)


def pool(graph: Graph, layers: dict[str, str], pooled: tuple[str, ...], half: bool) -> None:
    """Weighted mean over tokens in float32: pool_weights (B, L) x hidden (B, L, H) -> embedding (B, H x layers)."""
    row = graph.node("Unsqueeze", ["pool_weights", graph.axes(1)], "pooling/row")  # (B, 1, L)
    means = []
    for layer in pooled:
        hidden = layers[layer]
        if half:
            hidden = graph.node("Cast", [hidden], f"pooling/{layer}_float", to=TensorProto.FLOAT)
        means.append(graph.node("MatMul", [row, hidden], f"pooling/{layer}"))  # (B, 1, H)
    mean = means[0] if len(means) == 1 else graph.node("Concat", means, "pooling/concatenated", axis=2)
    graph.node("Squeeze", [mean, graph.axes(1)], "embedding")  # (B, H x layers)
