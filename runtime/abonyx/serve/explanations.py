"""What /v1/explain takes and answers: the contribution of each residue, with its place in the domain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from abonyx.arrays import shortest_decimal
from abonyx.bundle.chosen import ChosenHeads
from abonyx.contributions import Contributions
from abonyx.domain import Check
from abonyx.explain.explained import Explained, ExplainedChain, explain_record
from abonyx.input.checked import Input
from abonyx.output.beside import DECIMALS
from abonyx.serve.answers import Answered, HeadName, HeadsRequest, ModelName, Rejected, Trim
from abonyx.serve.bodies import head_name, model_name, rejected
from abonyx.serve.scheduler import Model


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


def explain_answer(
    model: Model, records: Input, found: Sequence[Contributions], heads: ChosenHeads, asked: ExplainRequest
) -> Iterator[bytes]:
    """POST /v1/explain, an ExplainAnswer a record at a time: its text takes some hundred bytes a residue.

    Args:
        found: of each record of `records`.
    """
    head = ExplainAnswer(
        model=model_name(model),
        heads=[head_name(each.spec, each.rule) for each in heads.heads],
        domain=asked.domain,
        trim=asked.trim,
        flags=dict(records.flag_counts()),
        rejected=rejected(records.rejected),
        results=[],
    )
    yield msgspec.json.encode(head).removesuffix(b"]}")
    nothing: list[str | msgspec.UnsetType] = [msgspec.UNSET] * len(records.ids)
    places = [*records.places] if asked.trim else nothing
    rows = zip(records.ids, found, zip(*records.chains, strict=True), records.judgements, places, strict=True)
    for at, (id_, each, sequences, judgement, place) in enumerate(rows):
        record = explain_record(id_, each, sequences, judgement.text)
        yield b"," * (at > 0) + msgspec.json.encode(_explanation(record, place))
    yield b"]}"


def _explanation(record: Explained, domain: str | msgspec.UnsetType) -> Explanation:
    found = record.contributions
    return Explanation(
        id=record.id,
        flag=record.flag,
        domain=domain,
        heads=list(found.heads),
        baseline=found.baseline.tolist(),
        total=found.total.tolist(),
        chains=[_chain(chain) for chain in record.chains],
    )


def _chain(chain: ExplainedChain) -> ChainExplanation:
    residues = zip(chain.places, chain.part.residues, strict=True)
    return ChainExplanation(
        chain="H" if chain.part.chain == "H" else "L",
        net_charge=_rounded(chain.charge),
        pI=_rounded(chain.pi),
        residues=[
            ResidueContribution(
                position=place.index + 1,
                imgt=place.imgt,
                region=place.region,
                residue=place.residue,
                contributions=_numbers(values),
            )
            for place, values in residues
        ],
        end=_numbers(chain.part.end),
        regions={region: _numbers(sums) for region, (_, sums) in chain.regions().items()},
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DECIMALS) + 0.0  # no -0.0


def _numbers(values: npt.NDArray[np.floating]) -> list[float]:
    """As few digits as read back as the same float32."""
    return [float(shortest_decimal(value)) for value in values.astype(np.float32)]
