"""`abonyx doctor --measure`: measure the speed of each variant of a bundle with the installed engine."""

from __future__ import annotations

import datetime
import functools
import json
import platform
import time
from collections.abc import Callable

import msgspec

from abonyx import cache
from abonyx.bundle import Bundle
from abonyx.cli.recorded import RecordedSpeed, suggestions
from abonyx.cli.timing import time_in_child
from abonyx.config import ProviderName, RuntimeConfig, load_config
from abonyx.engine.cuda_driver import CudaDriver
from abonyx.engine.process import usable_processors
from abonyx.engine.processor import this_processor
from abonyx.engine.providers import PROVIDERS, installed_engines, provider_options
from abonyx.errors import EngineError
from abonyx.wording import Interface

# Time limit for the whole command, including the opening of each variant.
LIMIT_S = 60.0
# Rates on one machine vary by this share from minute to minute. If two variants differ by less, the more exact one is
# chosen.
_EVEN = 0.05
_CACHE = "speeds"
# ONNX Runtime's threads use a processor even while they wait. If the process got a smaller share of its processors than
# this, other processes were busy.
_LEAST_SHARE = 0.75


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """The speed of one variant on one provider.

    Attributes:
        default: whether the bundle uses this variant on this provider if --variant is not given.
        max_dp: largest |difference| of a probability from PyTorch at export; None if no head gives probabilities.
        sequences_per_s: sequences of 120 residues per second; None if it was not measured.
        open_s: seconds to open it.
        measured_on: date of the measurement.
        remembered: whether an earlier command measured it, with the same bundle, engine, processor and threads.
        shared_with_others: (processors that it got, its threads) if other processes were busy, else None. The next
            command measures such a rate again.
        why_not: why it was not measured; "" if it was.
        exit_code: the exit code of the error that prevented the measurement; 0 if there was none.
    """

    variant: str
    provider: str
    default: bool
    max_dp: float | None
    sequences_per_s: float | None = None
    open_s: float | None = None
    measured_on: str = ""
    remembered: bool = False
    shared_with_others: tuple[float, int] | None = None
    why_not: str = ""
    exit_code: int = 0


class Speeds(msgspec.Struct, frozen=True, kw_only=True):
    """The part of the report that --measure adds.

    Attributes:
        measured: one for each variant and provider, the default variants first.
        config: lines of a config file that choose the fastest; [] if none was measured.
        recorded: figures of other engines, from the project's records; not measured on this machine.
    """

    measured: list[Measured]
    config: list[str]
    recorded: list[RecordedSpeed]


def measure(bundle: Bundle, engine: tuple[str, list[str]], cuda: CudaDriver, started: float, again: bool) -> Speeds:
    """Measure every variant that the installed engine has a provider for, one after another.

    Args:
        bundle: the bundle.
        engine: version of the engine, and the execution providers compiled into it.
        cuda: the GPUs of this machine.
        started: time.monotonic() at the start of the command; LIMIT_S counts from there.
        again: whether to measure again what an earlier command has measured.
    """
    version, execution_providers = engine
    here = [name for name, one in PROVIDERS.items() if one.execution_provider in execution_providers]
    cards = [card.uuid for card in cuda.devices]
    remembered = {} if again else cache.remembered(_CACHE)
    measured: list[Measured] = []
    # Speeds that are remembered from a busy machine: they are measured again if time is left.
    later: list[tuple[int, Callable[[], Measured]]] = []
    for blank in _blanks(bundle, here):
        flags = {"bundle": str(bundle.path), "provider": blank.provider, "variant": blank.variant}
        try:
            config = load_config(None, flags=flags)
            key = _key(bundle, config, version, cards)
        except EngineError as error:
            measured.append(_refused(blank, error))
            continue
        known = _remembered(blank, remembered.get(key))
        if known is not None and known.shared_with_others:
            later.append((len(measured), functools.partial(_timed, blank, config, key, started)))
        measured.append(known or _timed(blank, config, key, started))
    for place, timed in later:
        found = timed()
        if found.sequences_per_s or found.exit_code:  # else no time was left
            measured[place] = found
    encoder = bundle.manifest.encoder
    variants = {name: variant.providers for name, variant in bundle.manifest.variants.items()}
    recorded = suggestions(list(here), _possible(here, cuda), variants, (encoder.layers, encoder.hidden))
    return Speeds(measured=measured, config=_config_lines(measured), recorded=recorded)


def _blanks(bundle: Bundle, here: list[ProviderName]) -> list[Measured]:
    """The variants to measure: the defaults first, then the others in the bundle's order."""
    blanks = [
        Measured(
            variant=name,
            provider=provider,
            default=bundle.manifest.default_variant.get(provider) == name,
            max_dp=variant.parity.max_p if variant.parity else None,
        )
        for name, variant in bundle.manifest.variants.items()
        for provider in here
        if provider in variant.providers
    ]
    return sorted(blanks, key=lambda blank: not blank.default)


def _key(bundle: Bundle, config: RuntimeConfig, version: str, cards: list[str]) -> str:
    """The key of a remembered speed: everything that changes the speed permanently."""
    processor = this_processor()
    parts = {
        "bundle": bundle.sha256,
        "config": [config.provider, config.variant, config.token_budget, config.static_shape],
        "engine": [*installed_engines(), version],
        "options": provider_options(config),
        "processor": [platform.node(), processor.label(), *processor.instruction_sets],
        "threads": [config.cpu.threads, usable_processors()],
        "cards": cards if config.provider == "cuda" else [],
    }
    return json.dumps(parts, sort_keys=True)


def _remembered(blank: Measured, text: str | None) -> Measured | None:
    try:
        found = msgspec.json.decode(text or "", type=Measured)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return msgspec.structs.replace(
        blank,
        sequences_per_s=found.sequences_per_s,
        open_s=found.open_s,
        measured_on=found.measured_on,
        shared_with_others=found.shared_with_others,
        remembered=True,
    )


def _timed(blank: Measured, config: RuntimeConfig, key: str, started: float) -> Measured:
    left = started + LIMIT_S - time.monotonic()
    try:
        timing = time_in_child(config, left) if left > 0 else None
    except EngineError as error:
        return _refused(blank, error)
    if timing is None:
        why = f"not measured: the limit of {LIMIT_S:.0f} s was reached. Run the same command again to measure it."
        return msgspec.structs.replace(blank, why_not=why)
    found = msgspec.structs.replace(
        blank,
        sequences_per_s=timing.sequences_per_s,
        open_s=timing.open_s,
        measured_on=datetime.datetime.now(datetime.UTC).date().isoformat(),
        shared_with_others=_shared(config, timing.processors),
    )
    cache.remember(_CACHE, {key: msgspec.json.encode(found).decode()})
    return found


def _shared(config: RuntimeConfig, processors: float) -> tuple[float, int] | None:
    threads = {"cpu": config.cpu.threads, "openvino": config.openvino.threads}
    if config.provider not in threads or (config.provider == "openvino" and config.openvino.device != "CPU"):
        return None
    count = threads[config.provider] or usable_processors()
    return (round(processors, 2), count) if processors < count * _LEAST_SHARE else None


def _refused(blank: Measured, error: EngineError) -> Measured:
    return msgspec.structs.replace(blank, why_not=error.text(Interface.COMMAND_LINE), exit_code=error.exit_code)


def fastest(measured: list[Measured]) -> Measured | None:
    """The variant to use: the fastest, or a more exact one that is at most _EVEN slower; None if none was measured."""
    best = max((one.sequences_per_s or 0.0 for one in measured), default=0.0)
    even = [one for one in measured if (one.sequences_per_s or 0.0) >= best * (1 - _EVEN)] if best else []
    return min(even, key=lambda one: (one.max_dp or 0.0, -(one.sequences_per_s or 0.0)), default=None)


def _config_lines(measured: list[Measured]) -> list[str]:
    chosen = fastest(measured)
    return [] if chosen is None else [f'provider = "{chosen.provider}"', f'variant = "{chosen.variant}"']


def _possible(here: list[ProviderName], cuda: CudaDriver) -> list[str]:
    """Providers that this machine could run if another engine were installed instead of the present one."""
    could: dict[str, Callable[[], bool]] = {
        "openvino": lambda: platform.machine().lower() in ("x86_64", "amd64"),
        "cuda": lambda: bool(cuda.devices),
    }
    return [name for name, fits in could.items() if name not in here and fits()]
