"""The configuration, and how it is read from a file, the environment and flags.

This file is over 300 lines, so that an option, its allowed values and every way to set it are in one place.
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

# Default rows and tokens of the one shape that Core ML runs: 8 variable domains of up to 158 residues, CLS and EOS.
# Core ML compiles a program for each shape, and fails on dynamic shapes (apple/coremltools#2825).
COREML_SHAPE = (8, 160)

# Longest text in a config: the longest path that Linux takes.
MAX_TEXT_CHARS = 4_096
ENVIRONMENT_PREFIX = "ABONYX_"
# cache.py and serve/settings.py read these. They are not fields of the config.
OTHER_VARIABLES = frozenset({"ABONYX_CACHE_DIR", "ABONYX_SERVE_TOKEN", "ABONYX_SERVE_ADMIN_TOKEN"})


def _check(ok: bool, key: str, value: object, allowed: str) -> None:
    if not ok:
        raise ConfigError(f"config: {key} is {_quote(value)}", f"Allowed: {allowed}.")


def _quote(value: object) -> str:
    """The text of a value for a message: one short line."""
    try:
        return first_line(repr(value))
    except ValueError:  # Python refuses to print a number of over 4,300 digits
        return f"a value ({type(value).__name__}) with a number that is too long to show"


def _expanded(path: str | Path) -> str:
    """The path with ~ replaced. Unchanged if the user does not exist; Path.expanduser would raise."""
    return os.path.expanduser(path)  # noqa: PTH111


def _provider(name: str) -> str:
    """A provider's name in lower case, because people write CPU and CoreML. Any other name stays unchanged."""
    return name.lower() if name.lower() in get_args(ProviderName) else name


def _check_types(options: object, table: str = "") -> None:
    """Check that every field of a config has its annotated type. True does not count as a number."""
    for name, hint in get_type_hints(type(options)).items():
        _typed(hint, getattr(options, name), f"config: {table}{name}", strict=True)


def _typed(hint: Any, value: object, where: str, *, strict: bool) -> object:
    """The value as its annotated type. strict=False also reads text ("2" is 2, "true" is true)."""
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, hint):  # type: ignore[arg-type]  # a hint here is a class
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
    # msgspec encodes the config for its hash. It cannot encode a number of more than 64 bits.
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
        # Python keeps bytes of a path that are not UTF-8 as surrogates. ONNX Runtime cannot open such a path.
        fix = "Rename it. If it is a path, a symbolic link with a name in UTF-8 also works."
        raise ConfigError(f"{where} is {_quote(text)}: it is not UTF-8", fix) from None


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


class _Shown:
    """repr() shows the fields that differ from their defaults, as Python code that makes an equal object."""

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
        threads: number of threads; None = the processors that this process may use (affinity and cgroup quota).
    """

    threads: int | None = None

    def __post_init__(self) -> None:
        _check_types(self, "cpu.")
        _check(self.threads is None or self.threads >= 1, "cpu.threads", self.threads, "a whole number from 1")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class CudaOptions(_Shown):
    """Options of provider cuda.

    Attributes:
        device_id: number of the GPU, as CUDA counts them from 0.
        memory_limit_bytes: largest amount of GPU memory that ONNX Runtime may allocate, in bytes; None = all.
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
        compute_units: the units that Core ML may use.
        cache_dir: directory for compiled models, each in a folder named by the bundle's hash; None = compile at each
            open.
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
        device: OpenVINO's name for the device.
        threads: threads of the CPU device; None = the processors that this process may use (affinity and cgroup quota).
        streams: number of batches that run at the same time and share the threads. More streams score more sequences
            per second, but the first result comes later.
        precision: the arithmetic. "f32" keeps the variant's limits. "bf16" (device CPU only) is faster on processors
            that have it, but keeps only the wider limits of tolerances.BF16.
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
                "bf16 needs the device CPU. Leave precision out for another device.",
            )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class RuntimeConfig(_Shown):
    """The bundle that a run uses, and how it runs. `RuntimeConfig()` is the shipped mini bundle on the CPU.

    repr() gives Python code that makes an equal config.

    Attributes:
        bundle: the bundle's directory (made absolute), or its name on the hub (hf:ORG/NAME@REVISION); None = the
            shipped mini bundle.
        provider: the one execution provider that runs the model, in lower case. abonyx never uses another instead.
        variant: a variant of the bundle; None = the manifest's default for the provider.
        pooling: "residues" (mean over residues) or "upstream-batch" (the old pipeline's rule, needs batch_size).
        batch_size: the old pipeline's batch size (8 in training, 32 in prediction), for "upstream-batch" only.
        token_budget: largest number of tokens in a batch, padding included; None = the provider's default.
        static_rows: number of rows in every batch; padding fills missing rows. None = the number varies, except on
            coreml, which uses COREML_SHAPE.
        static_tokens: number of tokens in every row, CLS and EOS included; padding fills missing tokens, and a longer
            sequence is refused. None = as for static_rows.
        window_size: number of records that are scored, written and journalled together; None = the provider's
            default.
        allow_cpu_nodes: whether a few nodes of the graph may run on the CPU if the provider is not cpu.
        cpu: options of the provider cpu.
        cuda: options of the provider cuda.
        coreml: options of the provider coreml.
        openvino: options of the provider openvino.

    Raises:
        ConfigError: a value is not allowed. The message names the key and the allowed values.
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
                "Give batch_size only with pooling upstream-batch: the old pipeline trained with 8 and predicted with "
                "32. token_budget sets how many sequences run together.",
            )

        self._check_shape()

    def _check_shape(self) -> None:
        if (self.static_rows is None) != (self.static_tokens is None):
            raise ConfigError(
                f"config: static_rows is {self.static_rows} and static_tokens is {self.static_tokens}",
                "Give both or neither: together they are the shape of every batch.",
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
        """(rows, tokens in a row) of every batch if the shape is fixed, as Core ML needs it; None if it varies."""
        if self.static_rows is not None and self.static_tokens is not None:
            return self.static_rows, self.static_tokens
        return COREML_SHAPE if self.provider == "coreml" else None

    @property
    def bf16(self) -> bool:
        """Whether the arithmetic is bfloat16. The variant's weights may have another type."""
        return self.provider == "openvino" and self.openvino.precision == "bf16"

    def sha256(self) -> str:
        """Hex sha256 over all fields, for the metadata of results. Equal configs have equal hashes."""
        return hashlib.sha256(msgspec.json.encode(dataclasses.asdict(self), order="sorted")).hexdigest()


def load_config(
    path: Path | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
) -> RuntimeConfig:
    """Read the config from a TOML file and ABONYX_* variables. A variable overrides the file; a flag overrides both.

    Args:
        path: a TOML file; None = no file.
        environment: the variables; None = os.environ. The field threads of the table cpu is ABONYX_CPU_THREADS.
        flags: field -> value; a value of None is ignored.

    Raises:
        ConfigError: the file cannot be read, a key is unknown (the message names the nearest valid one), or a value
            has the wrong type or is not allowed.
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
    except (ValueError, RecursionError) as error:  # Python raises ValueError for a number of over 4,300 digits too
        raise ConfigError(
            f"{path}: not valid TOML: {first_line(error)}", "See configs/cpu.toml for a complete example."
        ) from error
    bundle = values.get("bundle")
    if isinstance(bundle, str) and bundle and not is_hub_name(bundle):
        # The path is relative to the config file, not to the current directory.
        values["bundle"] = str(path.absolute().parent / _expanded(bundle))
    _refuse_unknown(values, RuntimeConfig, str(path))
    for key, hint in get_type_hints(RuntimeConfig).items():
        if dataclasses.is_dataclass(hint) and not isinstance(values.get(key, {}), dict):
            raise ConfigError(f"{path}: {key} is {_quote(values[key])}", f"Write it as a table: [{key}].")
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
            continue  # an empty variable counts as not set
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
