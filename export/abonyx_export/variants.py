"""What can be exported, as data: how each variant stores and computes, and where it is the default."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

INT8 = "int8"
CUDA_FP16 = "cuda-fp16"
ALL_PROVIDERS = ("cpu", "cuda", "coreml", "openvino")


@dataclass(frozen=True)
class VariantSpec:
    """One kind of graph.

    Attributes:
        name: also its folder in the bundle and its precision (a key of abonyx.bundle.tolerances.LIMITS).
        storage: float type of the weight matrices on disk.
        arithmetic: float type the encoder computes in; pooling and head are float32 in every variant.
        providers: those it is for.
    """

    name: str
    storage: npt.DTypeLike
    arithmetic: npt.DTypeLike
    providers: tuple[str, ...] = ALL_PROVIDERS


VARIANTS = {
    spec.name: spec
    for spec in (
        VariantSpec("fp32", np.float32, np.float32),
        VariantSpec("fp16", np.float16, np.float16),
        # Half the file, float32 arithmetic: engines fold the casts when they load it.
        VariantSpec("fp16-weights", np.float16, np.float32),
        # The products of the encoder in int8 (quantization.py), the rest in float32.
        VariantSpec(INT8, np.float32, np.float32, ("cpu", "openvino")),
        # ONNX Runtime's fused operators (cuda_graph.py); its CPU kernels run them too, for export's check alone.
        VariantSpec(CUDA_FP16, np.float16, np.float16, ("cuda",)),
    )
}

# The first of these that a bundle has is the provider's default. int8 moves p by up to 0.02: the default only where a
# bundle has nothing else.
PREFERENCE = {
    "cpu": ("fp32", "fp16-weights", "fp16", INT8),
    "cuda": (CUDA_FP16, "fp16", "fp32", "fp16-weights"),
    "coreml": ("fp16", "fp32", "fp16-weights"),
    "openvino": ("fp32", "fp16-weights", "fp16", INT8),
}


def default_variants(names: list[str]) -> dict[str, str]:
    """Provider -> default, for a bundle with these variants."""
    return {
        provider: next(name for name in order if name in names)
        for provider, order in PREFERENCE.items()
        if any(name in names for name in order)
    }
