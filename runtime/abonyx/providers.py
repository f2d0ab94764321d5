"""The execution providers: what each is called, how it is installed, how its options are spelt for ONNX Runtime."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass

from abonyx.config import ProviderName, RuntimeConfig
from abonyx.errors import EngineMissing, ProviderUnavailable

# The distributions that install a module named onnxruntime; two of them overwrite each other's files.
ENGINE_DISTRIBUTIONS = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "onnxruntime-directml",
    "onnxruntime-qnn",
    "onnxruntime-training",
)


@dataclass(frozen=True)
class Provider:
    """One execution provider.

    Attributes:
        execution_provider: ONNX Runtime's name for it.
        extra: the extra of abonyx that installs an engine with it.
        token_budget: tokens (padding included) a batch, where the config gives none.
    """

    execution_provider: str
    extra: str
    token_budget: int


# CPU: small enough for activations to stay near the cache, large enough to feed the matrix product; not yet tuned by
# measurement. GPU: enough rows to fill the card.
PROVIDERS: dict[ProviderName, Provider] = {
    "cpu": Provider("CPUExecutionProvider", "cpu", 1_024),
    "cuda": Provider("CUDAExecutionProvider", "gpu", 65_536),
    "coreml": Provider("CoreMLExecutionProvider", "cpu", 1_024),
    "openvino": Provider("OpenVINOExecutionProvider", "openvino", 1_024),
}


def provider_options(config: RuntimeConfig) -> dict[str, str]:
    """ONNX Runtime's options for the config's provider."""
    if config.provider == "cuda":
        options = {
            "device_id": str(config.cuda.device_id),
            # TF32 rounds float32 products to 10 bits; PyTorch's default does not, and neither do we.
            "use_tf32": "0",
            # Doubling the arena at each new longest batch ratchets memory up (onnxruntime#13500).
            "arena_extend_strategy": "kSameAsRequested",
        }
        if config.cuda.memory_limit_bytes is not None:
            options["gpu_mem_limit"] = str(config.cuda.memory_limit_bytes)
        return options
    if config.provider == "coreml":
        options = {"ModelFormat": "MLProgram", "MLComputeUnits": config.coreml.compute_units}
        if config.coreml.cache_dir is not None:
            options["ModelCacheDirectory"] = config.coreml.cache_dir
        return options
    if config.provider == "openvino":
        return {"device_type": config.openvino.device, "precision": config.openvino.precision}
    return {}


def unavailable(provider: ProviderName, found: str) -> ProviderUnavailable:
    """The error for a provider that is not here.

    Args:
        provider: the one asked for.
        found: what there is instead.
    """
    return ProviderUnavailable(
        f"provider {provider} was asked for; {found}",
        f'Install it with: pip install "abonyx[{PROVIDERS[provider].extra}]" (in an environment without another '
        "onnxruntime), or choose --provider cpu. Nothing else was tried.",
    )


def refuse_two_engines() -> None:
    """Raise EngineMissing where two onnxruntime distributions are installed side by side."""
    found = [name for name in ENGINE_DISTRIBUTIONS if _installed(name)]
    if len(found) > 1:
        raise EngineMissing(
            f"{' and '.join(found)} are installed side by side and overwrite each other's files",
            f"pip uninstall {' '.join(found)}, then install one: abonyx[cpu], abonyx[gpu] or abonyx[openvino].",
        )


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
