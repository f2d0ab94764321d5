"""The one loaded model of a process: opened, checked, used, closed. What runs, the service and export work with.

UNOPENED -> OPEN -> CLOSED; reload is close, then open. `abonyx.Session` is the small face of it for users.

Threads share a model by turns: score, embed, open, close and reload each hold one lock for their whole length.
Over 300 lines, because that lock guards every state and every change of state here: they have to be read together.
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
# Loads of a bundle whose files change all the time, before it is refused.
_LOAD_ATTEMPTS = 3


class State(Enum):
    """Where a model is in its life."""

    UNOPENED = "unopened"
    OPEN = "open"
    CLOSED = "closed"


def open_model(config: RuntimeConfig, *, self_test: SelfTest = "auto", direct: bool = False) -> OpenModel:
    """Open the process's one model; use it as a context manager or call close().

    Args:
        config: what to open.
        self_test: "auto" = two golden rows, and the whole golden set the first time on this machine; "full" = the
            whole set; "quick" = the two rows alone, and nothing is remembered, for `doctor --measure`, which scores
            nothing; "off" = none, for export, which measures what the self-test enforces.
        direct: open a bundle here even if its whole self-test never passed on this machine; for the child process that
            runs it first (first_open).

    Raises:
        SessionInUse: another session of this process is open.
        BundleError, ProviderError, ConfigError: the bundle, the provider or the variant cannot be used.
        SelfTestError: the golden rows do not come out right here.
    """
    model = OpenModel(config, direct=direct)
    model.open(self_test=self_test)
    return model


class OpenModel:
    """One loaded model. Make it with open_model.

    Attributes:
        config: what it was opened with.
        bundle: the bundle; variant_name, variant: which of its graphs.
        placement: execution provider -> number of nodes it runs, after ONNX Runtime's own fusions.
        budget: most tokens a batch, padding included, of score and embed.
        halved_to: tokens a batch that the self-test left, if the device ran out of memory in it; else None.
        static_shape: rows and tokens a row of every batch where they are fixed; None = as they come.
        grid: the shapes that batches are rounded up to where they are not fixed.
        streams: batches in flight at a time.
        gives_contributions: whether the graph has the output `contributions`.
        differences: max |difference| from PyTorch by metric, of the whole golden set; empty where it was not run.
        opening_notes: lines for a summary: what happened at the open that the caller should know.
        opened_at: file and line that opened it; process_id: the process.
    """

    def __init__(self, config: RuntimeConfig, *, direct: bool = False) -> None:
        self._direct = direct
        self._state = State.UNOPENED
        # One turn at a time. Reentrant: a signal handler may close what its own thread is scoring with.
        self._life = threading.RLock()
        self._closing = 0  # threads in close(): a call in turn ends at its next batch
        self._reloading = False
        self._opening = 0  # counts them up; of the call in turn, the one that it began in
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
        """How long a sequence may be."""
        return SequenceLimit.of(self.manifest, self.config)

    def open(self, *, self_test: SelfTest = "auto") -> None:
        """Load the config's bundle. Use open_model; a closed session opens again through reload only.

        A failed open leaves the session CLOSED, no memory taken and the process's slot free.
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
        card = onnx.check_available(engine, self.config)  # before gigabytes are hashed
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
        # One place from here on: a link on the way may be changed, and changed back.
        real = replace(self.bundle, path=self.bundle.path.resolve())
        stamps = check_files(real, real.files_of(self.variant))
        graph = check_graph(real, self.variant)
        fact = "|".join(
            (self.bundle.sha256, self.variant_name, self.config.provider, identity(engine, self.config, card))
        )
        passed = fact in cache.remembered("self_tests")
        if not passed and self_test in ("auto", "full") and self._try_first(fact):
            passed, self_test = True, "auto"  # just now
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
        """The engine's session, made of files that did not change since they were checked.

        A hard link, as `abonyx fit` makes to the files it keeps, moves the change time and nothing else: hence again.
        """
        attempts = _LOAD_ATTEMPTS
        while True:
            native: onnx.Native = onnx.load(engine, bundle, self.variant, self.config, graph)
            try:
                refuse_changed(bundle, stamps)
            except BundleError:
                del native  # never two models in memory
                release_memory()
                attempts -= 1
                if not attempts:
                    raise
                stamps = check_files(bundle, bundle.files_of(self.variant))
            else:
                return native

    def _try_first(self, fact: str) -> bool:
        """Whether a child process has just opened this bundle and run its whole self-test."""
        if self._direct or self.bundle.sha256 == MINI_SHA256:
            return False
        own = int(self._reloading)  # of the closings that are counted
        found = open_in_child(self.config, cancelled=lambda: self._closing > own)
        if found is None:
            self.opening_notes.append("note: this bundle's first open had no process of its own: Python is embedded")
            return False
        tried, here = (found.bundle_sha256, found.variant), (self.bundle.sha256, self.variant_name)
        if tried != here:
            what = f"{self.bundle.path}: is bundle {tried[0]}, variant {tried[1]} now; it was {here[0]}, {here[1]}"
            raise BundleError(what, "Something writes to the bundle. Wait for it to end, and open again.")
        if fact not in cache.remembered("self_tests"):
            self.opening_notes.append(
                "note: the model was loaded twice, and will be at every open: the cache cannot be written, so that no "
                "passed self-test is remembered"
            )
        self.differences = found.differences
        return True

    def close(self) -> None:
        """Give the memory back; safe to call again. In a forked child it only forgets the parent's session.

        A call in another thread ends with SessionClosed once its batch in flight is done, and close() returns after
        that. The interpreter closes an open session so before it ends.
        """
        if self.process_id != os.getpid():
            self._release()  # without the lock: a thread that held it at the fork is not here to give it back
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
        """Close, then open with another config. Never two models in memory; a failed reload leaves CLOSED.

        A call in another thread ends as with close(), one that waits for its turn too: no call is scored by two
        models, nor by another than the one it was made to.
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
        """Each sequence's values by some of the heads, by the config's pooling rule.

        Threads may share the session: a call waits for those of other threads.

        Args:
            sequences: n antibody sequences (20 residues and X; spaces and case do not matter); (heavy, light) of each
                if the heads need both chains.
            heads: names of the bundle's; () = the first.

        Returns:
            (n, len(heads)) float32, in input order; column i is of heads[i]. (n, 1) of the first head.

        Raises:
            InputError: a sequence that cannot be scored; nothing was scored.
            BundleError: the bundle has no head yet.
            SessionClosed, SessionForked, ScoreNotFinite: see errors.py. SessionClosed also where another thread closes
                or reloads the session meanwhile.
        """
        return self._run(sequences, heads)

    def embed(self, sequences: Sequence[str]) -> Float32Array:
        """Pooled embedding of each sequence: (n, D) float32, in input order. Raises as score does."""
        return self._run(sequences, None)

    def contributions(
        self, sequences: Sequence[str] | Sequence[tuple[str, str]], heads: Sequence[str] = ()
    ) -> list[contributions.Contributions]:
        """What each residue adds to some heads' logit or value. Args as score.

        Returns:
            One a sequence, in input order.

        Raises:
            BundleError: the graph does not give them.
            SelfTestError: they do not sum to the head's sum.
            The others of score.
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
        """What a user gave as the engine takes it, with the chains that these heads need, and eos_in_mean of it."""
        if len(record_chains([head for head in self.manifest.heads if head.name in heads])) > 1:
            scoring.refuse_batches(self.config.batch_size)
            return scoring.tokenize(self.manifest, *scoring.prepare_pairs(sequences, self.limit)), None
        cleaned = scoring.prepare(sequences, self.limit)
        flags = scoring.pooled_eos(cleaned, self.config.batch_size)
        return scoring.tokenize(self.manifest, cleaned, distinct=flags is None), flags

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
        rows: Sequence[Int64Array],
        eos_pooled: BoolArray | None = None,
        outputs: Sequence[str] = (EMBEDDING, HEAD_SUMS),
    ) -> list[Float32Array]:
        """One padded batch of token rows through the graph.

        Args:
            rows: B token rows, CLS and EOS included; B and their length at most those of static_shape.
            eos_pooled: (B,) rows with EOS in the mean; None = none.
            outputs: of "embedding" (B, D), "head_sums" (B, K) and "contributions" (B, L, K), float32.

        Raises:
            BundleError: the graph gives another shape or type, in this batch.
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
        # In every batch: a graph can be right for the golden rows and wrong for more of them, and NumPy would spread
        # one value over all rows.
        manifest = self.manifest
        width = manifest.embedding_width if name == EMBEDDING else len(column_names(manifest.heads))
        expected = (*(shape if name == CONTRIBUTIONS else shape[:1]), width)
        if values.shape != expected or values.dtype != np.float32:
            what = f"{self.bundle.path}: of {batch}, the graph gives {name} as {values.dtype} {values.shape}"
            raise BundleError(f"{what}; the manifest says float32 {expected}", "Export the bundle again.")

    def _refuse_larger(self, rows: Sequence[Int64Array]) -> None:
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
        if self.process_id != os.getpid():
            place = f" (opened at {self.opened_at})" if self.opened_at else ""
            raise SessionForked(
                f"session of process {self.process_id}{place}, used in process {os.getpid()}",
                "ONNX Runtime does not survive fork: start workers with the 'spawn' method and open one session each.",
            )

    def _usable(self) -> onnx.Native:
        self._refuse_fork()
        native = self._native
        if self._closing and self._state is State.OPEN:  # not while it opens: its self-test ends before close()
            raise SessionClosed("session is being closed or reloaded by another thread", "Call again after reload().")
        if native is None:
            fix = "Open a new one with abonyx.open_session(...), or reload(config) it."
            raise SessionClosed(f"session is {self._state.value}", fix)
        return native

    def _refuse_reloaded(self) -> None:
        if self._opening_of_turn not in (None, self._opening):
            raise SessionClosed("session was reloaded after this call began", "Call again, for the model it has now.")

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
                    f"{where}: no memory for the self-test: {what}", fix if self.static_shape else onnx.MORE_MEMORY
                ) from error
            return embedding, sums

        rows = selftest.rows_that_fit(golden, self.static_shape[1] if self.static_shape else None, where)
        if len(rows) < len(golden.lengths):
            fit = f"{len(rows)} of its {len(golden.lengths)} rows fit static_tokens"
            self.opening_notes.append(f"note: the self-test was run without its longest rows: {fit}")
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
                # Destroying a session inherited through fork joins threads that do not exist here (onnxruntime
                # PR#31961): leave it to the end of the process.
                keep_forever(native)
            return
        if native is not None:
            del native
            release_memory()
        slot.give_back(self)  # only now: what another thread opened before would be a second model in memory

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
