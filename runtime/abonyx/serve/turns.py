"""Readers in threads of their own, of which one runs at a time: the one that has used the least time.

Reading is Python code, which runs in one thread at a time in any case. Every few milliseconds a reader checks whether
another one has used less time, and then gives it the turn. So a short request never waits for one that takes seconds.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from abonyx.errors import EngineError

# How long a reader runs before it checks the others: far longer than a change of turns takes, and shorter than a score.
QUANTUM_S = 0.002


class Turn:
    """One reader's part.

    Args:
        turns: the object that all readers share.
    """

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._error: EngineError | None = None
        self._look_at = 0.0
        self.used_s = 0.0
        self.since = 0.0
        self.given = threading.Event()

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Hold the turn for the block. Others can get it at each step."""
        self._turns.wait(self)
        self._begin()
        try:
            self.step()
            yield
        finally:
            self._turns.leave()

    def step(self) -> None:
        """Called by the reader between small pieces of its work; waits while others have used less time.

        Raises:
            EngineError: the error that stop() was given.
        """
        self.refuse_stopped()
        now = time.monotonic()
        if now < self._look_at:
            return
        self.used_s += now - self.since
        self._turns.let_pass(self)
        self._begin()
        self.refuse_stopped()

    @contextlib.contextmanager
    def left(self) -> Iterator[None]:
        """Let others read while this reader only waits; take the turn again at the end."""
        self.used_s += time.monotonic() - self.since
        self._turns.leave()
        try:
            yield
        finally:
            self._turns.wait(self)
            self._begin()

    def refuse_stopped(self) -> None:
        """Raise the error that stop() was given, if it was."""
        if self._error is not None:
            raise self._error

    def stop(self, error: EngineError) -> None:
        """Let the reader raise this error at its next step, and run before other readers. Call it from any thread."""
        self._error = error
        self.used_s = 0.0

    def _begin(self) -> None:
        self.since = time.monotonic()
        self._look_at = self.since + QUANTUM_S


class Turns:
    """What the readers of one service share.

    Args:
        busy: says whether anything is being scored. If so, readers pause for half of the time.
    """

    def __init__(self, busy: Callable[[], bool]) -> None:
        self._busy = busy
        self._lock = threading.Lock()
        self._taken = False
        self._waiting: list[Turn] = []

    def wait(self, turn: Turn) -> None:
        """Take the turn once it is free and no waiting reader has used less."""
        with self._lock:
            if not self._taken:
                self._taken = True
                return
            turn.given.clear()
            self._waiting.append(turn)
        turn.given.wait()

    def let_pass(self, turn: Turn) -> None:
        """Give the turn to a reader that has used less time, if there is one, and wait until the turn comes back."""
        if self._busy():
            time.sleep(QUANTUM_S)
        with self._lock:
            if not any(other.used_s < turn.used_s for other in self._waiting):
                return
            turn.given.clear()
            self._waiting.append(turn)
            self._give()
        turn.given.wait()

    def leave(self) -> None:
        """Give the turn away without waiting for it."""
        with self._lock:
            self._give()

    def _give(self) -> None:
        """Give the turn to the reader with the least time used; of equals, to the first. The caller holds the lock."""
        self._taken = bool(self._waiting)
        if self._waiting:
            # min() takes the first of equals.
            least = min(self._waiting, key=lambda one: one.used_s)
            self._waiting.remove(least)
            least.given.set()
