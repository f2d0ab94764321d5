"""A column of sequences that is already in memory, judged as the records of a file are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from abonyx.alphabet import SequenceLimit
from abonyx.bundle.heads import PAIR
from abonyx.domain import (
    PAIR_WORDS,
    DomainRule,
    Judgement,
    Part,
    judge_in_children,
    judge_in_turn,
    part_problem,
    scored_part,
)
from abonyx.input.cells import is_missing
from abonyx.input.pairs import missing_chain, part_of_record, rules_of_chains
from abonyx.input.sequences import Gaps, judge


class JudgedValue(NamedTuple):
    """What is scored of a value, or of the two values of a pair, or why nothing is.

    Attributes:
        part: of a pair the heavy chain's, with what is known of both.
        light: of a pair the light chain's residues.
    """

    part: Part
    rejected: str | None
    light: str = ""

    @property
    def record(self) -> str:
        """What is scored as one text, as Input.records has it."""
        return f"{self.part.sequence}|{self.light}" if self.light else self.part.sequence


_NOTHING = Part("", Judgement())


def judged(
    values: Sequence[object],
    rule: DomainRule,
    limit: SequenceLimit,
    *,
    gaps: Gaps | None = None,
    in_children: bool = False,
) -> list[JudgedValue]:
    """Each value of a column of sequences, by the same rules as records of a file (input.checked).

    Args:
        values: texts; None is a missing one.
        rule, limit, gaps, in_children: as checked.check_records.
    """
    cleaned = [_cleaned(value, gaps) for value in values]
    readable = [sequence for sequence, why in cleaned if why is None]
    judgements = dict(
        zip(readable, rule.judgements(readable, judge_in_children if in_children else judge_in_turn), strict=True)
    )
    # A part is judged again when it was trimmed: once for each sequence, however often that comes.
    parts = {sequence: scored_part(sequence, judgement, rule) for sequence, judgement in judgements.items()}
    rows = []
    for sequence, why in cleaned:
        part = _NOTHING if why else parts[sequence]
        rows.append(JudgedValue(part, why or part_problem(part, rule, limit)))
    return rows


def judged_pairs(
    pairs: Sequence[Sequence[object]],
    rule: DomainRule,
    limit: SequenceLimit,
    *,
    gaps: Gaps | None = None,
    in_children: bool = False,
) -> list[JudgedValue]:
    """As judged, of two columns: each chain by its own rule, and the record by both.

    Args:
        pairs: heavy and light chains, a column each.
    """
    rules = rules_of_chains(rule, PAIR)
    columns = [
        judged(values, of_chain, limit, gaps=gaps, in_children=in_children)
        for values, of_chain in zip(pairs, rules, strict=True)
    ]
    rows = []
    for values, chains in zip(zip(*pairs, strict=True), zip(*columns, strict=True), strict=True):
        reasons = [
            missing_chain(word) if is_missing(value) else f"{word} chain: {chain.rejected}"
            for word, value, chain in zip(PAIR_WORDS, values, chains, strict=True)
            if chain.rejected
        ]
        if reasons:
            rows.append(JudgedValue(_NOTHING, "; ".join(reasons)))
        else:
            rows.append(JudgedValue(part_of_record([chain.part for chain in chains]), None, chains[1].part.sequence))
    return rows


def _cleaned(value: object, gaps: Gaps | None) -> tuple[str, str | None]:
    """The cleaned sequence, and why it cannot be scored whatever its chain and length, or None."""
    if not isinstance(value, str):
        return "", f"the sequence is {'null' if value is None else type(value).__name__}, not text"
    return judge(value, gaps)
