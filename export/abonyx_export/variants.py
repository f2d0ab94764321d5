"""The variants that export can write: how each stores and computes, and for which providers it is the default."""

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
        name: name of the variant, of its folder, and of its precision (a key of abonyx.bundle.tolerances.LIMITS).
        storage: float type of the weight matrices on disk.
        arithmetic: float type in which the encoder computes; pooling and head are float32 in every variant.
        providers: providers that run the variant.
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
        # Half the file size with float32 arithmetic: engines fold the casts when they load the graph.
        VariantSpec("fp16-weights", np.float16, np.float32),
        # The encoder's matrix products are int8 (quantization.py), everything else is float32.
        VariantSpec(INT8, np.float32, np.float32, ("cpu", "openvino")),
        # ONNX Runtime's fused operators (cuda_graph.py). Its CPU kernels run them too, but only for export's check.
        VariantSpec(CUDA_FP16, np.float16, np.float16, ("cuda",)),
    )
}

# A provider's default is the first of these variants that the bundle has. int8 changes p by up to 0.02, so it is the
# default only if the bundle has no other variant for the provider.
PREFERENCE = {
    "cpu": ("fp32", "fp16-weights", "fp16", INT8),
    "cuda": (CUDA_FP16, "fp16", "fp32", "fp16-weights"),
    "coreml": ("fp16", "fp32", "fp16-weights"),
    "openvino": ("fp32", "fp16-weights", "fp16", INT8),
}


def default_variants(names: list[str]) -> dict[str, str]:
    """Provider -> its default variant, for a bundle with these variants."""
    return {
        provider: next(name for name in order if name in names)
        for provider, order in PREFERENCE.items()
        if any(name in names for name in order)
    }
