"""The estimate of an export's needs, compared with measured exports."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from abonyx.bundle import tolerances
from abonyx.errors import ConfigError
from abonyx_export import estimate
from abonyx_export.encoder.config import EncoderConfig
from abonyx_export.export import export_bundle
from abonyx_export.request import ExportRequest
from abonyx_export.variants import VARIANTS
from make_checkpoint import SHAPES, make_checkpoint

ESM2_8M = EncoderConfig(
    layers=6,
    hidden=320,
    heads=20,
    positions="rotary",
    positions_count=1026,
    token_dropout=True,
    emb_layer_norm_before=False,
    layer_norm_eps=1e-5,
    pad_id=1,
)
# Variants -> operations per second, seconds and peak bytes. The first export tried every plan of int8.
MEASURED = {tuple(VARIANTS): (200e9, 256.0, 1.82e9), ("fp32",): (105e9, 10.0, 0.85e9)}


@pytest.mark.parametrize("variants", MEASURED)
def test_the_measured_export(variants: tuple[str, ...]) -> None:
    speed, seconds, memory_bytes = MEASURED[variants]
    found = estimate.needs(ESM2_8M, variants, speed)
    assert seconds / 2 < found.most_seconds < 2 * seconds
    assert memory_bytes / 1.5 < found.memory_bytes < 1.5 * memory_bytes


def test_a_small_export_takes_the_disk_it_says(tmp_path: Path) -> None:
    make_checkpoint(SHAPES["mini"], tmp_path / "checkpoint")
    request = ExportRequest(
        encoder=str(tmp_path / "checkpoint"),
        output=tmp_path / "bundle",
        variants=("fp32", "fp16-weights"),
        max_dp={"fp16-weights": tolerances.TINY_FP16_P},
    )
    lines: list[str] = []
    shown: list[tuple[str, int, int]] = []
    manifest = export_bundle(request, lines.append, lambda *step: shown.append(step))
    assert ("writing fp32 (1 of 2): layer", 6, 6) in shown
    assert ("running 45 golden rows through PyTorch: row", 45, 45) in shown
    size = sum(entry.size_bytes for entry in manifest.files.values())
    config = dataclasses.replace(ESM2_8M, positions="absolute")
    assert estimate.needs(config, request.variants, 105e9).disk_bytes == pytest.approx(size, rel=0.1)
    assert lines[1].startswith("6 layers of 320 units as fp32, fp16-weights: about ")
    assert "44 MB of disk" in lines[1]


def test_a_full_disk_is_an_error_before_weights_are_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_checkpoint(SHAPES["mini"], tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / "model.safetensors").unlink()  # not needed before the error
    monkeypatch.setattr(estimate.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10_000_000}))
    request = ExportRequest(encoder=str(tmp_path / "checkpoint"), output=tmp_path / "bundle", variants=("fp32",))
    with pytest.raises(ConfigError, match=r"the export needs 29 MB of disk, .* has 10 MB free"):
        export_bundle(request)
    assert not (tmp_path / "bundle.partial").exists()
