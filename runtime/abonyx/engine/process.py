"""What this process may use of the machine, and giving memory back to it."""

from __future__ import annotations

import ctypes
import functools
import gc
import math
import os
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from abonyx.errors import ConfigError

_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
_MEMINFO = Path("/proc/meminfo")


def usable_processors() -> int:
    """Processors by affinity and container quota, at least 1.

    Not os.cpu_count(): in a container that counts the host's, and ONNX Runtime then sets affinities it may not set
    (onnxruntime#8313) and oversubscribes the quota.
    """
    allowed = allowed_processors()
    quota = _quota()
    # floor: a second thread on a quota of 1.5 is throttled every period
    return allowed if quota is None else max(1, min(allowed, math.floor(quota)))


def allowed_processors() -> int:
    """Processors by affinity alone."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_quota() -> float | None:
    """Processors that this process's container grants; None where there is no limit."""
    return _quota()


class Memory(NamedTuple):
    """What this process may have, in bytes; None where the system does not say (no /proc).

    Attributes:
        available: what of it is free or can be freed.
        source: "machine", or "container" where a cgroup's limit is the smaller.
    """

    total: int | None
    available: int | None
    source: str


def memory_bytes() -> Memory:
    """The machine's memory, or the container's limit where that is less."""
    try:
        rows = (line.split() for line in _MEMINFO.read_text().splitlines())
        kibibytes = {row[0].rstrip(":"): int(row[1]) for row in rows}
    except (OSError, ValueError, IndexError):
        kibibytes = {}
    total, available = (kibibytes[key] * 1024 if key in kibibytes else None for key in ("MemTotal", "MemAvailable"))
    limits = _memory_limits()
    limit = min((limit for limit, _ in limits), default=None)
    left = [left for _, left in limits] + ([] if available is None else [available])
    # version 1 writes "no limit" as a number that no machine has
    if limit is None or (total is not None and limit >= total):
        return Memory(total, min(left, default=None), "machine")
    return Memory(limit, min(left), "container")


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


def _quota(root: Path = _CGROUPS, membership: Path = _MEMBERSHIP) -> float | None:
    """Processors that this process's cgroup and those above it grant; None where there is no limit."""
    try:
        return min((quota for group in _groups("cpu", root, membership) for quota in _quota_of(group)), default=None)
    except (OSError, ValueError):
        return None


def _quota_of(group: Path) -> list[float]:
    """One cgroup's limit in processors, if it has one."""
    if (group / "cpu.max").exists():
        limit, period = (group / "cpu.max").read_text().split()
        return [] if limit == "max" else [int(limit) / int(period)]
    if (group / "cpu.cfs_quota_us").exists():
        limit_us = int((group / "cpu.cfs_quota_us").read_text())
        return [] if limit_us <= 0 else [limit_us / int((group / "cpu.cfs_period_us").read_text())]
    return []


def _memory_limits(root: Path = _CGROUPS, membership: Path = _MEMBERSHIP) -> list[tuple[int, int]]:
    """Bytes that this process's cgroup and those above it grant, and what is left of each."""
    try:
        return [limit for group in _groups("memory", root, membership) for limit in _memory_limit_of(group)]
    except (OSError, ValueError):
        return []


def _memory_limit_of(group: Path) -> list[tuple[int, int]]:
    """One cgroup's limit in bytes and what is left of it, if it has one."""
    for limit, used, freed in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        if (group / limit).exists() and (text := (group / limit).read_text().strip()) != "max":
            rows = (line.split() for line in (group / "memory.stat").read_text().splitlines())
            # The page cache counts as used; of it at least the inactive part can be freed.
            cached = sum(int(count) for name, count in rows if name == freed)
            return [(int(text), max(0, int(text) - int((group / used).read_text()) + cached))]
    return []


def _groups(controller: str, root: Path, membership: Path) -> Iterator[Path]:
    """This process's cgroup, those above it, and the mount.

    Args:
        controller: "cpu" or "memory".
        root: where the cgroup file systems are mounted (version 2 here, version 1's in the controller's folder).
        membership: one "ID:CONTROLLERS:PATH" a line; version 2's has no controllers.
    """
    for line in membership.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = root / controller if controllers else root
        here = mount / path.lstrip("/")
        # A container's own mount begins at its cgroup, whatever the path says: the mount is always looked at.
        for group in dict.fromkeys([here, *here.parents, mount]):
            if group.is_relative_to(mount):
                yield group


def release_memory() -> None:
    """Collect garbage and return freed pages to the system; glibc keeps them otherwise (onnxruntime#26831)."""
    gc.collect()
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)


def skip_exit_handlers_after_fork() -> None:
    """Let every child forked from now on end without the C library's exit handlers, as multiprocessing's children do.

    ONNX Runtime's own handlers destroy a condition variable on which the parent's threads wait: a child that leaves by
    sys.exit or an uncaught error hangs there, and its parent in waitpid. Python's clean-up comes before them, and is
    kept. Without effect where the C library has no on_exit (it is glibc's).
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "on_exit"):
        # on_exit(f, x): exit(status) calls f(status, x), the last registered first.
        os.register_at_fork(after_in_child=functools.partial(libc.on_exit, libc._exit, None))


def keep_forever(thing: object) -> None:
    """Never destroy an object in this process, not even at exit."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def caller_outside(files: Collection[str]) -> str:
    """File and line of the innermost frame that is in none of these files."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename in files:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
