"""What the routes do: read a request, wait for its scores, and reload the model."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from fastapi import Request

from abonyx.config import RuntimeConfig
from abonyx.errors import EngineError, InputError, RequestRefused
from abonyx.input.checked import Input
from abonyx.input.limits import no_step
from abonyx.serve.answers import EmbedRequest
from abonyx.serve.judging import Judging, is_small, judged_as_sent, judged_texts
from abonyx.serve.metrics import Metrics
from abonyx.serve.model import Model
from abonyx.serve.problems import CLIENT_LEFT
from abonyx.serve.queries import FileQuery
from abonyx.serve.requests import (
    JSON,
    PLAIN,
    Asked,
    check_file,
    check_json,
    content_type,
    decode,
    read_body,
)
from abonyx.serve.scheduler import RETRY_AFTER_S, Scheduler
from abonyx.serve.settings import Settings
from abonyx.serve.turns import Turn, Turns

# Seconds after which a waiting request checks again whether its client is there, and a stream may report progress.
LOOK_S = 0.2

Value = TypeVar("Value")


class Service:
    """What the routes share.

    Args:
        load: returns the current config, for a reload; may raise any EngineError.
        judging: judges the records; None = the readers of the requests judge.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        settings: Settings,
        metrics: Metrics,
        load: Callable[[], RuntimeConfig],
        judging: Judging | None = None,
    ) -> None:
        self.scheduler = scheduler
        self.settings = settings
        self.metrics = metrics
        self._load = load
        self._judging = judging or Judging()
        self._turns = Turns(lambda: scheduler.busy)
        # One thread for each request in progress; most of them wait for their turn.
        self._readers = ThreadPoolExecutor(settings.max_requests, "reading")

    async def read(self, request: Request, work: Callable[[Turn], Value], until: float) -> Value:
        """Run a reader in a thread; returns its result. Raises RequestRefused if time runs out or the client leaves."""
        turn = Turn(self._turns)

        def read() -> Value:
            with turn.taken():
                return work(turn)

        reading = asyncio.get_running_loop().run_in_executor(self._readers, read)
        try:
            while True:
                left = until - time.monotonic()
                await asyncio.wait((reading,), timeout=max(0.0, min(LOOK_S, left)))
                if reading.done():
                    return reading.result()
                if left <= 0:
                    raise out_of_time("was not read", self.settings)
                if await request.is_disconnected():
                    raise client_left()
        finally:
            turn.stop(client_left())
            reading.cancel()  # its result is not used

    async def received_json(self, request: Request) -> tuple[bytes, float]:
        """The body of a JSON request, and its deadline as in `checked`. Raises an EngineError."""
        return await self._received(request, content_type(request, files=False))

    async def _received(self, request: Request, media_type: str) -> tuple[bytes, float]:
        if media_type == JSON and request.query_params:
            named = ", ".join(sorted(request.query_params.keys()))[:200]
            raise InputError(f"request: {named} in the query of a JSON request", "Put it into the JSON.")
        body = await read_body(request, self.settings)
        return body, time.monotonic() + self.settings.request_timeout_s

    async def checked(
        self, request: Request, model: Model, kind: type[Asked], query: FileQuery
    ) -> tuple[Input, Asked, float]:
        """A request's sequences, checked against a model; its options, from the body or the query; and its deadline.

        The deadline is request_timeout_s after the whole body was received, by time.monotonic().

        Raises:
            EngineError: see requests.py.
        """
        media_type = content_type(request)
        body, until = await self._received(request, media_type)
        if media_type == JSON:
            checked, asked = await self._checked_json(request, body, model, kind, until)
        else:
            asked = kind(sequences=[], **query.asked())
            read_file = functools.partial(
                check_file,
                body,
                asked,
                model=model,
                settings=self.settings,
                id_column=query.id_column,
                sequence_column=query.sequence_column,
                heavy_column=query.heavy_column,
                light_column=query.light_column,
                plain=media_type == PLAIN,
                find_label=query.finds_labels,
            )
            checked = await self.read(
                request, lambda turn: read_file(turn.step, judge_by=self._judging.of_reader(turn)), until
            )
        self.metrics.rejected_records.inc(len(checked.rejected))
        return checked, asked, until

    async def _checked_json(
        self, request: Request, body: bytes, model: Model, kind: type[Asked], until: float
    ) -> tuple[Input, Asked]:
        if not self._judging.beside or not is_small(body):
            return await self.read(request, functools.partial(self._read_json, body, model, kind), until)
        # Decode in this thread, because a handover to a reader would take longer than the decoding.
        asked = decode(body, kind, self.settings)
        if not judged_as_sent(asked, model):
            return await self.read(request, lambda turn: (self._check_json(asked, model, turn), asked), until)
        try:
            async with asyncio.timeout(until - time.monotonic()):
                judge_by = await self._judging.known(*judged_texts(asked, model))
        except TimeoutError:
            raise out_of_time("was not judged", self.settings) from None
        return check_json(asked, model, self.settings, no_step, judge_by), asked

    def _read_json(self, body: bytes, model: Model, kind: type[Asked], turn: Turn) -> tuple[Input, Asked]:
        asked = decode(body, kind, self.settings)
        return self._check_json(asked, model, turn), asked

    def _check_json(self, asked: EmbedRequest, model: Model, turn: Turn) -> Input:
        return check_json(asked, model, self.settings, turn.step, self._judging.of_reader(turn))

    async def reload(self) -> None:
        """Read the config again, and return after the scheduler has opened the model that it names.

        Raises:
            RequestRefused: 500, the model cannot be opened; 503, the service cannot reload now.
        """
        changed = asyncio.Event()
        try:
            config = await asyncio.get_running_loop().run_in_executor(self._readers, self._load)
            over = self.scheduler.reload(config, _setting(changed))
        except RequestRefused:
            raise
        except EngineError as error:  # the service's own config is at fault, not the request
            what, fix = error.marked
            raise RequestRefused(500, "reload_failed", f"nothing was reloaded: {what}", fix) from error
        while not over():
            await changed.wait()


def out_of_time(state: str, settings: Settings, fix: str = "Send fewer at a time, or later.") -> RequestRefused:
    """The error for a request that took longer than request_timeout_s; `state` says how far it got."""
    return RequestRefused(
        503,
        "request_timeout",
        f"the request {state} in {settings.request_timeout_s:g} s, the most it may take",
        fix,
        retry_after_s=RETRY_AFTER_S,
    )


def client_left() -> RequestRefused:
    """The error for a request whose client left before its answer."""
    return RequestRefused(CLIENT_LEFT, "client_left", "the client left before its answer")


def _setting(event: asyncio.Event) -> Callable[[], None]:
    """A function for another thread that sets an event of this loop; it does nothing if the loop has ended."""
    loop = asyncio.get_running_loop()

    def changed() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the grace time was over
            loop.call_soon_threadsafe(event.set)

    return changed


class Waiting:
    """One request whose sequences are in the queue.

    Args:
        in_time: called with the number of scored sequences and the end of the request's time; raises if the request
            cannot end by then.
        no_time_fix: what the client can do when the request's time is over; None = the fix of any request.

    Attributes:
        job: the request in the queue. Its values are complete after change() has returned False.
    """

    def __init__(
        self,
        service: Service,
        request: Request,
        model: Model,
        checked: Input,
        heads: tuple[str, ...] | None,
        until: float,
        *,
        explain: bool = False,
        totals: bool = False,
        in_time: Callable[[int, float], None] | None = None,
        no_time_fix: str | None = None,
    ) -> None:
        self._in_time = in_time
        self._fixes = () if no_time_fix is None else (no_time_fix,)
        self._request = request
        self._scheduler = service.scheduler
        self._settings = service.settings
        self._until = until
        self._changed = asyncio.Event()
        changed = _setting(self._changed)
        self.job = self._scheduler.submit(
            model, checked.ids, checked.sequences, heads, changed, checked.light, explain=explain, totals=totals
        )

    async def change(self) -> bool:
        """Wait until more sequences are scored, at most LOOK_S; False if all are scored.

        Raises:
            EngineError: what scoring raised.
            RequestRefused: the time is over, or the client left.
        """
        if self.job.error is not None:
            raise self.job.error
        if self.job.settled:
            return False
        try:
            async with asyncio.timeout(LOOK_S):
                await self._changed.wait()
            self._changed.clear()
        except TimeoutError:
            pass
        if not self.job.settled:
            await self._look()
        return True

    async def _look(self) -> None:
        if time.monotonic() > self._until:
            state = f"had {self.job.done} of {len(self.job.ids)} sequences done"
            raise out_of_time(state, self._settings, *self._fixes)
        if self._in_time is not None:
            self._in_time(self.job.done, self._until)
        if await self._request.is_disconnected():
            raise client_left()

    async def finished(self) -> None:
        """Wait until all sequences are scored. If that fails, drop those that are still in the queue."""
        try:
            while await self.change():
                pass
        finally:
            self.drop()

    def drop(self) -> None:
        """Remove from the queue what is not scored yet."""
        self._scheduler.drop(self.job)
