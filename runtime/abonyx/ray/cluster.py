"""Join or start a Ray cluster, and count the workers that it has room for."""

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

# If an address does not answer, Ray itself tries for minutes, and then ends the process.
_ANSWER_S = 10
_JOIN_S = 60
_NO_CLUSTER = (
    "Run this on a machine of the cluster, with the HOST:PORT that `ray start --head` printed, or with auto. "
    f"{option('ray')} without an address starts Ray on this machine."
)
_JOIN = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR')"


def load_ray(module: str = "ray") -> Any:
    """Import Ray, or a module that is installed with it. Raises a ConfigError that names the extra if it is missing."""
    return load("scoring by Ray", module)


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Connect to the cluster at `address`. If it is "", start Ray on this machine, and end it after the block.

    If Ray already runs in this process, it is used, and the address is ignored.

    Raises:
        ConfigError: the address does not answer within _ANSWER_S, or cannot be joined within _JOIN_S; or Ray cannot be
            started here.
    """
    ray = load_ray()
    if ray.is_initialized():
        yield
        return
    if address:
        _refuse_silent(address)
    where = {"address": address} if address else {"address": "local", "num_cpus": usable_processors()}
    ending = signal.getsignal(signal.SIGTERM)  # Ray replaces the handler
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
    """Try to join the cluster from a child process, because ray.init cannot be interrupted."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "/" not in host:
        try:
            socket.create_connection((host.strip("[]"), int(port)), _ANSWER_S).close()
        except (OSError, OverflowError) as error:
            raise ConfigError(f"{option('ray')} {address}: no answer: {first_line(error)}", _NO_CLUSTER) from error
    try:
        command = [sys.executable, "-P", "-c", _JOIN, address]  # -P: import nothing from this directory
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_JOIN_S, check=False)
    except subprocess.TimeoutExpired:
        raise ConfigError(
            f"{option('ray')} {address}: answers, but cannot be joined as a Ray cluster within {_JOIN_S} s", _NO_CLUSTER
        ) from None
    if done.returncode:
        last_line = (done.stderr.strip() or f"it ended with {done.returncode}").splitlines()[-1]
        raise ConfigError(f"{option('ray')} {address}: Ray cannot join it: {first_line(last_line)}", _NO_CLUSTER)


def for_worker(config: RuntimeConfig) -> RuntimeConfig:
    """The config of each worker: one thread if the config does not set it, and the GPU that Ray gives it.

    Raises:
        ConfigError: the config chooses a GPU, but Ray must choose it.
    """
    if config.cuda.device_id:
        fix = "Leave it out: Ray gives each worker its own GPU, which is its device 0."
        raise ConfigError(f"config: cuda.device_id is {config.cuda.device_id} and {option('ray')} is given", fix)
    if config.provider == "openvino":
        openvino = dataclasses.replace(config.openvino, threads=config.openvino.threads or config.openvino.streams)
        config = dataclasses.replace(config, openvino=openvino)
    return dataclasses.replace(config, cpu=dataclasses.replace(config.cpu, threads=config.cpu.threads or 1))


def needs(config: RuntimeConfig) -> dict[str, int]:
    """The resources that a worker with this config (from for_worker) reserves on a node: num_cpus and num_gpus."""
    threads = config.openvino.threads if config.provider == "openvino" else config.cpu.threads
    assert threads is not None
    return {"num_cpus": threads, "num_gpus": int(config.provider == "cuda")}


def worker_count(config: RuntimeConfig) -> int:
    """Number of workers that the cluster's nodes have room for, if nothing else runs there.

    Raises:
        ConfigError: there is no room. The message gives the resources of the nodes.
    """
    nodes, rooms = _rooms(config)
    if not sum(rooms):
        wanted = needs(config)
        what = f"a worker needs {wanted['num_cpus']} CPU and {wanted['num_gpus']} GPU of one node; the cluster's nodes "
        what += f"have: {'; '.join(map(_has, nodes)) or 'nothing, because no node is alive'}"
        raise ConfigError(what, f"Lower the provider's threads, choose another {option('provider')}, or add a node.")
    return sum(rooms)


def workers_of_node(config: RuntimeConfig) -> int:
    """Largest number of workers that one node has room for, at least 1."""
    return max([1, *_rooms(config)[1]])


def idle_nodes(config: RuntimeConfig) -> list[str]:
    """The resources of each node without room for a worker, e.g. of CPU nodes if the workers need GPUs."""
    nodes, rooms = _rooms(config)
    return [_has(node) for node, room in zip(nodes, rooms, strict=True) if not room]


def _rooms(config: RuntimeConfig) -> tuple[list[dict[str, float]], list[int]]:
    """(resources of each node, number of workers that it has room for)."""
    nodes = [node["Resources"] for node in load_ray().nodes() if node["Alive"]]
    wanted = needs(config)
    asked = {"CPU": wanted["num_cpus"], "GPU": wanted["num_gpus"]}
    return nodes, [min(int(node.get(name, 0) // n) for name, n in asked.items() if n) for node in nodes]


def _has(node: dict[str, float]) -> str:
    return f"{node.get('CPU', 0):g} CPU, {node.get('GPU', 0):g} GPU"
