"""Facts from the NVIDIA driver, with a driver made for the test, so that no GPU is needed."""

from __future__ import annotations

import ctypes
from typing import Any

import msgspec
import pytest

import abonyx
from abonyx.bundle import Bundle, open_bundle
from abonyx.engine import providers
from abonyx.engine.cuda_driver import CudaDevice, CudaDriver, chosen_device, read_cuda_driver
from abonyx.errors import ConfigError, OutOfDeviceMemory, ProviderUnavailable

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
        if function == "cuDeviceGetUuid_v2":
            given[0][:] = [last] * 16
        elif function == "cuGetErrorName":
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
    assert found.devices == [
        CudaDevice(name=name, uuid=f"0{number}" * 16, total_bytes=total, free_bytes=free)
        for number, (name, total, free) in enumerate(CARDS)
    ]
    assert driver.contexts == []
    assert driver.calls.count("cuDevicePrimaryCtxRetain") == driver.calls.count("cuDevicePrimaryCtxRelease_v2") == 2


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("abonyx.engine.cuda_driver.LIBRARY_NAME", "libcuda-that-is-not-there.so.1")
    found = read_cuda_driver()
    assert found.version is None and found.devices == []
    assert found.problem.startswith("no NVIDIA driver found (libcuda-that-is-not-there.so.1")


def test_a_driver_without_a_card() -> None:
    found = read_cuda_driver(Driver(failing={"cuInit": 100}))
    assert found.problem == "the NVIDIA driver does not work: cuInit: error 100 CUDA_ERROR_NO_DEVICE"
    assert read_cuda_driver(Driver(cards=[])).problem == "the driver sees no GPU"


def test_a_card_without_room_for_a_context() -> None:
    driver = Driver(failing={"cuMemGetInfo_v2": 2})
    (first, _) = read_cuda_driver(driver).devices
    assert first.free_bytes is None and "cuMemGetInfo_v2: error 2" in first.problem
    assert driver.contexts == [] and driver.calls.count("cuDevicePrimaryCtxRelease_v2") == 2


def test_a_library_that_is_no_driver() -> None:
    found = read_cuda_driver(ctypes.CDLL(None))
    assert found.devices == [] and "cuInit" in found.problem


def cards(*free_bytes: int | None) -> CudaDriver:
    devices = [CudaDevice(name=f"card {free}", uuid="", total_bytes=80 * 10**9, free_bytes=free) for free in free_bytes]
    return CudaDriver(version="12.4", devices=devices, problem="" if devices else "no NVIDIA driver found (test)")


@pytest.fixture
def for_cuda(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Bundle:
    """The shipped bundle (320 hidden units), with the precision cuda-fp16 or the fixture's parameter.

    32,768 tokens take 1.05 GB in float16, and twice that must be free.
    """
    bundle = open_bundle(None)
    ((name, variant),) = bundle.manifest.variants.items()
    variant = msgspec.structs.replace(variant, precision=getattr(request, "param", "cuda-fp16"))
    monkeypatch.setattr(type(bundle), "variant", lambda *_: (name, variant))
    return bundle


@pytest.mark.parametrize(
    ("free_bytes", "memory_limit_bytes", "device_id", "expected"),
    [
        ((80 * 10**9,), None, 0, 32_768),
        ((10**9,), None, 0, 8_192),
        ((80 * 10**9, 10**9), None, 1, 8_192),
        ((80 * 10**9,), 10**9, 0, 8_192),
        ((None,), None, 0, 32_768),
        ((), None, 0, 32_768),
        ((80 * 10**9,), None, 5, 32_768),
        ((None,), 10**9, 0, 8_192),
    ],
)
def test_the_token_budget_fits_the_free_memory(
    free_bytes: tuple[int | None, ...],
    memory_limit_bytes: int | None,
    device_id: int,
    expected: int,
    for_cuda: Bundle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(providers, "read_cuda_driver", lambda **_: cards(*free_bytes))
    cuda = abonyx.config.CudaOptions(device_id=device_id, memory_limit_bytes=memory_limit_bytes)
    config = abonyx.RuntimeConfig(provider="cuda", cuda=cuda)
    assert providers.token_budget(config, for_cuda) == expected
    given = abonyx.RuntimeConfig(provider="cuda", cuda=cuda, token_budget=7_777)
    assert providers.token_budget(given, for_cuda) == 7_777


@pytest.mark.parametrize(
    ("for_cuda", "expected"),
    [("fp16", 8_192), ("cuda-fp16", 8_192), ("fp32", 4_096), ("fp16-weights", 4_096)],
    indirect=["for_cuda"],
)
def test_float32_arithmetic_takes_twice_the_memory_of_float16(
    for_cuda: Bundle, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(providers, "read_cuda_driver", lambda **_: cards(10**9))
    assert providers.token_budget(abonyx.RuntimeConfig(provider="cuda"), for_cuda) == expected


@pytest.mark.parametrize("for_cuda", ["fp16-weights"], indirect=True)
def test_weights_stored_in_half_are_float32_on_the_card(for_cuda: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "read_cuda_driver", lambda **_: cards(20 * 10**6))  # 15.2 MB of files
    with pytest.raises(OutOfDeviceMemory, match=r"weights need 30\d{6} bytes, but only 20000000 are free on GPU 0"):
        providers.token_budget(abonyx.RuntimeConfig(provider="cuda"), for_cuda)


def test_a_card_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("abonyx.engine.cuda_driver.read_cuda_driver", lambda **_: cards(1, 2))
    assert chosen_device(1).free_bytes == 2
    with pytest.raises(ConfigError, match=r"device_id is 2; the driver sees 0 \(card 1\), 1 \(card 2\)"):
        chosen_device(2)
    monkeypatch.setattr("abonyx.engine.cuda_driver.read_cuda_driver", lambda **_: cards())
    with pytest.raises(ProviderUnavailable, match="no NVIDIA driver found"):
        chosen_device(0)


def test_only_the_card_asked_for_is_given_a_context() -> None:
    driver = Driver()
    found = read_cuda_driver(driver, memory_of=1)
    assert [device.free_bytes for device in found.devices] == [None, CARDS[1][2]]
    assert driver.calls.count("cuDevicePrimaryCtxRetain") == 1


def test_a_card_without_room_for_the_weights_says_both_sizes(for_cuda: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "read_cuda_driver", lambda **_: cards(10**6))
    with pytest.raises(OutOfDeviceMemory, match=r"weights need \d{8} bytes, but only 1000000 are free on GPU 0"):
        providers.token_budget(abonyx.RuntimeConfig(provider="cuda"), for_cuda)


def test_a_card_that_gives_no_context_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = CudaDevice(
        name="H100", uuid="", total_bytes=1, free_bytes=None, problem="cuDevicePrimaryCtxRetain: error 201"
    )
    monkeypatch.setattr(
        "abonyx.engine.cuda_driver.read_cuda_driver", lambda **_: CudaDriver(version="12.4", devices=[refused])
    )
    with pytest.raises(ProviderUnavailable, match=r"GPU 0 \(H100\) cannot be used: cuDevicePrimaryCtxRetain"):
        chosen_device(0)
