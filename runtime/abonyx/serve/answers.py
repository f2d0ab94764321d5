"""What goes over the wire, both ways, but for errors (problems.py). OpenAPI's schemas are made from these types."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from abonyx import __version__
from abonyx.arrays import Float32Array, shortest_decimal
from abonyx.bundle.band import CallBand, Word
from abonyx.bundle.manifest import HeadTraining, Parity
from abonyx.bundle.threshold import CallRule
from abonyx.domain import Check
from abonyx.input.checked import Input
from abonyx.input.records import RejectedRecord
from abonyx.input.sequences import Gaps
from abonyx.serve.scheduler import Model
from abonyx.serve.settings import Settings
from abonyx.wording import Interface, in_words

OnInvalid = Literal["fail", "skip"]
Trim = Literal["domain"]


class _In(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class _Out(msgspec.Struct, frozen=True, kw_only=True):
    pass


class Sequence(_In, frozen=True, kw_only=True):
    """One sequence; ids may repeat."""

    id: str
    sequence: str


# A sequence without an id has the number of its item, from 1.
Items = list[Sequence | str]


class EmbedRequest(_In, frozen=True, kw_only=True):
    """Sequences to embed.

    Attributes:
        domain: check flags a record that the head was not trained on, require rejects it, off does not look.
        trim: domain = use only the variable domain of a longer record; null = all of it.
        gaps: strip takes out gaps (- and .) and a final *, refuse makes a bad record of one that has them.
    """

    sequences: Items
    on_invalid: OnInvalid = "fail"
    domain: Check = "check"
    trim: Trim | None = None
    gaps: Gaps = "refuse"


class ScoreRequest(EmbedRequest, frozen=True, kw_only=True):
    """Sequences to score, and the threshold: the assay's that the head declares, one given, or the head's default.

    Attributes:
        domain: check flags a record that the head was not trained on, require rejects it, off does not look.
        trim: domain = score only the variable domain of a longer record; null = all of it.
        gaps: strip takes out gaps (- and .) and a final *, refuse makes a bad record of one that has them.
    """

    assay: str | None = None
    threshold: float | None = None


class ModelName(_Out, frozen=True, kw_only=True):
    """Which model gave the numbers."""

    name: str
    sha256: str
    variant: str
    provider: str


class Rejected(_Out, frozen=True, kw_only=True):
    """A record that was left out; line is the file's, or the number of the item, from 1."""

    id: str
    line: int
    reason: str


class Score(_Out, frozen=True, kw_only=True):
    """One score.

    Attributes:
        sequence: as the input has it, in capital letters; with trim too.
        nonspecific: 1 if p_nonspecific is strictly above the threshold, 0 if not; null for a flagged record, whose
            score means nothing. A nanobody-like record without another flag has its 1 or 0.
        call: specific, non-specific, or, where the answer has a band, uncertain; null as in nonspecific.
        flag: why the score should not be trusted, several reasons joined by "; "; "" = nothing is wrong.
        domain: with trim alone: the residues that were scored, FIRST-LAST from 1; "" = no domain to trim to.
    """

    id: str
    sequence: str
    p_nonspecific: float
    nonspecific: Literal[0, 1] | None
    call: Word | None
    flag: str
    domain: str | msgspec.UnsetType = msgspec.UNSET


class ScoreAnswer(_Out, frozen=True, kw_only=True):
    """Scores in input order.

    Attributes:
        band: the head's quantiles, between which a call is uncertain; null where the request has a threshold, or the
            head has none: calls have two values then, by the threshold.
        domain, trim: as the request has them.
        flags: reason -> results that have it, most first; the numbers that a flag begins with are left out.
    """

    model: ModelName
    threshold: float
    band: CallBand | None
    assay: str | None
    domain: Check
    trim: Trim | None
    flags: dict[str, int]
    results: list[Score]
    rejected: list[Rejected]


class Embedding(_Out, frozen=True, kw_only=True):
    """One pooled embedding, `width` numbers."""

    id: str
    embedding: list[float]


class EmbedAnswer(_Out, frozen=True, kw_only=True):
    """Embeddings in input order; domain, trim and flags are as in ScoreAnswer."""

    model: ModelName
    width: int
    domain: Check
    trim: Trim | None
    flags: dict[str, int]
    rejected: list[Rejected]
    results: list[Embedding]


class RequestLimits(_Out, frozen=True, kw_only=True):
    """The most of one request."""

    max_body_bytes: int
    max_gzip_members: int
    max_gzip_extra_bytes: int
    max_sequences: int
    max_residues_per_request: int
    max_sequence_chars: int
    max_lines: int
    max_line_chars: int
    max_columns: int
    max_cells: int


class ModelAnswer(_Out, frozen=True, kw_only=True):
    """The open model and what it takes.

    Attributes:
        abonyx: its version.
        placement: execution provider -> nodes it runs.
        parity: the variant's differences from PyTorch, as its export measured them.
        chains: those that the head was trained on, H heavy and L light; records of others are flagged.
        thresholds: assay -> threshold, those the head declares.
        model_card: the bundle's README.md.
        card: how far to trust the head, as `abonyx fit` found: Markdown, a sentence on its first line.
    """

    abonyx: str
    ready: Literal[True]
    name: str
    label: str
    notice: str
    licence: str
    sha256: str
    variant: str
    precision: str
    provider: str
    placement: dict[str, int]
    parity: Parity | None
    max_residues: int
    chains: list[str]
    default_threshold: float | None
    thresholds: dict[str, float]
    training: HeadTraining | None
    model_card: str | None
    card: str | None
    limits: RequestLimits


class Health(_Out, frozen=True, kw_only=True):
    """Said by /healthz and /readyz."""

    status: Literal["ok"] = "ok"


def model_name(model: Model) -> ModelName:
    """The model as every answer names it."""
    return ModelName(
        name=model.bundle.name,
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
        default_threshold=manifest.head.default_threshold,
        thresholds=manifest.head.thresholds,
        training=manifest.head.training,
        model_card=model.card,
        card=model.trust,
        limits=RequestLimits(
            max_body_bytes=settings.max_body_bytes,
            max_gzip_members=settings.max_gzip_members,
            max_gzip_extra_bytes=settings.max_gzip_extra_bytes,
            max_sequences=settings.max_sequences,
            max_residues_per_request=settings.max_residues_per_request,
            max_sequence_chars=settings.max_sequence_chars,
            max_lines=settings.max_lines,
            max_line_chars=settings.max_line_chars,
            max_columns=settings.max_columns,
            max_cells=settings.max_cells,
        ),
    )


def score_answer(model: Model, records: Input, p: Float32Array, rule: CallRule, asked: ScoreRequest) -> ScoreAnswer:
    """POST /v1/score: p is (n,) float32, finite."""
    judgements = records.judgements
    trusted = [judgement.trusted for judgement in judgements]
    calls = zip(rule.numbers(p, trusted), rule.words(p, trusted), strict=True)
    places = records.places if asked.trim else [msgspec.UNSET] * len(judgements)
    rows = zip(records.ids, records.shown, p, calls, judgements, places, strict=True)
    return ScoreAnswer(
        model=model_name(model),
        threshold=rule.threshold,
        band=rule.band,
        assay=asked.assay,
        domain=asked.domain,
        trim=asked.trim,
        flags=dict(records.flag_counts()),
        results=[
            Score(
                id=id_,
                sequence=sequence,
                p_nonspecific=float(shortest_decimal(value)),
                nonspecific=nonspecific,
                call=call,
                flag=judgement.text,
                domain=place,
            )
            for id_, sequence, value, (nonspecific, call), judgement, place in rows
        ],
        rejected=rejected(records.rejected),
    )


def rejected(problems: list[RejectedRecord]) -> list[Rejected]:
    """The records that were left out."""
    return [Rejected(id=one.id, line=one.line, reason=in_words(one.reason, Interface.HTTP)) for one in problems]


def embed_answer(model: Model, records: Input, embedding: Float32Array, asked: EmbedRequest) -> Iterator[bytes]:
    """POST /v1/embed, an EmbedAnswer a row at a time: as one piece the numbers' text takes twenty times their room."""
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
