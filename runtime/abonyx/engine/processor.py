"""Describe the processor: its name, its generation, and the instruction sets that decide how fast an encoder runs.

The tables mostly list server processors of the last ten years. If a model number is unknown, the instruction sets give
the oldest possible generation.
"""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import msgspec

_CPUINFO = Path("/proc/cpuinfo")
_SYSCTL_S = 5
# Instruction sets for which ONNX Runtime and OpenVINO have special kernels, in Linux's spelling.
INSTRUCTION_SETS = (
    *("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16"),
    *("asimddp", "i8mm", "bf16", "sve", "sve2"),
)
# Intel, family 6: model -> generation. Cascade Lake and Cooper Lake have Skylake's number, but other steppings.
_INTEL = {
    63: "Haswell",
    79: "Broadwell",
    86: "Broadwell",
    85: "Skylake",
    106: "Ice Lake",
    108: "Ice Lake",
    143: "Sapphire Rapids",
    207: "Emerald Rapids",
    173: "Granite Rapids",
    174: "Granite Rapids",
    175: "Sierra Forest",
    167: "Rocket Lake",
    151: "Alder Lake",
    154: "Alder Lake",
    183: "Raptor Lake",
    186: "Raptor Lake",
    170: "Meteor Lake",
    198: "Arrow Lake",
}
_SKYLAKE_STEPPINGS = {**dict.fromkeys((5, 6, 7), "Cascade Lake"), **dict.fromkeys((10, 11), "Cooper Lake")}
# AMD: (family, first model, last model, generation), from Linux (arch/x86/kernel/cpu/amd.c).
_AMD = (
    (0x17, 0x00, 0x2F, "Zen"),
    (0x17, 0x50, 0x5F, "Zen"),
    (0x17, 0x30, 0x4F, "Zen 2"),
    (0x17, 0x60, 0x7F, "Zen 2"),
    (0x17, 0x90, 0x91, "Zen 2"),
    (0x17, 0xA0, 0xAF, "Zen 2"),
    (0x19, 0x00, 0x0F, "Zen 3"),
    (0x19, 0x20, 0x5F, "Zen 3"),
    (0x19, 0x10, 0x1F, "Zen 4"),
    (0x19, 0x60, 0xAF, "Zen 4"),
    (0x1A, 0x00, 0x2F, "Zen 5"),
    (0x1A, 0x40, 0x4F, "Zen 5"),
    (0x1A, 0x60, 0x7F, "Zen 5"),
)
# Arm cores: part -> name.
_ARM = {0xD08: "Cortex-A72", 0xD0C: "Neoverse N1", 0xD40: "Neoverse V1", 0xD49: "Neoverse N2", 0xD4F: "Neoverse V2"}
_ARM_IMPLEMENTER = 0x41
# Vendor -> (instruction set, generations that have it, oldest first). A hypervisor may report the number of another
# processor, but the instruction sets are real.
_NEWER = {
    "GenuineIntel": (
        ("amx_tile", ("Sapphire Rapids", "Emerald Rapids", "Granite Rapids")),
        ("avx512_fp16", ("Sapphire Rapids", "Emerald Rapids", "Granite Rapids")),
        ("avx512_bf16", ("Cooper Lake", "Sapphire Rapids", "Emerald Rapids", "Granite Rapids")),
    ),
    "AuthenticAMD": (
        ("avx_vnni", ("Zen 5",)),
        ("avx512f", ("Zen 4", "Zen 5")),
    ),
}


class Processor(msgspec.Struct, frozen=True, kw_only=True):
    """One processor, as the system describes it.

    Attributes:
        name: the vendor's name; in a virtual machine it may be short, e.g. "AMD EPYC".
        generation: e.g. "Zen 4"; "Sapphire Rapids or later" if only the instruction sets show it; "" if unknown.
        family, model, stepping: its numbers; None if the system does not report them.
        instruction_sets: those of INSTRUCTION_SETS that it has. Also [] if the system does not report them.
    """

    name: str
    generation: str
    family: int | None = None
    model: int | None = None
    stepping: int | None = None
    instruction_sets: list[str] = []

    def label(self) -> str:
        """The name with the generation: "AMD EPYC (Zen 5)"."""
        return f"{self.name} ({self.generation})" if self.generation else self.name


def this_processor() -> Processor:
    """The processor of this machine."""
    try:
        return parse_cpuinfo(_CPUINFO.read_text(errors="replace"))
    except OSError:  # not Linux
        return Processor(name=_brand() or platform.processor() or platform.machine(), generation="")


def _brand() -> str:
    """The name in macOS, e.g. "Apple M2"; "" on other systems."""
    if sys.platform != "darwin":
        return ""
    try:
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SYSCTL_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def parse_cpuinfo(text: str) -> Processor:
    """The first processor in the text of /proc/cpuinfo, x86 or Arm."""
    lines = (line.partition(":") for line in text.strip().partition("\n\n")[0].splitlines())
    found = {name.strip(): value.strip() for name, _, value in lines}
    flags = set(found.get("flags", found.get("Features", "")).split())
    vendor = found.get("vendor_id", "")
    family, model, stepping = (_number(found.get(name)) for name in ("cpu family", "model", "stepping"))
    part = _number(found.get("CPU part"))
    if _number(found.get("CPU implementer")) == _ARM_IMPLEMENTER and part in _ARM:
        generation = _ARM[part]
    else:
        generation = _generation(vendor, family, model, stepping, flags)
    name = found.get("model name") or vendor or platform.machine()
    sets = [name for name in INSTRUCTION_SETS if name in flags]
    return Processor(
        name=name, generation=generation, family=family, model=model, stepping=stepping, instruction_sets=sets
    )


def _generation(vendor: str, family: int | None, model: int | None, stepping: int | None, flags: set[str]) -> str:
    by_number = ""
    if vendor == "GenuineIntel" and family == 6 and model is not None:
        by_number = _INTEL.get(model, "")
        if model == 85 and stepping is not None:
            by_number = _SKYLAKE_STEPPINGS.get(stepping, by_number)
    elif vendor == "AuthenticAMD" and model is not None:
        ranges = (name for of, first, last, name in _AMD if of == family and first <= model <= last)
        by_number = next(ranges, "")
    for flag, names in _NEWER.get(vendor, ()):
        if flag in flags and by_number not in names:
            return f"{names[0]} or later"
    return by_number


def _number(text: str | None) -> int | None:
    try:
        return None if text is None else int(text, 0)
    except ValueError:
        return None
