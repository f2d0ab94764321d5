"""Signals that end a run: after the first, the run finishes its window; after the second, it ends at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# Ctrl-C, the end of a scheduler's job, a closed terminal. Windows has no SIGHUP.
ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Stop:
    """A signal handler that notes the name of the signal in `asked`; "" = no signal came."""

    def __init__(self) -> None:
        self.asked = ""

    def __call__(self, number: int, _frame: object) -> None:
        """Note a signal. Prints nothing, because the signal may come in the middle of a write."""
        name = signal.Signals(number).name
        if self.asked:
            self.asked = f"a second {name}"
            raise KeyboardInterrupt
        self.asked = name


@contextmanager
def handled(handler: Callable[[int, Any], None], numbers: list[Any] = ENDING) -> Iterator[None]:
    """Let `handler` handle these signals. A signal that is ignored (nohup, a background job) stays ignored.

    Outside the main thread this does nothing, because Python allows signal handlers only there.
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
