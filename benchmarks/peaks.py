"""Measure the operations per second of matrix products on this machine, as a reference for the ratios of a record.

    python benchmarks/peaks.py

These are not the peaks of a data sheet. Each figure is the best of several runs of one large square product. float32
runs with ONNX Runtime's MatMul and with NumPy's BLAS. int8 runs with ONNX Runtime's MatMulInteger (uint8 x int8 with
int32 sums; with VNNI or AMX if ONNX Runtime has a kernel for them). A multiplication and an addition are two
operations.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from abonyx.engine.onnx import import_engine
from abonyx.engine.process import usable_processors

SIZE = 2048
REPEATS = 8
SECONDS = 3.0  # at most for each product; a slow machine runs fewer repeats


class Achieved(NamedTuple):
    """Operations per second of the fastest run, and the number of busy processors over all runs."""

    rate: float
    processors: float


def achieved(product: Callable[[], object], operations: float, seconds: float = SECONDS) -> Achieved:
    """The fastest of at most REPEATS runs. A first run is not counted."""
    product()
    best, started, used = 0.0, time.perf_counter(), time.process_time()
    now = started
    for _ in range(REPEATS):
        before = time.perf_counter()
        product()
        now = time.perf_counter()
        best = max(best, operations / (now - before))
        if now - started > seconds:
            break
    return Achieved(best, (time.process_time() - used) / (now - started))


def _onnx(operator: str, types: tuple[int, int, int], size: int) -> bytes:
    """A graph of one product. Its right side is a constant, like the weights of a layer, so that it is prepacked."""
    from onnx import TensorProto, helper, numpy_helper

    left, right, out = types
    kind = np.int8 if right == TensorProto.INT8 else np.float32
    weights = np.random.default_rng(1).integers(-64, 64, (size, size)).astype(kind)
    graph = helper.make_graph(
        [helper.make_node(operator, ["a", "b"], ["c"])],
        operator,
        [helper.make_tensor_value_info("a", left, [size, size])],
        [helper.make_tensor_value_info("c", out, [size, size])],
        [numpy_helper.from_array(weights, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    data: bytes = model.SerializeToString()
    return data


def measure_peaks(size: int = SIZE, seconds: float = SECONDS) -> dict[str, Any]:
    """The rate of each product in 1e9 operations per second, and how it was measured.

    Returns:
        "fp32_gflops": {"onnxruntime", "numpy"}, "int8_gops": {"onnxruntime"}, "processors" (number of busy processors
        for each product: float32 by ONNX Runtime, float32 by NumPy, int8; it is below the number of threads if other
        processes use them), "size", "threads", "onnxruntime".
    """
    from onnx import TensorProto

    engine, threads = import_engine(), usable_processors()
    options = engine.SessionOptions()
    options.intra_op_num_threads = threads
    rng, operations = np.random.default_rng(0), 2.0 * size**3

    def by_onnxruntime(operator: str, types: tuple[int, int, int], values: np.ndarray[Any, Any]) -> Achieved:
        session = engine.InferenceSession(_onnx(operator, types, size), options, providers=["CPUExecutionProvider"])
        return achieved(lambda: session.run(None, {"a": values}), operations, seconds)

    floats = rng.standard_normal((size, size), np.float32)
    bytes_ = rng.integers(0, 255, (size, size)).astype(np.uint8)
    real = (TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.FLOAT)
    whole = (TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32)
    products = [
        by_onnxruntime("MatMul", real, floats),
        achieved(lambda: floats @ floats, operations, seconds),
        by_onnxruntime("MatMulInteger", whole, bytes_),
    ]
    by_ort, by_numpy, in_int8 = (each.rate / 1e9 for each in products)
    return {
        "fp32_gflops": {"onnxruntime": by_ort, "numpy": by_numpy},
        "int8_gops": {"onnxruntime": in_int8},
        "processors": [each.processors for each in products],
        "size": size,
        "threads": threads,
        "onnxruntime": str(engine.__version__),
    }


def peaks_line(peaks: dict[str, Any]) -> str:
    """The peaks as one line of text."""
    real, whole = peaks["fp32_gflops"], peaks["int8_gops"]["onnxruntime"]
    return (
        f"achieved by one product of {peaks['size']} x {peaks['size']}, {peaks['threads']} threads: float32 "
        f"{real['onnxruntime']:.0f} GFLOP/s (ONNX Runtime), {real['numpy']:.0f} (NumPy); int8 {whole:.0f} GOP/s "
        f"(ONNX Runtime); at least {min(peaks['processors']):.2f} processors were busy"
    )


if __name__ == "__main__":
    found = measure_peaks()
    print(json.dumps(found, indent=2))
    print(peaks_line(found))
