"""A process has one open session: this module holds the slot for it, and handles a fork and the end of the process.

The session is described by a Protocol, because importing its class would be a circular import.
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
# Files of abonyx that are skipped when looking for the line where the user opened a session.
OPENING_FILES = frozenset(str(_PACKAGE / name) for name in ("session.py", "model.py", "engine/slot.py"))


class Holder(Protocol):
    """The part of a session that the slot uses."""

    @property
    def opened_at(self) -> str: ...
    @property
    def process_id(self) -> int: ...
    def close(self) -> None: ...


# Reentrant, because the garbage collector may run a session's __del__ while this thread holds the lock.
_lock = threading.RLock()
_holder: weakref.ref[Holder] | None = None
_exiting = False


def lock() -> threading.RLock:
    """The lock of the slot. It also guards counters of sessions. After a fork, the child gets a new lock."""
    return _lock


def holder() -> Holder | None:
    """The session that holds the slot; None if there is none."""
    return _holder() if _holder else None


def take(session: Holder) -> None:
    """Give the slot to a session.

    Raises:
        SessionInUse: another session holds it.
        SessionForked: a session of the parent held it when this process was forked.
        SessionClosed: the interpreter is ending.
    """
    global _holder
    with _lock:
        if _exiting:
            raise SessionClosed("the interpreter is ending", "Open sessions before the main thread returns.")
        other = holder()
        if other is not None and other.process_id != os.getpid():
            raise SessionForked(
                f"process {other.process_id} had an open session (opened at {other.opened_at}) when this process was "
                "forked from it",
                "Start workers with the 'spawn' method. Then each can open its own session.",
            )
        if other is not None:
            raise SessionInUse(
                f"a session is already open (opened at {other.opened_at})",
                "A process has one session. Call abonyx.close_session(), or close() or reload(config) on that session.",
            )
        _holder = weakref.ref(session)


def give_back(session: Holder) -> None:
    """Free the slot if this session holds it, or a session that no longer exists."""
    global _holder
    with _lock:
        if _holder is not None and _holder() in (session, None):
            _holder = None


@functools.cache
def guard_process() -> None:
    """Register exit handlers once, after the import of the engine: then they run before the engine's handlers."""
    atexit.register(_close_at_exit)
    skip_exit_handlers_after_fork()


def _close_at_exit() -> None:
    """Close a session that is open or being opened, and prevent later opens.

    If a daemon thread returned from ONNX Runtime, or from its import, while the interpreter ends, the process would
    abort.
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
    os.register_at_fork(after_in_child=_renew_lock)  # a child does not have the thread that held the lock
atexit.register(_close_at_exit)  # also here, because a thread may be importing the engine when the interpreter ends
