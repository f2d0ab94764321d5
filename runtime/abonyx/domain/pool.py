"""Judging in child processes: immunum holds the interpreter's lock, so threads do not help.

Each child has a thread of this process that hands it work and waits for its answer. Judging a sequence twice gives the
same judgement, so another child can judge again what a child did not finish.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType

from abonyx.domain.child import Child, ChildEnded, OtherRules, Share
from abonyx.domain.flags import Judgement, judge, judged_by
from abonyx.engine.process import can_start_python, usable_processors
from abonyx.errors import EngineError, first_line
from abonyx.logs import LOGGER
from abonyx.wording import option

# A child starts in a fifth of a second, in which one process judges some 1,500 records.
MIN_POOLED = 8_000
MAX_CHILDREN = 8
# Number of records of a run that a child judges in one call, which takes about 0.1 s.
PIECE = 500
# Number of processes on this machine that share its processors for judging, child processes not counted.
_judging_here = 1
# After a failed start of a process, the next is tried this much later.
_RETRY_S = 30.0
# Small waiting tasks go to a child together, up to this many sequences, because a call costs about as
# much as one sequence.
_TOGETHER = 16


@dataclass(eq=False)
class _Task:
    share: Share
    future: Future[list[Judgement]] = field(default_factory=Future)


class Judges:
    """Child processes that judge sequences until close(). Any thread may use them.

    Args:
        processes: number of child processes, at least 1. They start in the background. If the system cannot start
            one, its share of the work is done in this process.

    Raises:
        EngineError: the system cannot start a thread.
    """

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._children: set[Child] = set()
        self._judged_by = judged_by()
        self._process = os.getpid()
        self._failed_at = -_RETRY_S  # when a process could not be started, by time.monotonic()
        self._threads = [threading.Thread(target=self._work, name="judging", daemon=True) for _ in range(processes)]
        try:
            for thread in self._threads:
                thread.start()
        except BaseException as error:
            self.close()
            if isinstance(error, RuntimeError):
                fix = f"Let this process start more threads; {option('domain')} off scores without judging."
                raise EngineError(f"a thread that judges records cannot be started: {error}", fix) from error
            raise

    def __enter__(self) -> Judges:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def submit(self, sequences: Sequence[str], chains: Collection[str]) -> Future[list[Judgement]]:
        """Request the judgements of sequences.

        Args:
            sequences: ASCII texts, which are judged in one call.
            chains: as in flags.judge.

        Returns:
            A future. Its result() is what flags.judge returns. It raises EngineError if the sequences ended two
            children, one after the other, or after close().
        """
        task = _Task(Share(list(sequences), tuple(chains)))
        if os.getpid() != self._process:  # a fork has none of the threads, and the lock may be held for ever
            task.future.set_exception(_closed())
            return task.future
        with self._lock:
            if self._closed:
                task.future.set_exception(_closed())
            else:
                self._tasks.put(task)
        return task.future

    def close(self) -> None:
        """End the children. Unfinished futures raise EngineError. A second call does nothing."""
        with self._lock:
            self._closed = True
            self._tasks.put(None)
            for child in self._children:
                child.kill()
        for thread in self._threads:
            if thread.ident is not None:  # it was started
                thread.join()
        with contextlib.suppress(queue.Empty):
            while True:
                task = self._tasks.get_nowait()
                if task is not None and task.future.set_running_or_notify_cancel():
                    task.future.set_exception(_closed())

    def _work(self) -> None:
        """Run one thread: start a child, and give it the waiting tasks until close()."""
        child = self._started()
        while tasks := self._waiting():
            wanted = [task for task in tasks if task.future.set_running_or_notify_cancel()]
            try:
                child = self._judge(child, wanted) if wanted else child
            except BaseException as error:  # after any error, the tasks are completed and the thread goes on
                child = None  # it was ended
                for task in wanted:
                    if not task.future.done():
                        task.future.set_exception(_fault(error))
        if child is not None:
            self._end(child)

    def _waiting(self) -> list[_Task]:
        """The next tasks, few enough for one call; none after close()."""
        tasks: list[_Task] = []
        count = 0
        while count < _TOGETHER:
            try:
                task = self._tasks.get(block=not tasks)
            except queue.Empty:
                break
            if task is None:
                self._tasks.put(None)  # for the other threads
                break
            tasks.append(task)
            count += len(task.share.sequences)
        return tasks

    def _judge(self, child: Child | None, tasks: list[_Task], *, again: bool = False) -> Child | None:
        """Complete the tasks; return the child to use next. If a child ends, each task is tried once more, alone."""
        child = child or self._started()
        if child is None:
            for task in tasks:
                self._judge_here(task)
            return None
        try:
            answers = child.judge([task.share for task in tasks])
        except ChildEnded as ended:
            self._end(child)
            if self._closed or again or isinstance(ended, OtherRules):
                for task in tasks:
                    task.future.set_exception(_closed() if self._closed else _failed(ended))
                return None
            LOGGER.warning(f"a process that judges records ended with {_code(ended)}; another one is started")
            child = None
            for task in tasks:
                child = self._judge(child, [task], again=True)
            return child
        except BaseException:
            self._end(child)
            raise
        for task, judgements in zip(tasks, answers, strict=True):
            task.future.set_result(judgements)
        return child

    def _judge_here(self, task: _Task) -> None:
        if self._closed:
            task.future.set_exception(_closed())
            return
        try:
            task.future.set_result(judge(task.share.sequences, task.share.chains))
        except BaseException as error:  # immunum's panics are BaseExceptions
            task.future.set_exception(_fault(error))

    def _started(self) -> Child | None:
        """A new child; None if the system cannot start one now, or after close()."""
        with self._lock:
            if self._closed or time.monotonic() < self._failed_at + _RETRY_S:
                return None
        try:
            child = Child(self._judged_by)
        except Exception as error:  # after any error, the thread must go on
            with self._lock:
                if time.monotonic() >= self._failed_at + _RETRY_S:
                    LOGGER.warning(
                        f"a process that judges records cannot be started ({error}); this process judges them"
                    )
                self._failed_at = time.monotonic()
            return None
        with self._lock:
            if not self._closed:
                self._children.add(child)
                return child
        child.end()
        return None

    def _end(self, child: Child) -> None:
        with self._lock:
            self._children.discard(child)
        child.end()


def judge_in_children(
    sequences: Collection[str], chains: Collection[str] = ("H",), children: int | None = None
) -> list[Judgement]:
    """Judge with the same result as flags.judge, in several processes if that is faster.

    Args:
        sequences, chains: as in flags.judge.
        children: how many processes to start; 0 = judge here; None = choose by the work and the processors.

    Raises:
        ValueError: an unknown chain.
        EngineError: two children, one after the other, did not finish the same sequences.
    """
    judge((), chains)  # raises if a chain is unknown
    unique = list(dict.fromkeys(sequences))
    if children is None:
        children = chosen_children(len(unique))
    # Only ASCII text goes to the children: a lone surrogate cannot be sent as UTF-8. Other text is not a protein, so
    # it is refused here at no cost.
    portable = [sequence for sequence in unique if sequence.isascii()] if children else []
    if not portable:
        return judge(sequences, chains)
    judgements: dict[str, Judgement] = {}
    with Judges(min(children, len(portable))) as judges:
        for piece, future in [(piece, judges.submit(piece, chains)) for piece in pieces(portable, children)]:
            judgements.update(zip(piece, future.result(), strict=True))
    others = [sequence for sequence in unique if sequence not in judgements]
    judgements.update(zip(others, judge(others, chains), strict=True))
    return [judgements[sequence] for sequence in sequences]


def pieces(sequences: Sequence[str], children: int) -> Iterator[Sequence[str]]:
    """Split the sequences, in order, into pieces of PIECE, or smaller ones so that every child gets one."""
    size = min(PIECE, -(-len(sequences) // children))
    return (sequences[start : start + size] for start in range(0, len(sequences), size))


def share_processors(processes: int) -> None:
    """Divide this machine's processors by the number of processes that judge there at the same time, this one included.

    Without this, each of them would start child processes for the whole machine.
    """
    global _judging_here
    _judging_here = processes


def judging_processors() -> int:
    """Number of processors that this process and its child processes may use while they judge; 0 = less than one."""
    return usable_processors() // _judging_here


def chosen_children(unique: int) -> int:
    """Number of processes for `unique` different records: at most half of the processors and MAX_CHILDREN; 0 = none."""
    processors = judging_processors()
    if unique < MIN_POOLED or processors < 4 or not can_start_python():
        return 0
    return min(MAX_CHILDREN, processors // 2, unique // (MIN_POOLED // 4))


def _code(ended: ChildEnded) -> str:
    """The exit code alone, because a log must not contain what the child printed."""
    return ended.reason.partition(":")[0]


def _failed(ended: ChildEnded) -> EngineError:
    if isinstance(ended, OtherRules):
        what = f"a package was replaced while this process ran: records would be judged by {ended.reason}"
        return EngineError(what, "Start this process again.")
    return EngineError(
        f"two processes ended while they judged the same records: {ended.reason}",
        f"Try again. If it fails again, report the message; {option('domain')} off scores without judging.",
    )


def _fault(error: BaseException) -> EngineError:
    return EngineError(
        f"unexpected {type(error).__name__} while records were judged: {first_line(error)}",
        f"Try again. If it fails again, report the message; {option('domain')} off scores without judging.",
    )


def _closed() -> EngineError:
    return EngineError("the processes that judge records were ended", "Try again.")
