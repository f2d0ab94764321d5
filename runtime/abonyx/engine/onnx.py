"""The only module that imports ONNX Runtime: it loads a graph, runs it, and turns its errors into errors of abonyx.

Only the InferenceSession may be kept. As long as any other object of ONNX Runtime is kept (a NodeArg, an IO binding,
the model's metadata), none of the model's memory is freed.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from abonyx.arrays import Float32Array
from abonyx.batching import GRAPH_INPUTS, make_inputs
from abonyx.bundle import Bundle, refuse_changed
from abonyx.bundle.graph_file import GraphFile
from abonyx.bundle.heads import CONTRIBUTIONS, EMBEDDING, HEAD_SUMS
from abonyx.bundle.manifest import Variant
from abonyx.config import RuntimeConfig
from abonyx.engine.cuda_driver import CudaDevice, chosen_device
from abonyx.engine.installed import InstalledEngine, describe, preload, shown
from abonyx.engine.private_copy import private_copy
from abonyx.engine.process import release_memory, thread_count
from abonyx.engine.providers import (
    PROVIDERS,
    coreml_cache_dir,
    openvino_note,
    provider_options,
    refuse_two_engines,
    unavailable,
)
from abonyx.engine.slot import guard_process
from abonyx.engine.weights import handed_over, mapped, read_tensors
from abonyx.errors import BundleError, ConfigError, EngineMissing, OutOfDeviceMemory, ProviderError, first_line
from abonyx.extras import install_command
from abonyx.logs import LOGGER
from abonyx.privacy import silence
from abonyx.wording import option

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnxruntime


class Native(Protocol):
    """The part of an InferenceSession that other modules use."""

    def run(self, output_names: list[str], input_feed: dict[str, npt.NDArray[np.generic]]) -> list[Any]: ...


# Number of characters of an engine's error in a message. CUDA's errors begin with about 400 characters of signature.
_QUOTED_CHARS = 800
# Texts in errors of ONNX Runtime's arena, C++, CUDA and cuBLAS if memory runs out. There is no error class for it.
_OUT_OF_MEMORY = (
    "smaller than requested bytes",
    "Failed to allocate memory",
    "bad_alloc",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


MORE_MEMORY = (
    f"Free memory on the device, raise its limit in the config, or use a smaller variant: {option('variant')}."
)


# Texts in errors if another process has exclusive use of the GPU, or if the driver lost it.
_TAKEN = (
    "CUDA-capable device(s) is/are busy or unavailable",
    "CUDA failure 46",
    "CUDA failure 100",
    "CUDA failure 101",
)
_FREE_THE_CARD = (
    "Another process may have exclusive use of the GPU, or the GPU may have failed: see nvidia-smi, end that process, "
    "or choose another GPU with cuda.device_id."
)


_NOT_STARTED = {
    "openvino": "Set openvino.device to one of these devices. ",
    "cuda": "`abonyx doctor` names the libraries that are missing. ",
}


def run(
    native: Native,
    outputs: Sequence[str],
    feed: Mapping[str, npt.NDArray[np.generic]],
    config: RuntimeConfig,
    batch: str,
) -> list[Float32Array]:
    """Run one batch; returns its outputs as float32 arrays.

    Args:
        native: the loaded graph.
        outputs: names of the outputs.
        feed: name -> array of the inputs.
        config: the config that the graph was loaded with.
        batch: rows and tokens of the batch, for messages.

    Raises:
        OutOfDeviceMemory: the device has no memory for the batch.
        ProviderError: the engine failed for another reason.
    """
    try:
        return [np.asarray(value, np.float32) for value in native.run(list(outputs), dict(feed))]
    except _native_errors() as error:
        what = f"{config.provider} failed on a batch of {batch}: {first_line(error, _QUOTED_CHARS)}"
        if any(mark in str(error) for mark in _OUT_OF_MEMORY):
            fix = "Free memory on the device, raise memory_limit_bytes, or leave the longest sequences out."
            if config.static_shape:
                fix = f"Lower static_rows or static_tokens: every batch has the shape {config.static_shape}."
            raise OutOfDeviceMemory(what, fix) from error
        raise ProviderError(what, _fix(error, "If it ran out of memory, lower token_budget.")) from error


def check_available(ort: ModuleType, config: RuntimeConfig) -> CudaDevice | None:
    """Check that the config's provider can start here; returns the GPU if the provider is cuda.

    Raises:
        ProviderUnavailable: this engine does not have the provider, or there is no GPU that can be used.
        ConfigError: the config has too many threads or streams, or the number of a GPU that does not exist.
    """
    thread_count(config.cpu.threads, "cpu.threads")
    provider_options(config)  # raises if the options are wrong
    if config.provider == "cuda":
        preload(ort)
    available = ort.get_available_providers()
    if PROVIDERS[config.provider].execution_provider not in available:
        raise unavailable(config.provider, f"the installed ONNX Runtime {ort.__version__} has {', '.join(available)}")
    if note := openvino_note(config.provider, available):
        LOGGER.debug(note)
    return chosen_device(config.cuda.device_id) if config.provider == "cuda" else None


def load(
    ort: ModuleType, bundle: Bundle, variant: Variant, config: RuntimeConfig, graph: GraphFile
) -> onnxruntime.InferenceSession:
    """Load a variant's graph on the config's provider and no other, with weights that nobody else can change.

    Args:
        ort: the module onnxruntime.
        bundle: the bundle.
        variant: the variant to load.
        config: the config to load it with.
        graph: content of the variant's graph file.

    Raises:
        BundleError: the graph cannot be loaded or has wrong inputs or outputs, or a private copy of the weights cannot
            be made.
        ProviderUnavailable: the provider did not start.
        ProviderError, OutOfDeviceMemory: the provider cannot load the graph.
    """
    folder = bundle.path / variant.folder
    files = [folder / name for name in graph.files]
    # OpenVINO reads its files as long as the model is open.
    if config.provider != "openvino" and mapped(files) is not None:
        native = _create(ort, bundle, variant, config, graph)
        if not mapped(files):
            return native
        del native  # two models must never be in memory
        release_memory()
    copy, stamps = private_copy(bundle, variant)
    native = _create(ort, copy, variant, config, None)
    refuse_changed(copy, stamps)
    return native


def _create(
    ort: ModuleType, bundle: Bundle, variant: Variant, config: RuntimeConfig, graph: GraphFile | None
) -> onnxruntime.InferenceSession:
    """Make one InferenceSession. Raises as `load` does.

    Args:
        ort, bundle, variant, config: as for `load`.
        graph: if given, the tensors that the engine would not copy are passed to it in memory; None = the engine reads
            all tensors from the files.
    """
    provider = PROVIDERS[config.provider]
    options = ort.SessionOptions()
    options.log_severity_level = 4  # log nothing: errors are raised, and important warnings are checked below
    options.intra_op_num_threads = thread_count(config.cpu.threads, "cpu.threads")
    options.inter_op_num_threads = 1
    # Shapes change with every batch, so a memory plan for each shape would only take memory.
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    if config.static_shape is not None:
        for name, size in zip(("batch", "length"), config.static_shape, strict=True):
            options.add_free_dimension_override_by_name(name, size)
    path = bundle.path / variant.model
    borrowed = _hand_over(ort, options, path.parent, graph) if graph is not None and config.provider == "cpu" else []
    chosen = provider_options(config)
    if (compiled := coreml_cache_dir(config, bundle.sha256, variant.model, ort.__version__)) is not None:
        chosen["ModelCacheDirectory"] = str(_made(compiled))
    try:
        # Only the requested provider: if CPU were listed after it, ONNX Runtime would silently fall back to the CPU.
        # With enable_fallback, it would also mistake a RuntimeError of a signal handler for a failing provider, and
        # continue.
        native = ort.InferenceSession(
            str(path), options, providers=[(provider.execution_provider, chosen)], enable_fallback=0
        )
    except _native_errors() as error:
        why = first_line(error, _QUOTED_CHARS)
        if any(mark in str(error) for mark in _OUT_OF_MEMORY):
            what = f"{config.provider}: not enough memory to load {path}: {why}"
            raise OutOfDeviceMemory(what, MORE_MEMORY) from error
        if config.provider == "cpu":
            raise BundleError(f"{path}: ONNX Runtime cannot load it: {why}", "Export the bundle again.") from error
        raise ProviderError(
            f"{config.provider}: cannot load {path}: {why}", _fix(error, "See docs/providers.md.")
        ) from error
    native.borrowed = borrowed  # an attribute of the session, so that both live equally long
    native.disable_fallback()
    if native.get_providers()[0] != provider.execution_provider:
        raise unavailable(
            config.provider,
            f"{shown(ort, config)} could not start it, and started {native.get_providers()}",
            _NOT_STARTED.get(config.provider, ""),
        )
    _check_signature(native, variant, path, config.static_shape)
    return native


def _hand_over(
    ort: ModuleType, options: onnxruntime.SessionOptions, folder: Path, graph: GraphFile
) -> list[npt.NDArray[np.generic]]:
    """Pass tensors in memory that the engine would otherwise read from the file as long as the session lives.

    Returns:
        The arrays with the values. The engine only borrows them, so they must live as long as the session.
    """
    tensors = handed_over(graph)
    arrays = read_tensors(folder, tensors)
    values = [ort.OrtValue.ortvalue_from_numpy(array) for array in arrays]
    options.add_external_initializers([tensor.name for tensor in tensors], values)
    return arrays


def _made(directory: Path) -> Path:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"config: coreml.cache_dir: {directory} cannot be created: {error.strerror}",
            "Give a directory that can be written, or leave it out. Then Core ML compiles at every open.",
        ) from error
    return directory


def _check_signature(
    native: onnxruntime.InferenceSession, variant: Variant, path: object, shape: tuple[int, int] | None
) -> None:
    """Check the graph's inputs and outputs against the contract and the manifest. Keeps no NodeArg."""
    inputs = sorted(node.name for node in native.get_inputs())
    outputs = sorted(node.name for node in native.get_outputs())
    types = {node.name: node.type for node in native.get_outputs()}
    if inputs != sorted(variant.inputs) or not set(inputs) <= set(GRAPH_INPUTS):
        what = f"{path}: the graph's inputs are {inputs}, the manifest says {variant.inputs}"
        raise BundleError(what, "Export the bundle again.")
    if outputs not in ([EMBEDDING, HEAD_SUMS], [CONTRIBUTIONS, EMBEDDING, HEAD_SUMS]):
        what = f"{path}: the graph's outputs are {outputs}; expected {EMBEDDING}, {HEAD_SUMS} and maybe {CONTRIBUTIONS}"
        raise BundleError(what, "Export the bundle again.")
    if set(types.values()) != {"tensor(float)"}:
        raise BundleError(f"{path}: the graph's outputs are {types}; expected float32", "Export the bundle again.")
    if shape is None:
        return
    # If the graph has no dimension with the overridden name, ONNX Runtime does not report it.
    batch = make_inputs([np.zeros(3, np.int64)], inputs, 0, shape=shape)
    expected = {name: list(values.shape) for name, values in batch.items()}
    found = {node.name: list(node.shape) for node in native.get_inputs()}
    if found != expected:
        raise BundleError(
            f"{path}: static_rows is {shape[0]} and static_tokens {shape[1]}; the graph's inputs are {found}, expected "
            f"{expected}: the dimensions are not named batch and length",
            "Export the bundle again, or leave static_rows and static_tokens out.",
        )


def output_names(native: onnxruntime.InferenceSession) -> list[str]:
    """Names of the graph's outputs. Keeps no NodeArg."""
    return [node.name for node in native.get_outputs()]


def placement(ort: ModuleType, native: onnxruntime.InferenceSession, config: RuntimeConfig) -> dict[str, int]:
    """Execution provider -> number of graph nodes that it runs, after ONNX Runtime's fusions.

    Raises:
        ProviderError: nodes run on the CPU, and the config does not allow it.
        ProviderUnavailable: the config's provider runs no node.
    """
    nodes: Counter[str] = Counter()
    on_cpu: list[str] = []
    for subgraph in native.get_provider_graph_assignment_info():
        assigned = subgraph.get_nodes()
        nodes[subgraph.ep_name] += len(assigned)
        if subgraph.ep_name == "CPUExecutionProvider":
            on_cpu += [node.name or node.op_type for node in assigned]
    if not nodes[PROVIDERS[config.provider].execution_provider]:
        # With an unknown device, OpenVINO starts, but runs no node.
        fix = "Set openvino.device to one of these devices. " if config.provider == "openvino" else ""
        raise unavailable(config.provider, f"{shown(ort, config)} started it, but it runs no node of the graph", fix)
    if config.provider != "cpu" and on_cpu and not config.allow_cpu_nodes:
        raise ProviderError(
            f"{len(on_cpu)} of {sum(nodes.values())} graph nodes would run on the CPU, not on {config.provider}: "
            + ", ".join(on_cpu[:5]),
            "Set allow_cpu_nodes = true in the config if that is acceptable, or use another variant.",
        )
    return dict(nodes)


def describe_engine() -> InstalledEngine:
    """Describe the installed engine, for `abonyx doctor`. Opens no session.

    Raises:
        EngineMissing: no distribution of ONNX Runtime is installed, or two are.
    """
    return describe(import_engine())


def import_engine() -> ModuleType:
    """Import ONNX Runtime, and prepare this process for it.

    Raises:
        EngineMissing: no distribution of ONNX Runtime is installed, or two are.
    """
    refuse_two_engines()
    silence()
    try:
        engine: ModuleType = importlib.import_module("onnxruntime")
        if not hasattr(engine, "InferenceSession"):  # pip can leave an empty folder if two engines were installed
            raise ImportError(f"{getattr(engine, '__path__', engine)} does not contain it")
        engine.set_default_logger_severity(4)  # log nothing: errors are raised
    except ImportError as error:
        raise EngineMissing(
            f"ONNX Runtime cannot be imported: {first_line(error)}",
            f"Install one engine: {install_command('cpu')}, or with gpu (NVIDIA) or openvino (Intel) instead of cpu.",
        ) from error
    guard_process()
    return engine


def _fix(error: Exception, otherwise: str) -> str:
    return _FREE_THE_CARD if any(mark in str(error) for mark in _TAKEN) else otherwise


def _native_errors() -> tuple[type[Exception], ...]:
    """ONNX Runtime's exception classes. Their only common base is Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return tuple(value for value in vars(state).values() if isinstance(value, type) and issubclass(value, Exception))
