"""A bundle with a head on both chains on the shipped encoder; its values can be computed from embeddings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from abonyx.bundle import open_bundle
from abonyx.bundle.heads import sigmoid

from ..bare import bare_mini

# Name -> chains; the first is the default.
CHAINS: dict[str, tuple[str, ...]] = {"psr": ("H", "L"), "hic": ("H", "L"), "nonspecificity": ("H",), "light": ("L",)}
LINEAR = ("hic",)
TRAINING_SD = 2.0


def make_paired(directory: Path, heads: Mapping[str, tuple[str, ...]] = CHAINS, parent: Path | None = None) -> Path:
    """Write the bundle, with these heads."""
    pytest.importorskip("onnx", reason="the export extra is not installed")
    from abonyx_export.fit.assembly import Assembly, assemble, files_beside
    from abonyx_export.head.spec import golden_of, head_spec, stored_heads, sums_intercept

    # Files are linked, so a test that writes into this bundle would change the shipped bundle.
    bundle = open_bundle(parent or bare_mini(directory.with_name(f"{directory.name}-parent")))
    golden = bundle.golden()
    own = stored_heads(bundle.manifest.heads, golden)[0]
    made = []
    for seed, (name, chains) in enumerate(heads.items(), 1):
        coef = np.random.default_rng(seed).standard_normal((len(chains), golden.embedding.shape[1]))
        coef *= golden.embedding.astype(np.float64).std(axis=0)
        coef *= 0.4 / (golden.embedding @ coef.sum(axis=0)).std()
        head = dataclasses.replace(
            own,
            name=name,
            coef=coef.ravel(),
            mean=None,
            scale=None,
            chain_count=len(chains),
            intercept=-float((golden.embedding @ coef.sum(axis=0)).mean()),
            classes=() if name in LINEAR else (0, 1),
            unit="min" if name in LINEAR else None,
            training_sd=TRAINING_SD if name in LINEAR else None,
            thresholds={},
        )
        made.append(head)
    mean = golden.head_mean
    variants = list(bundle.manifest.variants)
    directory.mkdir()
    assemble(
        Assembly(
            parent=bundle,
            variants=variants,
            files=files_beside(bundle, variants, ["README.md"]),
            heads=made,
            specs=[head_spec(head, heads[head.name], sums_intercept(head, mean)) for head in made],
            golden=golden_of(golden.input_ids, golden.lengths, golden.embedding, made, mean),
            same_first=False,
            name="paired",
            notice=None,
            fix="",
            panels=[],
        ),
        directory,
        lambda line: None,
    )
    return directory


def expected_values(
    bundle: Path, name: str, heavy: npt.NDArray[np.floating], light: npt.NDArray[np.floating]
) -> npt.NDArray[np.float64]:
    """Values (n,) of a head, computed from the embeddings (n, D) of both chains and the weights in the golden rows."""
    opened = open_bundle(bundle)
    golden, head = opened.golden(), next(head for head in opened.manifest.heads if head.name == name)
    columns = [at for at, each in enumerate(golden.head_names) if each == name]
    embedding = {"H": heavy, "L": light}
    total = sum(
        embedding[chain].astype(np.float64) @ golden.head_coef[at] + golden.head_intercept[at]
        for chain, at in zip(head.chains, columns, strict=True)
    )
    return np.asarray(total) if head.kind == "linear" else sigmoid(np.asarray(total))
