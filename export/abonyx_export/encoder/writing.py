"""Build one ONNX graph: nodes stay in memory, weights go directly to the external data file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from abonyx.arrays import Float32Array
from abonyx_export.encoder.config import EncoderConfig

# LayerNormalization exists since opset 17, Gelu since opset 20. All four engines support opset 20.
OPSET = 20
# The IR version of opset 20 (ONNX 1.15), so that older builds of ONNX Runtime can read the graph.
IR_VERSION = 9
# ONNX Runtime maps external data from disk; an initializer that starts at a page boundary needs no copy.
PAGE_BYTES = 4096
WEIGHTS_SUFFIX = ".data"


@dataclass
class Graph:
    """Nodes and initializers of a graph; big tensors go directly to `weights_file`."""

    weights_file: BinaryIO
    weights_name: str
    storage: npt.DTypeLike
    arithmetic: npt.DTypeLike
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[TensorProto] = field(default_factory=list)

    def node(self, op_type: str, inputs: Iterable[str], name: str, **attributes: object) -> str:
        """Append a node with one output, which has the node's name; returns that name."""
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], name=name, **attributes))
        return name

    def matrix(self, name: str, values: Float32Array) -> str:
        """Append a weight matrix in the graph's storage type; returns its name in the graph's arithmetic type."""
        if self.storage == self.arithmetic:
            return self.weight(name, values)
        stored = self.weight(f"{name}.stored", values, self.storage)
        return self.node("Cast", [stored], name, to=helper.np_dtype_to_tensor_dtype(np.dtype(self.arithmetic)))

    def weight(self, name: str, values: npt.NDArray[np.number[Any]], dtype: npt.DTypeLike | None = None) -> str:
        """Append a tensor to the external data file, in `dtype` or else the arithmetic type; returns its name."""
        data = np.ascontiguousarray(values, dtype=dtype or self.arithmetic)
        self.weights_file.write(b"\0" * (-self.weights_file.tell() % PAGE_BYTES))
        tensor = TensorProto(
            name=name,
            data_type=helper.np_dtype_to_tensor_dtype(data.dtype),
            dims=data.shape,
            data_location=TensorProto.EXTERNAL,
        )
        offset = self.weights_file.tell()
        self.weights_file.write(data.data)  # the buffer itself: tobytes() would copy it
        for key, value in (("location", self.weights_name), ("offset", offset), ("length", data.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        self.initializers.append(tensor)
        return name

    def constant(self, name: str, values: npt.NDArray[np.generic]) -> str:
        """Append a small tensor (shapes, axes, scales) inline, unless the graph has it already; returns its name."""
        if all(tensor.name != name for tensor in self.initializers):
            self.initializers.append(numpy_helper.from_array(values, name))
        return name

    def axes(self, *axes: int) -> str:
        return self.constant("const/axes_" + "_".join(map(str, axes)), np.array(axes, np.int64))

    def shape(self, *dims: int) -> str:
        """A Reshape target; 0 copies the input's dimension, so no Shape node is needed."""
        return self.constant("const/shape_" + "_".join(map(str, dims)), np.array(dims, np.int64))


_VALUE_INFO: dict[str, tuple[int, list[str | int]]] = {
    "input_ids": (TensorProto.INT64, ["batch", "length"]),
    "position_ids": (TensorProto.INT64, ["batch", "length"]),
    "attention_bias": (TensorProto.FLOAT, ["batch", 1, 1, "length"]),
    "pool_weights": (TensorProto.FLOAT, ["batch", "length"]),
    "lengths": (TensorProto.INT32, ["batch"]),
}


def model(graph: Graph, config: EncoderConfig, names: Iterable[str], domains: Iterable[str] = ()) -> onnx.ModelProto:
    """The graph as a model with these inputs and the output `embedding`; `domains` are its extra operator domains."""
    inputs = [helper.make_tensor_value_info(name, *_VALUE_INFO[name]) for name in names]
    outputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", config.embedding_width])]
    proto = helper.make_graph(graph.nodes, "abonyx", inputs, outputs, graph.initializers)
    opsets = [helper.make_opsetid("", OPSET), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(proto, ir_version=IR_VERSION, opset_imports=opsets, producer_name="abonyx")
