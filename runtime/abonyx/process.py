"""What this process may use of the machine, and giving memory back to it."""

from __future__ import annotations

import ctypes
import gc
import math
import os
import sys
from pathlib import Path

from abonyx.errors import ConfigError

_CGROUP_V2 = Path("/sys/fs/cgroup/cpu.max")
_CGROUP_V1 = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
_CGROUP_V1_PERIOD = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")


def usable_processors() -> int:
    """Processors by affinity and container quota, at least 1.

    Not os.cpu_count(): in a container that counts the host's, and ONNX Runtime then sets affinities it may not set
    (onnxruntime#8313) and oversubscribes the quota.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota()
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def thread_count(asked: int | None, key: str) -> int:
    """Threads to start: those asked for, None = usable_processors().

    Args:
        asked: threads, from 1.
        key: the config key that asks, for the message.

    Raises:
        ConfigError: more than this process may use.
    """
    usable = usable_processors()
    if asked is not None and asked > usable:
        raise ConfigError(
            f"config: {key} is {asked}, this process may use {usable} (affinity and container quota)",
            f"Give at most {usable}, never more, or leave it out: threads that wait for a processor slow the rest.",
        )
    return asked or usable


def _quota() -> float | None:
    """Processors the cgroup grants, or None where there is no limit."""
    try:
        if _CGROUP_V2.exists():
            limit, period = _CGROUP_V2.read_text().split()
            return None if limit == "max" else int(limit) / int(period)
        if _CGROUP_V1.exists():
            limit_us = int(_CGROUP_V1.read_text())
            return None if limit_us <= 0 else limit_us / int(_CGROUP_V1_PERIOD.read_text())
    except (OSError, ValueError):
        return None
    return None


def release_memory() -> None:
    """Collect garbage and return freed pages to the system; glibc keeps them otherwise (onnxruntime#26831)."""
    gc.collect()
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)


def keep_forever(thing: object) -> None:
    """Never destroy an object in this process, not even at exit."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def caller_outside(filename: str) -> str:
    """File and line of the innermost frame that is not in `filename`."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename == filename:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
