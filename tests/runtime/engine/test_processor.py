"""The processor's generation, from its model numbers and its instruction sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from abonyx.engine import processor
from abonyx.engine.processor import parse_cpuinfo


def x86(vendor: str, family: int, model: int, stepping: int, flags: str) -> str:
    rows = {"processor": 0, "vendor_id": vendor, "cpu family": family, "model": model, "model name": "A Name"}
    rows |= {"stepping": stepping, "flags": flags}
    one = "\n".join(f"{name}\t: {value}" for name, value in rows.items())
    return f"{one}\n\n{one.replace(str(model), '1')}\n"


@pytest.mark.parametrize(
    ("vendor", "family", "model", "stepping", "flags", "generation"),
    [
        ("AuthenticAMD", 23, 49, 0, "avx2", "Zen 2"),
        ("AuthenticAMD", 25, 1, 1, "avx2", "Zen 3"),
        ("AuthenticAMD", 25, 17, 1, "avx2 avx512f avx512_vnni avx512_bf16", "Zen 4"),
        ("AuthenticAMD", 26, 2, 1, "avx2 avx512f avx_vnni avx512_vnni", "Zen 5"),
        ("AuthenticAMD", 25, 200, 1, "avx2", ""),
        ("AuthenticAMD", 99, 1, 1, "avx2 avx512f avx_vnni", "Zen 5 or later"),
        ("AuthenticAMD", 25, 1, 1, "avx2 avx512f", "Zen 4 or later"),  # a Zen 3 has no AVX-512
        ("GenuineIntel", 6, 85, 4, "avx2 avx512f", "Skylake"),
        ("GenuineIntel", 6, 85, 7, "avx2 avx512f avx512_vnni", "Cascade Lake"),
        ("GenuineIntel", 6, 85, 11, "avx2 avx512f avx512_vnni avx512_bf16", "Cooper Lake"),
        ("GenuineIntel", 6, 106, 6, "avx2 avx512f avx512_vnni", "Ice Lake"),
        ("GenuineIntel", 6, 143, 8, "avx2 avx512_bf16 avx512_fp16 amx_tile amx_int8", "Sapphire Rapids"),
        ("GenuineIntel", 6, 207, 2, "avx2 avx512_bf16 avx512_fp16 amx_tile amx_int8", "Emerald Rapids"),
        # a hypervisor shows the number of a Rocket Lake, which has no AMX
        ("GenuineIntel", 6, 167, 1, "avx2 avx512_bf16 avx512_fp16 amx_tile", "Sapphire Rapids or later"),
        ("GenuineIntel", 15, 143, 1, "sse2", ""),
        ("HygonGenuine", 24, 1, 1, "avx2", ""),
    ],
)
def test_x86(vendor: str, family: int, model: int, stepping: int, flags: str, generation: str) -> None:
    found = parse_cpuinfo(x86(vendor, family, model, stepping, flags))
    assert found.generation == generation
    assert (found.family, found.model, found.stepping) == (family, model, stepping)
    assert found.instruction_sets == [name for name in flags.split() if name not in ("amx_tile", "sse2")]
    assert found.label() == (f"A Name ({generation})" if generation else "A Name")


def test_arm() -> None:
    text = "processor\t: 0\nFeatures\t: fp asimd asimddp sve i8mm bf16\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n"
    found = parse_cpuinfo(text)
    assert found.generation == "Neoverse V1"
    assert found.instruction_sets == ["asimddp", "i8mm", "bf16", "sve"]
    assert parse_cpuinfo(text.replace("0xd40", "0xfff")).generation == ""
    assert parse_cpuinfo(text.replace("0x41", "0x61")).generation == ""  # another maker counts its parts otherwise


def test_what_is_not_understood_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("", "nonsense", "model : x\ncpu family : \n"):
        assert parse_cpuinfo(text).generation == ""
    monkeypatch.setattr(processor, "_CPUINFO", tmp_path / "nowhere")
    assert processor.this_processor().name
