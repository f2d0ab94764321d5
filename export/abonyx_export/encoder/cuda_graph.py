"""The encoder for CUDA only: ONNX Runtime's fused operators (domain com.microsoft), float16, lengths as the mask.

Attention takes the keys' lengths (right padding), so that no mask is added to the scores. It takes queries, keys and
values directly from three products. The query's bias is added, and with rotary positions also the key's bias. The
value's bias is folded into the output's bias (see benchmarks/NOTES.md).
SkipLayerNormalization adds a product's bias and the residual, and applies the following norm, in one pass. In ESM the
following norm can belong to the NEXT layer. BiasGelu is the erf form.
In pre-norm encoders, each layer adds to the residual only once: it adds the sum of the products of attention and of the
feed-forward network. The residual is much larger than these products, so rounding it makes a large part of float16's
error (see benchmarks/NOTES.md).
Pooling and head are float32, as in every variant. Shapes: B batch, L tokens, H hidden, N heads, D hidden per head.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from abonyx.arrays import Float32Array
from abonyx.bundle.tolerances import FP16_LARGEST_ACTIVATION, FP16_LARGEST_BIASES
from abonyx.errors import ParityError
from abonyx_export.encoder.config import EncoderConfig
from abonyx_export.encoder.graph import embed, layer_norm, pool
from abonyx_export.encoder.rotary import Pair, rotary_tables
from abonyx_export.encoder.writing import WEIGHTS_SUFFIX, Graph, model

CUDA_INPUTS = ("input_ids", "position_ids", "lengths", "pool_weights")
FUSED = "com.microsoft"
Tensor = Callable[[str], Float32Array]


def write_cuda_encoder(
    config: EncoderConfig, tensor: Tensor, path: Path, *, arithmetic: npt.DTypeLike = np.float16
) -> None:
    """Write `path` (graph) and `path`.data (weights), like graph.write_encoder. The inputs are CUDA_INPUTS.

    Args:
        config, tensor, path: see write_encoder.
        arithmetic: float16. The tests use float32, and compare the CPU's kernels with PyTorch.

    Raises:
        ParityError: at float16, an output bias plus the biases that are folded into it exceeds its limit.
    """
    weights_path = path.with_name(path.name + WEIGHTS_SUFFIX)
    with weights_path.open("wb") as weights_file:
        graph = Graph(weights_file, weights_path.name, arithmetic, arithmetic)
        residual = embed(graph, config, tensor)
        states = {"embedding": residual}
        rotary = rotary_tables(graph, config, tensor) if config.positions == "rotary" else [None] * config.layers
        post = config.is_post_norm  # norms come after the blocks, and their output is also the residual
        normed = residual
        if not post:
            normed = layer_norm(graph, config, tensor, "encoder.layer.0.attention.LayerNorm", residual)
        for index in range(config.layers):
            source = f"encoder.layer.{index}"
            context = _attention(graph, config, tensor, source, normed, rotary[index])
            output = f"{source}.attention.output.dense"
            attended = _product(graph, tensor, output, context)
            bias = _output_bias(tensor, source)
            _check_range(graph, bias, output, FP16_LARGEST_ACTIVATION)
            norm = f"{source}.attention.output.LayerNorm" if post else f"{source}.LayerNorm"
            normed = _add_and_norm(graph, config, tensor, attended, residual, bias, norm)
            wide = _product(graph, tensor, f"{source}.intermediate.dense", normed)  # (B, L, FFN)
            wide = graph.node(
                "BiasGelu", [wide, _bias(graph, tensor, f"{source}.intermediate.dense")], f"{source}/gelu", domain=FUSED
            )
            output = f"{source}.output.dense"
            narrow = _product(graph, tensor, output, wide)
            if post:
                bias, norm = tensor(f"{output}.bias"), f"{source}.output.LayerNorm"
                normed = residual = _add_and_norm(graph, config, tensor, narrow, normed, bias, norm)
            else:
                bias, norm = bias + tensor(f"{output}.bias"), _next_norm(config, index)
                _check_range(graph, bias, output, FP16_LARGEST_BIASES)
                both = graph.node("Add", [attended, narrow], f"{source}/both")
                following = f"{source}/residual"
                normed = _add_and_norm(graph, config, tensor, both, residual, bias, norm, following)
                residual = following
            states[str(index + 1)] = residual
        states["last"] = normed
        half = np.dtype(arithmetic) == np.float16
        pool(graph, states, config.pooled_layers, half)
    onnx.save(model(graph, config, CUDA_INPUTS, [FUSED]), path)


def _next_norm(config: EncoderConfig, layer: int) -> str:
    """Name of the norm that follows a pre-norm layer."""
    last = layer + 1 == config.layers
    return "encoder.emb_layer_norm_after" if last else f"encoder.layer.{layer + 1}.attention.LayerNorm"


def _product(graph: Graph, tensor: Tensor, source: str, x: str) -> str:
    """Product of x and the weight. The next operator adds the bias."""
    return graph.node("MatMul", [x, graph.weight(f"{source}.weight", tensor(f"{source}.weight").T)], f"{source}/out")


def _bias(graph: Graph, tensor: Tensor, source: str) -> str:
    return graph.weight(f"{source}.bias", tensor(f"{source}.bias"))


def _output_bias(tensor: Tensor, source: str) -> Float32Array:
    """The attention's output bias (H,) with the value's bias, which is constant because attention weights sum to 1."""
    weight, bias = (tensor(f"{source}.attention.output.dense.{part}") for part in ("weight", "bias"))
    value = tensor(f"{source}.attention.self.value.bias").astype(np.float64)
    whole: Float32Array = (bias + weight @ value).astype(np.float32)
    return whole


def _check_range(graph: Graph, bias: Float32Array, product: str, limit: float) -> None:
    """Refuse a large sum of biases. PyTorch does not compute this sum, so parity.check_range does not see it.

    parity.check_range limits activations of the golden rows. The graph's product without biases is an activation minus
    this bias, or one activation minus another and minus this bias. So with this limit the product is in float16's
    range on these rows.
    """
    largest = float(np.abs(bias).max())
    if graph.arithmetic == np.float16 and not largest <= limit:
        raise ParityError(
            f"cuda-fp16: the bias of {product}, with the biases that are folded into it, reaches {largest:.4g}, limit "
            f"{limit:g} (the largest float16 is 65504)",
            "Nothing was written. Leave the variant out and use fp32, which has a larger range.",
        )


def _add_and_norm(
    graph: Graph,
    config: EncoderConfig,
    tensor: Tensor,
    product: str,
    residual: str,
    bias: Float32Array,
    norm: str,
    added: str = "",
) -> str:
    """LayerNorm `norm` of product + bias (H,) + residual. The result is (B, L, H). `added` makes the sum an output too.

    Args:
        graph, config, tensor: as in write_cuda_encoder.
        product, residual: names of the values to add.
        bias: the bias of the product.
        norm: name of the LayerNorm's tensors.
        added: name of a second output, the sum before the LayerNorm; "" = no such output.
    """
    names = [graph.weight(f"{norm}.{part}", tensor(f"{norm}.{part}")) for part in ("weight", "bias")]
    normed = f"{norm}/out"
    graph.nodes.append(
        onnx.helper.make_node(
            "SkipLayerNormalization",
            [product, residual, *names, graph.weight(f"{product}.bias", bias)],
            # only training uses the second and third outputs
            [normed, "", "", added] if added else [normed],
            name=normed,
            domain=FUSED,
            epsilon=config.layer_norm_eps,
        )
    )
    return normed


def _attention(graph: Graph, config: EncoderConfig, tensor: Tensor, source: str, x: str, rotary: Pair | None) -> str:
    """The context (B, L, H), without the value's bias. The operator scales queries by D^-1/2.

    Without rotary positions the key's bias is left out: it adds the same number to all scores of a query, and softmax
    ignores that.
    """
    query, key, value = (
        _product(graph, tensor, f"{source}.attention.self.{part}", x) for part in ("query", "key", "value")
    )
    query = graph.node("Add", [query, _bias(graph, tensor, f"{source}.attention.self.query")], f"{source}/query")
    if rotary is not None:
        key = graph.node("Add", [key, _bias(graph, tensor, f"{source}.attention.self.key")], f"{source}/key")
        query, key = (
            graph.node(
                "RotaryEmbedding",
                [part, "position_ids", *rotary],
                f"{part}_turned",
                domain=FUSED,
                num_heads=config.heads,
                rotary_embedding_dim=config.head_dim,
            )
            for part in (query, key)
        )
    inputs = [query, key, value, "", "lengths"]
    return graph.node("MultiHeadAttention", inputs, f"{source}/context", domain=FUSED, num_heads=config.heads)
