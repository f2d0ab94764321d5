"""Give the files of a run to the workers of a cluster, one file at a time to each."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from abonyx.errors import (
    ConfigError,
    EngineError,
    OutOfDeviceMemory,
    ProviderError,
    ResumeRefused,
    RunInterrupted,
    StoreUnavailable,
    first_line,
)
from abonyx.logs import LOGGER
from abonyx.output.journal import Fact
from abonyx.ray.cluster import connected, idle_nodes, load_ray, needs, worker_count, workers_of_node
from abonyx.ray.worker import Worker
from abonyx.run.directory import failure
from abonyx.run.interrupts import Stop, handled
from abonyx.run.run_file import SHOWN, Done, File, RunFile
from abonyx.run.scorer import DirectoryRequest
from abonyx.wording import option

# Longest time until a signal is noticed.
_POLL_S = 0.5
# If no worker answers or scores for this long, the reason is logged.
_SILENCE_S = 30
# A file fails when MOST_DEATHS workers have died with it. The run fails when MOST_DEATHS workers in a row have died
# before they opened the model.
MOST_DEATHS = 3


@dataclass(eq=False)
class _Task:
    """A file to score, and the number of workers that died with it."""

    file: File
    deaths: int = 0


@dataclass
class RayDispatch:
    """The Dispatch that uses the workers of a cluster.

    Attributes:
        request, run_file, restart: the run.
        address: address of the cluster; "" = start Ray on this machine.
        worker: class of the actor; None = Worker. Workers of another class find inputs and output themselves, not on a
            file system that all nodes share.
        worker_args: further arguments of the actor.
        done: the files that this command scored.
        failed: file -> error.
        workers: number of workers at the start.
        run_seconds: seconds from the start of the first file to the end of the last.
    """

    request: DirectoryRequest
    run_file: RunFile
    restart: bool
    address: str = ""
    worker: type[Worker] | None = None
    worker_args: tuple[Any, ...] = ()
    done: list[Done] = field(default_factory=list)
    failed: dict[File, EngineError] = field(default_factory=dict)
    workers: int = 0
    run_seconds: float = 0.0
    _waiting: deque[_Task] = field(default_factory=deque)
    _calls: dict[Any, tuple[Any, _Task | None]] = field(default_factory=dict)
    _shared: list[Path] = field(default_factory=list)
    _opened: bool = False
    _deaths: int = 0
    _started: float = 0.0

    def run(self, files: Sequence[File]) -> None:
        """Score the files.

        Raises:
            ConfigError: Ray does not answer.
            RunInterrupted: a signal ended the run. The workers are ended at once; the rows of whole windows are kept.
            ResumeRefused: the run was started with another engine than the workers have.
            EngineError: a worker cannot open the model, or does not see the files.
        """
        stop = Stop()
        with connected(self.address), handled(stop):
            self._run(files, stop)

    def _run(self, files: Sequence[File], stop: Stop) -> None:
        ray = load_ray()
        config = self.request.run.config
        self._waiting.extend(map(_Task, files))
        if self.worker is None:
            self._shared = [self.run_file.path, *sorted({file.source.parent for file in files})]
        self.workers = min(len(files), worker_count(config))
        LOGGER.info(f"{len(files)} files; {self.workers} workers, each {_text(needs(config))}")
        if idle := idle_nodes(config):
            LOGGER.info(f"note: no room for a worker on {len(idle)} of the cluster's nodes: {'; '.join(idle[:SHOWN])}")
        try:
            for _ in range(self.workers):
                self._start_worker()
            last_answer, logged = time.monotonic(), False
            while self._calls:
                if stop.asked:
                    counts = f"stopped with {len(self.done)} of {len(files)} files done"
                    raise RunInterrupted(
                        f"{stop.asked}: {counts}",
                        f"The same command resumes the run; {option('restart')} starts it again.",
                    )
                ready, _ = ray.wait(list(self._calls), timeout=_POLL_S)
                for call in ready:
                    self._take(call)
                if ready or any(task for _, task in self._calls.values()):
                    last_answer = time.monotonic()
                elif not logged and time.monotonic() - last_answer >= _SILENCE_S:
                    logged = True
                    LOGGER.info(self._waited_for())
        finally:
            for worker, _ in self._calls.values():
                ray.kill(worker)
        self.run_seconds = time.perf_counter() - self._started

    def _start_worker(self) -> None:
        ray = load_ray()
        # max_restarts=0: the dispatch itself starts a new worker, because a worker that Ray restarts has no open model.
        worker = ray.remote(max_restarts=0, **needs(self.request.run.config))(self.worker or Worker).remote(
            self.request, *self.worker_args
        )
        config = self.request.run.config
        workers = min(self.workers, workers_of_node(config)) if config.provider == "cuda" else 1
        self._calls[worker.open.remote(self._shared, workers)] = worker, None

    def _waited_for(self) -> str:
        has = load_ray().available_resources()
        free = f"the cluster has {has.get('CPU', 0):g} CPU, {has.get('GPU', 0):g} GPU unused"
        needed = _text(needs(self.request.run.config))
        return f"no worker for {_SILENCE_S} s: waiting for {needed} of one node ({free}), or for the model to load"

    def _take(self, call: Any) -> None:
        """Handle the end of a call."""
        ray = load_ray()
        worker, task = self._calls.pop(call)
        try:
            answer = ray.get(call)
        except ray.exceptions.RayTaskError:
            ray.kill(worker)
            raise  # a defect in abonyx, with the worker's traceback
        except ray.exceptions.RayError as error:
            self._replace(worker, task, f"its worker died: {first_line(error, 500)}")
            return
        # Replace a worker whose engine failed, or that a signal ended; the run itself continues.
        broken = isinstance(answer, ProviderError | RunInterrupted) and not isinstance(answer, OutOfDeviceMemory)
        if isinstance(answer, StoreUnavailable) or (task is None and isinstance(answer, EngineError)):
            ray.kill(worker)
            raise answer
        if task is not None and broken:
            self._replace(worker, task, "\n".join(answer.marked))
            return
        if task is None:
            self._settle(worker, answer)
            if self.restart and not self._opened:
                # From here on, existing results belong to the run, so that it can be resumed after a stop.
                for waiting in self._waiting:
                    if waiting.file.target.exists():
                        self.run_file.begin(waiting.file)
            self._opened, self._deaths = True, 0
            self._started = self._started or time.perf_counter()
        else:
            self._note(task, answer)
        self._hand_out(worker)

    def _settle(self, worker: Any, facts: dict[str, Fact]) -> None:
        """Check the facts of a worker that has opened the model. They must be equal for all workers of a run."""
        try:
            self.run_file.settle(facts)
        except ResumeRefused as error:
            before = self.run_file.facts()
            other = [
                f"{key}: {before.get(key)} on the first node, {value} on this node"
                for key, value in facts.items()
                if value != before.get(key)
            ]
            if not self._opened or not other:
                raise  # for the first worker, this means that the results are from another run
            where = load_ray().get(worker.where.remote())
            what = f"node {where} would give other results than the node that opened the model first:\n  "
            what += "\n  ".join(other)
            fix = "Install the same abonyx and engine on every node with room for a worker, or remove the other nodes."
            raise ConfigError(what, fix) from error

    def _note(self, task: _Task, answer: Done | EngineError) -> None:
        if isinstance(answer, EngineError):
            self.failed[task.file] = answer
            LOGGER.info(f"{task.file.source.name}: failed: {failure(answer)}")
            return
        self.run_file.append(answer)
        self.done.append(answer)
        rate = answer.records / answer.seconds if answer.seconds else 0.0
        counts = f"{answer.records} scored, {answer.rejected} rejected; {rate:.1f} seq/s on {answer.node}"
        LOGGER.info(f"{answer.input}: {counts}; {len(self._waiting) + len(self._calls)} files to go")

    def _hand_out(self, worker: Any) -> None:
        if not self._waiting:
            load_ray().kill(worker)  # free its resources
            return
        task = self._waiting.popleft()
        file = task.file
        self.run_file.begin(file)
        restart = self.restart and not task.deaths
        self._calls[worker.score.remote(file.source, file.target, restart)] = worker, task

    def _replace(self, worker: Any, task: _Task | None, why: str) -> None:
        """Replace a worker that has ended, and give its file to another worker."""
        load_ray().kill(worker)
        if task is None:
            self._deaths += 1
            if self._deaths >= MOST_DEATHS:
                what = f"{self._deaths} workers in a row died before they had opened the model: {why}"
                raise EngineError(what, "Install abonyx and an engine on every node.")
        else:
            task.deaths += 1
            if task.deaths < MOST_DEATHS:
                LOGGER.info(f"{task.file.source.name}: {why.splitlines()[0]}; another worker resumes it")
                self._waiting.appendleft(task)
            else:
                fix = "If memory ran out, use fewer workers per node (more threads each), or smaller files."
                what = f"{task.file.source}: {task.deaths} workers failed with this file; {why}"
                self._note(task, EngineError(what, fix))
        if self._waiting:
            worker_count(self.request.run.config)  # raises if no node with room is left
            self._start_worker()


def _text(needed: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in needed.items() if count)
