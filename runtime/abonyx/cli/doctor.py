"""Find what this machine can run: its processors, memory, engine and GPUs. Also try each variant of a bundle."""

from __future__ import annotations

import os
import platform
import sys
import time

import msgspec

from abonyx import __version__
from abonyx.bundle import Bundle, open_bundle
from abonyx.cli.measure import Speeds, measure
from abonyx.config import load_config
from abonyx.engine.cuda_driver import CudaDriver, read_cuda_driver
from abonyx.engine.onnx import describe_engine
from abonyx.engine.process import allowed_processors, memory_bytes, processor_quota, usable_processors
from abonyx.engine.processor import Processor, this_processor
from abonyx.engine.providers import installed_engines, openvino_note
from abonyx.errors import EngineError
from abonyx.model import open_model
from abonyx.wording import Interface


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Processors and memory of this machine.

    Attributes:
        system, python: names and versions.
        processor: model and instruction sets.
        processors: number of processors of the machine; None if unknown.
        allowed_processors: number that this process may use, by its affinity.
        processor_quota: number that the container's quota allows; None if there is no quota.
        threads: number of threads that abonyx uses, which follows from these.
        memory_bytes, available_memory_bytes: None if the system does not report them.
        memory_source: "machine", or "container" if the container's limit is smaller.
    """

    system: str
    python: str
    processor: Processor
    processors: int | None
    allowed_processors: int
    processor_quota: float | None
    threads: int
    memory_bytes: int | None
    available_memory_bytes: int | None
    memory_source: str


class EngineReport(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of engine.installed.InstalledEngine, and three more.

    Attributes:
        distributions: names of the installed distributions of ONNX Runtime.
        note: another provider that this engine could run; "" if there is none.
        error: why no engine can be used; "" if one can.
    """

    distributions: list[str]
    version: str | None = None
    providers: list[str] = []
    devices: list[str] = []
    missing_libraries: dict[str, str] = {}
    note: str = ""
    error: str = ""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """The result of opening one variant on one provider, with the self-test.

    Attributes:
        default: whether the bundle uses this variant on this provider if --variant is not given.
        seconds: time to open it.
        placement: execution provider -> number of graph nodes that it runs.
        error: why it cannot be used here; "" if it can.
        exit_code: the exit code of that error; 0 if there is none.
    """

    variant: str
    provider: str
    default: bool
    seconds: float
    placement: dict[str, int]
    error: str
    exit_code: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that `doctor` reports.

    Attributes:
        bundle: path and label of the bundle; "" if it cannot be read.
        bundle_error: why it cannot be read; "" if it can.
        trials: one for each variant on each provider; [] with --measure.
        speeds: only with --measure; else None.
        exit_code: 0 if a variant can be used; else the code of the engine's, the bundle's or the first trial's error.
    """

    abonyx: str
    machine: Machine
    engine: EngineReport
    cuda: CudaDriver
    bundle: str
    bundle_error: str
    trials: list[Trial]
    speeds: Speeds | None
    exit_code: int


def examine(bundle: str | None, *, timed: bool = False, again: bool = False) -> Report:
    """Examine this machine and a bundle. Problems are part of the report; they are not raised.

    The variables ABONYX_... apply, as in every command.

    Args:
        bundle: directory or name of the bundle; None = the shipped one.
        timed: whether to measure the speed of each variant on the installed engine, instead of testing each variant on
            every provider.
        again: whether to measure again what an earlier command has measured.
    """
    started = time.monotonic()
    machine, cuda = _machine(), read_cuda_driver()  # before the trials, because they leave some memory in use
    engine, code = _engine()
    label, bundle_error, trials, speeds = "", "", list[Trial](), None
    try:
        opened = open_bundle(load_config(None, flags={"bundle": bundle}).bundle)
        label = f"{opened.path}: {opened.label()}"
        if timed and not code:
            speeds = measure(opened, (str(engine.version), engine.providers), cuda, started, again)
        elif not code:  # without an engine, each trial would repeat the engine's error
            trials = _trials(opened)
    except EngineError as error:
        bundle_error, code = error.text(Interface.COMMAND_LINE), code or error.exit_code
    codes = [one.exit_code for one in (trials if speeds is None else speeds.measured)]
    return Report(
        abonyx=__version__,
        machine=machine,
        engine=engine,
        cuda=cuda,
        bundle=label,
        bundle_error=bundle_error,
        trials=trials,
        speeds=speeds,
        exit_code=codes[0] if codes and all(codes) else code,
    )


def _machine() -> Machine:
    memory = memory_bytes()
    return Machine(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=sys.version.split()[0],
        processor=this_processor(),
        processors=os.cpu_count(),
        allowed_processors=allowed_processors(),
        processor_quota=processor_quota(),
        threads=usable_processors(),
        memory_bytes=memory.total,
        available_memory_bytes=memory.available,
        memory_source=memory.source,
    )


def _engine() -> tuple[EngineReport, int]:
    distributions = installed_engines()
    try:
        found = describe_engine()
    except EngineError as error:
        return EngineReport(distributions=distributions, error=error.text(Interface.COMMAND_LINE)), error.exit_code
    return EngineReport(distributions=distributions, note=_note(found.providers), **found._asdict()), 0


def _note(providers: list[str]) -> str:
    try:
        return openvino_note(load_config(None).provider, providers)
    except EngineError:  # an error in a variable; opening the bundle reports it
        return ""


def _trials(bundle: Bundle) -> list[Trial]:
    defaults = bundle.manifest.default_variant
    return [
        _trial(str(bundle.path), name, provider, defaults.get(provider) == name)
        for name, variant in bundle.manifest.variants.items()
        for provider in variant.providers
    ]


def _trial(bundle: str, variant: str, provider: str, default: bool) -> Trial:
    started, placement, error, code = time.perf_counter(), dict[str, int](), "", 0
    try:
        # The names are from a manifest, so load_config may raise: this version may not know a provider.
        config = load_config(None, flags={"bundle": bundle, "provider": provider, "variant": variant})
        with open_model(config) as session:
            placement = session.placement
    except EngineError as refused:
        error, code = refused.text(Interface.COMMAND_LINE), refused.exit_code
    return Trial(
        variant=variant,
        provider=provider,
        default=default,
        seconds=round(time.perf_counter() - started, 3),
        placement=placement,
        error=error,
        exit_code=code,
    )
