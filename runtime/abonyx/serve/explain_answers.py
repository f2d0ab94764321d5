"""The request and the answer of /v1/explain."""

from __future__ import annotations

from typing import Literal

import msgspec

from abonyx.domain import Check
from abonyx.serve.answers import Answered, HeadName, HeadsRequest, ModelName, Rejected, Trim


class ExplainRequest(HeadsRequest, frozen=True, kw_only=True):
    """Sequences whose contributions are requested.

    Attributes:
        domain: check flags a record unlike the head's training set, require rejects it, off skips this.
        trim: domain = explain only the variable domain of a longer record; null = all of it.
        gaps: strip removes gaps (- and .) and a final *; with refuse, a record that has them cannot be scored.
        heads: names of the model's heads whose contributions are requested, or "all"; null = the first.
    """


class ResidueContribution(Answered, frozen=True, kw_only=True):
    """One residue.

    Attributes:
        position: position in the sequence that was scored, from 1.
        imgt: IMGT position, "111A" for an insertion; "" outside the domain.
        region: FR1, CDR1, FR2, CDR2, FR3, CDR3 or FR4; "" outside the domain.
        contributions: what the residue adds to each head's logit or value, in the order of `heads`.
    """

    position: int
    imgt: str
    region: str
    residue: str
    contributions: list[float]


class ChainExplanation(Answered, frozen=True, kw_only=True):
    """One chain. Each list of numbers is in the order of `heads`, with 0 for a head that does not expect this chain.

    Attributes:
        net_charge: net charge of the domain at pH 7.4, in elementary charges; null without a domain.
        pI: isoelectric point of the domain; null without a domain.
        end: contributions of the end token; 0 unless the pooling rule includes this token in the mean.
        regions: region, or "outside" for residues outside the domain -> sum of the contributions of its residues.
    """

    chain: Literal["H", "L"]
    net_charge: float | None
    pI: float | None  # noqa: N815  # as the columns of result files are called
    residues: list[ResidueContribution]
    end: list[float]
    regions: dict[str, list[float]]


class Explanation(Answered, frozen=True, kw_only=True):
    """One record.

    Attributes:
        flag: why the score should not be trusted; "" = nothing is wrong.
        domain: only with trim: the residues that were scored, FIRST-LAST from 1; "" = no domain to trim to.
        heads: names, in the order of all lists of numbers.
        baseline: for each head, the logit or value to which contributions are relative.
        total: for each head, the baseline plus all contributions: a logit, whose sigmoid is p, or the value.
    """

    id: str
    flag: str
    domain: str | msgspec.UnsetType = msgspec.UNSET
    heads: list[str]
    baseline: list[float]
    total: list[float]
    chains: list[ChainExplanation]


class ExplainAnswer(Answered, frozen=True, kw_only=True):
    """Contributions in input order. They are not effects of mutations: each state depends on the whole sequence.

    Attributes:
        domain, trim, flags, heads: as in ScoreAnswer.
    """

    model: ModelName
    heads: list[HeadName]
    domain: Check
    trim: Trim | None
    flags: dict[str, int]
    rejected: list[Rejected]
    results: list[Explanation]
