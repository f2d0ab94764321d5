"""The processors and memory that this process may use; and functions about its memory and its end."""

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
    """Number of processors by affinity and container quota, at least 1.

    os.cpu_count() does not help: in a container it counts the host's processors. ONNX Runtime would then set affinities
    that it may not set (onnxruntime#8313), and use more threads than the quota allows.
    """
    allowed = allowed_processors()
    quota = _quota()
    # rounded down: with a quota of 1.5, a second thread would be stopped in every period
    return allowed if quota is None else max(1, min(allowed, math.floor(quota)))


def allowed_processors() -> int:
    """Number of processors by affinity only."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_quota() -> float | None:
    """Number of processors that the container allows; None if there is no limit."""
    return _quota()


class Memory(NamedTuple):
    """Memory that this process may use, in bytes; None if the system does not report it (no /proc).

    Attributes:
        total: all memory.
        available: the part that is free or can be freed.
        source: "machine", or "container" if a cgroup's limit is smaller.
    """

    total: int | None
    available: int | None
    source: str


def memory_bytes() -> Memory:
    """The machine's memory, or the container's limit if that is smaller."""
    try:
        rows = (line.split() for line in _MEMINFO.read_text().splitlines())
        kibibytes = {row[0].rstrip(":"): int(row[1]) for row in rows}
    except (OSError, ValueError, IndexError):
        kibibytes = {}
    total, available = (kibibytes[key] * 1024 if key in kibibytes else None for key in ("MemTotal", "MemAvailable"))
    limits = _memory_limits()
    limit = min((limit for limit, _ in limits), default=None)
    left = [left for _, left in limits] + ([] if available is None else [available])
    # cgroups version 1 writes "no limit" as a very large number
    if limit is None or (total is not None and limit >= total):
        return Memory(total, min(left, default=None), "machine")
    return Memory(limit, min(left), "container")


def thread_count(asked: int | None, key: str) -> int:
    """Number of threads to start.

    Args:
        asked: the requested number, at least 1; None = usable_processors().
        key: the config key of that number, for the message.

    Raises:
        ConfigError: the number is larger than the number of processors that this process may use.
    """
    usable = usable_processors()
    if asked is not None and asked > usable:
        raise ConfigError(
            f"config: {key} is {asked}, but this process may use {usable} processors (affinity and container quota)",
            f"Give at most {usable}, or leave it out. Threads that wait for a processor slow down the others.",
        )
    return asked or usable


def _quota(root: Path = _CGROUPS, membership: Path = _MEMBERSHIP) -> float | None:
    """Number of processors that this process's cgroup and its parents allow; None if there is no limit."""
    try:
        return min((quota for group in _groups("cpu", root, membership) for quota in _quota_of(group)), default=None)
    except (OSError, ValueError):
        return None


def _quota_of(group: Path) -> list[float]:
    """[limit of one cgroup in processors], or [] if it has none."""
    if (group / "cpu.max").exists():
        limit, period = (group / "cpu.max").read_text().split()
        return [] if limit == "max" else [int(limit) / int(period)]
    if (group / "cpu.cfs_quota_us").exists():
        limit_us = int((group / "cpu.cfs_quota_us").read_text())
        return [] if limit_us <= 0 else [limit_us / int((group / "cpu.cfs_period_us").read_text())]
    return []


def _memory_limits(root: Path = _CGROUPS, membership: Path = _MEMBERSHIP) -> list[tuple[int, int]]:
    """(limit, bytes left) of this process's cgroup and its parents, in bytes."""
    try:
        return [limit for group in _groups("memory", root, membership) for limit in _memory_limit_of(group)]
    except (OSError, ValueError):
        return []


def _memory_limit_of(group: Path) -> list[tuple[int, int]]:
    """[(limit, bytes left)] of one cgroup, or [] if it has no limit."""
    for limit, used, freed in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        if (group / limit).exists() and (text := (group / limit).read_text().strip()) != "max":
            rows = (line.split() for line in (group / "memory.stat").read_text().splitlines())
            # The page cache counts as used, but at least its inactive part can be freed.
            cached = sum(int(count) for name, count in rows if name == freed)
            return [(int(text), max(0, int(text) - int((group / used).read_text()) + cached))]
    return []


def _groups(controller: str, root: Path, membership: Path) -> Iterator[Path]:
    """Folders of this process's cgroup and its parents, and the mount.

    Args:
        controller: "cpu" or "memory".
        root: the mount of the cgroup file systems (version 2; version 1 has a folder for each controller).
        membership: a file with one "ID:CONTROLLERS:PATH" on each line; in version 2 there are no controllers.
    """
    for line in membership.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = root / controller if controllers else root
        here = mount / path.lstrip("/")
        # In a container, the mount itself is the cgroup, and the path may not exist. So the mount is always included.
        for group in dict.fromkeys([here, *here.parents, mount]):
            if group.is_relative_to(mount):
                yield group


def release_memory() -> None:
    """Collect garbage and return free pages to the system. glibc would keep them (onnxruntime#26831)."""
    gc.collect()
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl does not have it
        if trim is not None:
            trim(0)


def skip_exit_handlers_after_fork() -> None:
    """Make later forked children end without the C library's exit handlers, as children of multiprocessing do.

    ONNX Runtime's exit handlers destroy a condition variable on which threads of the parent wait. A child that ends by
    sys.exit or an uncaught error would hang there, and its parent would wait for it forever. Python's own clean-up runs
    earlier and is not affected. Only glibc has on_exit; with another C library this function does nothing.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "on_exit"):
        # After on_exit(f, x), exit(status) calls f(status, x). The handler that was registered last runs first.
        os.register_at_fork(after_in_child=functools.partial(libc.on_exit, libc._exit, None))


def keep_forever(thing: object) -> None:
    """Never destroy this object, not even at exit."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def caller_outside(files: Collection[str]) -> str:
    """File and line of the innermost caller that is not in these files."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename in files:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _current_folder() -> Path:
    try:
        return Path.cwd()
    except OSError:  # it was removed
        return Path(os.sep)


# Relative entries of the search path start from here.
_FOLDER_AT_IMPORT = _current_folder()


def search_path() -> list[str]:
    """The search path of this process, with absolute entries: a later change of directory must not change them.

    A child process that gets it imports the same modules.
    """
    entries = [entry for entry in sys.path if isinstance(entry, str)]
    return list(dict.fromkeys(str(_FOLDER_AT_IMPORT / entry) for entry in entries))


def can_start_python() -> bool:
    """Whether sys.executable starts a Python. An embedded Python may not know it; a frozen program starts itself."""
    return bool(sys.executable) and not getattr(sys, "frozen", False)
