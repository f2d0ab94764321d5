"""The one thread that scores: requests wait in one queue, and it takes from all of them in fair rounds.

A round is a few batches. Each waiting request in turn gives enough sequences for one batch. So a large request does not
hold up small ones, and batches are full even if every request is small. The file has over 300 lines, because one lock
guards the queue, the session's turns and its reload, which have to be read together.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from abonyx.arrays import Float32Array, Float64Array
from abonyx.bundle.heads import record_chains
from abonyx.config import RuntimeConfig
from abonyx.contributions import Contributions, run_contributions
from abonyx.errors import EngineError, RequestRefused
from abonyx.logs import LOGGER
from abonyx.model import OpenModel
from abonyx.scoring import run_sequences, run_totals, tokenize
from abonyx.serve.jobs import QueuedJob, Share, heads_of, known_error, log_failure
from abonyx.serve.metrics import Metrics
from abonyx.serve.model import Model, log_notes, refuse_upstream_pooling
from abonyx.serve.speed import Speed
from abonyx.wording import Interface

# Batches of a round: enough to sort sequences by length, and so few that a small request that arrives meanwhile does
# not wait long.
ROUND_BATCHES = 8
# How long the first request of an idle queue waits for others to join it.
MAX_WAIT_S = 0.003
RETRY_AFTER_S = 1
# Opening takes seconds with a large model.
RETRY_AFTER_RELOAD_S = 5
NO_MODEL = "no_model"


class _Refusal(NamedTuple):
    """Why no request is taken. Each request gets a new error, because the traceback of a shared one would grow."""

    status: int
    reason: str
    what: str
    fix: str
    retry_after_s: int | None = None

    def error(self) -> RequestRefused:
        return RequestRefused(self.status, self.reason, self.what, self.fix, retry_after_s=self.retry_after_s)


_ENDING = _Refusal(503, "ending", "the service is ending", "Send it again later, or send it to another service.")
_RELOADING = _Refusal(503, "reloading", "the model is being reloaded", "Send it again.", RETRY_AFTER_RELOAD_S)
DEAD = _Refusal(500, "dead", "the scoring thread ended; the log says why", "Start the service again.")


@dataclass(eq=False)
class _Reload:
    config: RuntimeConfig
    changed: Callable[[], object]
    finished: bool = False
    error: EngineError | None = None


class Scheduler:
    """Owns the open session and the thread that uses it; every method may be called from any thread.

    Args:
        session: open; the caller closes it, after stop().
        max_queued_sequences: most sequences waiting.
        validated: metrics.json of `abonyx evaluate --by`, read at each opening of the model; None = none.
        request_timeout_s: as in the settings; the speed is measured over this time.
    """

    def __init__(
        self,
        session: OpenModel,
        max_queued_sequences: int,
        metrics: Metrics,
        validated: Path | None = None,
        request_timeout_s: float = 600.0,
    ) -> None:
        self._session = session
        self._max_queued = max_queued_sequences
        self._metrics = metrics
        self._changed = threading.Condition()
        self._waiting: deque[QueuedJob] = deque()
        self._queued_sequences = self._queued_tokens = 0
        self._unsettled: set[QueuedJob] = set()
        self._reload: _Reload | None = None
        self._refusal: _Refusal | None = None  # None = requests are taken
        self._stopping = False
        self._validated = validated
        self._model = Model.of(session, validated)
        self._request_timeout_s = request_timeout_s
        self._speed = Speed(request_timeout_s)
        metrics.session_opens.labels("opened").inc()
        log_notes(session, self._model)
        metrics.watch(lambda: self._queued_sequences, lambda: len(self._unsettled), lambda: self._refusal is None)
        # Called by the scoring thread if it ends by itself.
        self.on_death: Callable[[], object] = lambda: None
        self._thread = threading.Thread(target=self._work, name="scoring")
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the scoring thread runs."""
        return self._thread.is_alive()

    @property
    def dead(self) -> bool:
        """Whether the scoring thread ended by itself: a defect."""
        return self._refusal is DEAD

    @property
    def busy(self) -> bool:
        """Whether a request waits or is being scored."""
        return bool(self._unsettled)

    def model(self) -> Model:
        """The open model.

        Raises:
            RequestRefused: requests are not taken because of a reload, a failed reload, or the end of the service.
        """
        with self._changed:
            if self._refusal is not None:
                raise self._refusal.error()
            return self._model

    def submit(
        self,
        checked_for: Model,
        ids: list[str],
        sequences: list[str],
        heads: tuple[str, ...] | None,
        changed: Callable[[], object],
        light: Sequence[str] = (),
        *,
        explain: bool = False,
        totals: bool = False,
    ) -> QueuedJob:
        """Queue cleaned, valid sequences (one at least).

        Args:
            checked_for: the model they were checked against.
            heads: names of the model's heads whose values are wanted; None = the embedding.
            light: the light chains of pairs, if these heads need both chains.
            explain: whether contributions to these heads are wanted instead of values.
            totals: whether logits are wanted instead of probabilities, for records of one chain.

        Raises:
            RequestRefused: requests are not taken, the model has changed meanwhile, or the queue is full.
        """
        width = 0 if explain or totals else checked_for.bundle.manifest.embedding_width if heads is None else len(heads)
        values = np.empty((len(sequences), width), np.float32)
        chains = record_chains([head for head in checked_for.bundle.manifest.heads if head.name in (heads or ())])
        job = QueuedJob(ids, sequences, heads, values, changed, list(light), chains, {} if explain else None)
        if totals:
            job.totals = np.empty((len(sequences), len(heads or ())), np.float64)
        with self._changed:
            if self.model() is not checked_for:
                raise RequestRefused(
                    503,
                    "reloaded",
                    "the model was reloaded while the request was read",
                    "Send it again.",
                    retry_after_s=RETRY_AFTER_S,
                )
            if self._queued_sequences + len(sequences) > self._max_queued:
                raise RequestRefused(
                    503,
                    "queue_full",
                    f"the queue is full: {self._queued_sequences} sequences wait, the request has {len(sequences)}, "
                    f"and max_queued_sequences is {self._max_queued}",
                    "Send it again later, or fewer sequences at a time.",
                    retry_after_s=RETRY_AFTER_S,
                )
            self._waiting.append(job)
            self._unsettled.add(job)
            self._count(job, job.left, 1)
            self._changed.notify()
        return job

    def drop(self, job: QueuedJob) -> None:
        """Forget a job whose client left; nothing happens to one that is settled."""
        if not job.settled:
            with self._changed:
                self._fail(job, RequestRefused(503, "dropped", "the request was dropped"), notify=False)

    def seconds_for(self, sequence: str, count: int) -> float | None:
        """Seconds for `count` sequences of this length alone, at the speed of the last minutes.

        None = too little was measured.
        """
        with self._changed:
            return self._speed.seconds_for(count * self._tokens_of(sequence))

    def reload(self, config: RuntimeConfig, changed: Callable[[], object]) -> Callable[[], bool]:
        """Take no more requests, finish the queued ones, then reload the session.

        Args:
            changed: called by the scoring thread at the end.

        Returns:
            A function that says whether the reload is over, and raises the error of a failed reload.

        Raises:
            RequestRefused: another reload is under way, or the service ends.
            ConfigError: the config cannot be served; nothing has changed.
        """
        refuse_upstream_pooling(config)
        asked = _Reload(config, changed)
        with self._changed:
            if self._reload is not None or self._stopping or self._refusal is DEAD:
                raise (self._refusal or _RELOADING).error()
            self._reload = asked
            self._refusal = _RELOADING
            self._changed.notify()

        def over() -> bool:
            if asked.error is not None:
                raise asked.error
            return asked.finished

        return over

    def stop(self) -> None:
        """Take no more requests, finish the queued ones, and end the thread. It can be called again."""
        with self._changed:
            self._stopping = True
            self._refusal = _ENDING
            self._changed.notify()
        self._thread.join()

    def cut_off(self) -> None:
        """Stop without finishing requests. Wait only for the current batch, or for the model that is being opened."""
        with self._changed:
            self._stopping = True  # before the session is closed, so that no reload opens it again
            self._refusal = _ENDING
        self._session.close()
        self.stop()

    def _work(self) -> None:
        try:
            while self._wait():
                with self._changed:
                    shares = self._take_round()
                    # Decide under the same lock: queued jobs must finish on the model that they were checked against.
                    reload = None if self._waiting or self._stopping else self._reload
                if shares:
                    self._score(shares)
                elif reload is not None:
                    self._reload_session(reload)
        finally:
            # However the loop ended, no request must wait for ever.
            with self._changed:
                self._refusal = refusal = _ENDING if self._stopping else DEAD
                for job in list(self._unsettled):
                    self._fail(job, refusal.error())
                if self._reload is not None:
                    self._end_reload(self._reload, refusal.error())
            if refusal is DEAD:
                self.on_death()

    def _wait(self) -> bool:
        """Wait for work, up to MAX_WAIT_S longer if there is less than a full round; False at the end."""
        with self._changed:
            if self._waiting:
                return True
            while not (self._waiting or self._reload or self._stopping):
                self._changed.wait()
            until = time.monotonic() + MAX_WAIT_S
            while self._waiting and not self._round_is_full() and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
            return bool(self._waiting) or not self._stopping

    def _round_is_full(self) -> bool:
        if self._stopping or self._reload:  # no more requests will come
            return True
        return self._queued_tokens >= ROUND_BATCHES * self._session.budget.tokens

    def _tokens(self, job: QueuedJob, rows: Iterable[int]) -> int:
        return sum(self._tokens_of(chain) for row in rows for chain in job.of_row(row))

    def _tokens_of(self, sequence: str) -> int:
        fixed = self._model.limit.static_tokens
        return len(sequence) + 2 if fixed is None else fixed

    def _count(self, job: QueuedJob, rows: Collection[int], sign: int) -> None:
        self._queued_sequences += sign * len(rows)
        self._queued_tokens += sign * self._tokens(job, rows)

    def _take_round(self) -> list[Share]:
        """A batch's worth of each job in turn until the round is full; unfinished jobs come last in the next."""
        with self._changed:
            if not self._waiting:
                return []
            company = self._waiting[0].company
            turns = deque(job for job in self._waiting if job.company == company)
            others = [job for job in self._waiting if job.company != company]
            room = ROUND_BATCHES * self._session.budget.tokens
            taken: dict[QueuedJob, list[int]] = {}
            while turns and room > 0:
                job = turns.popleft()
                if len(job.left) == len(job.sequences):
                    self._metrics.wait_seconds.observe(time.monotonic() - job.queued_at)
                room -= self._take_turn(job, taken.setdefault(job, []), min(room, self._session.budget.tokens))
                if job.left:
                    turns.append(job)
            self._waiting = deque([*others, *turns])
            for job, rows in taken.items():
                self._count(job, rows, -1)
            return [Share(job, rows) for job, rows in taken.items()]

    def _take_turn(self, job: QueuedJob, rows: list[int], room: int) -> int:
        """Move a job's sequences to `rows` until `room` tokens are used, at least one; returns the tokens."""
        tokens = 0
        while job.left and tokens < room:
            row = job.left.popleft()
            rows.append(row)
            tokens += self._tokens(job, [row])
        return tokens

    def _score(self, shares: list[Share]) -> None:
        """Run a round and give each job its values. If it fails, run each job alone, so that each has its own error."""
        started = time.monotonic()
        heads = heads_of(shares)
        records = [job.of_row(row) for job, rows in shares for row in rows]
        ids = [job.ids[row] for job, rows in shares for row in rows]
        session, on_batch = self._session, self._metrics.batch_sequences.observe
        explain = shares[0].job.explained is not None
        found: Float32Array | Float64Array | list[Contributions]
        try:
            tokens = tokenize(session.manifest, *zip(*records, strict=True))
            if explain:
                found = run_contributions(session, tokens, heads or [], session.budget, on_batch=on_batch)
            elif shares[0].job.totals is not None:
                found = run_totals(session, tokens, heads or [], session.budget, ids=ids, on_batch=on_batch)
            else:
                found = run_sequences(session, tokens, heads, session.budget, ids=ids, on_batch=on_batch)
        except Exception as error:
            if len(shares) > 1:
                for share in shares:
                    self._score([share])
                return
            with self._changed:
                known = known_error(error)
                if not shares[0].job.settled:  # its client is still there
                    log_failure(known, len(records))
                self._fail(shares[0].job, known)
            return
        seconds = time.monotonic() - started
        self._metrics.inference_seconds.observe(seconds)
        round_tokens = sum(self._tokens(job, rows) for job, rows in shares)
        if heads is not None and not explain and round_tokens >= session.budget.tokens:
            with self._changed:
                self._speed.add(round_tokens, seconds)  # a smaller round says little about a full one
        output = "contributions" if explain else "embedding" if heads is None else "p_nonspecific"
        self._metrics.sequences.labels(output).inc(len(tokens.rows))
        self._metrics.tokens.inc(sum(map(len, tokens.rows)))
        self._hand_back(shares, heads, found)

    def _hand_back(
        self, shares: list[Share], heads: list[str] | None, found: Float32Array | Float64Array | list[Contributions]
    ) -> None:
        """Give each job its rows of the results and, if they are values, only the columns of its own heads."""
        start = 0
        with self._changed:
            for job, rows in shares:
                if job.error is None:
                    own = found[start : start + len(rows)]
                    if isinstance(own, np.ndarray):
                        columns = None if heads is None else [heads.index(name) for name in job.heads or ()]
                        wanted = job.values if job.totals is None else job.totals
                        wanted[rows] = own if columns is None else own[:, columns]
                    elif job.explained is not None:
                        job.explained.update(zip(rows, own, strict=True))
                    job.done += len(rows)
                    if job.settled:
                        self._unsettled.discard(job)
                    job.changed()
                start += len(rows)

    def _fail(self, job: QueuedJob, error: EngineError, *, notify: bool = True) -> None:
        if job.settled:
            return
        job.error = error
        self._count(job, job.left, -1)
        job.left.clear()
        self._unsettled.discard(job)
        if job in self._waiting:
            self._waiting.remove(job)
        if notify:
            job.changed()

    def _reload_session(self, asked: _Reload) -> None:
        LOGGER.info("reloading the model")
        try:
            self._session.reload(asked.config)
            model = Model.of(self._session, self._validated)
        except Exception as unknown:  # any error that a bundle can cause
            error = known_error(unknown)
            self._session.close()  # the session is still open if only the card cannot be read
            said = error.text(Interface.COMMAND_LINE)  # whoever started the service reads the log, and knows the flags
            LOGGER.error(f"reload failed; no request is taken until one succeeds: {said}")
            self._metrics.session_opens.labels("failed").inc()
            with self._changed:
                what, fix = error.marked
                self._refusal = _Refusal(503, NO_MODEL, f"no model is open: {what}", fix)
                self._end_reload(asked, RequestRefused(500, "reload_failed", what, fix))
            return
        self._metrics.session_opens.labels("opened").inc()
        LOGGER.info(f"reloaded: {model.bundle.label()}")
        log_notes(self._session, model)
        with self._changed:
            self._model, self._refusal, self._speed = model, None, Speed(self._request_timeout_s)
            self._end_reload(asked, None)

    def _end_reload(self, asked: _Reload, error: EngineError | None) -> None:
        if self._stopping:
            self._refusal = _ENDING
        self._reload = None
        asked.error, asked.finished = error, True
        asked.changed()
