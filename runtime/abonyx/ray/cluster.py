"""The cluster: reached or started, and how many workers it has room for."""

from __future__ import annotations

import dataclasses
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from abonyx.config import RuntimeConfig
from abonyx.engine.process import usable_processors
from abonyx.errors import ConfigError, first_line
from abonyx.extras import load
from abonyx.wording import option

# Ray itself tries an address that nobody answers for minutes, and then ends the process.
_ANSWER_S = 10
_JOIN_S = 60
_NO_CLUSTER = (
    "Give the HOST:PORT that `ray start --head` printed, on a machine that is part of the cluster, or auto for the "
    f"cluster it is part of; {option('ray')} alone starts Ray on this machine."
)
_JOIN = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR')"


def load_ray(module: str = "ray") -> Any:
    """Ray, or a module that it brings. Raises a ConfigError that names the extra if it cannot be imported."""
    return load("scoring by Ray", module)


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Be a driver of the cluster at `address`; "" starts Ray on this machine, and ends it after the block.

    A process that has Ray running already uses that, whatever the address.

    Raises:
        ConfigError: nothing answers there within _ANSWER_S, or nothing that can be joined within _JOIN_S; Ray cannot be
            started here.
    """
    ray = load_ray()
    if ray.is_initialized():
        yield
        return
    if address:
        _refuse_silent(address)
    where = {"address": address} if address else {"address": "local", "num_cpus": usable_processors()}
    ending = signal.getsignal(signal.SIGTERM)  # Ray puts its own handler there
    try:
        try:
            ray.init(**where, include_dashboard=None if address else False, log_to_driver=False, logging_level="ERROR")
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            what = (
                f"{option('ray')} {address}: Ray cannot join it"
                if address
                else f"{option('ray')}: Ray cannot be started on this machine"
            )
            raise ConfigError(f"{what}: {first_line(error)}", _NO_CLUSTER) from error
        finally:
            signal.signal(signal.SIGTERM, ending)
        yield
    finally:
        ray.shutdown()


def _refuse_silent(address: str) -> None:
    """Join the cluster from a process that can be ended, as ray.init cannot."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "/" not in host:
        try:
            socket.create_connection((host.strip("[]"), int(port)), _ANSWER_S).close()
        except (OSError, OverflowError) as error:
            raise ConfigError(f"{option('ray')} {address}: no answer: {first_line(error)}", _NO_CLUSTER) from error
    try:
        command = [sys.executable, "-P", "-c", _JOIN, address]  # -P: nothing of this directory
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_JOIN_S, check=False)
    except subprocess.TimeoutExpired:
        raise ConfigError(
            f"{option('ray')} {address}: answers, but not as a Ray cluster, within {_JOIN_S} s", _NO_CLUSTER
        ) from None
    if done.returncode:
        said = (done.stderr.strip() or f"it ended with {done.returncode}").splitlines()[-1]
        raise ConfigError(f"{option('ray')} {address}: Ray cannot join it: {first_line(said)}", _NO_CLUSTER)


def for_worker(config: RuntimeConfig) -> RuntimeConfig:
    """The config of each worker: threads as asked for or one, and the one card that Ray lets it see.

    Raises:
        ConfigError: a card was chosen, which is Ray's to choose.
    """
    if config.cuda.device_id:
        fix = "Leave it out: Ray gives each worker a card of its own, which is its device 0."
        raise ConfigError(f"config: cuda.device_id is {config.cuda.device_id} with {option('ray')}", fix)
    if config.provider == "openvino":
        openvino = dataclasses.replace(config.openvino, threads=config.openvino.threads or config.openvino.streams)
        config = dataclasses.replace(config, openvino=openvino)
    return dataclasses.replace(config, cpu=dataclasses.replace(config.cpu, threads=config.cpu.threads or 1))


def needs(config: RuntimeConfig) -> dict[str, int]:
    """What a worker of this config (see for_worker) reserves of a node: num_cpus, num_gpus."""
    threads = config.openvino.threads if config.provider == "openvino" else config.cpu.threads
    assert threads is not None
    return {"num_cpus": threads, "num_gpus": int(config.provider == "cuda")}


def worker_count(config: RuntimeConfig) -> int:
    """Workers that the cluster's nodes have room for, used or not.

    Raises:
        ConfigError: none; gives what the nodes have.
    """
    nodes, rooms = _rooms(config)
    if not sum(rooms):
        wanted = needs(config)
        what = f"a worker needs {wanted['num_cpus']} CPU and {wanted['num_gpus']} GPU of one node; the cluster's nodes "
        what += f"have: {'; '.join(map(_has, nodes)) or 'none is left'}"
        raise ConfigError(what, f"Lower the provider's threads, choose another {option('provider')}, or add a node.")
    return sum(rooms)


def idle_nodes(config: RuntimeConfig) -> list[str]:
    """What each node has that has no room for a worker: of a cluster of CPU and GPU nodes a part does nothing."""
    nodes, rooms = _rooms(config)
    return [_has(node) for node, room in zip(nodes, rooms, strict=True) if not room]


def _rooms(config: RuntimeConfig) -> tuple[list[dict[str, float]], list[int]]:
    """The resources of each node, and how many workers have room there."""
    nodes = [node["Resources"] for node in load_ray().nodes() if node["Alive"]]
    wanted = needs(config)
    asked = {"CPU": wanted["num_cpus"], "GPU": wanted["num_gpus"]}
    return nodes, [min(int(node.get(name, 0) // n) for name, n in asked.items() if n) for node in nodes]


def _has(node: dict[str, float]) -> str:
    return f"{node.get('CPU', 0):g} CPU, {node.get('GPU', 0):g} GPU"
