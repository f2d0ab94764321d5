"""A bundle with other heads on the same encoder: graphs written, int8 judged, every variant compared with PyTorch."""

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
        parent: every one of its `variants` has a parity record.
        variants: those that are kept.
        files: of the parent, that are linked, but for graphs, which are written with the new heads.
        heads, specs: all of the new bundle's, in its order; golden: the parent's rows with these heads.
        same_first: whether the first head is the parent's.
        name: of the bundle, "" = its directory's. notice: None = the parent's.
        fix: what to do about a variant over its limit.
        panels: those that are right of the new heads.
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
    """The files of these variants and what is beside them, less the heads and what is dropped."""
    names = [name for variant in variants for name in bundle.files_of(bundle.manifest.variants[variant])]
    beside = [name for name in bundle.manifest.files if "/" not in name and name not in (HEAD_NAME, *dropped)]
    return list(dict.fromkeys([*names, *beside]))


def assemble(made: Assembly, staging: Path, report: Report) -> Manifest:
    """Write the bundle to `staging`, and check it; returns its manifest.

    Raises:
        ParityError: the heads' graph, or a variant with it, over its limit.
    """
    parent = made.parent.manifest
    made.golden.save(staging)
    _write_graphs(made, staging, report)
    variants = {name: _judged(made, name) for name in made.variants}
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
    # golden.check_discriminates is not asked again: it shows that the golden rows could tell a wrong encoder from a
    # right one, which was settled at export, and a user's head may well see them all alike. check_heads has proven this
    # head, on rows of its own.
    return check_variants(manifest, references, made.golden, staging, report, made.fix)


def _judged(made: Assembly, name: str) -> Variant:
    """A kept variant, its record still to be measured; int8 is judged again, by all heads of the new bundle."""
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
    assert record is not None  # the request's check has refused it
    rounding = record.weight_rounding
    return Reference(
        golden=golden,
        torch=record.torch,
        transformers=record.transformers,
        # What it cost p and the logit was another head's, if the first is not the same.
        rounding=rounding if rounding is None or same_first else {"embedding": rounding["embedding"]},
    )


def _write_graphs(made: Assembly, staging: Path, report: Report) -> None:
    """The heads alone and behind each kept encoder graph, whose weights are linked and never read."""
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
