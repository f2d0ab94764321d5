"""The operators that abonyx exports, and the element types of their inputs."""

from __future__ import annotations

import re
from collections.abc import Sequence

# TensorProto.DataType of onnx.proto -> a letter. abonyx never exports tensors of another type.
LETTERS = {1: "f", 2: "u", 3: "b", 6: "h", 7: "i", 10: "e"}
FLOAT32, UINT8, INT8, INT32, INT64, FLOAT16 = "fubhie"
ITEM_BYTES = {FLOAT32: 4, UINT8: 1, INT8: 1, INT32: 4, INT64: 8, FLOAT16: 2}
# Letter of an optional input that is left out.
ABSENT = "-"

# Domain -> operator -> regular expression for the letters of its inputs. An engine knows a thousand more operators;
# some of them read files (EPContext), run code (PythonOp) or loop. Types matter too: an integer Div can crash the
# process. Every export opens its graphs, so an operator that is missing here makes the export fail.
_TWO, _WITH_INDEX = "ff|ee", "[fe]i"
OPERATORS: dict[str, dict[str, str]] = {
    "": {
        **dict.fromkeys(("Add", "Div", "MatMul", "Mul", "Sub"), _TWO),
        **dict.fromkeys(("Gather", "Reshape", "Squeeze", "Unsqueeze"), _WITH_INDEX),
        **dict.fromkeys(("Cast", "Gelu", "Sigmoid", "Softmax", "Transpose"), "[fe]"),
        "Concat": "f+|e+|i+",
        "DequantizeLinear": "hfh|bfb|ufu",
        "Gemm": "fff?|eee?",
        "LayerNormalization": "fff|eee",
        "QuantizeLinear": "ff[ub]",
        "Shape": "[fei]",
        "Slice": "[fe]iiii?",
        "Split": "[fe]i?",
    },
    "com.microsoft": {
        "Attention": "(fff|eee)h?",
        "BiasGelu": _TWO,
        "MultiHeadAttention": "(fff|eee)([fe-]h?)?",
        "RotaryEmbedding": "fiff|eiee",
        "SkipLayerNormalization": "f{3,5}|e{3,5}",
    },
}


def known(domain: str, op_type: str) -> bool:
    """Whether abonyx exports this operator."""
    return op_type in OPERATORS.get(domain, ())


def takes(domain: str, op_type: str, inputs: str) -> bool:
    """Whether abonyx exports a known operator with inputs of these types, one letter each."""
    return re.fullmatch(OPERATORS[domain][op_type], inputs) is not None


def output_type(op_type: str, inputs: Sequence[str], cast_to: str) -> str:
    """The letter of a node's outputs, by ONNX's rules for these operators.

    Args:
        op_type: a known operator.
        inputs: the letters of its inputs, which takes() has accepted.
        cast_to: the letter of the attribute `to`; only Cast has it.
    """
    if op_type == "Cast":
        return cast_to
    if op_type == "Shape":
        return INT64
    if op_type == "QuantizeLinear":
        return inputs[2]
    return inputs[1] if op_type == "DequantizeLinear" else inputs[0]
