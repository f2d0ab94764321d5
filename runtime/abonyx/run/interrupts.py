"""Signals that end a run: the first lets the window in hand be finished, the second ends at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# Ctrl-C, a scheduler's end, a closed terminal. Windows has no SIGHUP.
ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Stop:
    """Whether a signal asked the run to end, and which."""

    def __init__(self) -> None:
        self.asked = ""

    def __call__(self, number: int, _frame: object) -> None:
        """Take a signal. Nothing is printed here: it may have come in the middle of a write."""
        name = signal.Signals(number).name
        if self.asked:
            self.asked = f"a second {name}"
            raise KeyboardInterrupt
        self.asked = name


@contextmanager
def handled(handler: Callable[[int, Any], None], numbers: list[Any] = ENDING) -> Iterator[None]:
    """Have `handler` take these signals; one that is ignored (nohup, a shell's background job) stays ignored.

    Outside the main thread nothing changes: Python lets no other thread take signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in numbers}
    taken = [number for number, known in before.items() if known is not signal.SIG_IGN]
    for number in taken:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])
