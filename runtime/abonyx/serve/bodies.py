"""The answers of the routes, made from what the model gave."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from abonyx import __version__
from abonyx.arrays import Float32Array, shortest_decimal
from abonyx.bundle.chosen import ChosenHeads, P
from abonyx.bundle.manifest import HeadSpec
from abonyx.bundle.panel import PERCENTILE, Panel
from abonyx.bundle.threshold import CALL, CALLED, CallRule, own_rule
from abonyx.bundle.training_rows import rows_among
from abonyx.domain import Check
from abonyx.input.checked import Input
from abonyx.input.records import RejectedRecord
from abonyx.output.beside import column_cells
from abonyx.output.formats import PAIR_COLUMNS
from abonyx.serve.answers import (
    EmbedAnswer,
    Embedding,
    EmbedRequest,
    HeadName,
    ModelAnswer,
    ModelName,
    PanelName,
    Rejected,
    RequestLimits,
    Score,
    ScoreAnswer,
    ScoreRequest,
)
from abonyx.serve.interfaces import INTERFACE
from abonyx.serve.model import Model
from abonyx.serve.settings import Settings
from abonyx.wording import in_words


def model_name(model: Model) -> ModelName:
    """The model as every answer names it."""
    return ModelName(
        name=model.name,
        sha256=model.bundle.sha256,
        variant=model.variant_name,
        provider=model.config.provider,
    )


def model_answer(model: Model, settings: Settings) -> ModelAnswer:
    """GET /v1/model."""
    manifest = model.bundle.manifest
    return ModelAnswer(
        abonyx=__version__,
        ready=True,
        name=model.bundle.name,
        label=model.bundle.label(),
        notice=manifest.notice,
        licence=manifest.licence,
        sha256=model.bundle.sha256,
        variant=model.variant_name,
        precision="bf16" if model.config.bf16 else model.variant.precision,
        provider=model.config.provider,
        placement=model.placement,
        parity=model.variant.parity,
        max_residues=model.limit.residues,
        chains=manifest.head.chains,
        heads=[head_name(head, own_rule(head)) for head in manifest.heads],
        default_threshold=manifest.head.default_threshold,
        thresholds=manifest.head.thresholds,
        training=manifest.head.training,
        panels=[_panel_name(panel) for panel in manifest.panels],
        model_card=model.card,
        card=model.trust,
        limits=RequestLimits(
            max_body_bytes=settings.max_body_bytes,
            max_gzip_members=settings.max_gzip_members,
            max_gzip_extra_bytes=settings.max_gzip_extra_bytes,
            max_sequences=settings.max_sequences,
            max_explained_sequences=settings.max_explained_sequences,
            max_scan_mutants=settings.max_scan_mutants,
            max_residues_per_request=settings.max_residues_per_request,
            max_sequence_chars=settings.max_sequence_chars,
            max_lines=settings.max_lines,
            max_line_chars=settings.max_line_chars,
            max_columns=settings.max_columns,
            max_cells=settings.max_cells,
        ),
    )


def head_name(head: HeadSpec, rule: CallRule | None) -> HeadName:
    """One head, as every answer has it."""
    return HeadName(
        name=head.name,
        kind=head.kind,
        unit=head.unit,
        higher_is_worse=head.higher_is_worse,
        threshold=None if rule is None else rule.threshold,
        band=None if rule is None else rule.band,
        chains=head.chains,
    )


def _panel_name(panel: Panel) -> PanelName:
    return PanelName(name=panel.name, rows=panel.rows, source=panel.source)


def score_answer(
    model: Model, records: Input, values: Float32Array, heads: ChosenHeads, asked: ScoreRequest
) -> ScoreAnswer:
    """POST /v1/score: values is (n, len(heads.names)) float32, finite."""
    rule, judgements, nothing = heads.rule, records.judgements, [None] * len(records.ids)
    cells = {
        name: [float(shortest_decimal(value)) for value in column] if isinstance(column, np.ndarray) else column
        for name, column in heads.cells(
            values, [judgement.trusted for judgement in judgements], records.records
        ).items()
    }
    p, numbers, words, bands = (cells.pop(name, nothing) for name in (P, CALLED, CALL, PERCENTILE))
    places = records.places if asked.trim else [msgspec.UNSET] * len(judgements)
    names = PAIR_COLUMNS if records.light else ("sequence",)
    chains = [records.shown, records.shown_light] if records.light else [records.shown]
    shown = [dict(zip(names, record, strict=True)) for record in zip(*chains, strict=True)]
    more = _by_row(cells, len(judgements))
    beside = _by_row(column_cells(asked.with_columns or (), records.sequences, judgements, heads), len(judgements))
    labels: Sequence[Any] = records.labels or [msgspec.UNSET] * len(judgements)
    trained = _trained(model, records, heads, asked.domain)
    rows = zip(
        records.ids, shown, p, numbers, words, bands, judgements, places, more, beside, labels, trained, strict=True
    )
    return ScoreAnswer(
        model=model_name(model),
        threshold=None if rule is None else rule.threshold,
        band=None if rule is None else rule.band,
        assay=asked.assay,
        panel=None if heads.panel is None else _panel_name(heads.panel),
        heads=[head_name(head.spec, head.rule) for head in heads.heads],
        chains=list(heads.chains),
        labels=next(iter(records.kept)) if records.labels else None,
        domain=asked.domain,
        trim=asked.trim,
        flags=dict(records.flag_counts()),
        results=[
            Score(
                id=id_,
                **sequences,
                p_nonspecific=value,
                nonspecific=number,
                call=word,
                percentile=band,
                flag=judgement.text,
                domain=place,
                heads=of_heads,
                added=of_domain,
                label=label,
                training_row=known,
            )
            for id_, sequences, value, number, word, band, judgement, place, of_heads, of_domain, label, known in rows
        ],
        rejected=rejected(records.rejected),
        notes=[in_words(note, INTERFACE.get()) for note in records.notes],
    )


def _trained(model: Model, records: Input, heads: ChosenHeads, domain: Check) -> list[Any]:
    """For each record, whether the first of the heads was trained on it; None = not known; unset without labels.

    With domain off, a training row with a tag is not recognised.
    """
    if not records.labels:
        return [msgspec.UNSET] * len(records.ids)
    known = model.training.get(heads.names[0])
    if known is None:
        return [None] * len(records.ids)
    missing = None if domain == "off" else False
    return [bool(found) or missing for found in rows_among(known, records.records, records.domains)]


def _by_row(columns: Mapping[str, Sequence[Any]], count: int) -> list[dict[str, Any] | msgspec.UnsetType]:
    """Turn columns (name -> cells) into one dictionary for each row. Without columns, the value stays unset."""
    if not columns:
        return [msgspec.UNSET] * count
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def rejected(problems: list[RejectedRecord]) -> list[Rejected]:
    """The records that were left out."""
    return [Rejected(id=one.id, line=one.line, reason=in_words(one.reason, INTERFACE.get())) for one in problems]


def embed_answer(model: Model, records: Input, embedding: Float32Array, asked: EmbedRequest) -> Iterator[bytes]:
    """POST /v1/embed: an EmbedAnswer, one row at a time, because text takes twenty times the memory of the numbers."""
    head = EmbedAnswer(
        model=model_name(model),
        width=embedding.shape[1],
        domain=asked.domain,
        trim=asked.trim,
        flags=dict(records.flag_counts()),
        rejected=rejected(records.rejected),
        results=[],
    )
    yield msgspec.json.encode(head).removesuffix(b"]}")
    for at, (id_, row) in enumerate(zip(records.ids, embedding, strict=True)):
        numbers = [float(shortest_decimal(value)) for value in row]
        yield b"," * (at > 0) + msgspec.json.encode(Embedding(id=id_, embedding=numbers))
    yield b"]}"
