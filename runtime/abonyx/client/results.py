"""What the client returns: the service's answers, those of a long list as one, and their numbers as arrays."""

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
        answer: all that the service says: `answer.results`, `answer.model` and so on; docs/serve.md.
        rows: (n,) int64, of each result the index of its sequence in the list that was given.
    """

    answer: ScoreAnswer
    rows: Int64Array

    @property
    def rejected(self) -> list[Rejected]:
        """What has no score; `line` counts the sequences of the list, from 1. Results and these are all of the list."""
        return self.answer.rejected

    @property
    def p_nonspecific(self) -> Float32Array:
        """(n,) of each result, of the first head; NaN if that is linear or was not asked for."""
        return np.array([_number(each.p_nonspecific) for each in self.answer.results], np.float32)

    def values(self, head: str) -> Float32Array:
        """(n,) of each result: a head's probabilities, or its values in its unit.

        Raises:
            InputError: the answer has no such head.
        """
        names = [each.name for each in self.answer.heads]
        if head not in names:
            what = f"head {printable(head)!r} is not in the answer, which has {', '.join(map(repr, names))}"
            raise InputError(what, "Ask for it: heads=[...].")
        kind = next(each.kind for each in self.answer.heads if each.name == head)
        column = f"{head}_value" if kind == "linear" else f"{head}_p"
        found = []
        for each in self.answer.results:
            beside = each.heads or {}  # all heads but a first one that gives probabilities
            found.append(_number(beside.get(column, each.p_nonspecific)))
        return np.array(found, np.float32)


@dataclass(frozen=True)
class Embedded:
    """Pooled embeddings of a list of sequences.

    Attributes:
        answer: all that the service says but its `results`, which are in `ids` and `embeddings`.
        ids: of each embedding.
        embeddings: (n, width) float32.
        rows: as of Scored.
    """

    answer: EmbedAnswer
    ids: list[str]
    embeddings: Float32Array
    rows: Int64Array

    @property
    def rejected(self) -> list[Rejected]:
        """As of Scored."""
        return self.answer.rejected


@dataclass(frozen=True)
class Explained:
    """What each residue adds to the scores of a list of sequences.

    Attributes:
        answer: all that the service says, with IMGT positions and regions.
        rows: as of Scored.
    """

    answer: ExplainAnswer
    rows: Int64Array

    @property
    def rejected(self) -> list[Rejected]:
        """As of Scored."""
        return self.answer.rejected

    @property
    def contributions(self) -> list[Contributions]:
        """Of each result, as Session.contributions gives them."""
        return [_contributions(each) for each in self.answer.results]


def merged(answers: Sequence[Answer], counts: Sequence[int], ids: Sequence[str]) -> tuple[Answer, Int64Array]:
    """The answers to the parts of a list as one answer, and of each result the index of its sequence.

    Args:
        counts: sequences of each part.
        ids: of the whole list.

    Raises:
        ServiceError: two models answered, or an answer is not about what was asked.
    """
    first = answers[0]
    results, rejected, rows, flags, start = [], [], [], Counter[str](), 0
    for answer, count in zip(answers, counts, strict=True):
        if answer.model != first.model:
            what = f"the model changed between two parts of the list: {_named(first)}, then {_named(answer)}"
            raise ServiceError(what, "Send the list again: scores of two models are not returned together.")
        out = {one.line for one in answer.rejected}
        part = [start + at for at in range(count) if at + 1 not in out]
        asked = [ids[row] for row in part]
        if len(part) + len(answer.rejected) != count or [each.id for each in answer.results] != asked:
            found = f"{len(answer.results)} results and {len(answer.rejected)} rejected"
            what = f"the answer to {count} sequences has {found}, or other ids than those that were sent"
            raise ServiceError(what, "Look at what is in between: a proxy, a cache.")
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
