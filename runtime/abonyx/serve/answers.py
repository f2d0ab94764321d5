"""The bodies of requests and answers, except errors (problems.py). OpenAPI's schemas are made from these types."""

from __future__ import annotations

from typing import Literal

import msgspec

from abonyx.bundle.band import CallBand, Word
from abonyx.bundle.manifest import HeadTraining, Parity
from abonyx.domain import Check
from abonyx.input.sequences import Gaps

OnInvalid = Literal["fail", "skip"]
Trim = Literal["domain"]


class _In(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """The base of all parts of answers."""


class Sequence(_In, frozen=True, kw_only=True):
    """One record: one sequence, or the chains of a pair. Ids may repeat. Heads that need both chains refuse one alone.

    Attributes:
        heavy, light: in place of `sequence`. A head that needs one of them takes that one.
    """

    id: str
    sequence: str | msgspec.UnsetType = msgspec.UNSET
    heavy: str | msgspec.UnsetType = msgspec.UNSET
    light: str | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        paired = (self.heavy, self.light) != (msgspec.UNSET, msgspec.UNSET)
        if self.sequence is msgspec.UNSET and not paired:
            raise ValueError("Object missing required field `sequence`")
        if self.sequence is not msgspec.UNSET and paired:
            raise ValueError("Object has `sequence`, and `heavy` or `light`: give one of them")


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


class HeadsRequest(EmbedRequest, frozen=True, kw_only=True):
    """Sequences, and the heads whose numbers are wanted.

    Attributes:
        heads: names of the model's heads, or "all"; null = the first.
    """

    heads: Literal["all"] | list[str] | None = None


class ScoreRequest(HeadsRequest, frozen=True, kw_only=True):
    """Sequences to score, and the threshold: the assay's that the head declares, one given, or the head's default.

    Attributes:
        domain: check flags a record that the head was not trained on, require rejects it, off does not look.
        trim: domain = score only the variable domain of a longer record; null = all of it.
        gaps: strip takes out gaps (- and .) and a final *, refuse makes a bad record of one that has them.
        heads: names of the model's heads whose values are wanted, or "all"; null = the first. assay and threshold are
            the first head's.
        panel: name of the model's panel whose percentiles are wanted; null = the first.
        with: columns beside the score: charge, pI, length, cdr3 and nearest_identity of the domain, not with domain
            off; interval of heads that give values; null = none.
    """

    assay: str | None = None
    threshold: float | None = None
    panel: str | None = None
    with_columns: list[str] | None = msgspec.field(name="with", default=None)


class ModelName(Answered, frozen=True, kw_only=True):
    """Which model gave the numbers."""

    name: str
    sha256: str
    variant: str
    provider: str


class Rejected(Answered, frozen=True, kw_only=True):
    """A record that was left out; line is the file's, or the number of the item, from 1."""

    id: str
    line: int
    reason: str


class HeadName(Answered, frozen=True, kw_only=True):
    """One head.

    Attributes:
        kind: logistic, a probability; linear, a value in `unit`, which is null for a probability.
        higher_is_worse: whether a higher value means a worse antibody.
        threshold: of its calls; null = it makes none.
        band: quantiles between which a call is uncertain; null = calls have two values, by the threshold.
        chains: that it expects of a record, H heavy and L light.
    """

    name: str
    kind: str
    unit: str | None
    higher_is_worse: bool
    threshold: float | None
    band: CallBand | None
    chains: list[str]


class PanelName(Answered, frozen=True, kw_only=True):
    """One panel: how many rows it has, and where they are from."""

    name: str
    rows: int
    source: str


class Score(Answered, frozen=True, kw_only=True):
    """One score.

    Attributes:
        sequence: as the input has it, in capital letters; with trim too. Of a pair it is left out: heavy and light are
            in its place.
        p_nonspecific: of the first head; null if that is linear, or not among the heads.
        nonspecific: 1 if p_nonspecific is strictly above the threshold, 0 if not; null for a flagged record, whose
            score means nothing, and without p_nonspecific. A nanobody-like record without another flag has its 1 or 0.
        call: specific, non-specific, or, where the answer has a band, uncertain; null as in nonspecific.
        percentile: 95 % interval of the share of the panel that scores lower, in percent, FIRST-LAST; followed by
            " (in panel)" if the sequence is in the panel itself; null as in nonspecific, or without a panel.
        flag: why the score should not be trusted, several reasons joined by "; "; "" = nothing is wrong.
        domain: with trim alone: the residues that were scored, FIRST-LAST from 1; "" = no domain to trim to.
        heads: the other heads and a linear first one, if any was wanted: NAME_p, NAME_nonspecific (1, 0 or null) and
            NAME_call, or NAME_value; and NAME_percentile; with interval NAME_low and NAME_high.
        added: the columns that `with` names, by name; null for a record without a single domain.
        label: with labels read alone: 0 specific, 1 non-specific, null not labelled.
        training_row: with labels read alone: whether the first of the answer's heads was trained on this record, whose
            score then flatters it; null = not known: the bundle does not record its training rows, or domain is off,
            so that a training row with a tag is not recognised.
    """

    id: str
    sequence: str | msgspec.UnsetType = msgspec.UNSET
    heavy: str | msgspec.UnsetType = msgspec.UNSET
    light: str | msgspec.UnsetType = msgspec.UNSET
    p_nonspecific: float | None
    nonspecific: Literal[0, 1] | None
    call: Word | None
    percentile: str | None
    flag: str
    domain: str | msgspec.UnsetType = msgspec.UNSET
    heads: dict[str, float | str | None] | msgspec.UnsetType = msgspec.UNSET
    added: dict[str, float | int | str | None] | msgspec.UnsetType = msgspec.UNSET
    label: Literal[0, 1] | msgspec.UnsetType | None = msgspec.UNSET
    training_row: bool | msgspec.UnsetType | None = msgspec.UNSET


class ScoreAnswer(Answered, frozen=True, kw_only=True):
    """Scores in input order.

    Attributes:
        threshold: of the first head; null if it makes no calls, or is not among the heads.
        band: the first head's quantiles, between which a call is uncertain; null if the request has a
            threshold or the head has no band: calls then have two values, by the threshold.
        panel: whose percentiles the results have; null = they have none.
        heads: those whose values the results have.
        chains: what was scored of each record: H the heavy chain, L the light one, or both.
        domain, trim: as the request has them.
        flags: reason -> results that have it, most first; the numbers that a flag begins with are left out.
        labels: the column of the file whose classes the results have; null = none was requested, or found.
        notes: how the input was read: columns that were chosen by their names, chains that are not scored.
    """

    model: ModelName
    threshold: float | None
    band: CallBand | None
    assay: str | None
    panel: PanelName | None
    heads: list[HeadName]
    chains: list[str]
    labels: str | None
    domain: Check
    trim: Trim | None
    flags: dict[str, int]
    results: list[Score]
    rejected: list[Rejected]
    notes: list[str]


class Embedding(Answered, frozen=True, kw_only=True):
    """One pooled embedding, `width` numbers."""

    id: str
    embedding: list[float]


class EmbedAnswer(Answered, frozen=True, kw_only=True):
    """Embeddings in input order; domain, trim and flags are as in ScoreAnswer."""

    model: ModelName
    width: int
    domain: Check
    trim: Trim | None
    flags: dict[str, int]
    rejected: list[Rejected]
    results: list[Embedding]


class RequestLimits(Answered, frozen=True, kw_only=True):
    """The most of one request."""

    max_body_bytes: int
    max_gzip_members: int
    max_gzip_extra_bytes: int
    max_sequences: int
    max_explained_sequences: int
    max_scan_mutants: int
    max_residues_per_request: int
    max_sequence_chars: int
    max_lines: int
    max_line_chars: int
    max_columns: int
    max_cells: int


class ModelAnswer(Answered, frozen=True, kw_only=True):
    """The open model and what it takes.

    Attributes:
        abonyx: its version.
        ready: always true: without an open model the answer is a problem. (msgspec before 0.22 takes no Literal[True].)
        placement: execution provider -> nodes it runs.
        parity: the variant's differences from PyTorch, as its export measured them.
        chains: those that the first head was trained on, H heavy and L light; records of others are flagged.
        heads: all of them; the first is the default, and default_threshold, thresholds and training are its own.
        thresholds: assay -> threshold, those the head declares.
        panels: those that percentiles can be of; the first is the default.
        model_card: the bundle's README.md.
        card: how far to trust the head, as `abonyx fit` found: Markdown, a sentence on its first line.
    """

    abonyx: str
    ready: bool
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
    heads: list[HeadName]
    default_threshold: float | None
    thresholds: dict[str, float]
    training: HeadTraining | None
    panels: list[PanelName]
    model_card: str | None
    card: str | None
    limits: RequestLimits


class Health(Answered, frozen=True, kw_only=True):
    """The answer of /healthz and /readyz."""

    status: Literal["ok"] = "ok"
