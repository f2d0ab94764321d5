"""One open session a process: who holds the slot, and what happens to it at a fork and at the end.

The module knows a session by a Protocol: importing its class would close a circle.
"""

from __future__ import annotations

import atexit
import functools
import os
import threading
import weakref
from pathlib import Path
from typing import Protocol

from abonyx.engine.process import skip_exit_handlers_after_fork
from abonyx.errors import SessionClosed, SessionForked, SessionInUse

_PACKAGE = Path(__file__).resolve().parents[1]
# Files whose frames are not the place where a user opened a session.
OPENING_FILES = frozenset(str(_PACKAGE / name) for name in ("session.py", "model.py", "engine/slot.py"))


class Holder(Protocol):
    """What the slot needs of a session."""

    @property
    def opened_at(self) -> str: ...
    @property
    def process_id(self) -> int: ...
    def close(self) -> None: ...


# Reentrant: the garbage collector may run a session's __del__ while this thread holds it.
_lock = threading.RLock()
_holder: weakref.ref[Holder] | None = None
_exiting = False


def lock() -> threading.RLock:
    """The lock of the slot, which guards what sessions count too; another one after a fork."""
    return _lock


def holder() -> Holder | None:
    """The session that holds the slot."""
    return _holder() if _holder else None


def take(session: Holder) -> None:
    """Give the slot to a session.

    Raises:
        SessionInUse: another one holds it.
        SessionForked: another one held it when this process was forked.
        SessionClosed: the interpreter is ending.
    """
    global _holder
    with _lock:
        if _exiting:
            raise SessionClosed("the interpreter is ending", "Open sessions before the main thread returns.")
        other = holder()
        if other is not None and other.process_id != os.getpid():
            raise SessionForked(
                f"a session was open in process {other.process_id} (at {other.opened_at}) when this one was forked",
                "Start workers with the 'spawn' method; each may then open a session of its own.",
            )
        if other is not None:
            raise SessionInUse(
                f"a session is already open, since {other.opened_at}",
                "One session a process: call abonyx.close_session(), or close() or reload(config) on that session.",
            )
        _holder = weakref.ref(session)


def give_back(session: Holder) -> None:
    """Free the slot if this session holds it, or one that is gone."""
    global _holder
    with _lock:
        if _holder is not None and _holder() in (session, None):
            _holder = None


@functools.cache
def guard_process() -> None:
    """Once a process, after the engine's import: its own exit handlers then run after ours."""
    atexit.register(_close_at_exit)
    skip_exit_handlers_after_fork()


def _close_at_exit() -> None:
    """Close what is open or being opened, and let nothing open after it.

    A daemon thread that came back from ONNX Runtime, or from its import, to a dying interpreter would abort it.
    """
    global _exiting
    with _lock:
        _exiting = True
        left = holder()
    if left is not None:
        left.close()


def _renew_lock() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)  # a thread that held it at the fork is not there to give it back
atexit.register(_close_at_exit)  # here too: a thread may be importing the engine when the interpreter ends
