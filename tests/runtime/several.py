"""A bundle with several heads on the shipped encoder; their values can be computed from embeddings."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from abonyx.bundle import open_bundle
from abonyx.bundle.heads import sigmoid
from abonyx.bundle.manifest import Variant

from ..conftest import MINI

VARIANT = "fp16-weights"
# Name -> kind; the first is mini's own, and the default.
KINDS = {"nonspecificity": "logistic", "hic": "linear", "psr": "logistic", "ac-sins": "linear", "elisa": "logistic"}


def make_several(directory: Path, order: Sequence[str] = tuple(KINDS)) -> Path:
    """Write the bundle, with its heads in that order."""
    pytest.importorskip("onnx", reason="the export extra is not installed")
    import onnx

    from abonyx_export.bundle_writer import Reference, check_variants
    from abonyx_export.head.graph import attach_head, check_heads, head_model
    from abonyx_export.head.head import Head
    from abonyx_export.head.spec import golden_of, head_spec, stored_heads, sums_intercept

    mini = open_bundle(MINI)
    golden = mini.golden()
    (own,) = stored_heads(mini.manifest.heads, golden)
    spread = golden.embedding.astype(np.float64).std(axis=0)
    heads: dict[str, Head] = {"nonspecificity": own}
    for seed, name in enumerate(KINDS):
        if name in heads:
            continue
        coef = np.random.default_rng(seed).standard_normal(own.coef.size) * spread
        coef /= (golden.embedding @ coef).std()
        centre = float((golden.embedding @ coef).mean())
        linear = KINDS[name] == "linear"
        scale, offset = (3.0 * seed, 10.0 * seed) if linear else (1.0, 0.0)
        heads[name] = dataclasses.replace(
            own,
            name=name,
            coef=coef * scale,
            intercept=offset - centre * scale,
            classes=() if linear else (0, 1),
            unit="min" if linear else None,
            training_sd=2.0 * seed if linear else None,
            source_name=f"{name}.csv",
        )
    chosen = [heads[name] for name in order]
    mean = golden.head_mean
    directory.mkdir()
    shutil.copytree(MINI / VARIANT, directory / VARIANT)
    rows = golden_of(golden.input_ids, golden.lengths, golden.embedding, chosen, mean)
    rows.save(directory)
    graph = head_model(chosen, mean)
    check_heads(graph, chosen, mean)
    onnx.save(graph, directory / "head.onnx")
    path = directory / VARIANT / "model.onnx"
    onnx.save(attach_head(onnx.load(path, load_external_data=False), graph), path)
    variants: dict[str, Variant] = {VARIANT: msgspec.structs.replace(mini.manifest.variants[VARIANT], parity=None)}
    manifest = msgspec.structs.replace(
        mini.manifest,
        name="several",
        heads=[head_spec(head, ("H",), sums_intercept(head, mean)) for head in chosen],
        variants=variants,
        files={},
        panels=[],  # the files of panels are not copied
    )
    reference = Reference(golden=rows, torch="none", transformers="none")
    check_variants(manifest, {VARIANT: reference}, rows, directory, lambda line: None, "")
    return directory


def expected_values(bundle: Path, embedding: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float64]]:
    """Name -> values (n,), computed from embeddings (n, D) and the weights in the golden rows."""
    golden = open_bundle(bundle).golden()
    totals = embedding.astype(np.float64) @ golden.head_coef.T + golden.head_intercept
    return {
        name: sigmoid(total) if KINDS[name] == "logistic" else total
        for name, total in zip(golden.head_names, totals.T, strict=True)
    }
