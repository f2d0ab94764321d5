"""ONNX Runtime: the only module that imports it. Imports it once, loads one graph, runs it, names its errors.

Nothing of ONNX Runtime may be kept beside the InferenceSession itself: a NodeArg, an IO binding or the model's metadata
pins all of its memory.
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
    """A loaded InferenceSession, as far as its holder uses it."""

    def run(self, output_names: list[str], input_feed: dict[str, npt.NDArray[np.generic]]) -> list[Any]: ...


# Of an engine's error: CUDA's give the failing call's whole signature first, some 400 characters.
_QUOTED_CHARS = 800
# What ONNX Runtime's arena, C++, CUDA and cuBLAS say; there is no error class for it.
_OUT_OF_MEMORY = (
    "smaller than requested bytes",
    "Failed to allocate memory",
    "bad_alloc",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


MORE_MEMORY = (
    f"Free memory of the device, raise its limit in the config, or take a smaller variant: {option('variant')}."
)


# Of a card that another process has to itself (compute mode "exclusive process"), or that left the driver.
_TAKEN = (
    "CUDA-capable device(s) is/are busy or unavailable",
    "CUDA failure 46",
    "CUDA failure 100",
    "CUDA failure 101",
)
_FREE_THE_CARD = (
    "Another process may have the card to itself, or it is not there any more: see nvidia-smi, end that process, or "
    "choose another card with cuda.device_id."
)


_NOT_STARTED = {
    "openvino": "Set openvino.device to one that is here. ",
    "cuda": "`abonyx doctor` names the libraries that it does not find. ",
}


def run(
    native: Native,
    outputs: Sequence[str],
    feed: Mapping[str, npt.NDArray[np.generic]],
    config: RuntimeConfig,
    batch: str,
) -> list[Float32Array]:
    """Outputs of one batch, float32.

    Args:
        batch: what messages call it: its rows and tokens.

    Raises:
        OutOfDeviceMemory, ProviderError: the engine failed.
    """
    try:
        return [np.asarray(value, np.float32) for value in native.run(list(outputs), dict(feed))]
    except _native_errors() as error:
        what = f"{config.provider} failed on a batch of {batch}: {first_line(error, _QUOTED_CHARS)}"
        if any(mark in str(error) for mark in _OUT_OF_MEMORY):
            fix = "Free memory of the device, raise memory_limit_bytes, or leave the longest sequences out."
            if config.static_shape:
                fix = f"Lower static_rows or static_tokens: every batch is filled up to {config.static_shape}."
            raise OutOfDeviceMemory(what, fix) from error
        raise ProviderError(what, _fix(error, "If it ran out of memory, lower token_budget.")) from error


def check_available(ort: ModuleType, config: RuntimeConfig) -> CudaDevice | None:
    """The card, on cuda.

    Raises:
        ProviderUnavailable: this engine does not even list the provider, or there is no such card.
        ConfigError: too many threads.
    """
    thread_count(config.cpu.threads, "cpu.threads")
    provider_options(config)  # for what it raises
    if config.provider == "cuda":
        preload(ort)
    available = ort.get_available_providers()
    if PROVIDERS[config.provider].execution_provider not in available:
        raise unavailable(config.provider, f"ONNX Runtime {ort.__version__} here has {', '.join(available)}")
    if note := openvino_note(config.provider, available):
        LOGGER.debug(note)
    return chosen_device(config.cuda.device_id) if config.provider == "cuda" else None


def load(
    ort: ModuleType, bundle: Bundle, variant: Variant, config: RuntimeConfig, graph: GraphFile
) -> onnxruntime.InferenceSession:
    """Load a variant's graph on the config's provider, and on no other, with weights that nobody else can change.

    Args:
        graph: what the variant's graph file holds.

    Raises:
        BundleError: the graph cannot be loaded, or its inputs and outputs are not the contract's, or no private copy
            of the weights can be made.
        ProviderError, ProviderUnavailable, OutOfDeviceMemory: the provider did not start, or cannot take it.
    """
    folder = bundle.path / variant.folder
    files = [folder / name for name in graph.files]
    # OpenVINO reads its files for life.
    if config.provider != "openvino" and mapped(files) is not None:
        native = _create(ort, bundle, variant, config, graph)
        if not mapped(files):
            return native
        del native  # never two models in memory
        release_memory()
    copy, stamps = private_copy(bundle, variant)
    native = _create(ort, copy, variant, config, None)
    refuse_changed(copy, stamps)
    return native


def _create(
    ort: ModuleType, bundle: Bundle, variant: Variant, config: RuntimeConfig, graph: GraphFile | None
) -> onnxruntime.InferenceSession:
    """One InferenceSession; raises as load does.

    Args:
        graph: of which the tensors that the engine would not copy are handed over; None = the engine reads them all
            from the files.
    """
    provider = PROVIDERS[config.provider]
    options = ort.SessionOptions()
    options.log_severity_level = 4  # its errors are raised; what matters of its warnings is checked below
    options.intra_op_num_threads = thread_count(config.cpu.threads, "cpu.threads")
    options.inter_op_num_threads = 1
    # Shapes change with every batch; a plan a shape would only take memory.
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
        # Only the provider asked for: with CPU listed behind it ONNX Runtime would fall back in silence. Its own
        # fallback would take a signal handler's RuntimeError for a provider that fails, print that, and go on.
        native = ort.InferenceSession(
            str(path), options, providers=[(provider.execution_provider, chosen)], enable_fallback=0
        )
    except _native_errors() as error:
        why = first_line(error, _QUOTED_CHARS)
        if any(mark in str(error) for mark in _OUT_OF_MEMORY):
            raise OutOfDeviceMemory(f"{config.provider}: no memory to load {path}: {why}", MORE_MEMORY) from error
        if config.provider == "cpu":
            raise BundleError(f"{path}: ONNX Runtime cannot load it: {why}", "Export the bundle again.") from error
        raise ProviderError(
            f"{config.provider}: cannot load {path}: {why}", _fix(error, "See docs/providers.md.")
        ) from error
    native.borrowed = borrowed  # an attribute of the session, so that neither outlives the other
    native.disable_fallback()
    if native.get_providers()[0] != provider.execution_provider:
        raise unavailable(
            config.provider,
            f"{shown(ort, config)} could not start it, and gave {native.get_providers()}",
            _NOT_STARTED.get(config.provider, ""),
        )
    _check_signature(native, variant, path, config.static_shape)
    return native


def _hand_over(
    ort: ModuleType, options: onnxruntime.SessionOptions, folder: Path, graph: GraphFile
) -> list[npt.NDArray[np.generic]]:
    """Give the session options the values of the tensors that the engine would otherwise read from the file for life.

    Returns:
        The memory that the values lie in; the engine only borrows it, so it has to live as long as the session.
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
            f"config: coreml.cache_dir: {directory} cannot be made: {error.strerror}",
            "Give a directory that can be written, or leave it out: then every open compiles.",
        ) from error
    return directory


def _check_signature(
    native: onnxruntime.InferenceSession, variant: Variant, path: object, shape: tuple[int, int] | None
) -> None:
    """The graph's inputs and outputs are the contract's and the manifest's. Only names are kept: a NodeArg pins."""
    inputs = sorted(node.name for node in native.get_inputs())
    outputs = sorted(node.name for node in native.get_outputs())
    types = {node.name: node.type for node in native.get_outputs()}
    if inputs != sorted(variant.inputs) or not set(inputs) <= set(GRAPH_INPUTS):
        raise BundleError(f"{path}: graph inputs {inputs}, manifest says {variant.inputs}", "Export the bundle again.")
    if outputs not in ([EMBEDDING, HEAD_SUMS], [CONTRIBUTIONS, EMBEDDING, HEAD_SUMS]):
        what = f"It should have {EMBEDDING} and {HEAD_SUMS}, and may have {CONTRIBUTIONS}."
        raise BundleError(f"{path}: graph outputs {outputs}", what)
    if set(types.values()) != {"tensor(float)"}:
        raise BundleError(f"{path}: the graph's outputs are {types}, not float32", "Export the bundle again.")
    if shape is None:
        return
    # ONNX Runtime says nothing where the graph has no dimension of the overridden name.
    batch = make_inputs([np.zeros(3, np.int64)], inputs, 0, shape=shape)
    expected = {name: list(values.shape) for name, values in batch.items()}
    found = {node.name: list(node.shape) for node in native.get_inputs()}
    if found != expected:
        raise BundleError(
            f"{path}: static_rows is {shape[0]} and static_tokens {shape[1]}; the graph's inputs are {found}, expected "
            f"{expected}: its dimensions are not named batch and length",
            "Export the bundle again, or leave static_rows and static_tokens out.",
        )


def output_names(native: onnxruntime.InferenceSession) -> list[str]:
    """Names of the graph's outputs. Only names are kept: a NodeArg pins the session."""
    return [node.name for node in native.get_outputs()]


def placement(ort: ModuleType, native: onnxruntime.InferenceSession, config: RuntimeConfig) -> dict[str, int]:
    """Execution provider -> number of nodes it runs, after ONNX Runtime's own fusions.

    Raises:
        ProviderError: nodes on the CPU that the config does not allow, or none on the provider.
    """
    nodes: Counter[str] = Counter()
    on_cpu: list[str] = []
    for subgraph in native.get_provider_graph_assignment_info():
        assigned = subgraph.get_nodes()
        nodes[subgraph.ep_name] += len(assigned)
        if subgraph.ep_name == "CPUExecutionProvider":
            on_cpu += [node.name or node.op_type for node in assigned]
    if not nodes[PROVIDERS[config.provider].execution_provider]:
        # OpenVINO starts with a device it does not know, and takes nothing.
        fix = "Set openvino.device to one that is here. " if config.provider == "openvino" else ""
        raise unavailable(config.provider, f"{shown(ort, config)} started it and gave it none of the nodes", fix)
    if config.provider != "cpu" and on_cpu and not config.allow_cpu_nodes:
        raise ProviderError(
            f"{len(on_cpu)} of {sum(nodes.values())} nodes would run on the CPU, not {config.provider}: "
            + ", ".join(on_cpu[:5]),
            "Set allow_cpu_nodes = true if that is acceptable, or use another variant.",
        )
    return dict(nodes)


def describe_engine() -> InstalledEngine:
    """What `abonyx doctor` says of the engine. Opens no session.

    Raises:
        EngineMissing: none is installed, or two are side by side.
    """
    return describe(import_engine())


def import_engine() -> ModuleType:
    """ONNX Runtime's module, and this process made safe for it.

    Raises:
        EngineMissing: none is installed, or two are side by side.
    """
    refuse_two_engines()
    silence()
    try:
        engine: ModuleType = importlib.import_module("onnxruntime")
        if not hasattr(engine, "InferenceSession"):  # a folder that pip left where two engines had one name
            raise ImportError(f"{getattr(engine, '__path__', engine)} has none in it")
        engine.set_default_logger_severity(4)  # fatal: its errors are raised; the log's lines on stderr are ours
    except ImportError as error:
        raise EngineMissing(
            f"no ONNX Runtime: {first_line(error)}",
            f"Install one engine: {install_command('cpu')}, or with gpu (NVIDIA) or openvino (Intel) in place of cpu.",
        ) from error
    guard_process()
    return engine


def _fix(error: Exception, otherwise: str) -> str:
    return _FREE_THE_CARD if any(mark in str(error) for mark in _TAKEN) else otherwise


def _native_errors() -> tuple[type[Exception], ...]:
    """ONNX Runtime's own exception classes; they share no base but Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return tuple(value for value in vars(state).values() if isinstance(value, type) and issubclass(value, Exception))
