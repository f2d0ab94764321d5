from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from abonyx import config as config_module
from abonyx.config import CoreMLOptions, CpuOptions, CudaOptions, OpenVinoOptions, RuntimeConfig, load_config
from abonyx.engine import providers
from abonyx.errors import ConfigError

from ..conftest import REPOSITORY


@pytest.mark.parametrize(
    "config",
    [
        RuntimeConfig(),
        RuntimeConfig(provider="cuda", variant="fp16", cuda=CudaOptions(device_id=1, memory_limit_bytes=10**9)),
        RuntimeConfig(bundle="it's here", pooling="upstream-batch", batch_size=8, cpu=CpuOptions(threads=2)),
        RuntimeConfig(coreml=CoreMLOptions(cache_dir="x"), openvino=OpenVinoOptions(precision="bf16")),
        RuntimeConfig(static_rows=2, static_tokens=99, window_size=7, allow_cpu_nodes=True),
    ],
)
def test_a_config_prints_as_the_expression_that_makes_it(config: RuntimeConfig) -> None:
    assert eval(repr(config), vars(config_module)) == config


def test_the_expression_has_no_defaults() -> None:
    assert repr(RuntimeConfig()) == "RuntimeConfig()"
    config = RuntimeConfig(bundle="/models/esm1v", provider="cuda", cuda=CudaOptions(device_id=1))
    bundle = str(Path("/models/esm1v").absolute())
    assert repr(config) == f"RuntimeConfig(bundle={bundle!r}, provider='cuda', cuda=CudaOptions(device_id=1))"


def test_a_provider_may_be_typed_in_any_case(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("provider = 'CoreML'")
    assert load_config(file, {}).provider == "coreml"
    assert load_config(file, {"ABONYX_PROVIDER": "OpenVINO"}).provider == "openvino"
    assert load_config(file, {"ABONYX_PROVIDER": "OpenVINO"}, {"provider": "CPU"}) == RuntimeConfig()
    for environment, flags in (({"ABONYX_PROVIDER": "GPU"}, {}), ({}, {"provider": "GPU"})):
        with pytest.raises(ConfigError, match=r"'GPU': invalid enum value 'GPU'\nAllowed: cpu, cuda"):
            load_config(None, environment, flags)


def test_file_then_environment_then_flags(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('provider = "openvino"\nvariant = "fp32"\ntoken_budget = 10\nbundle = "here"\n[cpu]\nthreads = 3\n')
    environment = {"ABONYX_VARIANT": "fp16", "ABONYX_CPU_THREADS": "2", "ABONYX_TOKEN_BUDGET": "20", "HOME": "x"}
    config = load_config(file, environment, {"token_budget": 30, "provider": None})
    assert (config.provider, config.variant, config.cpu.threads, config.token_budget) == ("openvino", "fp16", 2, 30)
    assert config.bundle == str(tmp_path / "here")


def test_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RuntimeConfig().provider = "cuda"  # type: ignore[misc]


def test_hash_follows_values() -> None:
    assert RuntimeConfig().sha256() == RuntimeConfig().sha256()
    assert RuntimeConfig().sha256() != RuntimeConfig(cpu=CpuOptions(threads=1)).sha256()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("providr = 'cpu'", ["providr", "provider"]),
        ("[cpu]\nthread = 2", ["cpu.thread", "cpu.threads"]),
        ("provider = 'gpu'", ["gpu", "cuda"]),
        ("[cpu]\nthreads = 0", ["cpu.threads", "0"]),
        ("token_budget = 'many'", ["token_budget", "int"]),
        ("pooling = 'upstream-batch'", ["upstream-batch", "batch_size"]),
        ("batch_size = 8", ["residues", "batch_size"]),
        ("provider =", ["TOML"]),
        ("provider = " + "[" * 100_000, ["TOML"]),
        ("nonsense = 1", ["nonsense", "Known"]),
    ],
)
def test_bad_files_name_key_and_what_is_allowed(tmp_path: Path, text: str, parts: list[str]) -> None:
    file = tmp_path / "run.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(file, {})
    for part in parts:
        assert part in str(caught.value)


def test_unknown_variable_and_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ABONYX_PROVIDER"):
        load_config(None, {"ABONYX_PROVIDR": "cpu"})
    with pytest.raises(ConfigError, match=r"none\.toml"):
        load_config(tmp_path / "none.toml", {})


@pytest.mark.parametrize("provider", ["cpu", "cuda", "coreml", "openvino"])
def test_shipped_configs_are_valid_and_name_their_provider(provider: str) -> None:
    config = load_config(REPOSITORY / "configs" / f"{provider}.toml", {})
    assert config.provider == provider
    assert config.window_size == providers.PROVIDERS[config.provider].window_size


def test_cpu_config_shows_the_defaults() -> None:
    shown = load_config(REPOSITORY / "configs" / "cpu.toml", {})
    assert dataclasses.replace(shown, token_budget=None, window_size=None) == RuntimeConfig()


def test_coreml_config_fixes_the_shape_that_is_the_default_and_keeps_what_is_compiled() -> None:
    shown = load_config(REPOSITORY / "configs" / "coreml.toml", {})
    assert shown.static_shape == RuntimeConfig(provider="coreml").static_shape == (8, 160)
    assert shown.coreml.cache_dir == str(Path("~/Library/Caches/abonyx/coreml").expanduser())
    assert RuntimeConfig().static_shape is None
    fixed = load_config(None, {"ABONYX_STATIC_ROWS": "2", "ABONYX_STATIC_TOKENS": "99", "ABONYX_PROVIDER": "coreml"})
    assert fixed.static_shape == (2, 99)


HUGE = "é" + "x" * 3_000_000


@pytest.mark.parametrize(
    "text",
    [
        *(f'{key} = "{HUGE}"' for key in ("bundle", "variant", "provider", "pooling", "batch_size", "cpu")),
        *(f'[openvino]\n{key} = "{HUGE}"' for key in ("device", "precision", "threads")),
        *(f'[coreml]\n{key} = "{HUGE}"' for key in ("cache_dir", "compute_units")),
        f'"{HUGE}" = 1',
        f'[cpu]\n"{HUGE}" = 1',
        f"batch_size = {HUGE}",
        f"batch_size = {'9' * 4_000}",
        f"batch_size = {'9' * 400_000}",
        f"batch_size = 0x{'f' * 400_000}",
        f"variant = [0x{'f' * 400_000}]",
        f"variant = [{'1,' * 100_000}]",
    ],
    ids=lambda text: text[:30],
)
def test_a_value_of_three_megabytes_is_not_echoed(tmp_path: Path, text: str) -> None:
    file = tmp_path / "run.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(file, {})
    assert len(str(caught.value)) < 1_000 + len(str(tmp_path)) and caught.value.fix


def test_a_variable_or_flag_of_three_megabytes_is_not_echoed() -> None:
    for environment, flags in (
        ({"ABONYX_VARIANT": HUGE}, {}),
        ({f"ABONYX_{HUGE}": "1"}, {}),
        ({}, {"bundle": HUGE}),
        ({}, {"provider": HUGE}),
    ):
        with pytest.raises(ConfigError) as caught:
            load_config(None, environment, flags)
        assert len(str(caught.value)) < 1_000


def test_text_as_long_as_a_path_may_be_is_taken() -> None:
    assert RuntimeConfig(variant="x" * 4_096).variant == "x" * 4_096
    with pytest.raises(ConfigError, match="it has 4097 characters"):
        RuntimeConfig(variant="x" * 4_097)
    with pytest.raises(ConfigError, match="less than 64 bits"):
        RuntimeConfig(token_budget=2**63)


@pytest.mark.parametrize("options", [{"bundle": "/\udcff"}, {"variant": "\udcff"}])
def test_text_that_is_not_utf_8_is_refused(options: dict[str, str]) -> None:
    """A path's byte that is not UTF-8, as Python shows it; ONNX Runtime opens no such path."""
    with pytest.raises(ConfigError, match=r"'/?\\udcff': it is not UTF-8"):
        RuntimeConfig(**options)  # type: ignore[arg-type]  # texts only
    with pytest.raises(ConfigError, match="it is not UTF-8"):
        load_config(None, {f"ABONYX_{name.upper()}": text for name, text in options.items()})
