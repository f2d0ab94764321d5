"""The execution providers: what each is called, how it is installed, how its options are spelt for ONNX Runtime."""

from __future__ import annotations

import importlib.metadata
import json
import math
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
        window_size: records scored, written and journalled at a time, where the config gives none.
        grid: the shapes that batches are rounded up to.
    """

    execution_provider: str
    extra: str
    token_budget: int
    window_size: int
    grid: ShapeGrid = EXACT


# cpu, openvino: batches that a processor's cache holds; benchmarks/NOTES.md has the curves, flat enough about these
# that nothing is measured again at first use. GPU: enough rows to fill the card. coreml: its one shape.
# Windows: a kill loses one or two. 1,024 records are seconds of the small model, minutes of 33 layers on two cores,
# and pad 43,935 real sequences by 0.05 % at 512 tokens. 1,024 at 65,536 tokens would pad by 6.8 %, 16,384 by 1.0 %.
# Grid: cuDNN makes a new plan of attention for each shape (benchmarks/NOTES.md, "Few shapes on a card").
PROVIDERS: dict[ProviderName, Provider] = {
    "cpu": Provider("CPUExecutionProvider", "cpu", 512, 1_024),
    "cuda": Provider("CUDAExecutionProvider", "gpu", 32_768, 16_384, ShapeGrid(tokens=4, rows=8)),
    "coreml": Provider("CoreMLExecutionProvider", "cpu", math.prod(COREML_SHAPE), 1_024),
    "openvino": Provider("OpenVINOExecutionProvider", "openvino", 1_024, 1_024),
}


def window_size(config: RuntimeConfig) -> int:
    """Records a window: the config's, else the provider's default."""
    return config.window_size or PROVIDERS[config.provider].window_size


# A batch's memory on CUDA, estimated, in elements of the variant's arithmetic a token and hidden unit. cuda-fp16 takes
# 74 to 98 bytes at 33 layers, 37 to 49 elements (benchmarks/records/gpu_h200.json); no other variant was measured. Half
# of what is free is left to the arena's growth, to others, and to graphs that take more. A batch that does not fit all
# the same is halved when it fails.
_CUDA_ELEMENTS = 50
_CUDA_SHARE = 0.5
_HALVES = ("fp16", "cuda-fp16")  # the precisions whose arithmetic is float16; float32 of the rest


def token_budget(config: RuntimeConfig, bundle: Bundle) -> int:
    """Most tokens a batch: those of a fixed shape, else the config's, else the provider's default.

    On CUDA that default is halved until a batch should fit into the card's free memory beside the weights, and a line
    is logged.

    Raises:
        OutOfDeviceMemory: the weights alone do not fit; gives both sizes.
    """
    if config.static_shape is not None:
        return math.prod(config.static_shape)
    default = PROVIDERS[config.provider].token_budget
    if config.provider != "cuda" or config.token_budget is not None:
        return config.token_budget or default
    card = config.cuda.device_id
    free = [device.free_bytes for device in read_cuda_driver(memory_of=card).devices][card : card + 1]
    limits = [limit for limit in (*free, config.cuda.memory_limit_bytes) if limit is not None]
    if not limits:  # no card, which opening a session says
        return default
    variant = bundle.variant("cuda", config.variant)[1]
    folder = variant.folder
    weights = sum(entry.size_bytes for name, entry in bundle.manifest.files.items() if name.startswith(f"{folder}/"))
    if variant.precision == "fp16-weights":
        weights *= 2  # float32 once they are loaded
    if weights >= min(limits):
        raise OutOfDeviceMemory(
            f"{bundle.path}: the weights need {weights} bytes; card {card} has {min(limits)} free for them",
            f"Free the card, choose another with cuda.device_id, or a smaller variant with {option('variant')}.",
        )
    budget, room = default, (min(limits) - weights) * _CUDA_SHARE
    token_bytes = bundle.manifest.encoder.hidden * _CUDA_ELEMENTS * (2 if variant.precision in _HALVES else 4)
    while budget > 1 and budget * token_bytes > room:
        budget //= 2
    if budget < default:
        LOGGER.info(f"token_budget is {budget}, not {default}: card {card} has {min(limits)} bytes free")
    return budget


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
        options = {
            # The older NeuralNetwork format has neither Gelu nor LayerNormalization.
            "ModelFormat": "MLProgram",
            "MLComputeUnits": config.coreml.compute_units,
            # Every input's shape is fixed (config.static_shape). A node left open all the same goes to the CPU, where
            # the placement shows it, rather than into a program that fails once it runs.
            "RequireStaticInputShapes": "1",
        }
        if config.coreml.cache_dir is not None:
            options["ModelCacheDirectory"] = config.coreml.cache_dir
        return options
    if config.provider == "openvino":
        return _openvino_options(config.openvino)
    return {}


def coreml_cache_dir(config: RuntimeConfig, bundle_sha256: str, model: str, engine_version: str) -> Path | None:
    """Folder for what Core ML compiles of one graph; None where nothing is kept.

    Core ML's provider knows a compiled model by its path alone (microsoft/onnxruntime#23065), and one of another engine
    version fails: so whatever makes it another program is in the folder's name.

    Args:
        model: the graph's path in the bundle.
        engine_version: of ONNX Runtime.
    """
    if config.provider != "coreml" or config.coreml.cache_dir is None:
        return None
    variant = model.partition("/")[0]
    shape = "x".join(map(str, config.static_shape or ()))
    return Path(config.coreml.cache_dir) / bundle_sha256 / f"{variant}-{shape}-onnxruntime-{engine_version}"


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
        f"{fix}Install it with: {install_command(PROVIDERS[provider].extra)} (in an environment without another "
        f"onnxruntime), or choose {option('provider')} cpu. Nothing else was tried.",
    )


def openvino_note(provider: ProviderName, execution_providers: list[str]) -> str:
    """What to say where `cpu` runs and OpenVINO, which is mostly faster, is installed too; "" elsewhere."""
    if provider != "cpu" or PROVIDERS["openvino"].execution_provider not in execution_providers:
        return ""
    return f"OpenVINO is installed, and provider is cpu: {option('provider')} openvino would run it instead"


def installed_engines() -> list[str]:
    """Distributions of ONNX Runtime that are installed; more than one is an error."""
    return [name for name in ENGINE_DISTRIBUTIONS if _installed(name)]


def refuse_two_engines() -> None:
    """Raise EngineMissing where two onnxruntime distributions are installed side by side."""
    found = installed_engines()
    if len(found) > 1:
        raise EngineMissing(
            f"{' and '.join(found)} are installed side by side and overwrite each other's files",
            f"pip uninstall {' '.join(found)}, then {install_command('cpu')}, or with gpu or openvino in place of cpu.",
        )


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
