"""Fit: a labelled file and a bundle in, a bundle with a new head on the same encoder out, or nothing at all.

Nothing here imports PyTorch: the parent's golden embeddings are PyTorch's already, and only the head is new.
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
from abonyx_export.head.spec import golden_of, head_spec, joined, stored_heads, sums_intercept

_FIX = (
    f"Give a smaller {option('grid')} (of a regression, a larger {option('alphas')}), add {option('scale')}, "
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
        ConfigError: an option, an output that cannot be made, a C at which the regression does not converge.
        InputError: the file, its records or its labels cannot be used.
        BundleError: the parent is damaged; a cache entry is another bundle's.
        ParityError: the converted head, or a variant with it, over its limit.
        SessionInUse: this process has a session open.
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
    for note in [*checked.notes, *_left_out(request)]:
        report(note)
    if checked.rejected:
        report(f"{len(checked.rejected)} bad records left out")
    varied = with_copies(request, checked)
    embedding = embed_records(run, varied, embedding_cache(request.embedding_cache), report)
    rows = by_row(request, embedding.astype(np.float64))
    head, training, iterations = train(rows, report)
    report("judging it by folds that keep similar sequences together")
    strength = training.c if training.ridge is None else training.ridge.alpha
    assert strength is not None  # every training has one of them
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


def embedding_cache(given: Path | None) -> Path:
    """Where embeddings are kept."""
    if given is not None:
        return given
    kept = cache.cache_dir()
    if kept is None:
        what = "there is no home directory to keep embeddings in: HOME is not set"
        raise ConfigError(what, f"Name a directory with {option('embedding_cache')}.")
    return kept / "embeddings"


def _needed_files(request: FitRequest) -> list[str]:
    """What the new bundle is made of: the kept variants, and what is beside them; heads that are not kept have none."""
    bundle = request.run.bundle
    dropped = [] if request.add else [name for head in bundle.manifest.heads for name in head_files(bundle, head.name)]
    kept = [panel.name for panel in _kept_panels(request)]
    dropped += [panel_file(panel.name) for panel in bundle.manifest.panels if panel.name not in kept]
    return files_beside(bundle, request.kept, dropped)


def _kept_panels(request: FitRequest) -> list[Panel]:
    """The parent's panels, with the scores of its heads if these stay; a new head's scores are not in any panel."""
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
        # The parent's records and arrays as they are: made again they could differ in their last bits.
        heads, specs = [*stored_heads(parent.heads, golden), head], [*parent.heads, spec]
        new = joined(golden, new)
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
