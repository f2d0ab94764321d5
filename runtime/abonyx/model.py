"""The one loaded model of a process: how it is opened, checked, used and closed. Runs, the service and export use it.

States: UNOPENED -> OPEN -> CLOSED. Reload is close, then open. `abonyx.Session` is the public class around it.

Threads take turns: score, embed, contributions, open, close and reload hold the same lock from start to end. This file
is long, because that lock guards every state and every change of state. A reader needs all of them together.
"""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from types import ModuleType, TracebackType
from typing import Any, Literal, Self

import numpy as np

from abonyx import cache, contributions, scoring
from abonyx.alphabet import SequenceLimit
from abonyx.arrays import BoolArray, Float32Array, Int64Array
from abonyx.batching import EXACT, make_inputs
from abonyx.bundle import Bundle, check_files, check_graph, open_pinned, refuse_changed, selftest
from abonyx.bundle.graph_file import GraphFile
from abonyx.bundle.heads import CONTRIBUTIONS, EMBEDDING, HEAD_SUMS, column_names, record_chains
from abonyx.bundle.manifest import Manifest, Variant
from abonyx.bundle.tolerances import BF16, looser
from abonyx.config import RuntimeConfig
from abonyx.engine import onnx, slot
from abonyx.engine.installed import identity
from abonyx.engine.process import caller_outside, keep_forever, release_memory
from abonyx.engine.providers import PROVIDERS, token_budget
from abonyx.errors import BundleError, InputError, OutOfDeviceMemory, SessionClosed, SessionForked
from abonyx.first_open import MINI_SHA256, open_in_child
from abonyx.logs import LOGGER
from abonyx.privacy import engine_notes
from abonyx.scoring import TokenBudget

SelfTest = Literal["auto", "full", "quick", "off"]
# Number of attempts to load a bundle whose files keep changing.
_LOAD_ATTEMPTS = 3


class State(Enum):
    """State of a model."""

    UNOPENED = "unopened"
    OPEN = "open"
    CLOSED = "closed"


def open_model(config: RuntimeConfig, *, self_test: SelfTest = "auto", direct: bool = False) -> OpenModel:
    """Open the one model of this process. Use it as a context manager, or call close().

    Args:
        config: the bundle and how to run it.
        self_test: "auto" = run two golden rows, and the whole golden set the first time on this machine; "full" = run
            the whole set; "quick" = run only the two rows, and remember nothing (for `doctor --measure`, which gives
            no scores); "off" = run nothing (for export, which measures what the self-test checks).
        direct: open the bundle in this process even if its whole self-test has never passed on this machine. Only the
            child process of first_open and `doctor --measure` use this.

    Raises:
        SessionInUse: another session of this process is open.
        BundleError, ProviderError, ConfigError: the bundle, the provider or the variant cannot be used.
        SelfTestError: the golden rows give other numbers here than the bundle stores.
    """
    model = OpenModel(config, direct=direct)
    model.open(self_test=self_test)
    return model


class OpenModel:
    """A loaded model. open_model makes it.

    Attributes:
        config: the config that it was opened with.
        bundle: the bundle.
        variant_name, variant: the variant that runs.
        placement: execution provider -> number of graph nodes that it runs, after ONNX Runtime's fusions.
        budget: largest number of tokens in a batch of score and embed, padding included.
        halved_to: the token budget after the self-test, if the device ran out of memory there; None if the device did
            not run out of memory.
        static_shape: (rows, tokens in a row) of every batch if the shape is fixed; None if it varies.
        grid: the shapes that batches are rounded up to if the shape is not fixed.
        streams: number of batches that run at the same time.
        gives_contributions: whether the graph has the output `contributions`.
        differences: metric -> max |difference| from PyTorch over the whole golden set; {} if it was not run.
        opening_notes: lines for the summary: what happened during the open that the caller should know.
        opened_at: file and line of the code that opened it.
        process_id: the process that opened it.
    """

    def __init__(self, config: RuntimeConfig, *, direct: bool = False) -> None:
        self._direct = direct
        self._state = State.UNOPENED
        # Held during a turn. Reentrant, because a signal handler may close the model while the same thread scores.
        self._life = threading.RLock()
        self._closing = 0  # number of threads in close(); if not 0, a running call ends at its next batch
        self._reloading = False
        # Number of opens so far. `_opening_of_turn` is its value when the current call began.
        self._opening = 0
        self._opening_of_turn: int | None = None
        self._native: onnx.Native | None = None
        self.process_id = os.getpid()
        self.opened_at = ""
        self.config = config
        self.bundle: Bundle
        self.variant_name: str
        self.variant: Variant
        self.placement: dict[str, int] = {}
        self.budget: TokenBudget
        self.halved_to: int | None = None
        self.static_shape: tuple[int, int] | None = None
        self.grid = EXACT
        self.streams = 1
        self.gives_contributions = False
        self.differences: dict[str, float] = {}
        self.opening_notes: list[str] = []

    @property
    def state(self) -> State:
        """UNOPENED, OPEN or CLOSED."""
        return self._state

    @property
    def manifest(self) -> Manifest:
        """The open bundle's manifest."""
        return self.bundle.manifest

    @property
    def limit(self) -> SequenceLimit:
        """How long a sequence may be, and its letters."""
        return SequenceLimit.of(self.manifest, self.config)

    def open(self, *, self_test: SelfTest = "auto") -> None:
        """Load the config's bundle. Only open_model calls this. reload() opens a closed model again.

        If this fails, the state is CLOSED, no memory is held, and the process can open another model.
        """
        self._refuse_fork()
        if self._state is not State.UNOPENED:
            raise SessionClosed(f"open() on a session that is {self._state.value}", "Call reload(config).")
        self._open(self_test)

    def _open(self, self_test: SelfTest) -> None:
        with self._life:
            self.process_id, self.opened_at = os.getpid(), caller_outside(slot.OPENING_FILES)
            slot.take(self)
            try:
                self._load(self_test)
            except BaseException:
                self._release()
                raise

    def _load(self, self_test: SelfTest) -> None:
        engine = onnx.import_engine()
        card = onnx.check_available(engine, self.config)  # before hashing gigabytes
        self.config, self.bundle = open_pinned(self.config)
        self.variant_name, self.variant = self.bundle.variant(self.config.provider, self.config.variant)
        self.static_shape = self.config.static_shape
        self.grid = EXACT if self.static_shape else PROVIDERS[self.config.provider].grid
        self.streams = self.config.openvino.streams if self.config.provider == "openvino" else 1
        self.opening_notes, self.differences = engine_notes(), {}
        tokens = token_budget(self.config, self.bundle)
        self.budget = TokenBudget(tokens, self.config.provider, self.opening_notes.append)
        if self.variant.parity is None and self_test != "off":
            raise BundleError(f"{self.bundle.path}: variant {self.variant_name} was never checked", "Export again.")
        # Use the resolved path from here on: a link in the path could be changed, and changed back.
        real = replace(self.bundle, path=self.bundle.path.resolve())
        stamps = check_files(real, real.files_of(self.variant))
        graph = check_graph(real, self.variant)
        fact = "|".join(
            (self.bundle.sha256, self.variant_name, self.config.provider, identity(engine, self.config, card))
        )
        passed = fact in cache.remembered("self_tests")
        if not passed and self_test in ("auto", "full") and self._try_first(fact):
            passed, self_test = True, "auto"  # it has just passed in the child
        self._native = self._load_unchanged(engine, real, graph, stamps)
        self.placement = onnx.placement(engine, self._native, self.config)
        self.gives_contributions = CONTRIBUTIONS in onnx.output_names(self._native)
        if self_test != "off":
            whole = self_test == "full" or (self_test == "auto" and not passed)
            self._self_test(whole=whole)
            if whole or passed:
                cache.remember("self_tests", {fact: "passed"})
        self.halved_to = self.budget.tokens if self.budget.tokens < tokens else None
        self.budget.on_halved = LOGGER.warning
        self._opening += 1
        self._state = State.OPEN

    def _load_unchanged(
        self, engine: ModuleType, bundle: Bundle, graph: GraphFile, stamps: Mapping[str, str]
    ) -> onnx.Native:
        """The engine's session, loaded from files that did not change since they were checked.

        If the change time of a file moved, the files are checked and loaded again. The content may be the same:
        `abonyx fit` makes hard links to files, and a hard link moves only the change time.
        """
        attempts = _LOAD_ATTEMPTS
        while True:
            native: onnx.Native = onnx.load(engine, bundle, self.variant, self.config, graph)
            try:
                refuse_changed(bundle, stamps)
            except BundleError:
                del native  # two models must never be in memory
                release_memory()
                attempts -= 1
                if not attempts:
                    raise
                stamps = check_files(bundle, bundle.files_of(self.variant))
            else:
                return native

    def _try_first(self, fact: str) -> bool:
        """Let a child process open the bundle and run its whole self-test. False if no child is needed or possible."""
        if self._direct or self.bundle.sha256 == MINI_SHA256:
            return False
        own = int(self._reloading)  # reload() counts itself in _closing
        found = open_in_child(self.config, cancelled=lambda: self._closing > own)
        if found is None:
            self.opening_notes.append(
                "note: the first open of this bundle did not run in a separate process: Python is embedded or frozen"
            )
            return False
        tried, here = (found.bundle_sha256, found.variant), (self.bundle.sha256, self.variant_name)
        if tried != here:
            what = f"{self.bundle.path}: is now bundle {tried[0]}, variant {tried[1]}; it was {here[0]}, {here[1]}"
            raise BundleError(what, "Another process is changing the bundle. Wait until it ends, and open again.")
        if fact not in cache.remembered("self_tests"):
            self.opening_notes.append(
                "note: the model was loaded twice, and every later open will load it twice too: the cache cannot be "
                "written, so a passed self-test is not remembered"
            )
        self.differences = found.differences
        return True

    def close(self) -> None:
        """Free the memory of the model. A second call does nothing. A forked child only forgets the parent's model.

        A call in another thread ends with SessionClosed when its current batch is done; close() returns after that.
        The interpreter also closes an open model before it ends.
        """
        if self.process_id != os.getpid():
            self._release()  # without the lock: the thread that held it at the fork does not exist in this process
            return
        with self._counted_closing(), self._life:
            if self._state is not State.CLOSED:
                self._release()

    @contextlib.contextmanager
    def _counted_closing(self) -> Iterator[None]:
        with slot.lock():
            self._closing += 1
        try:
            yield
        finally:
            with slot.lock():
                self._closing -= 1

    def reload(self, config: RuntimeConfig) -> None:
        """Close, then open with another config. Two models are never in memory. After a failure the state is CLOSED.

        A call in another thread ends with SessionClosed, even if it is still waiting for its turn, because a call is
        scored only by the model that was open when the call was made.
        """
        self._refuse_fork()
        with self._counted_closing(), self._life:
            self.close()
            self.config = config
            self._reloading = True
            try:
                self._open("auto")
            finally:
                self._reloading = False

    def score(self, sequences: Sequence[str] | Sequence[tuple[str, str]], heads: Sequence[str] = ()) -> Float32Array:
        """Values of each sequence by some of the heads.

        Threads may share the model: a call waits until the calls of other threads are done.

        Args:
            sequences: n antibody sequences (20 residues and X; spaces and case do not matter). If the heads need both
                chains, n pairs (heavy, light).
            heads: names of the bundle's heads; () = the first.

        Returns:
            (n, len(heads)) float32 in input order; column i holds the values of heads[i]. (n, 1) if `heads` is empty.

        Raises:
            InputError: a sequence cannot be scored. Nothing was scored.
            BundleError: the bundle has no head yet.
            SessionClosed: the model is not open, or another thread closes or reloads it during the call.
            SessionForked, ScoreNotFinite: see errors.py.
        """
        return self._run(sequences, heads)

    def embed(self, sequences: Sequence[str]) -> Float32Array:
        """Pooled embedding of each sequence: (n, D) float32, in input order. Raises as `score` does."""
        return self._run(sequences, None)

    def contributions(
        self, sequences: Sequence[str] | Sequence[tuple[str, str]], heads: Sequence[str] = ()
    ) -> list[contributions.Contributions]:
        """What each residue adds to the logit or value of some heads. The arguments are those of `score`.

        Returns:
            One Contributions for each sequence, in input order.

        Raises:
            BundleError: the graph does not give contributions.
            SelfTestError: the contributions do not sum to the head's own sum.
            EngineError: as for `score`.
        """
        with self.turn():
            self.bundle.refuse_placeholder()
            contributions.refuse_without(self, self.bundle.path)
            heads = heads or [self.manifest.head.name]
            tokens, flags = self._tokenized(sequences, heads)
            return contributions.run_contributions(self, tokens, heads, self.budget, eos_pooled=flags)

    def _run(self, sequences: Sequence[Any], heads: Sequence[str] | None) -> Float32Array:
        with self.turn():
            if heads is not None:
                self.bundle.refuse_placeholder()
                heads = heads or [self.manifest.head.name]
            tokens, flags = self._tokenized(sequences, heads or ())
            return scoring.run_sequences(self, tokens, heads, self.budget, eos_pooled=flags)

    def _tokenized(self, sequences: Sequence[Any], heads: Sequence[str]) -> tuple[scoring.Tokenized, BoolArray | None]:
        """(token rows of a user's sequences with the chains that these heads need, result of scoring.pooled_eos)."""
        if len(record_chains([head for head in self.manifest.heads if head.name in heads])) > 1:
            scoring.refuse_batches(self.config.batch_size)
            return scoring.tokenize(self.manifest, *scoring.prepare_pairs(sequences, self.limit)), None
        cleaned = scoring.prepare(sequences, self.limit)
        flags = scoring.pooled_eos(cleaned, self.config.batch_size)
        return scoring.tokenize(self.manifest, cleaned, distinct=flags is None), flags

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Hold the model for a call of many batches. Other threads wait.

        Raises:
            SessionClosed: the model is not open, or was reloaded during the wait.
            SessionForked: the model belongs to the parent process.
        """
        opening = self._opening
        self._usable()  # check before the lock too: in a forked child nobody releases a lock that was held at the fork
        with self._life:
            outer = self._opening_of_turn
            self._opening_of_turn = opening if outer is None else outer
            try:
                self._usable()  # again: the state may have changed during the wait
                self._refuse_reloaded()
                yield
            finally:
                self._opening_of_turn = outer

    def run_batch(
        self,
        rows: Sequence[Int64Array],
        eos_pooled: BoolArray | None = None,
        outputs: Sequence[str] = (EMBEDDING, HEAD_SUMS),
    ) -> list[Float32Array]:
        """Run the graph on one padded batch of token rows.

        Args:
            rows: B token rows, CLS and EOS included. B and their length must fit static_shape.
            eos_pooled: (B,) rows whose EOS is part of the mean; None = no row.
            outputs: any of "embedding" (B, D), "head_sums" (B, K) and "contributions" (B, L, K), all float32.

        Returns:
            One array for each of `outputs`.

        Raises:
            BundleError: the shape or the type of an output is not the one in the manifest.
        """
        native = self._usable()
        self._refuse_reloaded()
        self._refuse_larger(rows)
        pad_id = self.manifest.alphabet.pad_id
        longest = max(map(len, rows))
        shape = self.static_shape or self.grid.shape(len(rows), longest)
        feed = make_inputs(rows, self.variant.inputs, pad_id, eos_pooled, shape)
        batch = f"{len(rows)} rows, longest {longest} tokens"
        found = onnx.run(native, outputs, feed, self.config, batch)
        for name, values in zip(outputs, found, strict=True):
            self._refuse_shape(name, values, shape, batch)
        return [values[: len(rows)] for values in found]

    def _refuse_shape(self, name: str, values: Float32Array, shape: tuple[int, int], batch: str) -> None:
        # Checked in every batch: a graph can be right for the golden rows and wrong for a larger batch. NumPy would
        # broadcast a single value to all rows.
        manifest = self.manifest
        width = manifest.embedding_width if name == EMBEDDING else len(column_names(manifest.heads))
        expected = (*(shape if name == CONTRIBUTIONS else shape[:1]), width)
        if values.shape != expected or values.dtype != np.float32:
            what = f"{self.bundle.path}: for {batch}, the graph gives {name} as {values.dtype} {values.shape}"
            raise BundleError(f"{what}; the manifest says float32 {expected}", "Export the bundle again.")

    def _refuse_larger(self, rows: Sequence[Int64Array]) -> None:
        if self.static_shape is None:
            return
        most, tokens = self.static_shape
        longest = max(map(len, rows))
        if len(rows) > most or longest > tokens:
            raise InputError(
                f"a batch has {len(rows)} rows, longest {longest} tokens; static_rows is {most} and static_tokens is "
                f"{tokens}",
                "Raise them in the config, or run fewer or shorter rows at a time.",
            )

    def _refuse_fork(self) -> None:
        if self.process_id != os.getpid():
            place = f" (opened at {self.opened_at})" if self.opened_at else ""
            raise SessionForked(
                f"session of process {self.process_id}{place}, used in process {os.getpid()}",
                "ONNX Runtime does not work after a fork: start workers with the 'spawn' method, and open a session in "
                "each.",
            )

    def _usable(self) -> onnx.Native:
        self._refuse_fork()
        native = self._native
        if self._closing and self._state is State.OPEN:  # not during an open: close() waits for the self-test
            raise SessionClosed("session is being closed or reloaded by another thread", "Call again after reload().")
        if native is None:
            fix = "Open a new one with abonyx.open_session(...), or call reload(config)."
            raise SessionClosed(f"session is {self._state.value}", fix)
        return native

    def _refuse_reloaded(self) -> None:
        if self._opening_of_turn not in (None, self._opening):
            raise SessionClosed("session was reloaded after this call began", "Call again to use the new model.")

    def _self_test(self, *, whole: bool) -> None:
        golden = self.bundle.golden()
        where = f"{self.bundle.path} ({self.variant_name} on {self.config.provider})"
        planned = self.budget.tokens

        def run(tokens: Sequence[Int64Array]) -> tuple[Float32Array, Float32Array]:
            try:
                embedding, sums = scoring.run_rows(self, tokens, None, (EMBEDDING, HEAD_SUMS), self.budget, planned)
            except OutOfDeviceMemory as error:
                what, fix = error.marked
                raise OutOfDeviceMemory(
                    f"{where}: not enough memory for the self-test: {what}",
                    fix if self.static_shape else onnx.MORE_MEMORY,
                ) from error
            return embedding, sums

        rows = selftest.rows_that_fit(golden, self.static_shape[1] if self.static_shape else None, where)
        if len(rows) < len(golden.lengths):
            fit = f"{len(rows)} of its {len(golden.lengths)} rows fit static_tokens"
            self.opening_notes.append(f"note: the self-test left out its longest rows: {fit}")
        limits, heads = self.variant.limits, self.manifest.heads
        if self.config.bf16:
            limits = looser(limits, BF16)
            selftest.refuse_exact(golden, run, where)
        selftest.check_quick(golden, heads, run, limits, where, rows)
        if whole:
            self.differences = selftest.check_golden(golden, heads, rows, run, self.budget.tokens, limits, where)

    def _release(self) -> None:
        native, self._native = self._native, None
        self._state = State.CLOSED
        self.placement = {}
        if self.process_id != os.getpid():
            if native is not None:
                # Destroying a session inherited through fork would join threads that do not exist here (onnxruntime
                # PR#31961). Keep it until the process ends.
                keep_forever(native)
            return
        if native is not None:
            del native
            release_memory()
        slot.give_back(self)  # last: otherwise another thread could open a model while this one is still in memory

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if self._state is State.OPEN:
            if self.process_id == os.getpid():
                message = f"session opened at {self.opened_at} was never closed"
                warnings.warn(message, ResourceWarning, source=self, stacklevel=2)
            self._release()
