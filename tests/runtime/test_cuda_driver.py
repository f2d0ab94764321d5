"""What the NVIDIA driver says, with a driver made for the test: no card is needed."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from abonyx.cuda_driver import CudaDevice, read_cuda_driver

CARDS = [("NVIDIA H100", 80 * 10**9, 79 * 10**9), ("NVIDIA T4", 16 * 10**9, 10**9)]


class Driver:
    """A libcuda of CARDS; `failing` maps a function to the error it returns."""

    def __init__(self, cards: Any = CARDS, failing: dict[str, int] | None = None) -> None:
        self.cards, self.failing, self.calls, self.contexts = cards, failing or {}, list[str](), list[int]()

    def __getattr__(self, function: str) -> Any:
        def call(*arguments: Any) -> int:
            self.calls.append(function)
            return self.failing.get(function) or self.answer(function, *arguments)

        return call

    def answer(self, function: str, *arguments: Any) -> int:
        given = [one._obj if hasattr(one, "_obj") else one for one in arguments]
        last = given[-1].value if given and hasattr(given[-1], "value") else None
        answers = {
            "cuDriverGetVersion": lambda: 12040,
            "cuDeviceGetCount": lambda: len(self.cards),
            "cuDeviceGet": lambda: given[1],
            "cuDeviceGetName": lambda: self.cards[last][0].encode(),
            "cuDeviceTotalMem_v2": lambda: self.cards[last][1],
            "cuDevicePrimaryCtxRetain": lambda: 1000 + last,
            "cuMemGetInfo_v2": lambda: self.cards[self.contexts[-1] - 1000][2],
            "cuCtxPopCurrent_v2": self.contexts.pop,
        }
        if function == "cuGetErrorName":
            given[1].value = b"CUDA_ERROR_NO_DEVICE"
        elif function == "cuCtxPushCurrent_v2":
            self.contexts.append(last)
        elif function in answers:
            given[0].value = answers[function]()
        return 0


def test_cards_and_their_memory() -> None:
    driver = Driver()
    found = read_cuda_driver(driver)
    assert found.version == "12.4" and found.problem == ""
    assert found.devices == [CudaDevice(name=name, total_bytes=total, free_bytes=free) for name, total, free in CARDS]
    assert driver.contexts == []
    assert driver.calls.count("cuDevicePrimaryCtxRetain") == driver.calls.count("cuDevicePrimaryCtxRelease_v2") == 2


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("abonyx.cuda_driver.LIBRARY_NAME", "libcuda-that-is-not-there.so.1")
    found = read_cuda_driver()
    assert found.version is None and found.devices == []
    assert found.problem.startswith("no NVIDIA driver found (libcuda-that-is-not-there.so.1")


def test_a_driver_without_a_card() -> None:
    found = read_cuda_driver(Driver(failing={"cuInit": 100}))
    assert found.problem == "the NVIDIA driver does not work: cuInit: error 100 CUDA_ERROR_NO_DEVICE"
    assert read_cuda_driver(Driver(cards=[])).problem == "the driver sees no card"


def test_a_card_without_room_for_a_context() -> None:
    driver = Driver(failing={"cuMemGetInfo_v2": 2})
    (first, _) = read_cuda_driver(driver).devices
    assert first.free_bytes is None and "cuMemGetInfo_v2: error 2" in first.problem
    assert driver.contexts == [] and driver.calls.count("cuDevicePrimaryCtxRelease_v2") == 2


def test_a_library_that_is_no_driver() -> None:
    found = read_cuda_driver(ctypes.CDLL(None))
    assert found.devices == [] and "cuInit" in found.problem
