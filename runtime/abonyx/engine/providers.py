"""The execution providers: their names, how to install them, and their options for ONNX Runtime."""

from __future__ import annotations

import importlib.metadata
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from abonyx.batching import EXACT, ShapeGrid
from abonyx.config import COREML_SHAPE, OpenVinoOptions, ProviderName, RuntimeConfig
from abonyx.engine.cuda_driver import read_cuda_driver
from abonyx.engine.process import thread_count
from abonyx.errors import ConfigError, EngineMissing, OutOfDeviceMemory, ProviderUnavailable
from abonyx.extras import install_command
from abonyx.logs import LOGGER
from abonyx.wording import option

if TYPE_CHECKING:
    from abonyx.bundle import Bundle

# Distributions that install a module named onnxruntime. Two of them overwrite each other's files.
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
        token_budget: default for the largest number of tokens in a batch, padding included.
        window_size: default for the number of records that are scored, written and journalled together.
        grid: the shapes that batches are rounded up to.
    """

    execution_provider: str
    extra: str
    token_budget: int
    window_size: int
    grid: ShapeGrid = EXACT


# - Token budgets: on cpu and openvino, batches fit into a processor's cache. At these sizes the curves in
#   benchmarks/NOTES.md are so flat that nothing needs to be measured at the first use. On cuda, a batch has enough rows
#   to keep the GPU busy. On coreml, every batch has the one shape of Core ML.
# - Windows: a kill loses one or two windows. 1,024 records take seconds with the small model, and minutes with 33
#   layers on two cores. With 1,024 records and batches of 512 tokens, padding of 43,935 real sequences is 0.05 %. With
#   batches of 65,536 tokens it would be 6.8 %; with 16,384 records it is 1.0 %.
# - Grid: cuDNN makes a new attention plan for each shape (benchmarks/NOTES.md, "Few shapes on a card").
PROVIDERS: dict[ProviderName, Provider] = {
    "cpu": Provider("CPUExecutionProvider", "cpu", 512, 1_024),
    "cuda": Provider("CUDAExecutionProvider", "gpu", 32_768, 16_384, ShapeGrid(tokens=4, rows=8)),
    "coreml": Provider("CoreMLExecutionProvider", "cpu", math.prod(COREML_SHAPE), 1_024),
    "openvino": Provider("OpenVINOExecutionProvider", "openvino", 1_024, 1_024),
}


def window_size(config: RuntimeConfig) -> int:
    """Number of records in a window: from the config, else the provider's default."""
    return config.window_size or PROVIDERS[config.provider].window_size


# Estimated memory of a batch on CUDA, in numbers per token and hidden unit. cuda-fp16 takes 74 to 98 bytes at 33
# layers, which is 37 to 49 numbers (benchmarks/records/gpu_h200.json). No other variant was measured. Half of the free
# memory is left for the growth of the arena, for other processes, and for graphs that need more. If a batch still does
# not fit, it is halved.
_CUDA_ELEMENTS = 50
_CUDA_SHARE = 0.5
_HALVES = ("fp16", "cuda-fp16")  # precisions with float16 arithmetic; the others use float32


def token_budget(config: RuntimeConfig, bundle: Bundle) -> int:
    """Largest number of tokens in a batch: from the fixed shape, else from the config, else the provider's default.

    On CUDA the default is halved until a batch should fit into the GPU's free memory beside the weights. Then a line is
    logged.

    Raises:
        OutOfDeviceMemory: even the weights do not fit. The message gives both sizes.
    """
    if config.static_shape is not None:
        return math.prod(config.static_shape)
    default = PROVIDERS[config.provider].token_budget
    if config.provider != "cuda" or config.token_budget is not None:
        return config.token_budget or default
    card = config.cuda.device_id
    free = [device.free_bytes for device in read_cuda_driver(memory_of=card).devices][card : card + 1]
    limits = [limit for limit in (*free, config.cuda.memory_limit_bytes) if limit is not None]
    if not limits:  # there is no GPU; opening the session reports it
        return default
    variant = bundle.variant("cuda", config.variant)[1]
    folder = variant.folder
    weights = sum(entry.size_bytes for name, entry in bundle.manifest.files.items() if name.startswith(f"{folder}/"))
    if variant.precision == "fp16-weights":
        weights *= 2  # they are loaded as float32
    if weights >= min(limits):
        raise OutOfDeviceMemory(
            f"{bundle.path}: the weights need {weights} bytes, but only {min(limits)} are free on GPU {card}",
            "Free memory on the GPU, choose another GPU with cuda.device_id, or a smaller variant with "
            f"{option('variant')}.",
        )
    budget, room = default, (min(limits) - weights) * _CUDA_SHARE
    token_bytes = bundle.manifest.encoder.hidden * _CUDA_ELEMENTS * (2 if variant.precision in _HALVES else 4)
    while budget > 1 and budget * token_bytes > room:
        budget //= 2
    if budget < default:
        LOGGER.info(f"token_budget is {budget}, not {default}: GPU {card} has only {min(limits)} bytes free")
    return budget


def provider_options(config: RuntimeConfig) -> dict[str, str]:
    """The options of the config's provider, for ONNX Runtime.

    Raises:
        ConfigError: there are more threads than this process may use, or more streams than threads.
    """
    if config.provider == "cuda":
        options = {
            "device_id": str(config.cuda.device_id),
            # TF32 would round float32 products to 10 bits. PyTorch does not use it by default either.
            "use_tf32": "0",
            # The default doubles the arena whenever a batch is larger than all before (onnxruntime#13500).
            "arena_extend_strategy": "kSameAsRequested",
        }
        if config.cuda.memory_limit_bytes is not None:
            options["gpu_mem_limit"] = str(config.cuda.memory_limit_bytes)
        return options
    if config.provider == "coreml":
        options = {
            # The older format NeuralNetwork has neither Gelu nor LayerNormalization.
            "ModelFormat": "MLProgram",
            "MLComputeUnits": config.coreml.compute_units,
            # All inputs have a fixed shape (config.static_shape). If a node still has a dynamic shape, it goes to the
            # CPU, which the placement shows. Core ML would fail when it runs such a node.
            "RequireStaticInputShapes": "1",
        }
        if config.coreml.cache_dir is not None:
            options["ModelCacheDirectory"] = config.coreml.cache_dir
        return options
    if config.provider == "openvino":
        return _openvino_options(config.openvino)
    return {}


def coreml_cache_dir(config: RuntimeConfig, bundle_sha256: str, model: str, engine_version: str) -> Path | None:
    """Folder for the program that Core ML compiles from one graph; None if it is not kept.

    Core ML's provider identifies a compiled program only by its path (microsoft/onnxruntime#23065), and a program of
    another engine version fails. So the folder's path contains everything that changes the program.

    Args:
        config: the config.
        bundle_sha256: hash of the bundle.
        model: path of the graph in the bundle.
        engine_version: version of ONNX Runtime.
    """
    if config.provider != "coreml" or config.coreml.cache_dir is None:
        return None
    variant = model.partition("/")[0]
    shape = "x".join(map(str, config.static_shape or ()))
    return Path(config.coreml.cache_dir) / bundle_sha256 / f"{variant}-{shape}-onnxruntime-{engine_version}"


def _openvino_options(chosen: OpenVinoOptions) -> dict[str, str]:
    # precision FP32 is enough to get float32 on a processor with bfloat16 (measured: AVX512_BF16, version 1.24.1).
    options = {"device_type": chosen.device, "precision": "FP32"}
    if chosen.device == "CPU":
        threads = thread_count(chosen.threads, "openvino.threads")
        if chosen.streams > threads:
            raise ConfigError(
                f"config: openvino.streams is {chosen.streams}, but there are {threads} threads",
                f"Give at most {threads} streams.",
            )
        options["num_of_threads"] = str(threads)
    options["num_streams"] = str(chosen.streams)
    if chosen.precision == "bf16":
        # The provider's option `precision` does not accept bfloat16. The option `load_config` takes OpenVINO's own
        # properties, as JSON.
        options["load_config"] = json.dumps({"CPU": {"INFERENCE_PRECISION_HINT": "bf16"}})
    return options


def unavailable(provider: ProviderName, found: str, fix: str = "") -> ProviderUnavailable:
    """The error for a provider that is not available.

    Args:
        provider: the requested provider.
        found: what is available instead.
        fix: the first advice, if installing the provider may not help.
    """
    if provider == "coreml" and sys.platform != "darwin":
        install = "Core ML is part of macOS: use it on a Mac"
    else:
        command = install_command(PROVIDERS[provider].extra)
        install = f"Install it with: {command} (in an environment without another onnxruntime)"
    return ProviderUnavailable(
        f"provider {provider} is not available: {found}",
        f"{fix}{install}, or choose {option('provider')} cpu. No other provider was tried.",
    )


def openvino_note(provider: ProviderName, execution_providers: list[str]) -> str:
    """A note if the provider is cpu and OpenVINO, which is usually faster, is installed too; else ""."""
    if provider != "cpu" or PROVIDERS["openvino"].execution_provider not in execution_providers:
        return ""
    return f"OpenVINO is installed, but the provider is cpu; {option('provider')} openvino is usually faster"


def installed_engines() -> list[str]:
    """Installed distributions of ONNX Runtime. More than one is an error."""
    return [name for name in ENGINE_DISTRIBUTIONS if _installed(name)]


def refuse_two_engines() -> None:
    """Raise EngineMissing if two distributions of ONNX Runtime are installed."""
    found = installed_engines()
    if len(found) > 1:
        raise EngineMissing(
            f"{' and '.join(found)} are both installed and overwrite each other's files",
            f"pip uninstall {' '.join(found)}, then {install_command('cpu')}, or with gpu or openvino instead of cpu.",
        )


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
