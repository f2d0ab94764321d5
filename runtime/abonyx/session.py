"""The one InferenceSession of a process: opened, checked, used, closed. The only module that imports onnxruntime.

UNOPENED -> OPEN -> CLOSED; reload is close, then open. Nothing of ONNX Runtime outlives close(): a NodeArg, an IO
binding or the model's metadata kept anywhere pins all of its memory. Over 300 lines for that one boundary.

Threads share a session by turns: score, embed, open, close and reload each hold one lock for their whole length.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import os
import threading
import warnings
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
import numpy.typing as npt

from abonyx import cache, scoring
from abonyx.alphabet import SequenceLimit
from abonyx.batching import GRAPH_INPUTS, make_inputs
from abonyx.bundle import Bundle, check_files, check_graph, open_bundle, selftest
from abonyx.bundle.manifest import Manifest, Variant
from abonyx.bundle.tolerances import BF16, looser
from abonyx.config import RuntimeConfig
from abonyx.engine.cuda_driver import CudaDevice, chosen_device
from abonyx.engine.installed import InstalledEngine, describe, identity, preload, shown
from abonyx.engine.process import (
    caller_outside,
    keep_forever,
    release_memory,
    skip_exit_handlers_after_fork,
    thread_count,
)
from abonyx.engine.providers import (
    PROVIDERS,
    coreml_cache_dir,
    provider_options,
    refuse_two_engines,
    token_budget,
    unavailable,
)
from abonyx.errors import (
    BundleError,
    ConfigError,
    EngineMissing,
    InputError,
    OutOfDeviceMemory,
    ProviderError,
    SessionClosed,
    SessionForked,
    SessionInUse,
)

if TYPE_CHECKING:
    import onnxruntime

SelfTest = Literal["auto", "full", "off"]

# Reentrant: the garbage collector may run a session's __del__ while this thread holds it.
_lock = threading.RLock()
_open_session: weakref.ref[Session] | None = None
_exiting = False


# What ONNX Runtime's arena, CUDA and cuBLAS say; there is no error class for it.
_OUT_OF_MEMORY = (
    "smaller than requested bytes",
    "Failed to allocate memory",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


_MORE_MEMORY = "Free memory of the device, raise its limit in the config, or take a smaller variant: --variant."


_NOT_STARTED = {
    "openvino": "Set openvino.device to one that is here. ",
    "cuda": "`abonyx doctor` names the libraries that it does not find. ",
}


class State(Enum):
    """Where a session is in its life."""

    UNOPENED = "unopened"
    OPEN = "open"
    CLOSED = "closed"


def open_session(config: RuntimeConfig | None = None, *, self_test: SelfTest = "auto") -> Session:
    """Open the process's one session; use it as a context manager or call close().

    Args:
        config: what to open; None = RuntimeConfig(), the shipped mini bundle on the CPU.
        self_test: "auto" = two golden rows, and the whole golden set the first time on this machine; "full" = the
            whole set; "off" = none, for export, which measures what the self-test enforces.

    Raises:
        SessionInUse: another session of this process is open.
        BundleError, ProviderError, ConfigError: the bundle, the provider or the variant cannot be used.
        SelfTestError: the golden rows do not come out right here.
    """
    session = Session(config or RuntimeConfig())
    session.open(self_test=self_test)
    return session


class Session:
    """One loaded model. Make it with open_session.

    Attributes:
        config: what it was opened with.
        bundle: the bundle; variant_name, variant: which of its graphs.
        placement: execution provider -> number of nodes it runs, after ONNX Runtime's own fusions.
        token_budget: most tokens a batch, padding included.
        static_shape: rows and tokens a row of every batch where they are fixed; None = as they come.
        streams: batches in flight at a time.
        differences: max |difference| from PyTorch by metric, of the whole golden set; empty where it was not run.
        notes: lines for a summary: what happened that the caller should know.
    """

    def __init__(self, config: RuntimeConfig) -> None:
        self._state = State.UNOPENED
        # One turn at a time. Reentrant: a signal handler may close what its own thread is scoring with.
        self._life = threading.RLock()
        self._closing = 0  # threads in close(): a call in turn ends at its next batch
        self._opening = 0  # counts them up; of the call in turn, the one that it began in
        self._opening_of_turn: int | None = None
        self._native: onnxruntime.InferenceSession | None = None
        self._pid = os.getpid()
        self._opened_at = ""
        self.config = config
        self.bundle: Bundle
        self.variant_name: str
        self.variant: Variant
        self.placement: dict[str, int] = {}
        self.token_budget = 0
        self.static_shape: tuple[int, int] | None = None
        self.streams = 1
        self.differences: dict[str, float] = {}
        self.notes: list[str] = []

    @property
    def state(self) -> State:
        """UNOPENED, OPEN or CLOSED."""
        return self._state

    @property
    def manifest(self) -> Manifest:
        """The open bundle's manifest."""
        return self.bundle.manifest

    def open(self, *, self_test: SelfTest = "auto") -> None:
        """Load the config's bundle. Use open_session; a closed session opens again through reload only.

        A failed open leaves the session CLOSED, no memory taken and the process's slot free.
        """
        self._refuse_fork()
        if self._state is not State.UNOPENED:
            raise SessionClosed(f"open() on a session that is {self._state.value}", "Call reload(config).")
        self._open(self_test)

    def _open(self, self_test: SelfTest) -> None:
        with self._life:
            self._take_slot()
            try:
                self._load(self_test)
            except BaseException:
                self._release()
                raise

    def _load(self, self_test: SelfTest) -> None:
        engine = import_engine()
        card = _check_available(engine, self.config)  # before gigabytes are hashed
        self.bundle = open_bundle(self.config.bundle)
        self.variant_name, self.variant = self.bundle.variant(self.config.provider, self.config.variant)
        self.static_shape = self.config.static_shape
        self.token_budget = token_budget(self.config, self.bundle)
        self.streams = self.config.openvino.streams if self.config.provider == "openvino" else 1
        self.notes, self.differences = [], {}
        if self.variant.parity is None and self_test != "off":
            raise BundleError(f"{self.bundle.path}: variant {self.variant_name} was never checked", "Export again.")
        check_files(self.bundle, self.bundle.files_of(self.variant))
        check_graph(self.bundle, self.variant)
        self._native = _create(engine, self.bundle, self.variant, self.config)
        self.placement = _placement(engine, self._native, self.config)
        self._self_test(self_test, identity(engine, self.config, card))
        self._opening += 1
        self._state = State.OPEN

    def close(self) -> None:
        """Give the memory back; safe to call again. In a forked child it only forgets the parent's session.

        A call in another thread ends with SessionClosed once its batch in flight is done, and close() returns after
        that. The interpreter closes an open session so before it ends.
        """
        if self._pid != os.getpid():
            self._release()  # without the lock: a thread that held it at the fork is not here to give it back
            return
        with self._counted_closing(), self._life:
            if self._state is not State.CLOSED:
                self._release()

    @contextlib.contextmanager
    def _counted_closing(self) -> Iterator[None]:
        with _lock:
            self._closing += 1
        try:
            yield
        finally:
            with _lock:
                self._closing -= 1

    def reload(self, config: RuntimeConfig) -> None:
        """Close, then open with another config. Never two models in memory; a failed reload leaves CLOSED.

        A call in another thread ends as with close(), one that waits for its turn too: no call is scored by two
        models, nor by another than the one it was made to.
        """
        self._refuse_fork()
        with self._counted_closing(), self._life:
            self.close()
            self.config = config
            self._open("auto")

    def score(self, sequences: Sequence[str]) -> npt.NDArray[np.float32]:
        """Probability of non-specificity of each sequence, by the config's pooling rule.

        Threads may share the session: a call waits for those of other threads.

        Args:
            sequences: n antibody sequences (20 residues and X; spaces and case do not matter).

        Returns:
            (n,) float32, in input order.

        Raises:
            InputError: a sequence that cannot be scored; nothing was scored.
            BundleError: the bundle has no head yet.
            SessionClosed, SessionForked, ScoreNotFinite: see errors.py. SessionClosed also where another thread closes
                or reloads the session meanwhile.
        """
        return self._run(sequences, "p_nonspecific")

    def embed(self, sequences: Sequence[str]) -> npt.NDArray[np.float32]:
        """Pooled embedding of each sequence: (n, D) float32, in input order. Raises as score does."""
        return self._run(sequences, "embedding")

    def _run(self, sequences: Sequence[str], output: str) -> npt.NDArray[np.float32]:
        with self.turn():
            if output == "p_nonspecific":
                self.bundle.refuse_placeholder()
            cleaned = scoring.prepare(sequences, SequenceLimit.of(self.manifest, self.config))
            flags = scoring.pooled_eos(cleaned, self.config.batch_size)
            tokens = scoring.tokenize(self.manifest, cleaned, distinct=flags is None)
            return scoring.run_sequences(self, tokens, output, eos_pooled=flags)

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Hold the session for a call of many batches: other threads wait.

        Raises:
            SessionClosed, SessionForked: it cannot be used, or was reloaded during the wait.
        """
        opening = self._opening
        self._usable()  # before the lock too: a thread that held it when this process was forked is not here
        with self._life:
            outer = self._opening_of_turn
            self._opening_of_turn = opening if outer is None else outer
            try:
                self._usable()  # as it is now that the wait is over
                self._refuse_reloaded()
                yield
            finally:
                self._opening_of_turn = outer

    def run_batch(
        self,
        rows: Sequence[npt.NDArray[np.int64]],
        eos_pooled: npt.NDArray[np.bool_] | None = None,
        outputs: Sequence[str] = ("embedding", "p_nonspecific"),
    ) -> list[npt.NDArray[np.float32]]:
        """One padded batch of token rows through the graph.

        Args:
            rows: B token rows, CLS and EOS included; B and their length at most those of static_shape.
            eos_pooled: (B,) rows with EOS in the mean; None = none.
            outputs: of "embedding" (B, D) and "p_nonspecific" (B,), float32.
        """
        native = self._usable()
        self._refuse_reloaded()
        self._refuse_larger(rows)
        pad_id = self.manifest.alphabet.pad_id
        feed = make_inputs(rows, self.variant.inputs, pad_id, eos_pooled, self.static_shape)
        try:
            return [np.asarray(value, np.float32)[: len(rows)] for value in native.run(list(outputs), feed)]
        except _native_errors() as error:
            shape = f"{len(rows)} rows, longest {max(map(len, rows))} tokens"
            what = f"{self.config.provider} failed on a batch of {shape}: {error}"
            if any(mark in str(error) for mark in _OUT_OF_MEMORY):
                fix = "Free memory of the device, raise memory_limit_bytes, or leave the longest sequences out."
                if self.static_shape:
                    fix = f"Lower static_rows or static_tokens: every batch is filled up to {self.static_shape}."
                raise OutOfDeviceMemory(what, fix) from error
            raise ProviderError(what, "If it ran out of memory, lower token_budget.") from error

    def halve_token_budget(self, failed_tokens: int, planned_budget: int) -> None:
        """After OutOfDeviceMemory on a batch of so many tokens: half of it from now on, and a note that says so.

        Args:
            planned_budget: the token budget that the batch was of. Where another stream halved that one meanwhile, it
                stays: the batch says nothing about the new one.
        """
        with _lock:
            before = self.token_budget
            if before < planned_budget:
                return
            self.token_budget = max(1, min(before, failed_tokens) // 2)
            self.notes.append(
                f"note: {self.config.provider} ran out of memory on a batch of {failed_tokens} tokens: token_budget "
                f"went from {before} to {self.token_budget}"
            )

    def _refuse_larger(self, rows: Sequence[npt.NDArray[np.int64]]) -> None:
        if self.static_shape is None:
            return
        most, tokens = self.static_shape
        longest = max(map(len, rows))
        if len(rows) > most or longest > tokens:
            raise InputError(
                f"a batch of {len(rows)} rows, longest {longest} tokens, where static_rows is {most} and static_tokens "
                f"is {tokens}",
                "Raise them in the config, or run fewer or shorter rows at a time.",
            )

    def _refuse_fork(self) -> None:
        if self._pid != os.getpid():
            place = f" (opened at {self._opened_at})" if self._opened_at else ""
            raise SessionForked(
                f"session of process {self._pid}{place}, used in process {os.getpid()}",
                "ONNX Runtime does not survive fork: start workers with the 'spawn' method and open one session each.",
            )

    def _usable(self) -> onnxruntime.InferenceSession:
        self._refuse_fork()
        native = self._native
        if self._closing and self._state is State.OPEN:  # not while it opens: its self-test ends before close()
            raise SessionClosed("session is being closed or reloaded by another thread", "Call again after reload().")
        if native is None:
            fix = "Call open_session, or reload(config) to use it again."
            raise SessionClosed(f"session is {self._state.value}", fix)
        return native

    def _refuse_reloaded(self) -> None:
        if self._opening_of_turn not in (None, self._opening):
            raise SessionClosed("session was reloaded after this call began", "Call again, for the model it has now.")

    def _self_test(self, kind: SelfTest, engine_and_device: str) -> None:
        if kind == "off":
            return
        golden = self.bundle.golden()
        fact = "|".join((self.bundle.sha256, self.variant_name, self.config.provider, engine_and_device))
        whole = kind == "full" or fact not in cache.remembered("self_tests")
        where = f"{self.bundle.path} ({self.variant_name} on {self.config.provider})"
        planned_budget = self.token_budget

        def run(tokens: Sequence[npt.NDArray[np.int64]]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
            try:
                embedding, p = scoring.run_rows(self, tokens, None, ("embedding", "p_nonspecific"), planned_budget)
            except OutOfDeviceMemory as error:
                raise OutOfDeviceMemory(
                    f"{where}: no memory for the self-test: {error.what}",
                    error.fix if self.static_shape else _MORE_MEMORY,
                ) from error
            return embedding, p

        rows = selftest.rows_that_fit(golden, self.static_shape[1] if self.static_shape else None, where)
        if len(rows) < len(golden.lengths):
            fit = f"{len(rows)} of its {len(golden.lengths)} rows fit static_tokens"
            self.notes.append(f"note: the self-test was run without its longest rows: {fit}")
        limits = self.variant.limits
        if self.config.bf16:
            limits = looser(limits, BF16)
            selftest.refuse_exact(golden, run, where)
        selftest.check_quick(golden, run, limits, where, rows)
        if whole:
            self.differences = selftest.check_golden(golden, rows, run, self.token_budget, limits, where)
            cache.remember("self_tests", {fact: "passed"})

    def _take_slot(self) -> None:
        global _open_session
        with _lock:
            if _exiting:
                raise SessionClosed("the interpreter is ending", "Open sessions before the main thread returns.")
            other = _open_session() if _open_session else None
            if other is not None and other._pid != os.getpid():
                raise SessionForked(
                    f"a session was open in process {other._pid} (at {other._opened_at}) when this one was forked",
                    "Start workers with the 'spawn' method; each may then open a session of its own.",
                )
            if other is not None:
                raise SessionInUse(
                    f"a session is already open, since {other._opened_at}",
                    "One session a process: close() that one, or reload(config) it.",
                )
            self._pid, self._opened_at = os.getpid(), caller_outside(__file__)
            _open_session = weakref.ref(self)

    def _release(self) -> None:
        global _open_session
        native, self._native = self._native, None
        self._state = State.CLOSED
        self.placement = {}
        if self._pid != os.getpid():
            if native is not None:
                # Destroying a session inherited through fork joins threads that do not exist here (onnxruntime
                # PR#31961): leave it to the end of the process.
                keep_forever(native)
            return
        if native is not None:
            del native
            release_memory()
        with _lock:  # only now: what another thread opened before would be a second model in memory
            if _open_session is not None and _open_session() in (self, None):
                _open_session = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if self._state is State.OPEN:
            if self._pid == os.getpid():
                message = f"session opened at {self._opened_at} was never closed"
                warnings.warn(message, ResourceWarning, source=self, stacklevel=2)
            self._release()


def _check_available(ort: ModuleType, config: RuntimeConfig) -> CudaDevice | None:
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
    return chosen_device(config.cuda.device_id) if config.provider == "cuda" else None


def _create(ort: ModuleType, bundle: Bundle, variant: Variant, config: RuntimeConfig) -> onnxruntime.InferenceSession:
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
    chosen = provider_options(config)
    if (compiled := coreml_cache_dir(config, bundle.sha256, variant.model, ort.__version__)) is not None:
        chosen["ModelCacheDirectory"] = str(_made(compiled))
    try:
        # Only the provider asked for: with CPU listed behind it ONNX Runtime would fall back in silence.
        native = ort.InferenceSession(str(path), options, providers=[(provider.execution_provider, chosen)])
    except _native_errors() as error:
        if any(mark in str(error) for mark in _OUT_OF_MEMORY):
            raise OutOfDeviceMemory(f"{config.provider}: no memory to load {path}: {error}", _MORE_MEMORY) from error
        if config.provider == "cpu":
            raise BundleError(f"{path}: ONNX Runtime cannot load it: {error}", "Export the bundle again.") from error
        raise ProviderError(f"{config.provider}: cannot load {path}: {error}", "See docs/providers.md.") from error
    native.disable_fallback()
    if native.get_providers()[0] != provider.execution_provider:
        raise unavailable(
            config.provider,
            f"{shown(ort, config)} could not start it, and gave {native.get_providers()}",
            _NOT_STARTED.get(config.provider, ""),
        )
    _check_signature(native, variant, path, config.static_shape)
    return native


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
    if inputs != sorted(variant.inputs) or not set(inputs) <= set(GRAPH_INPUTS):
        raise BundleError(f"{path}: graph inputs {inputs}, manifest says {variant.inputs}", "Export the bundle again.")
    if outputs != ["embedding", "p_nonspecific"]:
        raise BundleError(f"{path}: graph outputs {outputs}", "It should have embedding and p_nonspecific.")
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


def _placement(ort: ModuleType, native: onnxruntime.InferenceSession, config: RuntimeConfig) -> dict[str, int]:
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
    try:
        engine: ModuleType = importlib.import_module("onnxruntime")
        if not hasattr(engine, "InferenceSession"):  # a folder that pip left where two engines had one name
            raise ImportError(f"{getattr(engine, '__path__', engine)} has none in it")
        engine.set_default_logger_severity(4)  # fatal: its errors are raised; the log's lines on stderr are ours
    except ImportError as error:
        raise EngineMissing(
            f"no ONNX Runtime: {error}",
            'Install one engine: pip install "abonyx[cpu]", "abonyx[gpu]" (NVIDIA) or "abonyx[openvino]" (Intel).',
        ) from error
    _guard_process()
    return engine


@functools.cache
def _guard_process() -> None:
    """Once a process, after the engine's import: its own exit handlers then run after ours."""
    atexit.register(_close_at_exit)
    skip_exit_handlers_after_fork()


def _close_at_exit() -> None:
    """Close what is open or being opened, and let nothing open after it.

    A daemon thread that came back from ONNX Runtime, or from its import, to a dying interpreter would abort it.
    """
    global _exiting
    with _lock:
        _exiting = True
        left = _open_session() if _open_session else None
    if left is not None:
        left.close()


def _renew_lock() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)  # a thread that held it at the fork is not there to give it back
atexit.register(_close_at_exit)  # here too: a thread may be importing the engine when the interpreter ends


def _native_errors() -> tuple[type[Exception], ...]:
    """ONNX Runtime's own exception classes; they share no base but Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return tuple(value for value in vars(state).values() if isinstance(value, type) and issubclass(value, Exception))
