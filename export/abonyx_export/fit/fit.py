"""Fit: write a new bundle with a new head on the parent's encoder, or write nothing.

Nothing here imports PyTorch: the parent's golden embeddings come from PyTorch already, and only the head is new.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from abonyx import cache
from abonyx.bundle import Golden, check_files
from abonyx.bundle.band import ValueBand
from abonyx.bundle.manifest import HeadTraining, Manifest
from abonyx.bundle.panel import Panel, kept_panels, panel_file
from abonyx.bundle.threshold import own_rule
from abonyx.errors import ConfigError
from abonyx.output.directory import staged
from abonyx.output.files import rejected_path, replacing
from abonyx.output.formats import write_rejected
from abonyx.wording import option
from abonyx_export.bundle_writer import Report
from abonyx_export.fit.assembly import Assembly, assemble, files_beside
from abonyx_export.fit.card import head_files, judge_fit, write_card
from abonyx_export.fit.copies import by_row, with_copies
from abonyx_export.fit.embeddings import embed_records
from abonyx_export.fit.flagged import flag_lines, flagged_rows, left_out_notes, without_flagged
from abonyx_export.fit.request import FitRequest, check_request
from abonyx_export.fit.training import trainer
from abonyx_export.head.graph import common_mean
from abonyx_export.head.head import Head
from abonyx_export.head.spec import golden_of, head_spec, join_heads, stored_heads, sums_intercept

_FIX = (
    f"Give a smaller {option('grid')} (for a regression a larger {option('alphas')}), add {option('scale')}, "
    f"or leave the variant out with {option('variants')}."
)


def fit_bundle(request: FitRequest, report: Report = lambda line: None) -> Manifest:
    """Write the new bundle, or raise and leave nothing behind but the cached embeddings.

    Args:
        request: what to fit.
        report: called with a line at each step.

    Returns:
        The new bundle's manifest, with the training and each variant's parity record.

    Raises:
        ConfigError: an option is wrong, the output cannot be created, or the regression does not converge.
        InputError: the file, its records or its labels cannot be used.
        BundleError: the parent is damaged, or a cache entry belongs to another bundle.
        ParityError: the converted head, or a variant with it, is over its limit.
        SessionInUse: this process has an open session.
    """
    check_request(request)
    run, bundle = request.run.of_chains(request.trained_on), request.run.bundle
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
    left_out = left_out_notes(checked, request)
    if request.drop_flagged:
        checked = without_flagged(checked, request)
    train = trainer(request, checked)
    check_files(bundle, _needed_files(request))
    golden = bundle.golden()
    for note in [*checked.notes, *_dropped_heads(request)]:
        report(note)
    if checked.rejected:
        report(f"{len(checked.rejected)} bad records are left out")
    varied = with_copies(request, checked)
    embedding = embed_records(run, varied, embedding_cache(request.embedding_cache), report)
    rows = by_row(request, embedding.astype(np.float64))
    head, training, iterations = train(rows, report)
    report("evaluating the head for its card, with folds that keep similar sequences together")
    strength = training.c if training.ridge is None else training.ridge.alpha
    assert strength is not None  # a training has C or alpha
    card, band = judge_fit(request, checked, rows, strength, left_out)
    if isinstance(band, ValueBand):
        training = msgspec.structs.replace(training, interval=band)
    else:
        training = msgspec.structs.replace(training, band=band)
    if run.check != "off":
        training = msgspec.structs.replace(training, flagged=flagged, dropped=flagged if request.drop_flagged else 0)
    with _head_file(request.head_out, head, iterations), staged(request.output) as staging:
        write_card(card, checked, staging, request)
        manifest = _build(request, head, training, golden, staging, report)
        if run.skip:  # written before the bundle is renamed, so that a failed fit leaves no bundle
            write_rejected(rejected_path(request.output), checked.rejected)
    report(f"card: {card.sentence}")
    if rule := own_rule(next(spec for spec in manifest.heads if spec.name == head.name)):
        report(f"calls: {rule.text}")
    return manifest


def _dropped_heads(request: FitRequest) -> list[str]:
    """A note that the parent's heads are not in the new bundle, if the parent has several."""
    heads = request.run.bundle.manifest.heads
    if request.add or len(heads) == 1:
        return []
    names = ", ".join(head.name for head in heads)
    kept = f"{option('add')} keeps the heads of {request.run.bundle.name}: {names}"
    return [f"the new bundle has only the new head; {kept}"]


def embedding_cache(given: Path | None) -> Path:
    """Directory of the embedding cache: the given one, or one in the user's cache.

    Raises:
        ConfigError: no directory is given, and there is no home directory.
    """
    if given is not None:
        return given
    kept = cache.cache_dir()
    if kept is None:
        what = "the embedding cache needs a home directory, and HOME is not set"
        raise ConfigError(what, f"Give a directory with {option('embedding_cache')}.")
    return kept / "embeddings"


def _needed_files(request: FitRequest) -> list[str]:
    """The parent's files, except those of heads, panels and variants that the new bundle does not keep."""
    bundle = request.run.bundle
    dropped = [] if request.add else [name for head in bundle.manifest.heads for name in head_files(bundle, head.name)]
    kept = [panel.name for panel in _kept_panels(request)]
    dropped += [panel_file(panel.name) for panel in bundle.manifest.panels if panel.name not in kept]
    return files_beside(bundle, request.kept, dropped)


def _kept_panels(request: FitRequest) -> list[Panel]:
    """The parent's panels, with only the scores of kept heads and variants. A panel without scores is dropped."""
    parent = request.run.bundle.manifest
    return kept_panels(parent.panels, [head.name for head in parent.heads] if request.add else [], request.kept)


def _build(
    request: FitRequest, head: Head, training: HeadTraining, golden: Golden, staging: Path, report: Report
) -> Manifest:
    bundle = request.run.bundle
    parent = bundle.manifest
    mean = golden.head_mean if request.add else common_mean([head], golden.embedding)
    spec = head_spec(head, request.trained_on, sums_intercept(head, mean), training)
    new = golden_of(golden.input_ids, golden.lengths, golden.embedding, [head], mean)
    heads, specs = [head], [spec]
    if request.add:
        # The parent's records and arrays are copied, because their last bits could differ if they were made again.
        heads, specs = [*stored_heads(parent.heads, golden), head], [*parent.heads, spec]
        new = join_heads(golden, new)
    made = Assembly(
        parent=bundle,
        variants=request.kept,
        files=_needed_files(request),
        heads=heads,
        specs=specs,
        golden=new,
        same_first=request.add,
        name=request.name or "",
        notice=request.notice,
        fix=_FIX,
        panels=_kept_panels(request),
    )
    return assemble(made, staging, report)


@contextmanager
def _head_file(path: Path | None, head: Head, iterations: int) -> Iterator[None]:
    """Write the head in the old pipeline's .npz layout. The file only appears at `path` if the `with` block succeeds.

    That layout has no scaler, so the scaler is folded into the weights.
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
