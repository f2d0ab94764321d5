"""From checked sequences to values in their place: open the model once, score by windows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from abonyx.bundle import Bundle
from abonyx.bundle.threshold import pooling_notes, shipped_note
from abonyx.config import RuntimeConfig
from abonyx.engine.providers import window_size
from abonyx.input.checked import Input
from abonyx.logs import LOGGER
from abonyx.scoring import Tokenized, pooled_eos, run_sequences, tokenize

if TYPE_CHECKING:
    from abonyx.session import Session


@dataclass(frozen=True)
class RunSummary:
    """What a run did.

    Attributes:
        records: scored now; earlier: before, where an interrupted run was gone on with.
        open_seconds: hashing, loading and self-test; run_seconds: scoring and writing.
        bf16: whether the arithmetic was bfloat16.
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

    def lines(self) -> list[str]:
        """The summary as the command line prints it."""
        rate = self.records / self.run_seconds if self.run_seconds else 0.0
        nodes = ", ".join(f"{name} {count}" for name, count in self.placement.items())
        provider = self.provider + (" (bf16)" if self.bf16 else "")
        earlier = f" after {self.earlier} of an interrupted run" if self.earlier else ""
        return [
            f"{self.records} sequences scored{earlier}, {self.rejected} rejected; {self.run_seconds:.2f} s "
            f"({rate:.1f} seq/s), opening took {self.open_seconds:.2f} s",
            f"bundle {self.bundle}; variant {self.variant} on {provider} (nodes: {nodes})",
            *self.notes,
        ]


# (start, stop) of the window, its values: (k,) or (k, D).
Write = Callable[[int, int, npt.NDArray[np.float32]], None]
OnBatch = Callable[[int], None]
# Gives the session to score with, as open_session does.
Opening = Callable[[RuntimeConfig], "AbstractContextManager[Session]"]


@dataclass(frozen=True)
class Job:
    """One input and where its values go.

    Attributes:
        write: called with each window's values, in file order, on a thread of its own.
        first_row: where to begin; a window's first row, or the end.
        before_window: called with each window's first row before it is scored; may raise, to end there.
        on_halved: called where the device ran out of memory, with the token budget from there on and a note.
    """

    checked: Input
    write: Write
    first_row: int = 0
    before_window: Callable[[int], None] | None = None
    on_halved: Callable[[int, str], None] | None = None


def run_windows(
    bundle: Bundle,
    jobs: Sequence[Job],
    config: RuntimeConfig,
    output: str,
    on_batch: OnBatch | None = None,
    opening: Opening | None = None,
) -> RunSummary:
    """Open the session once, run every window of every input through it, close it.

    Args:
        bundle: the config's bundle, for the summary's notes.
        jobs: the inputs.
        output: "p_nonspecific" or "embedding".
        on_batch: called with the number of sequences done, after each batch.
        opening: in place of open_session.
    """
    from abonyx.session import open_session  # not before the input was found good

    started = time.perf_counter()
    with (opening or open_session)(config) as session:
        opened = time.perf_counter()
        placed = f"{session.bundle.label()}, {session.variant_name} on {config.provider}, nodes {session.placement}"
        LOGGER.debug(f"opened in {opened - started:.2f} s: {placed}; batches of {session.token_budget} tokens")
        for job in jobs:
            if job.on_halved and config.token_budget not in (None, session.token_budget):
                job.on_halved(session.token_budget, "\n".join(session.notes))  # by the self-test
            _run_job(session, job, config, output, on_batch)
        finished = time.perf_counter()
        return RunSummary(
            records=sum(len(job.checked.sequences) - job.first_row for job in jobs),
            earlier=sum(job.first_row for job in jobs),
            rejected=sum(len(job.checked.rejected) for job in jobs),
            open_seconds=opened - started,
            run_seconds=finished - opened,
            provider=config.provider,
            bf16=config.bf16,
            placement=session.placement,
            variant=session.variant_name,
            bundle=session.bundle.label(),
            notes=[*session.notes, *pooling_notes(bundle, config), *shipped_note(config)],
        )


def _run_job(session: Session, job: Job, config: RuntimeConfig, output: str, on_batch: OnBatch | None) -> None:
    sequences, size = job.checked.sequences, window_size(config)
    # The old pipeline's batches are of the whole file, wherever a window ends.
    flags = pooled_eos(sequences, config.batch_size)

    def tokens(start: int) -> Tokenized:
        return tokenize(session.manifest, sequences[start : start + size], distinct=flags is None)

    def write(start: int, stop: int, values: npt.NDArray[np.float32]) -> None:
        job.write(start, stop, values)
        LOGGER.debug(f"rows {start + 1} to {stop} of {len(sequences)} written")

    # While the device scores a window, the one before is written and the tokens of the next are made.
    with ThreadPoolExecutor(1) as aside:
        upcoming, writing = aside.submit(tokens, job.first_row), aside.submit(lambda: None)
        try:
            for start in range(job.first_row, len(sequences), size):
                if job.before_window:
                    job.before_window(start)
                stop = min(start + size, len(sequences))
                given, upcoming = upcoming.result(), aside.submit(tokens, stop)
                values = _run_window(session, job, slice(start, stop), given, flags, output, on_batch, writing)
                writing.result()
                writing = aside.submit(write, start, stop, values)
        finally:
            writing.result()  # what was scored is written, however this ends; and what cannot be written is said


def _run_window(
    session: Session,
    job: Job,
    window: slice,
    tokens: Tokenized,
    flags: npt.NDArray[np.bool_] | None,
    output: str,
    on_batch: OnBatch | None,
    writing: Future[None],
) -> npt.NDArray[np.float32]:
    """Values of one window, all of one token budget: where it was halved on the way, they are made again.

    Then a run that is gone on with from its journal has the batches of one that never stopped. The journal has the
    window before, still being written, first.
    """
    budget, said = 0, len(session.notes)
    while budget != session.token_budget:
        if budget and job.on_halved:
            writing.result()
            job.on_halved(session.token_budget, "\n".join(session.notes[said:]))
            said = len(session.notes)
        report = None if budget else on_batch  # the second time its sequences are counted
        budget = session.token_budget
        values = run_sequences(
            session,
            tokens,
            output,
            ids=job.checked.ids[window],
            eos_pooled=None if flags is None else flags[window],
            on_batch=report,
        )
    return values
