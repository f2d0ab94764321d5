"""The installed ONNX Runtime: its version, providers and devices, and the key of a remembered self-test.

The functions get the module as an argument, because only engine/onnx.py may import it.
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
    """The installed ONNX Runtime.

    Attributes:
        version: its version.
        providers: execution providers that are compiled in. Their devices or libraries may still be missing.
        devices: the devices that it finds, each as "provider: kind, vendor"; also OpenVINO's names.
        missing_libraries: library of a provider that abonyx uses -> why the system cannot load it.
    """

    version: str
    providers: list[str]
    devices: list[str]
    missing_libraries: dict[str, str]


def describe(ort: ModuleType) -> InstalledEngine:
    """Describe an ONNX Runtime module. Opens no session."""
    devices = [f"{one.ep_name}: {one.device.type.name}, {one.device.vendor}" for one in ort.get_ep_devices()]
    devices += [f"OpenVINO: {name}" for name in _openvino_devices(ort)]
    # In a child process, because a provider's library must not stay loaded in this one if ONNX Runtime did not load it.
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
    """Libraries of the providers that abonyx uses, and their shared library. Others (TensorRT) are left out."""
    stems = {f"onnxruntime_providers_{name}" for name in ("shared", *PROVIDERS)}
    found = (path for suffix in ("so", "dll", "dylib") for path in folder.glob(f"*.{suffix}"))
    return sorted(path for path in found if path.stem.removeprefix("lib") in stems)


def shown(ort: ModuleType, config: RuntimeConfig) -> str:
    """Name and version of the engine; for openvino also the requested device and the devices that it finds."""
    engine = f"ONNX Runtime {ort.__version__}"
    if config.provider != "openvino":
        return engine
    devices = ", ".join(_openvino_devices(ort)) or "unknown"
    return f"{engine} with device {config.openvino.device!r} (OpenVINO's devices here: {devices})"


def _openvino_devices(ort: ModuleType) -> list[str]:
    # Not every build has this function, and it is not public.
    listing = getattr(ort.capi._pybind_state, "get_available_openvino_device_ids", None)
    return list(listing()) if listing else []


def preload(ort: ModuleType) -> None:
    """Let ONNX Runtime load CUDA and cuDNN from the nvidia wheels. Its output is logged, not printed to stdout."""
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            ort.preload_dlls()
        for line in printed.getvalue().splitlines():
            LOGGER.debug(line)


def identity(ort: ModuleType, config: RuntimeConfig, card: CudaDevice | None) -> str:
    """The key of a remembered self-test. With another engine, system or device, the self-test is run again."""
    # platform() contains the version of the system, and so identifies Core ML, which is part of macOS
    device = f"{platform.node()}/{platform.platform()}/{platform.processor()}"
    if card is not None:
        device += f"/{card.name}/{card.uuid}"
    return f"{ort.__version__}|{device}|{sorted(provider_options(config).items())}|{config.static_shape}"
