"""Read NVIDIA's driver and GPUs through the driver's library. No CUDA toolkit and no package is needed."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import msgspec

from abonyx.errors import ConfigError, ProviderUnavailable
from abonyx.wording import option

LIBRARY_NAME = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_NAME_BYTES = 256


class CudaDevice(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU.

    Attributes:
        name: its name.
        uuid: its id, 32 hexadecimal digits. A partition of a GPU has its own id.
        total_bytes: its memory.
        free_bytes: its free memory; None if it was not requested, or if the driver gives no context.
        problem: why the driver gives no context; "" if it does.
    """

    name: str
    uuid: str
    total_bytes: int
    free_bytes: int | None
    problem: str = ""


class CudaDriver(msgspec.Struct, frozen=True, kw_only=True):
    """NVIDIA's driver.

    Attributes:
        version: the newest version of CUDA that it supports; None if there is no driver.
        devices: the GPUs.
        problem: why there are no devices; "" if there are.
    """

    version: str | None
    devices: list[CudaDevice]
    problem: str = ""


class _CallFailed(Exception):
    pass


def chosen_device(device_id: int) -> CudaDevice:
    """The GPU with this number, in the order of CUDA_VISIBLE_DEVICES. No other GPU gets a context.

    Raises:
        ProviderUnavailable: there is no driver, it does not work, it sees no GPU, or the GPU cannot be used.
        ConfigError: there is no GPU with this number.
    """
    driver = read_cuda_driver(memory_of=device_id)
    if driver.problem:
        raise ProviderUnavailable(
            f"provider cuda is not available: {driver.problem}",
            "Install NVIDIA's driver, or give the container access to the GPUs; `abonyx doctor` shows what is found. "
            f"Or choose {option('provider')} cpu. No other provider was tried.",
        )
    if device_id >= len(driver.devices):
        names = ", ".join(f"{number} ({device.name})" for number, device in enumerate(driver.devices))
        raise ConfigError(
            f"config: cuda.device_id is {device_id}; the driver sees {names}", "Give one of these numbers."
        )
    device = driver.devices[device_id]
    if device.problem:
        raise ProviderUnavailable(
            f"provider cuda: GPU {device_id} ({device.name}) cannot be used: {device.problem}",
            f"See what uses it (nvidia-smi), choose another GPU with cuda.device_id, or {option('provider')} cpu.",
        )
    return device


def read_cuda_driver(library: Any = None, memory_of: int | None = None) -> CudaDriver:
    """Read the driver's version and its GPUs. Free memory needs a context on the GPU for a moment.

    Args:
        library: the loaded driver library; None = load the system's.
        memory_of: number of the GPU whose free memory is read; None = all.
    """
    version = None
    try:
        cuda = ctypes.CDLL(LIBRARY_NAME) if library is None else library
        _call(cuda, "cuInit", 0)
        number = ctypes.c_int()
        _call(cuda, "cuDriverGetVersion", ctypes.byref(number))
        version = f"{number.value // 1000}.{number.value % 1000 // 10}"
        count = ctypes.c_int()
        _call(cuda, "cuDeviceGetCount", ctypes.byref(count))
        devices = [_device(cuda, index, memory_of in (None, index)) for index in range(count.value)]
    except OSError as error:
        return CudaDriver(version=None, devices=[], problem=f"no NVIDIA driver found ({error})")
    except (_CallFailed, AttributeError) as error:  # AttributeError: a library without that function
        return CudaDriver(version=version, devices=[], problem=f"the NVIDIA driver does not work: {error}")
    return CudaDriver(version=version, devices=devices, problem="" if devices else "the driver sees no GPU")


def _device(cuda: Any, index: int, with_memory: bool) -> CudaDevice:
    device, name, total = ctypes.c_int(), ctypes.create_string_buffer(_NAME_BYTES), ctypes.c_size_t()
    uuid = (ctypes.c_ubyte * 16)()
    _call(cuda, "cuDeviceGet", ctypes.byref(device), index)
    _call(cuda, "cuDeviceGetName", name, _NAME_BYTES, device)
    _call(cuda, "cuDeviceGetUuid_v2", ctypes.byref(uuid), device)
    _call(cuda, "cuDeviceTotalMem_v2", ctypes.byref(total), device)
    free, problem = None, ""
    try:
        free = _free_bytes(cuda, device) if with_memory else None
    except _CallFailed as error:
        problem = str(error)
    shown = name.value.decode(errors="replace")
    return CudaDevice(name=shown, uuid=bytes(uuid).hex(), total_bytes=total.value, free_bytes=free, problem=problem)


def _free_bytes(cuda: Any, device: ctypes.c_int) -> int:
    """Free memory of a GPU. This needs a context."""
    context, popped, free, total = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_size_t()
    _call(cuda, "cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    try:
        _call(cuda, "cuCtxPushCurrent_v2", context)
        try:
            _call(cuda, "cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        finally:
            _call(cuda, "cuCtxPopCurrent_v2", ctypes.byref(popped))
    finally:
        _call(cuda, "cuDevicePrimaryCtxRelease_v2", device)
    return free.value


def _call(cuda: Any, function: str, *arguments: object) -> None:
    code = getattr(cuda, function)(*arguments)
    if code:
        name = ctypes.c_char_p()
        cuda.cuGetErrorName(code, ctypes.byref(name))
        raise _CallFailed(f"{function}: error {code} {(name.value or b'').decode(errors='replace')}".rstrip())
