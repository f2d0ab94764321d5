"""Processors that a process may use: the quota of its cgroup and of its parents."""

from __future__ import annotations

from pathlib import Path

import pytest

from abonyx.engine import process


def _write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("membership", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "150000 100000"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000"}, None),
        # the quota is in the process's own cgroup; the root of version 2 has no such file
        ("0::/system.slice/run.service\n", {"system.slice/run.service/cpu.max": "100000 100000"}, 1.0),
        # a parent has a smaller quota
        ("0::/a/b\n", {"a/cpu.max": "200000 100000", "a/b/cpu.max": "400000 100000"}, 2.0),
        # a container's mount starts at its own cgroup, but the path is the host's
        ("0::/docker/abc\n", {"cpu.max": "300000 100000"}, 3.0),
        (
            "5:memory:/x\n4:cpu,cpuacct:/x\n",
            {"cpu/x/cpu.cfs_quota_us": "250000", "cpu/x/cpu.cfs_period_us": "100000"},
            2.5,
        ),
        ("4:cpu:/x\n", {"cpu/x/cpu.cfs_quota_us": "-1", "cpu/x/cpu.cfs_period_us": "100000"}, None),
        ("0::/x\n", {"x/cpu.max": "what is this"}, None),
    ],
)
def test_the_quota_of_this_cgroup_and_those_above(
    membership: str, files: dict[str, str], quota: float | None, tmp_path: Path
) -> None:
    _write(tmp_path, {"membership": membership})
    assert process._quota(_write(tmp_path / "cgroup", files), tmp_path / "membership") == quota


_V1_NONE = str(2**63 - 4096)


@pytest.mark.parametrize(
    ("membership", "files", "limits"),
    [
        (
            "0::/a\n",
            {
                "memory.max": "max",
                "a/memory.max": "1000\n",
                "a/memory.current": "700\n",
                "a/memory.stat": "anon 500\ninactive_file 150\nactive_file 50\n",
            },
            [(1000, 450)],
        ),
        (
            "0::/docker/abc\n",
            {"memory.max": "1000", "memory.current": "1200", "memory.stat": "inactive_file 0\n"},
            [(1000, 0)],
        ),
        (
            "5:memory:/x\n4:cpu,cpuacct:/x\n",
            {
                "memory/x/memory.limit_in_bytes": "1000",
                "memory/x/memory.usage_in_bytes": "300",
                "memory/x/memory.stat": "inactive_file 1\ntotal_inactive_file 200\n",
                "memory/memory.limit_in_bytes": _V1_NONE,
                "memory/memory.usage_in_bytes": "0",
                "memory/memory.stat": "",
            },
            [(1000, 900), (int(_V1_NONE), int(_V1_NONE))],
        ),
        ("0::/x\n", {"x/memory.max": "what is this"}, []),
        ("0::/x\n", {}, []),
    ],
)
def test_the_memory_of_this_cgroup_and_those_above(
    membership: str, files: dict[str, str], limits: list[tuple[int, int]], tmp_path: Path
) -> None:
    _write(tmp_path, {"membership": membership})
    assert process._memory_limits(_write(tmp_path / "cgroup", files), tmp_path / "membership") == limits


@pytest.mark.parametrize(("quota", "usable"), [(0.5, 1), (1.5, 1), (2.0, 2), (64.0, 4), (None, 4)])
def test_never_more_threads_than_the_quota(quota: float | None, usable: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_quota", lambda: quota)
    monkeypatch.setattr(process.os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    assert process.usable_processors() == usable
