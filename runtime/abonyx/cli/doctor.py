"""What this machine can run: processors, memory, engine, cards, and each variant of a bundle, tried."""

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
    """Processors as the system has them, as affinity allows, by the container's quota, and what threads are made of it.

    The memory is in bytes, None where the system does not say; its source is "machine", or "container" where the
    container's limit is the smaller.
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
    """See engine.installed.InstalledEngine; `error` if no engine can be used.

    Attributes:
        note: what else this engine could run than the configured provider; "" = nothing.
    """

    distributions: list[str]
    version: str | None = None
    providers: list[str] = []
    devices: list[str] = []
    missing_libraries: dict[str, str] = {}
    note: str = ""
    error: str = ""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One variant opened on one provider, self-test and all.

    Attributes:
        default: whether it is what the bundle runs there where no --variant is given.
        placement: execution provider -> nodes.
        error: why it cannot be used here, "" where it can; exit_code: that error's, 0 where it can.
    """

    variant: str
    provider: str
    default: bool
    seconds: float
    placement: dict[str, int]
    error: str
    exit_code: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What `doctor` says.

    Attributes:
        bundle: the path tried, and its label; error where it cannot be read.
        trials: of each variant on each provider; [] with `measure`.
        speeds: with `measure` alone.
        exit_code: 0 where a variant can be used; else the engine's, the bundle's or the first trial's.
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
    """Look at everything; None = the shipped bundle. What is wrong is in the report: nothing is raised for it.

    The environment (ABONYX_...) counts as for every command.

    Args:
        timed: time each variant on the installed engine instead of testing it on every provider.
        again: time also what is remembered.
    """
    started = time.monotonic()
    machine, cuda = _machine(), read_cuda_driver()  # before the trials, which leave some memory taken
    engine, code = _engine()
    label, bundle_error, trials, speeds = "", "", list[Trial](), None
    try:
        opened = open_bundle(load_config(None, flags={"bundle": bundle}).bundle)
        label = f"{opened.path}: {opened.label()}"
        if timed and not code:
            speeds = measure(opened, (str(engine.version), engine.providers), cuda, started, again)
        elif not code:  # without an engine each trial would say what the engine's part says
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
    except EngineError:  # of the environment; it is said where the bundle is looked for
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
        # From a manifest: a provider that this version does not know is a ConfigError.
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
