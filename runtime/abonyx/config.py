"""The one configuration type, and how file, environment and flags make it.

Over 300 lines, so that an option, the values it may have and each way to set it are in one file.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from abonyx.errors import ConfigError, first_line
from abonyx.hub_name import hub_name, is_hub_name

ProviderName = Literal["cpu", "cuda", "coreml", "openvino"]
PoolingRule = Literal["residues", "upstream-batch"]
ComputeUnits = Literal["ALL", "CPUOnly", "CPUAndGPU", "CPUAndNeuralEngine"]
OpenVinoPrecision = Literal["f32", "bf16"]

# Rows and tokens of Core ML's one shape where the config gives none: an antibody's variable domain (up to 158 residues,
# CLS and EOS), 8 at a time. Core ML compiles a program for each shape, and fails on shapes left open
# (apple/coremltools#2825).
COREML_SHAPE = (8, 160)

# Of text in a config: the longest path that Linux takes.
MAX_TEXT_CHARS = 4_096
ENVIRONMENT_PREFIX = "ABONYX_"
# Read by cache.py and serve/settings.py, not fields of the config.
OTHER_VARIABLES = frozenset({"ABONYX_CACHE_DIR", "ABONYX_SERVE_TOKEN", "ABONYX_SERVE_ADMIN_TOKEN"})


def _check(ok: bool, key: str, value: object, allowed: str) -> None:
    if not ok:
        raise ConfigError(f"config: {key} is {_quote(value)}", f"Allowed: {allowed}.")


def _quote(value: object) -> str:
    """A value as a message may quote it, however large it is."""
    try:
        return first_line(repr(value))
    except ValueError:  # Python writes no number of over 4,300 digits
        return f"a value ({type(value).__name__}) with a number too long to show"


def _expanded(path: str | Path) -> str:
    """The path with ~ as a shell reads it: as it is where there is no such user. Path's own raises there."""
    return os.path.expanduser(path)  # noqa: PTH111


def _provider(name: str) -> str:
    """A provider's name in lower case, for people write CPU and CoreML; another name as it is."""
    return name.lower() if name.lower() in get_args(ProviderName) else name


def _check_types(options: object, table: str = "") -> None:
    """Every field of a config holds what its annotation says; True is not a number here."""
    for name, hint in get_type_hints(type(options)).items():
        _typed(hint, getattr(options, name), f"config: {table}{name}", strict=True)


def _typed(hint: Any, value: object, where: str, *, strict: bool) -> object:
    """The value as its annotated type; strict=False also reads text ("2" is 2, "true" is true)."""
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, hint):  # type: ignore[arg-type]  # a class: hints are no instances
            raise ConfigError(f"{where} is {_quote(value)}", f"Give a {getattr(hint, '__name__', hint)}.")
        return value
    try:
        converted = msgspec.convert(value, hint, strict=strict)
    except msgspec.ValidationError as error:
        choices = get_args(hint) if get_origin(hint) is Literal else ()
        fix = f"Allowed: {', '.join(choices)}." if choices else "See configs/ for complete, commented examples."
        raise ConfigError(
            f"{where} is {_quote(value)}: {_lower_first(first_line(error).partition(' - at')[0])}", fix
        ) from None
    # A hash of the config, which every result has, takes no larger number.
    if isinstance(converted, int) and not -(2**63) <= converted < 2**63:
        raise ConfigError(f"{where} is {_quote(value)}", "Give a whole number of less than 64 bits.")
    if isinstance(converted, str):
        _check_text(converted, where)
    return converted


def _check_text(text: str, where: str) -> None:
    if len(text) > MAX_TEXT_CHARS:
        what = f"{where} is {_quote(text)}: it has {len(text)} characters"
        raise ConfigError(what, f"Give text of at most {MAX_TEXT_CHARS} characters.")
    try:
        text.encode()
    except UnicodeEncodeError:
        # A path's bytes as Python shows them. ONNX Runtime opens no such path either.
        fix = "Rename it; of a path, a symbolic link with a name in UTF-8 does as well."
        raise ConfigError(f"{where} is {_quote(text)}: it is not UTF-8", fix) from None


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


class _Shown:
    """Prints as the expression that makes it: the fields that differ from their defaults."""

    __slots__ = ()

    def __repr__(self) -> str:
        fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(self)  # type: ignore[arg-type]  # of subclasses
        values = ((field, getattr(self, field.name)) for field in fields)
        given = (f"{field.name}={value!r}" for field, value in values if value != field.default)
        return f"{type(self).__name__}({', '.join(given)})"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class CpuOptions(_Shown):
    """Options of provider cpu.

    Attributes:
        threads: intra-op threads; None = the processors this process may use (affinity and cgroup quota).
    """

    threads: int | None = None

    def __post_init__(self) -> None:
        _check_types(self, "cpu.")
        _check(self.threads is None or self.threads >= 1, "cpu.threads", self.threads, "a whole number from 1")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class CudaOptions(_Shown):
    """Options of provider cuda.

    Attributes:
        device_id: which card, as CUDA counts.
        memory_limit_bytes: most device memory ONNX Runtime's arena may take; None = all.
    """

    device_id: int = 0
    memory_limit_bytes: int | None = None

    def __post_init__(self) -> None:
        _check_types(self, "cuda.")
        _check(self.device_id >= 0, "cuda.device_id", self.device_id, "a whole number from 0")
        limit = self.memory_limit_bytes
        _check(limit is None or limit > 0, "cuda.memory_limit_bytes", limit, "a whole number above 0")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class CoreMLOptions(_Shown):
    """Options of provider coreml.

    Attributes:
        compute_units: which units Core ML may use.
        cache_dir: where compiled models are kept, in a folder of the bundle's hash; None = compile at each open.
    """

    compute_units: ComputeUnits = "ALL"
    cache_dir: str | None = None

    def __post_init__(self) -> None:
        _check_types(self, "coreml.")
        if self.cache_dir is not None:
            object.__setattr__(self, "cache_dir", str(Path(_expanded(self.cache_dir)).absolute()))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class OpenVinoOptions(_Shown):
    """Options of provider openvino.

    Attributes:
        device: OpenVINO's device name.
        threads: of the CPU device; None = the processors this process may use (affinity and cgroup quota).
        streams: batches in flight, sharing the threads: more throughput, later first result.
        precision: arithmetic. "f32" is exact to the variant's limits; "bf16" (device CPU only) is faster where the
            processor has it, and only within tolerances.BF16.
    """

    device: str = "CPU"
    threads: int | None = None
    streams: int = 1
    precision: OpenVinoPrecision = "f32"

    def __post_init__(self) -> None:
        _check_types(self, "openvino.")
        _check(self.threads is None or self.threads >= 1, "openvino.threads", self.threads, "a whole number from 1")
        _check(self.streams >= 1, "openvino.streams", self.streams, "a whole number from 1")
        if self.precision == "bf16" and self.device != "CPU":
            raise ConfigError(
                f"config: openvino.precision is 'bf16' and openvino.device is {self.device!r}",
                "bf16 is for device CPU; leave precision out for another.",
            )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class RuntimeConfig(_Shown):
    """What one run uses. `RuntimeConfig()` is the shipped mini bundle on the CPU.

    Prints as the expression that makes it.

    Attributes:
        bundle: the bundle's directory, absolute once constructed, or its name on the hub (hub_name.HubName); None = the
            shipped mini bundle.
        provider: the one execution provider that runs the model; never another. Lower case once constructed.
        variant: a variant of the bundle; None = the manifest's default for the provider.
        pooling: "residues" (mean over residues) or "upstream-batch" (the old pipeline's, needs batch_size).
        batch_size: the old pipeline's batch size (8 in training, 32 in prediction), for "upstream-batch" only.
        token_budget: most tokens a batch, padding included; None = the provider's default.
        static_rows: rows of every batch, filled up with padding. None = as they come, but COREML_SHAPE on coreml.
        static_tokens: tokens of every row, likewise, CLS and EOS included; a longer sequence is refused.
        window_size: records scored, written and journalled at a time; None = the provider's default.
        allow_cpu_nodes: whether single nodes may land on the CPU when provider is another.
        cpu: options of that provider.
        cuda: options of that provider.
        coreml: options of that provider.
        openvino: options of that provider.

    Raises:
        ConfigError: a value that is not allowed; names the key and what is.
    """

    bundle: str | None = None
    provider: ProviderName = "cpu"
    variant: str | None = None
    pooling: PoolingRule = "residues"
    batch_size: int | None = None
    token_budget: int | None = None
    static_rows: int | None = None
    static_tokens: int | None = None
    window_size: int | None = None
    allow_cpu_nodes: bool = False
    cpu: CpuOptions = CpuOptions()
    cuda: CudaOptions = CudaOptions()
    coreml: CoreMLOptions = CoreMLOptions()
    openvino: OpenVinoOptions = OpenVinoOptions()

    def __post_init__(self) -> None:
        if self.bundle is not None and is_hub_name(self.bundle):
            object.__setattr__(self, "bundle", str(hub_name(self.bundle)))
        elif isinstance(self.bundle, str | Path) and str(self.bundle):
            object.__setattr__(self, "bundle", str(Path(_expanded(self.bundle)).absolute()))
        if isinstance(self.provider, str):
            object.__setattr__(self, "provider", _provider(self.provider))
        _check_types(self)
        for key in ("bundle", "variant"):
            _check(getattr(self, key) != "", key, "", "a name; leave the key out for the default")
        least_of = {"batch_size": 1, "token_budget": 1, "window_size": 1, "static_rows": 1, "static_tokens": 3}
        for key, least in least_of.items():
            value = getattr(self, key)
            _check(value is None or value >= least, key, value, f"a whole number from {least}")
        if (self.pooling == "upstream-batch") != (self.batch_size is not None):
            raise ConfigError(
                f"config: pooling is {self.pooling!r} and batch_size is {self.batch_size!r}",
                "batch_size belongs to pooling upstream-batch, and only there: the old pipeline trained with 8 and "
                "predicted with 32. How many sequences really run together is token_budget.",
            )

        self._check_shape()

    def _check_shape(self) -> None:
        if (self.static_rows is None) != (self.static_tokens is None):
            raise ConfigError(
                f"config: static_rows is {self.static_rows} and static_tokens is {self.static_tokens}",
                "Give both, the rows and the tokens of every batch, or neither.",
            )
        if self.token_budget is None or self.static_shape is None:
            return
        rows, tokens = self.static_shape
        if self.token_budget != rows * tokens:
            raise ConfigError(
                f"config: token_budget is {self.token_budget}, and every batch has {rows} rows of {tokens} tokens",
                "Leave token_budget out; set static_rows and static_tokens instead.",
            )

    @property
    def static_shape(self) -> tuple[int, int] | None:
        """Rows and tokens a row of every batch where they are fixed, as Core ML needs them; None = as they come."""
        if self.static_rows is not None and self.static_tokens is not None:
            return self.static_rows, self.static_tokens
        return COREML_SHAPE if self.provider == "coreml" else None

    @property
    def bf16(self) -> bool:
        """Whether the arithmetic is bfloat16, whatever the variant's weights are."""
        return self.provider == "openvino" and self.openvino.precision == "bf16"

    def sha256(self) -> str:
        """Hash of every field, for results' metadata: equal configs give equal hashes."""
        return hashlib.sha256(msgspec.json.encode(dataclasses.asdict(self), order="sorted")).hexdigest()


def load_config(
    path: Path | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
) -> RuntimeConfig:
    """The config from a TOML file, overridden by ABONYX_* variables, overridden by flags.

    Args:
        path: a TOML file; None = no file.
        environment: variables (default os.environ). A field of a table is ABONYX_CPU_THREADS.
        flags: field -> value; None values are not set.

    Raises:
        ConfigError: unreadable file, unknown key (names the nearest valid one), wrong type, value not allowed.
    """
    merged: dict[str, Any] = _from_file(path) if path else {}
    for source in (_from_environment(os.environ if environment is None else environment), flags or {}):
        for key, value in source.items():
            if isinstance(value, dict):
                merged[key] = {**merged.get(key, {}), **value}
            elif value is not None:
                merged[key] = value
    kinds = get_type_hints(RuntimeConfig)
    tables = {key: kinds[key](**value) for key, value in merged.items() if isinstance(value, dict)}
    return RuntimeConfig(**(merged | tables))


def _from_file(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}", "Give an existing TOML file.") from error
    except (ValueError, RecursionError) as error:  # ValueError: also a number of over 4,300 digits
        raise ConfigError(
            f"{path}: not valid TOML: {first_line(error)}", "See configs/cpu.toml for a complete example."
        ) from error
    bundle = values.get("bundle")
    if (
        isinstance(bundle, str) and bundle and not is_hub_name(bundle)
    ):  # relative to the file that names it, wherever the command is run
        values["bundle"] = str(path.absolute().parent / _expanded(bundle))
    _refuse_unknown(values, RuntimeConfig, str(path))
    for key, hint in get_type_hints(RuntimeConfig).items():
        if dataclasses.is_dataclass(hint) and not isinstance(values.get(key, {}), dict):
            raise ConfigError(f"{path}: {key} is {_quote(values[key])}", f"It is a table: [{key}].")
    return values


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    known: dict[str, tuple[str, ...]] = {}
    for field in dataclasses.fields(RuntimeConfig):
        if dataclasses.is_dataclass(field.default):
            known |= {f"{field.name}_{sub.name}".upper(): (field.name, sub.name) for sub in _fields(field)}
        else:
            known[field.name.upper()] = (field.name,)
    values: dict[str, Any] = {}
    for variable, text in environment.items():
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable in OTHER_VARIABLES or not text:
            continue  # an empty variable is an unset one
        key = variable.removeprefix(ENVIRONMENT_PREFIX)
        if key not in known:
            raise ConfigError(
                f"environment: unknown variable {first_line(variable)}", _nearest(key, known, ENVIRONMENT_PREFIX)
            )
        *tables, name = known[key]
        table = values.setdefault(tables[0], {}) if tables else values
        hint = get_type_hints(get_type_hints(RuntimeConfig)[tables[0]] if tables else RuntimeConfig)[name]
        table[name] = _typed(
            hint, _provider(text) if name == "provider" else text, f"environment: {variable}", strict=False
        )
    return values


def _fields(field: dataclasses.Field[Any]) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(field.default)  # type: ignore[arg-type]  # a table's default is a dataclass


def _refuse_unknown(values: Mapping[str, Any], kind: type, where: str, table: str = "") -> None:
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key, value in values.items():
        if key not in fields:
            raise ConfigError(f"{where}: unknown key {table}{first_line(key)}", _nearest(key, fields, table))
        if dataclasses.is_dataclass(fields[key].default) and isinstance(value, dict):
            _refuse_unknown(value, type(fields[key].default), where, f"{key}.")


def _nearest(key: str, known: Mapping[str, object], prefix: str) -> str:
    close = difflib.get_close_matches(key[:100], known, n=1)
    if close:
        return f"Did you mean {prefix}{close[0]}?"
    return "Known: " + ", ".join(f"{prefix}{name}" for name in known) + "."
