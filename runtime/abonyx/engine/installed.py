"""ONNX Runtime as it is installed here: what it has and finds, and what a passed self-test is remembered for.

The module is given, never imported: engine/onnx.py alone does that.
"""

from __future__ import annotations

import contextlib
import io
import platform
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from abonyx.config import RuntimeConfig
from abonyx.engine.cuda_driver import CudaDevice
from abonyx.engine.providers import PROVIDERS, provider_options
from abonyx.logs import LOGGER


class InstalledEngine(NamedTuple):
    """ONNX Runtime as it is installed.

    Attributes:
        providers: execution providers compiled in; a device or its libraries may still be missing.
        devices: those it finds, each "provider: kind, vendor"; openvino's own names too.
        missing_libraries: library of a provider that abonyx uses -> why the system cannot load it.
    """

    version: str
    providers: list[str]
    devices: list[str]
    missing_libraries: dict[str, str]


def describe(ort: ModuleType) -> InstalledEngine:
    """All that it says of itself. Opens no session."""
    devices = [f"{one.ep_name}: {one.device.type.name}, {one.device.vendor}" for one in ort.get_ep_devices()]
    devices += [f"OpenVINO: {name}" for name in _openvino_devices(ort)]
    # In a process of its own: a provider's library that ONNX Runtime did not load itself may not stay.
    load = "import ctypes, sys; from abonyx.engine import installed, onnx; "
    load += "installed.preload(onnx.import_engine()); ctypes.CDLL(sys.argv[1])"
    missing = {}
    for library in _provider_libraries(Path(ort.__path__[0]) / "capi"):
        done = subprocess.run(
            [sys.executable, "-c", load, library], capture_output=True, text=True, errors="replace", check=False
        )
        if done.returncode:
            missing[library.name] = (done.stderr.strip() or f"ended with {done.returncode}").splitlines()[-1]
    return InstalledEngine(ort.__version__, ort.get_available_providers(), devices, missing)


def _provider_libraries(folder: Path) -> list[Path]:
    """Libraries of the providers that abonyx uses, and what they share; an engine has others beside them (TensorRT)."""
    stems = {f"onnxruntime_providers_{name}" for name in ("shared", *PROVIDERS)}
    found = (path for suffix in ("so", "dll", "dylib") for path in folder.glob(f"*.{suffix}"))
    return sorted(path for path in found if path.stem.removeprefix("lib") in stems)


def shown(ort: ModuleType, config: RuntimeConfig) -> str:
    """Its version, and for openvino the device asked for and those it has."""
    engine = f"ONNX Runtime {ort.__version__}"
    if config.provider != "openvino":
        return engine
    devices = ", ".join(_openvino_devices(ort)) or "unknown"
    return f"{engine} with device {config.openvino.device!r} (OpenVINO's devices here: {devices})"


def _openvino_devices(ort: ModuleType) -> list[str]:
    # Not in every build, and not public.
    listing = getattr(ort.capi._pybind_state, "get_available_openvino_device_ids", None)
    return list(listing()) if listing else []


def preload(ort: ModuleType) -> None:
    """Let it find CUDA and cuDNN in the nvidia wheels; what it prints of it is logged: stdout is for results."""
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()) as said:
            ort.preload_dlls()
        for line in said.getvalue().splitlines():
            LOGGER.debug(line)


def identity(ort: ModuleType, config: RuntimeConfig, card: CudaDevice | None) -> str:
    """What a passed self-test is remembered for: another engine, system or device is tested anew."""
    # platform(): the system's version; Core ML is part of macOS
    device = f"{platform.node()}/{platform.platform()}/{platform.processor()}"
    if card is not None:
        device += f"/{card.name}/{card.uuid}"
    return f"{ort.__version__}|{device}|{sorted(provider_options(config).items())}|{config.static_shape}"
