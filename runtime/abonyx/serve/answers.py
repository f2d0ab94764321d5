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
    """One record: one sequence, or the chains of a pair. Ids may repeat.

    If the heads need both chains, a record with only one chain is rejected.

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


# The id of a plain string is the number of its item, from 1.
Items = list[Sequence | str]


class EmbedRequest(_In, frozen=True, kw_only=True):
    """Sequences to embed.

    Attributes:
        domain: check flags a record unlike the head's training set, require rejects it, off skips this.
        trim: domain = use only the variable domain of a longer record; null = all of it.
        gaps: strip removes gaps (- and .) and a final *; with refuse, a record that has them is unusable.
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
    """Sequences to score, and the threshold: the one that the head declares for `assay`, `threshold`, or the default.

    Attributes:
        domain: check flags a record unlike the head's training set, require rejects it, off skips this.
        trim: domain = score only the variable domain of a longer record; null = all of it.
        gaps: strip removes gaps (- and .) and a final *; with refuse, a record that has them cannot be scored.
        heads: names of the model's heads whose values are wanted, or "all"; null = the first. assay and threshold
            apply to the first head.
        panel: name of the model's panel whose percentiles are wanted; null = the first.
        with: columns beside the score; null = none. charge, pI, length, cdr3 and nearest_identity are of the domain,
            and are refused with domain off. interval is for heads that give values.
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
    """A record that was left out. `line` is its line in the file or, in JSON, the number of its item, from 1."""

    id: str
    line: int
    reason: str


class HeadName(Answered, frozen=True, kw_only=True):
    """One head.

    Attributes:
        kind: logistic, a probability; linear, a value in `unit`, which is null for a probability.
        higher_is_worse: whether a higher value means a worse antibody.
        threshold: the threshold of the head's calls; null = the head makes no calls.
        band: quantiles between which a call is uncertain; null = calls have two values, by the threshold.
        chains: the chains that the head expects of a record: H heavy, L light.
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
        sequence: the whole sequence of the input in capital letters, also with trim. A pair has heavy and light
            instead.
        p_nonspecific: probability of the first head; null if that head is linear, or was not requested.
        nonspecific: 1 if p_nonspecific is strictly above the threshold, 0 if not; null without p_nonspecific, and for a
            flagged record, whose score means nothing. A record whose only flag is nanobody-like still has 1 or 0.
        call: specific, non-specific, or, where the answer has a band, uncertain; null as in nonspecific.
        percentile: 95 % interval of the share of the panel that scores lower, in percent, FIRST-LAST; followed by
            " (in panel)" if the sequence is in the panel itself; null as in nonspecific, or without a panel.
        flag: why the score should not be trusted, several reasons joined by "; "; "" = nothing is wrong.
        domain: only with trim: the residues that were scored, FIRST-LAST from 1; "" = no domain to trim to.
        heads: values of the requested heads except a logistic first head: NAME_p, NAME_nonspecific (1, 0 or null) and
            NAME_call, or NAME_value; and NAME_percentile; with interval also NAME_low and NAME_high.
        added: the columns that `with` names, by name; values are null for a record without a single domain.
        label: only if labels were read: 0 specific, 1 non-specific, null not labelled.
        training_row: only if labels were read: whether the first of the answer's heads was trained on this record. If
            so, the score makes the head look better than it is. null = not known: the bundle does not record its
            training rows, or domain is off, so that a training row with a tag is not recognised.
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
        threshold: threshold of the first head; null if this head makes no calls, or was not requested.
        band: the first head's quantiles, between which a call is uncertain; null if the request has a
            threshold or the head has no band: calls then have two values, by the threshold.
        panel: the panel of the percentiles; null = the results have no percentiles.
        heads: the heads whose values the results have.
        chains: the chains of each record that were scored: H heavy, L light, or both.
        domain, trim: the values of the request.
        flags: reason -> number of results that have it, most frequent first; the number that begins a flag is left out.
        labels: the column of the file whose classes the results have; null = none was requested, or none was found.
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
    """The limits of one request."""

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
        abonyx: version of abonyx.
        ready: always true, because the answer is a problem if no model is open. (msgspec before 0.22 does not accept
            Literal[True].)
        placement: execution provider -> number of graph nodes that it runs.
        parity: the variant's differences from PyTorch, as measured at its export.
        chains: the chains that the first head was trained on: H heavy, L light. Records of other chains are flagged.
        heads: all heads. The first is the default; default_threshold, thresholds and training are those of this head.
        thresholds: assay -> threshold that the first head declares.
        panels: the panels for percentiles; the first is the default.
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
