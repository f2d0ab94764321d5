"""Write a bundle with other heads on the same encoder, judge int8 again, and compare every variant with PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import onnx
import sklearn

import abonyx
from abonyx.bundle import GOLDEN_NAME, Bundle, Golden, check_quantization
from abonyx.bundle.files import link_or_copy
from abonyx.bundle.manifest import HeadSpec, Manifest, Variant
from abonyx.bundle.panel import Panel
from abonyx_export.bundle_writer import Reference, Report, check_variants
from abonyx_export.head.graph import attach_head, check_heads, head_model
from abonyx_export.head.head import Head
from abonyx_export.int8 import score_gate
from abonyx_export.int8.score_gate import GateRows
from abonyx_export.variants import default_variants

HEAD_NAME = "head.onnx"


@dataclass(frozen=True, kw_only=True)
class Assembly:
    """What a new bundle is made of.

    Attributes:
        parent: the old bundle. Each of `variants` must have a parity record.
        variants: names of the variants to keep.
        files: files of the parent to link. Graphs are not linked: they are written again with the new heads.
        heads, specs: all heads of the new bundle, in its order.
        golden: the parent's rows with these heads.
        same_first: whether the first head is the parent's.
        name: name of the new bundle; "" = the name of its directory.
        notice: one line shown wherever the bundle is named; None = the parent's.
        fix: what the user can do about a variant over its limit.
        panels: reference panels with the scores of these heads.
    """

    parent: Bundle
    variants: Sequence[str]
    files: Sequence[str]
    heads: list[Head]
    specs: list[HeadSpec]
    golden: Golden
    same_first: bool
    name: str
    notice: str | None
    fix: str
    panels: list[Panel]


def files_beside(bundle: Bundle, variants: Sequence[str], dropped: Sequence[str] = ()) -> list[str]:
    """Files of these variants, and files directly in the bundle's folder, except head.onnx and `dropped`."""
    names = [name for variant in variants for name in bundle.files_of(bundle.manifest.variants[variant])]
    beside = [name for name in bundle.manifest.files if "/" not in name and name not in (HEAD_NAME, *dropped)]
    return list(dict.fromkeys([*names, *beside]))


def assemble(made: Assembly, staging: Path, report: Report) -> Manifest:
    """Write the bundle to `staging` and check it; returns its manifest.

    Raises:
        ParityError: the heads' graph, or a variant with it, is over its limit.
    """
    parent = made.parent.manifest
    made.golden.save(staging)
    _write_graphs(made, staging, report)
    variants = {name: _kept_variant(made, name) for name in made.variants}
    inherited = {provider: name for provider, name in parent.default_variant.items() if name in variants}
    now = {"abonyx": abonyx.__version__, "sklearn": sklearn.__version__}
    manifest = msgspec.structs.replace(
        parent,
        name=made.name,
        notice=parent.notice if made.notice is None else made.notice,
        heads=made.specs,
        variants=variants,
        default_variant=default_variants(list(variants)) | inherited,
        packages=parent.packages | now,
        panels=made.panels,
        files={},
    )
    references = {name: _reference(parent, name, made.golden, same_first=made.same_first) for name in variants}
    # golden.check_discriminates does not run again. Export has already shown that the golden rows can detect a wrong
    # encoder, and a user's head may give all golden rows similar scores. check_heads has checked the new heads on
    # random rows.
    return check_variants(manifest, references, made.golden, staging, report, made.fix)


def _kept_variant(made: Assembly, name: str) -> Variant:
    """The manifest's entry of a kept variant, not measured yet. int8 is judged again by all heads of the new bundle."""
    bundle = made.parent
    check_quantization(bundle.path, name, bundle.manifest.variants[name])
    variant = msgspec.structs.replace(bundle.manifest.variants[name], parity=None)
    if variant.quantization is None:
        return variant
    rows = GateRows.load((bundle.path / variant.model).parent)
    gates = score_gate.judge_all(rows, made.heads)
    score_gate.enforce(gates, variant.limits.p, " with the new head", made.fix)
    return msgspec.structs.replace(variant, quantization=msgspec.structs.replace(variant.quantization, gates=gates))


def _reference(parent: Manifest, name: str, golden: Golden, *, same_first: bool) -> Reference:
    record = parent.variants[name].parity
    assert record is not None  # check_request refuses variants without a record
    rounding = record.weight_rounding
    return Reference(
        golden=golden,
        torch=record.torch,
        transformers=record.transformers,
        # The rounding error of p and the logit depends on the first head, so it is dropped if that head changes.
        rounding=rounding if rounding is None or same_first else {"embedding": rounding["embedding"]},
    )


def _write_graphs(made: Assembly, staging: Path, report: Report) -> None:
    """Write the heads' graph alone and attached to every kept encoder. Encoder weights are linked and never read."""
    bundle, mean = made.parent, made.golden.head_mean
    graph = head_model(made.heads, mean)
    check_heads(graph, made.heads, mean)
    onnx.save(graph, staging / HEAD_NAME)
    models = {bundle.manifest.variants[name].model for name in made.variants}
    for name in made.files:
        (staging / name).parent.mkdir(parents=True, exist_ok=True)
        if name in models:
            onnx.save(attach_head(onnx.load(bundle.path / name, load_external_data=False), graph), staging / name)
        elif name != GOLDEN_NAME:
            link_or_copy(bundle.path / name, staging / name, report)
