"""Fit: a labelled file and a bundle in, a bundle with a new head on the same encoder out, or nothing at all.

Nothing here imports PyTorch: the parent's golden embeddings are PyTorch's already, and only the head is new.
Over 300 lines: the steps of one command, in their order.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import skl2onnx
import sklearn

import abonyx
from abonyx import cache
from abonyx.arrays import Float64Array
from abonyx.bundle import GOLDEN_NAME, Bundle, Golden, check_files, check_quantization
from abonyx.bundle.manifest import Candidate, HeadTraining, Manifest, Variant
from abonyx.bundle.threshold import CallRule
from abonyx.errors import ConfigError
from abonyx.input.checked import Input
from abonyx.output.directory import staged
from abonyx.output.files import rejected_path, replacing
from abonyx.output.formats import write_rejected
from abonyx.wording import option
from abonyx_export.bundle_writer import DEFAULT_THRESHOLD, Reference, Report, check_variants, head_spec
from abonyx_export.fit.card import FILES as CARD_FILES
from abonyx_export.fit.card import judge_fit, write_card
from abonyx_export.fit.cross_validation import (
    Fitted,
    Labels,
    choose,
    count_scores,
    cross_validate,
    fit_once,
    table,
)
from abonyx_export.fit.embeddings import embed
from abonyx_export.fit.flagged import flag_lines, flagged_rows, without_flagged
from abonyx_export.fit.int8_error import cell, choose_for_int8, int8_errors
from abonyx_export.fit.request import FitRequest, check_labels, check_request
from abonyx_export.head.graph import attach_head, check_head, head_model
from abonyx_export.head.head import Head
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
        BundleError: the parent is damaged or its head is not linear; a cache entry is another bundle's.
        ParityError: the converted head, or a variant with it, over its limit.
        SessionInUse: this process has a session open.
    """
    check_request(request)
    run, bundle = request.run, request.run.bundle
    checked = run.read(request.source, request.label_column, label_required=True, rule=request.rule)
    for line in flag_lines(checked, request):
        report(line)
    flagged = len(flagged_rows(checked))
    if request.drop_flagged:
        checked = without_flagged(checked, request)
    labels = np.array(check_labels(checked, request), np.int64)
    check_files(bundle, _needed_files(bundle, request.kept))
    golden = bundle.golden()
    for note in checked.notes:
        report(note)
    if checked.rejected:
        report(f"{len(checked.rejected)} bad records left out")
    rows = embed(run, checked, _embedding_cache(request), report).astype(np.float64)
    head, training, iterations = _fit(request, checked, rows, labels, report)
    report("judging it by folds that keep similar sequences together")
    card, band = judge_fit(request, checked, rows, labels, _fit_once(request))
    training = msgspec.structs.replace(training, band=band)
    if run.check != "off":
        training = msgspec.structs.replace(training, flagged=flagged, dropped=flagged if request.drop_flagged else 0)
    with _head_file(request.head_out, head, iterations), staged(request.output) as staging:
        write_card(card, checked, staging)
        manifest = _build(request, head, training, golden, staging, report)
        if run.skip:  # before the bundle takes its place: a fit that failed leaves none
            write_rejected(rejected_path(request.output), checked.rejected)
    report(f"card: {card.sentence}")
    report(f"calls: {CallRule(DEFAULT_THRESHOLD, band).text}")
    return manifest


def _embedding_cache(request: FitRequest) -> Path:
    """Where embeddings are kept."""
    if request.embedding_cache is not None:
        return request.embedding_cache
    kept = cache.cache_dir()
    if kept is None:
        what = "there is no home directory to keep embeddings in: HOME is not set"
        raise ConfigError(what, f"Name a directory with {option('embedding_cache')}.")
    return kept / "embeddings"


def _fit(
    request: FitRequest, checked: Input, rows: Float64Array, labels: Labels, report: Report
) -> tuple[Head, HeadTraining, int]:
    """Cross-validate, choose C, and refit on all rows."""
    positives, repeated = int(labels.sum()), len(checked.sequences) - len(set(checked.sequences))
    report(
        f"{len(labels)} rows, {positives} of them non-specific: {request.folds}-fold cross-validation, "
        f"{request.seeds} seeds from {request.seed}; mean +- sd over folds (sd of the seeds' means)"
    )
    if repeated:
        report(f"  {repeated} rows repeat an earlier row's sequence: folds may share it, and score too well")
    fit = _fit_once(request)
    seeds = range(request.seed, request.seed + request.seeds)
    candidates = cross_validate(rows, labels, request.grid, folds=request.folds, seeds=seeds, fit=fit)
    fitted, c = _chosen(request, checked, candidates, functools.partial(fit, rows, labels), report)
    training = HeadTraining(
        rows=len(labels),
        positives=positives,
        repeated_sequences=repeated,
        c=c,
        scaled=request.scale,
        class_weight="balanced" if request.balanced else None,
        seed=request.seed,
        folds=request.folds,
        seeds=request.seeds,
        candidates=candidates,
        sklearn=sklearn.__version__,
        scores=count_scores(rows, labels, c, folds=request.folds, seed=request.seed, fit=fit),
    )
    return _head(request, checked, fitted), training, fitted.iterations


def _fit_once(request: FitRequest) -> Callable[[Float64Array, Labels, float], Fitted]:
    return functools.partial(fit_once, scale=request.scale, balanced=request.balanced)


def _chosen(
    request: FitRequest,
    checked: Input,
    candidates: list[Candidate],
    refit: Callable[[float], Fitted],
    report: Report,
) -> tuple[Fitted, float]:
    """The regression on all rows with the C that is chosen, and that C; the candidates are reported."""
    lines = table(candidates)
    if not any(request.run.bundle.manifest.variants[name].quantization for name in request.kept):
        for line in lines:
            report(line)
        c = choose(candidates).c
        report(f"refitting on all rows with C {c:g}, of the highest mean ROC AUC")
        return refit(c), c
    fitted = {each.c: refit(each.c) for each in candidates}
    errors = int8_errors(request, {c: _head(request, checked, regression) for c, regression in fitted.items()})
    report(lines[0])
    for line, each in zip(lines[1:], candidates, strict=True):
        report(f"{line}  {cell(errors[each.c])}")
    c = choose_for_int8(candidates, errors, request.folds).c
    report(
        f"refitting on all rows with C {c:g}: of those as good as the best, int8 moves its scores least (docs/int8.md)"
    )
    return fitted[c], c


def _head(request: FitRequest, checked: Input, fitted: Fitted) -> Head:
    encoder, config = request.run.bundle.manifest.encoder, request.run.config
    return Head(
        coef=fitted.coef,
        intercept=fitted.intercept,
        mean=fitted.mean,
        scale=fitted.scale,
        classes=(0, 1),
        source_name=request.source_name,
        source_sha256=_rows_sha256(checked),
        encoder=encoder.repo_id,
        encoder_revision=encoder.revision,
        pooling=config.pooling,
        pooling_batch_size=config.batch_size,
        sklearn_version=sklearn.__version__,
    )


def _rows_sha256(checked: Input) -> str:
    """Hash of ids, sequences and labels in order: the same for a file, its gzip and standard input."""
    return hashlib.sha256(msgspec.json.encode([checked.ids, checked.sequences, checked.labels])).hexdigest()


def _needed_files(bundle: Bundle, kept: tuple[str, ...]) -> list[str]:
    """What the new bundle is made of: the kept variants, and what is beside them; the head and its card are new."""
    names = [name for variant in kept for name in bundle.files_of(bundle.manifest.variants[variant])]
    beside = [name for name in bundle.manifest.files if "/" not in name and name not in (HEAD_NAME, *CARD_FILES)]
    return list(dict.fromkeys([*names, *beside]))


def _build(
    request: FitRequest, head: Head, training: HeadTraining, golden: Golden, staging: Path, report: Report
) -> Manifest:
    parent = request.run.bundle.manifest
    golden = Golden(golden.input_ids, golden.lengths, golden.embedding, head.logit(golden.embedding), *head.weights())
    golden.save(staging)
    _write_graphs(request, head, staging, report)
    variants = {name: _judged(request, name, head) for name in request.kept}
    inherited = {provider: name for provider, name in parent.default_variant.items() if name in variants}
    now = {"abonyx": abonyx.__version__, "sklearn": sklearn.__version__, "skl2onnx": skl2onnx.__version__}
    manifest = msgspec.structs.replace(
        parent,
        name=request.name or "",
        notice=parent.notice if request.notice is None else request.notice,
        head=head_spec(head, request.chains, training),
        variants=variants,
        default_variant=default_variants(list(variants)) | inherited,
        packages=parent.packages | now,
        files={},
    )
    references = {name: _reference(parent, name, golden) for name in variants}
    # golden.check_discriminates is not asked again: it shows that the golden rows could tell a wrong encoder from a
    # right one, which was settled at export, and a user's head may well see them all alike. check_head has proven this
    # head, on rows of its own.
    return check_variants(manifest, references, golden, staging, report, _FIX)


def _judged(request: FitRequest, name: str, head: Head) -> Variant:
    """A kept variant, its record still to be measured; int8 is judged again, by the new head's scores."""
    bundle = request.run.bundle
    check_quantization(bundle.path, name, bundle.manifest.variants[name])
    variant = msgspec.structs.replace(bundle.manifest.variants[name], parity=None)
    if variant.quantization is None:
        return variant
    rows = GateRows.load((bundle.path / variant.model).parent)
    gate = score_gate.judge(rows, head, [DEFAULT_THRESHOLD])
    score_gate.enforce(gate, variant.limits.p, " with the new head", _FIX)
    return msgspec.structs.replace(variant, quantization=msgspec.structs.replace(variant.quantization, gate=gate))


def _reference(parent: Manifest, name: str, golden: Golden) -> Reference:
    record = parent.variants[name].parity
    assert record is not None  # check_request has refused it
    rounding = record.weight_rounding
    return Reference(
        golden=golden,
        thresholds=[DEFAULT_THRESHOLD],
        torch=record.torch,
        transformers=record.transformers,
        # What it cost p and the logit was another head's.
        rounding=None if rounding is None else {"embedding": rounding["embedding"]},
    )


def _write_graphs(request: FitRequest, head: Head, staging: Path, report: Report) -> None:
    """The new head alone and behind each kept encoder graph, whose weights are linked and never read."""
    bundle = request.run.bundle
    graph = head_model(head)
    check_head(graph, head)
    onnx.save(graph, staging / HEAD_NAME)
    models = {bundle.manifest.variants[name].model for name in request.kept}
    for name in _needed_files(bundle, request.kept):
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
