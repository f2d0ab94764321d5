"""What /v1/explain takes and answers, as it goes over the wire."""

from __future__ import annotations

from typing import Literal

import msgspec

from abonyx.domain import Check
from abonyx.serve.answers import Answered, HeadName, HeadsRequest, ModelName, Rejected, Trim


class ExplainRequest(HeadsRequest, frozen=True, kw_only=True):
    """Sequences whose contributions are wanted.

    Attributes:
        domain: check flags a record that the head was not trained on, require rejects it, off does not look.
        trim: domain = explain only the variable domain of a longer record; null = all of it.
        gaps: strip takes out gaps (- and .) and a final *, refuse makes a bad record of one that has them.
        heads: names of the model's heads whose contributions are wanted, or "all"; null = the first.
    """


class ResidueContribution(Answered, frozen=True, kw_only=True):
    """One residue.

    Attributes:
        position: in what was scored, from 1.
        imgt: IMGT position, "111A" for an insertion; "" outside the domain.
        region: FR1, CDR1, FR2, CDR2, FR3, CDR3 or FR4; "" outside the domain.
        contributions: what it adds to each head's logit or value, in the order of `heads`.
    """

    position: int
    imgt: str
    region: str
    residue: str
    contributions: list[float]


class ChainExplanation(Answered, frozen=True, kw_only=True):
    """One chain; each list of numbers is in the order of `heads`, 0 of a head that does not expect this chain.

    Attributes:
        net_charge: of the domain at pH 7.4, in elementary charges; pI: its isoelectric point; null without a domain.
        end: of the end token; 0 unless the pooling rule has it in the mean.
        regions: region, or "outside" the domain -> sum of its residues' contributions; those that occur.
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
        domain: with trim alone: the residues that were scored, FIRST-LAST from 1; "" = no domain to trim to.
        heads: names, in the order of all lists of numbers.
        baseline: of each head the logit or value that contributions are relative to.
        total: of each head the baseline and all contributions: a logit (its sigmoid is p), or the value.
    """

    id: str
    flag: str
    domain: str | msgspec.UnsetType = msgspec.UNSET
    heads: list[str]
    baseline: list[float]
    total: list[float]
    chains: list[ChainExplanation]


class ExplainAnswer(Answered, frozen=True, kw_only=True):
    """Contributions in input order. They are not the effects of mutations: a final state sees the whole sequence.

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
