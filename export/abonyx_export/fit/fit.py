"""Fit: a labelled file and a bundle in, a bundle with a new head on the same encoder out, or nothing at all.

Nothing here imports PyTorch: the parent's golden embeddings are PyTorch's already, and only the head is new.
Over 300 lines: the steps of one command, in their order.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import sklearn

import abonyx
from abonyx import cache
from abonyx.arrays import Float32Array
from abonyx.bundle import GOLDEN_NAME, Golden, check_files, check_quantization
from abonyx.bundle.manifest import HeadTraining, Manifest, Variant
from abonyx.bundle.threshold import own_rule
from abonyx.errors import ConfigError
from abonyx.output.directory import staged
from abonyx.output.files import rejected_path, replacing
from abonyx.output.formats import write_rejected
from abonyx.wording import option
from abonyx_export.bundle_writer import Reference, Report, check_variants
from abonyx_export.fit.card import card_files, judge_fit, write_card
from abonyx_export.fit.embeddings import embed
from abonyx_export.fit.flagged import flag_lines, flagged_rows, without_flagged
from abonyx_export.fit.request import FitRequest, check_request
from abonyx_export.fit.training import trainer
from abonyx_export.head.graph import attach_head, check_heads, common_mean, head_model
from abonyx_export.head.head import Head
from abonyx_export.head.spec import golden_of, head_spec, joined, stored_heads, sums_intercept
from abonyx_export.int8 import score_gate
from abonyx_export.int8.score_gate import GateRows
from abonyx_export.variants import default_variants

HEAD_NAME = "head.onnx"
# Where a file cannot be linked and can still be copied: another file system, or one (or a rule) without hard links.
_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_FIX = f"Give a smaller {option('grid')}, add {option('scale')}, or leave the variant out with {option('variants')}."


def fit_bundle(request: FitRequest, report: Report = lambda line: None) -> Manifest:
    """Write the new bundle, or raise and leave nothing behind but the cached embeddings.

    Args:
        request: what to fit.
        report: called with a line at each step.

    Returns:
        The new bundle's manifest, with the training and each variant's parity record.

    Raises:
        ConfigError: an option, an output that cannot be made, a C at which the regression does not converge.
        InputError: the file, its records or its labels cannot be used.
        BundleError: the parent is damaged; a cache entry is another bundle's.
        ParityError: the converted head, or a variant with it, over its limit.
        SessionInUse: this process has a session open.
    """
    check_request(request)
    run, bundle = request.run, request.run.bundle
    checked = run.read(
        request.source,
        request.label_column,
        label_required=True,
        label_kind=request.label_kind,
        rule=request.rule,
    )
    for line in flag_lines(checked, request):
        report(line)
    flagged = len(flagged_rows(checked))
    if request.drop_flagged:
        checked = without_flagged(checked, request)
    train = trainer(request, checked)
    check_files(bundle, _needed_files(request))
    golden = bundle.golden()
    for note in [*checked.notes, *_left_out(request)]:
        report(note)
    if checked.rejected:
        report(f"{len(checked.rejected)} bad records left out")
    rows = embed(run, checked, _embedding_cache(request), report).astype(np.float64)
    head, training, iterations = train(rows, report)
    report("judging it by folds that keep similar sequences together")
    card, band = judge_fit(request, checked, rows)
    training = msgspec.structs.replace(training, band=band)
    if run.check != "off":
        training = msgspec.structs.replace(training, flagged=flagged, dropped=flagged if request.drop_flagged else 0)
    with _head_file(request.head_out, head, iterations), staged(request.output) as staging:
        write_card(card, checked, staging, request)
        manifest = _build(request, head, training, golden, staging, report)
        if run.skip:  # before the bundle takes its place: a fit that failed leaves none
            write_rejected(rejected_path(request.output), checked.rejected)
    report(f"card: {card.sentence}")
    if rule := own_rule(next(spec for spec in manifest.heads if spec.name == head.name)):
        report(f"calls: {rule.text}")
    return manifest


def _left_out(request: FitRequest) -> list[str]:
    """That the parent's heads are not in the new bundle, if it has several."""
    heads = request.run.bundle.manifest.heads
    if request.add or len(heads) == 1:
        return []
    names = ", ".join(head.name for head in heads)
    return [f"the new bundle has the new head alone; {option('add')} keeps those of {request.run.bundle.name}: {names}"]


def _embedding_cache(request: FitRequest) -> Path:
    """Where embeddings are kept."""
    if request.embedding_cache is not None:
        return request.embedding_cache
    kept = cache.cache_dir()
    if kept is None:
        what = "there is no home directory to keep embeddings in: HOME is not set"
        raise ConfigError(what, f"Name a directory with {option('embedding_cache')}.")
    return kept / "embeddings"


def _needed_files(request: FitRequest) -> list[str]:
    """What the new bundle is made of: the kept variants, and what is beside them; heads that are not kept have none."""
    bundle = request.run.bundle
    names = [name for variant in request.kept for name in bundle.files_of(bundle.manifest.variants[variant])]
    dropped = [] if request.add else [name for head in bundle.manifest.heads for name in card_files(bundle, head.name)]
    beside = [name for name in bundle.manifest.files if "/" not in name and name not in (HEAD_NAME, *dropped)]
    return list(dict.fromkeys([*names, *beside]))


def _build(
    request: FitRequest, head: Head, training: HeadTraining, golden: Golden, staging: Path, report: Report
) -> Manifest:
    parent = request.run.bundle.manifest
    mean = golden.head_mean if request.add else common_mean([head], golden.embedding)
    spec = head_spec(head, request.trained_on, sums_intercept(head, mean), training)
    new = golden_of(golden.input_ids, golden.lengths, golden.embedding, [head], mean)
    heads, specs = [head], [spec]
    if request.add:
        # The parent's records and arrays as they are: made again they could differ in their last bits.
        heads, specs = [*stored_heads(parent.heads, golden), head], [*parent.heads, spec]
        new = joined(golden, new)
    golden = new
    golden.save(staging)
    _write_graphs(request, heads, mean, staging, report)
    variants = {name: _judged(request, name, heads) for name in request.kept}
    inherited = {provider: name for provider, name in parent.default_variant.items() if name in variants}
    now = {"abonyx": abonyx.__version__, "sklearn": sklearn.__version__}
    manifest = msgspec.structs.replace(
        parent,
        name=request.name or "",
        notice=parent.notice if request.notice is None else request.notice,
        heads=specs,
        variants=variants,
        default_variant=default_variants(list(variants)) | inherited,
        packages=parent.packages | now,
        files={},
    )
    references = {name: _reference(parent, name, golden, same_head=request.add) for name in variants}
    # golden.check_discriminates is not asked again: it shows that the golden rows could tell a wrong encoder from a
    # right one, which was settled at export, and a user's head may well see them all alike. check_heads has proven this
    # head, on rows of its own.
    return check_variants(manifest, references, golden, staging, report, _FIX)


def _judged(request: FitRequest, name: str, heads: list[Head]) -> Variant:
    """A kept variant, its record still to be measured; int8 is judged again, by all heads of the new bundle."""
    bundle = request.run.bundle
    check_quantization(bundle.path, name, bundle.manifest.variants[name])
    variant = msgspec.structs.replace(bundle.manifest.variants[name], parity=None)
    if variant.quantization is None:
        return variant
    rows = GateRows.load((bundle.path / variant.model).parent)
    gates = score_gate.judge_all(rows, heads)
    score_gate.enforce(gates, variant.limits.p, " with the new head", _FIX)
    return msgspec.structs.replace(variant, quantization=msgspec.structs.replace(variant.quantization, gates=gates))


def _reference(parent: Manifest, name: str, golden: Golden, *, same_head: bool) -> Reference:
    record = parent.variants[name].parity
    assert record is not None  # check_request has refused it
    rounding = record.weight_rounding
    return Reference(
        golden=golden,
        torch=record.torch,
        transformers=record.transformers,
        # What it cost p and the logit was another head's, if the first is not the same.
        rounding=rounding if rounding is None or same_head else {"embedding": rounding["embedding"]},
    )


def _write_graphs(request: FitRequest, heads: list[Head], mean: Float32Array, staging: Path, report: Report) -> None:
    """The heads alone and behind each kept encoder graph, whose weights are linked and never read."""
    bundle = request.run.bundle
    graph = head_model(heads, mean)
    check_heads(graph, heads, mean)
    onnx.save(graph, staging / HEAD_NAME)
    models = {bundle.manifest.variants[name].model for name in request.kept}
    for name in _needed_files(request):
        (staging / name).parent.mkdir(parents=True, exist_ok=True)
        if name in models:
            onnx.save(attach_head(onnx.load(bundle.path / name, load_external_data=False), graph), staging / name)
        elif name != GOLDEN_NAME:
            _link(bundle.path / name, staging / name, report)


def _link(source: Path, target: Path, report: Report) -> None:
    """A hard link: one copy on the disk, which outlives either bundle. check_files has seen that it is a plain file."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        report(f"  {source} is copied: it cannot be linked ({error.strerror})")
        shutil.copy2(source, target, follow_symlinks=False)


@contextmanager
def _head_file(path: Path | None, head: Head, iterations: int) -> Iterator[None]:
    """The head in the old pipeline's .npz layout, in its place once the block has ended well.

    That layout has no scaler: it is folded into the weights.
    """
    if path is None:
        yield
        return
    coef, intercept = head.weights()
    arrays: dict[str, Any] = {
        "coef": coef[None],
        "intercept": np.array([intercept]),
        "classes": np.array(head.classes, np.float64),
        "n_features_in": np.array([coef.size], np.int64),
        "n_iter": np.array([iterations], np.int32),
    }
    data = io.BytesIO()
    np.savez(data, **arrays)
    with replacing(path) as sink:
        sink.write(data.getvalue())
        yield
