"""Signals that wait for the end of an import."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

Handler = Callable[[int, FrameType | None], object]


@contextmanager
def signals_held() -> Iterator[None]:
    """Call Python's signal handlers after the block, not during it. For code that loses what a handler raises.

    A signal without a Python handler acts at once, as before. Outside the main thread, where no handler runs, nothing
    changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    handlers: dict[int, Handler] = {}
    try:
        for number in signal.valid_signals():
            if callable(handler := signal.getsignal(number)):
                handlers[number] = handler
                signal.signal(number, lambda came, _frame: arrived.append(came))
        yield
    finally:
        _restore(handlers)
        _deliver(arrived)


def _restore(handlers: dict[int, Handler]) -> None:
    """Set all handlers again, even if one that is already set raises an exception meanwhile."""
    try:
        while handlers:
            number = next(iter(handlers))
            signal.signal(number, handlers[number])
            del handlers[number]
    finally:
        if handlers:
            _restore(handlers)


def _deliver(arrived: list[int]) -> None:
    """Raise all signals that arrived, even if a handler raises an exception."""
    try:
        while arrived:
            signal.raise_signal(arrived.pop(0))
    finally:
        if arrived:
            _deliver(arrived)
