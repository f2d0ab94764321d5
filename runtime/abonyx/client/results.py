"""The objects that the client returns: the service's answers, joined for a long list, and their numbers as arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec
import numpy as np

from abonyx.arrays import Float32Array, Int64Array
from abonyx.contributions import ChainContributions, Contributions
from abonyx.errors import InputError, ServiceError, printable
from abonyx.serve.answers import EmbedAnswer, Rejected, ScoreAnswer
from abonyx.serve.explain_answers import ExplainAnswer, Explanation

Answer = TypeVar("Answer", ScoreAnswer, EmbedAnswer, ExplainAnswer)


@dataclass(frozen=True)
class Scored:
    """Scores of a list of sequences.

    Attributes:
        answer: the service's whole answer: `answer.results`, `answer.model` and so on (docs/serve.md).
        rows: (n,) int64, for each result the index of its sequence in the caller's list.
    """

    answer: ScoreAnswer
    rows: Int64Array

    @property
    def rejected(self) -> list[Rejected]:
        """The sequences without a score. `line` is the number of the sequence in the caller's list, from 1."""
        return self.answer.rejected

    @property
    def p_nonspecific(self) -> Float32Array:
        """(n,) float32, the first head's probability for each result; NaN if the head is linear or not requested."""
        return np.array([_number(each.p_nonspecific) for each in self.answer.results], np.float32)

    def values(self, head: str) -> Float32Array:
        """(n,) float32, a head's probability, or its value in its unit, for each result.

        Raises:
            InputError: the answer has no such head.
        """
        names = [each.name for each in self.answer.heads]
        if head not in names:
            what = f"head {printable(head)!r} is not in the answer, which has {', '.join(map(repr, names))}"
            raise InputError(what, "Request it with heads=[...].")
        kind = next(each.kind for each in self.answer.heads if each.name == head)
        column = f"{head}_value" if kind == "linear" else f"{head}_p"
        found = []
        for each in self.answer.results:
            beside = each.heads or {}  # all heads, except the first if it gives probabilities
            found.append(_number(beside.get(column, each.p_nonspecific)))
        return np.array(found, np.float32)


@dataclass(frozen=True)
class Embedded:
    """Pooled embeddings of a list of sequences.

    Attributes:
        answer: the service's answer without its `results`, which are in `ids` and `embeddings`.
        ids: the id of each embedding.
        embeddings: (n, width) float32.
        rows: as in Scored.
    """

    answer: EmbedAnswer
    ids: list[str]
    embeddings: Float32Array
    rows: Int64Array

    @property
    def rejected(self) -> list[Rejected]:
        """As in Scored."""
        return self.answer.rejected


@dataclass(frozen=True)
class Explained:
    """What each residue adds to the scores of a list of sequences.

    Attributes:
        answer: the service's whole answer, with IMGT positions and regions.
        rows: as in Scored.
    """

    answer: ExplainAnswer
    rows: Int64Array

    @property
    def rejected(self) -> list[Rejected]:
        """As in Scored."""
        return self.answer.rejected

    @property
    def contributions(self) -> list[Contributions]:
        """One Contributions for each result, as from Session.contributions."""
        return [_contributions(each) for each in self.answer.results]


def merged(answers: Sequence[Answer], counts: Sequence[int], ids: Sequence[str]) -> tuple[Answer, Int64Array]:
    """Join the answers to the parts of a list.

    Args:
        answers: one answer for each part.
        counts: number of sequences in each part.
        ids: ids of the whole list.

    Returns:
        (joined answer, rows). rows is (n,) int64: for each result, the index of its sequence in the whole list.

    Raises:
        ServiceError: two models answered, or an answer does not fit the sequences that were sent.
    """
    first = answers[0]
    results, rejected, rows, flags, start = [], [], [], Counter[str](), 0
    for answer, count in zip(answers, counts, strict=True):
        if answer.model != first.model:
            what = f"the model changed between two parts of the list: {_named(first)}, then {_named(answer)}"
            raise ServiceError(what, "Send the list again. Scores of two models are never returned together.")
        out = {one.line for one in answer.rejected}
        part = [start + at for at in range(count) if at + 1 not in out]
        asked = [ids[row] for row in part]
        if len(part) + len(answer.rejected) != count or [each.id for each in answer.results] != asked:
            found = f"{len(answer.results)} results and {len(answer.rejected)} rejected"
            what = f"the answer to {count} sequences has {found}, or its ids differ from the ids that were sent"
            raise ServiceError(what, "Check whether a proxy or a cache in front of the service changes the answers.")
        results += answer.results
        rejected += [msgspec.structs.replace(one, line=one.line + start) for one in answer.rejected]
        flags.update(answer.flags)
        rows += part
        start += count
    whole = {"results": results, "rejected": rejected, "flags": dict(flags.most_common())}
    if isinstance(first, ScoreAnswer):
        whole["notes"] = list(dict.fromkeys(note for each in answers for note in each.notes))
    return msgspec.structs.replace(first, **whole), np.array(rows, np.int64)


def _named(answer: ScoreAnswer | EmbedAnswer | ExplainAnswer) -> str:
    model = answer.model
    return f"{printable(model.name)} ({printable(model.sha256)[:12]}), {printable(model.variant)}"


def _number(value: float | str | None) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


def _contributions(found: Explanation) -> Contributions:
    shape = (-1, len(found.heads))
    return Contributions(
        heads=tuple(found.heads),
        baseline=np.array(found.baseline, np.float64),
        total=np.array(found.total, np.float64),
        chains=tuple(
            ChainContributions(
                chain=chain.chain,
                residues=np.array([each.contributions for each in chain.residues], np.float32).reshape(shape),
                end=np.array(chain.end, np.float32),
            )
            for chain in found.chains
        ),
    )
