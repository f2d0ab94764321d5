"""From checked sequences to values in their place: open the model once, score by windows."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from abonyx.arrays import Float32Array
from abonyx.bundle import Bundle
from abonyx.bundle.threshold import pooling_notes, shipped_note
from abonyx.config import RuntimeConfig
from abonyx.domain import beside
from abonyx.engine.providers import window_size
from abonyx.input.checked import Input
from abonyx.logs import LOGGER
from abonyx.scoring import TokenBudget, Tokenized, pooled_eos, refuse_batches, run_sequences, tokenize

if TYPE_CHECKING:
    from abonyx.model import OpenModel


@dataclass(frozen=True)
class RunSummary:
    """What a run did.

    Attributes:
        records: number of records that this run scored.
        earlier: number of records that the resumed run had scored before.
        altered: number of changed copies that were scored too.
        open_seconds: seconds of hashing, loading and self-test.
        run_seconds: seconds of scoring and writing.
        bf16: whether the arithmetic was bfloat16.
        pairs: whether each record has both chains.
    """

    records: int
    earlier: int
    rejected: int
    open_seconds: float
    run_seconds: float
    provider: str
    bf16: bool
    placement: dict[str, int]
    variant: str
    bundle: str
    notes: list[str]
    pairs: bool = False
    altered: int = 0

    def lines(self) -> list[str]:
        """The summary as the command line prints it."""
        rate = (self.records + self.altered) / self.run_seconds if self.run_seconds else 0.0
        scored = "pairs" if self.pairs else "sequences"
        provider = self.provider + (" (bf16)" if self.bf16 else "")
        earlier = f" after {self.earlier} of an interrupted run" if self.earlier else ""
        altered = f", and {self.altered} altered copies of them" if self.altered else ""
        return [
            f"{self.records} {scored} scored{earlier}{altered}, {self.rejected} rejected, in {self.run_seconds:.2f} s "
            f"on {provider} ({rate:.1f} a second)",
            f"model: {self.bundle}",
            *self.notes,
        ]

    def detail(self) -> str:
        """What the engine did, for the verbose log."""
        nodes = ", ".join(f"{name} {count}" for name, count in self.placement.items())
        return f"opened in {self.open_seconds:.2f} s; variant {self.variant}; nodes of the graph: {nodes}"


def flag_notes(checked: Input, *, scored: bool) -> list[str]:
    """A line that counts the flagged records of a run by reason. scored: whether the values are scores, with calls."""
    flagged = sum(bool(judgement.flags) for judgement in checked.judgements)
    if not flagged:
        return []
    without = sum(not judgement.trusted for judgement in checked.judgements)
    counts = dict(checked.flag_counts())
    return [flag_line(flagged, len(checked.judgements), without if scored else 0, counts)]


def flag_line(flagged: int, records: int, without_call: int, counts: Mapping[str, int]) -> str:
    """A line about flagged records: how many there are, how many for each reason, and how many have no call."""
    reasons = ", ".join(f"{name} {count}" for name, count in counts.items())
    call = f"; {without_call} without a call" if without_call else ""
    return f"flagged: {flagged} of {records} records ({reasons}){call}; see docs/domain.md"


OnBatch = Callable[[int], None]
# Gives the model to score with, as open_model does.
Opening = Callable[[RuntimeConfig], "AbstractContextManager[OpenModel]"]


class WindowSink(Protocol):
    """Where the values of one input go, window by window in file order.

    Attributes:
        first_row: where to begin: a window's first row, or the end.
    """

    @property
    def first_row(self) -> int: ...

    def begin(self, start: int) -> None:
        """Called before the window that begins at row `start` is scored. It may raise, to end the run there."""

    def write(self, start: int, stop: int, values: Float32Array) -> None:
        """Take a window's values, (k, heads) or (k, D). It is called on another thread than `begin`."""

    def halved(self, token_budget: int, note: str) -> None:
        """Note the smaller token budget of the next batches. The device ran out of memory."""


class ArraySink:
    """The WindowSink of an array, (n, heads) or (n, D) float32, that is filled while scoring."""

    first_row = 0

    def __init__(self, values: Float32Array) -> None:
        self.values = values

    def begin(self, start: int) -> None:
        pass

    def write(self, start: int, stop: int, values: Float32Array) -> None:
        self.values[start:stop] = values

    def halved(self, token_budget: int, note: str) -> None:
        pass  # the summary has the note


class Job(NamedTuple):
    """One input, and where its values go. altered: it holds changed copies of another input's records."""

    checked: Input
    sink: WindowSink
    altered: bool = False


def run_windows(
    bundle: Bundle,
    jobs: Sequence[Job],
    config: RuntimeConfig,
    heads: Sequence[str] | None,
    on_batch: OnBatch | None = None,
    opening: Opening | None = None,
) -> RunSummary:
    """Open the model once, run every window of every input through it, close it.

    Args:
        bundle: the config's bundle, for the summary's notes.
        jobs: the inputs.
        heads: names of the heads whose values are wanted; None = the embedding.
        on_batch: called with the number of sequences done, after each batch.
        opening: a function to use instead of open_model; None = open_model.
    """
    from abonyx.model import open_model  # imported only after the input was checked

    if any(job.checked.light for job in jobs):
        refuse_batches(config.batch_size)
    started = time.perf_counter()
    # Records are judged while the model is opened and while the device scores.
    with beside(job.checked.judgements for job in jobs), (opening or open_model)(config) as model:
        opened = time.perf_counter()
        notes: list[str] = []
        budget = TokenBudget(_first_budget(model, config), config.provider, notes.append)
        placed = f"{model.bundle.label()}, {model.variant_name} on {config.provider}, nodes {model.placement}"
        LOGGER.debug(f"opened in {opened - started:.2f} s: {placed}; batches of {budget.tokens} tokens")
        for job in jobs:
            if config.token_budget not in (None, budget.tokens):
                job.sink.halved(budget.tokens, "\n".join([*model.opening_notes, *notes]))
            _Windows(model, job, config, heads, budget, notes).run(on_batch)
        finished = time.perf_counter()
        reading = [note for job in jobs for note in job.checked.notes]
        summary = RunSummary(
            records=sum(len(job.checked.sequences) - job.sink.first_row for job in jobs if not job.altered),
            altered=sum(len(job.checked.sequences) for job in jobs if job.altered),
            earlier=sum(job.sink.first_row for job in jobs),
            rejected=sum(len(job.checked.rejected) for job in jobs),
            open_seconds=opened - started,
            run_seconds=finished - opened,
            provider=config.provider,
            bf16=config.bf16,
            placement=model.placement,
            variant=model.variant_name,
            bundle=model.bundle.label(),
            pairs=any(job.checked.light for job in jobs),
            notes=[
                *reading,
                *(note for job in jobs for note in flag_notes(job.checked, scored=heads is not None)),
                *(*model.opening_notes, *notes, *pooling_notes(bundle, config), *shipped_note(config)),
            ],
        )
        LOGGER.debug(summary.detail())
        return summary


def score_input(
    bundle: Bundle,
    checked: Input,
    config: RuntimeConfig,
    heads: Sequence[str],
    on_batch: OnBatch | None,
    opening: Opening | None,
) -> tuple[Float32Array, RunSummary]:
    """The values of one input, (n, len(heads)) float32, in memory. The arguments are those of run_windows."""
    values = np.empty((len(checked.sequences), len(heads)), np.float32)
    return values, run_windows(bundle, [Job(checked, ArraySink(values))], config, heads, on_batch, opening)


def _first_budget(model: OpenModel, config: RuntimeConfig) -> int:
    """Number of tokens in a batch: that of the config or the model, or fewer if the self-test ran out of memory."""
    tokens = config.token_budget or model.budget.tokens
    return tokens if model.halved_to is None else min(tokens, model.halved_to)


class _Windows:
    """The windows of one input on their way through the model."""

    def __init__(
        self,
        model: OpenModel,
        job: Job,
        config: RuntimeConfig,
        heads: Sequence[str] | None,
        budget: TokenBudget,
        notes: list[str],
    ) -> None:
        self._model, self._checked, self._sink = model, job.checked, job.sink
        self._heads, self._budget, self._notes = heads, budget, notes
        self._size = window_size(config)
        # The old pipeline's batches are counted over the whole file, and may go across the end of a window.
        self._flags = None if job.checked.light else pooled_eos(job.checked.sequences, config.batch_size)

    def run(self, on_batch: OnBatch | None) -> None:
        """While the device scores a window, the one before is written and the tokens of the next are made."""
        count, first = len(self._checked.sequences), self._sink.first_row
        with ThreadPoolExecutor(1) as aside:
            upcoming, writing = aside.submit(self._tokens, first), aside.submit(lambda: None)
            try:
                for start in range(first, count, self._size):
                    self._sink.begin(start)
                    stop = min(start + self._size, count)
                    tokens, upcoming = upcoming.result(), aside.submit(self._tokens, stop)
                    values = self._values(slice(start, stop), tokens, on_batch, writing)
                    writing.result()
                    writing = aside.submit(self._write, start, stop, values)
            finally:
                writing.result()  # what was scored is written, even after an error; a failure to write is raised

    def _tokens(self, start: int) -> Tokenized:
        window = slice(start, start + self._size)
        chains = [chain[window] for chain in self._checked.chains]
        return tokenize(self._model.manifest, *chains, distinct=self._flags is None)

    def _write(self, start: int, stop: int, values: Float32Array) -> None:
        self._sink.write(start, stop, values)
        LOGGER.debug(f"rows {start + 1} to {stop} of {len(self._checked.sequences)} written")

    def _values(
        self, window: slice, tokens: Tokenized, on_batch: OnBatch | None, writing: Future[None]
    ) -> Float32Array:
        """Values of one window, all with the same token budget. If it is halved meanwhile, they are computed again.

        So a resumed run has the same batches as a run that never stopped. The window before may still be being written:
        it gets its line in the journal before the smaller budget does.
        """
        planned, reported = 0, len(self._notes)
        while planned != self._budget.tokens:
            if planned:
                writing.result()
                self._sink.halved(self._budget.tokens, "\n".join(self._notes[reported:]))
                reported = len(self._notes)
            report = None if planned else on_batch  # its sequences were counted the first time
            planned = self._budget.tokens
            values = run_sequences(
                self._model,
                tokens,
                self._heads,
                self._budget,
                ids=self._checked.ids[window],
                eos_pooled=None if self._flags is None else self._flags[window],
                on_batch=report,
            )
        return values
