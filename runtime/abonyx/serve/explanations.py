"""The answer of /v1/explain: the contribution of each residue, with its place in the domain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from abonyx.arrays import shortest_decimal
from abonyx.bundle.chosen import ChosenHeads
from abonyx.contributions import Contributions
from abonyx.explain.explained import Explained, ExplainedChain, explain_record
from abonyx.input.checked import Input
from abonyx.output.beside import DECIMALS
from abonyx.serve.bodies import head_name, model_name, rejected
from abonyx.serve.explain_answers import (
    ChainExplanation,
    ExplainAnswer,
    ExplainRequest,
    Explanation,
    ResidueContribution,
)
from abonyx.serve.model import Model


def explain_answer(
    model: Model, records: Input, found: Sequence[Contributions], heads: ChosenHeads, asked: ExplainRequest
) -> Iterator[bytes]:
    """POST /v1/explain: an ExplainAnswer, one record at a time, because it takes some hundred bytes a residue.

    Args:
        found: the contributions of each record of `records`.
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
    """The shortest decimals that read back as the same float32."""
    return [float(shortest_decimal(value)) for value in values.astype(np.float32)]
