"""The execution providers: what each is called, how it is installed, how its options are spelt for ONNX Runtime."""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import dataclass

from abonyx.config import OpenVinoOptions, ProviderName, RuntimeConfig
from abonyx.errors import ConfigError, EngineMissing, ProviderUnavailable
from abonyx.process import thread_count

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


# cpu, openvino: batches that a processor's cache holds; benchmarks/NOTES.md has the curves, flat enough about these
# that nothing is measured again at first use. GPU: enough rows to fill the card.
PROVIDERS: dict[ProviderName, Provider] = {
    "cpu": Provider("CPUExecutionProvider", "cpu", 512),
    "cuda": Provider("CUDAExecutionProvider", "gpu", 65_536),
    "coreml": Provider("CoreMLExecutionProvider", "cpu", 1_024),
    "openvino": Provider("OpenVINOExecutionProvider", "openvino", 1_024),
}


def provider_options(config: RuntimeConfig) -> dict[str, str]:
    """ONNX Runtime's options for the config's provider.

    Raises:
        ConfigError: more threads than this process may use, or more streams than threads.
    """
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
        return _openvino_options(config.openvino)
    return {}


def _openvino_options(chosen: OpenVinoOptions) -> dict[str, str]:
    # Enough for float32 where the processor has bfloat16 (measured, AVX512_BF16, 1.24.1): no precision hint is needed.
    options = {"device_type": chosen.device, "precision": "FP32"}
    if chosen.device == "CPU":
        threads = thread_count(chosen.threads, "openvino.threads")
        if chosen.streams > threads:
            raise ConfigError(
                f"config: openvino.streams is {chosen.streams} with {threads} threads to share",
                f"Give at most {threads} streams.",
            )
        options["num_of_threads"] = str(threads)
    options["num_streams"] = str(chosen.streams)
    if chosen.precision == "bf16":
        # The provider's own option knows no bfloat16; this is JSON text of OpenVINO's properties, by device.
        options["load_config"] = json.dumps({"CPU": {"INFERENCE_PRECISION_HINT": "bf16"}})
    return options


def unavailable(provider: ProviderName, found: str, fix: str = "") -> ProviderUnavailable:
    """The error for a provider that is not here.

    Args:
        provider: the one asked for.
        found: what there is instead.
        fix: what to do first, where installing it is not the likely remedy.
    """
    return ProviderUnavailable(
        f"provider {provider} was asked for; {found}",
        f'{fix}Install it with: pip install "abonyx[{PROVIDERS[provider].extra}]" (in an environment without another '
        "onnxruntime), or choose --provider cpu. Nothing else was tried.",
    )


def installed_engines() -> list[str]:
    """Distributions of ONNX Runtime that are installed; more than one is an error."""
    return [name for name in ENGINE_DISTRIBUTIONS if _installed(name)]


def refuse_two_engines() -> None:
    """Raise EngineMissing where two onnxruntime distributions are installed side by side."""
    found = installed_engines()
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
