"""Check a column of sequences that is already in memory, by the rules for records of a file."""

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
    """The part of a value (or of a pair of values) that is scored, or the reason why nothing is scored.

    Attributes:
        part: the scored part; for a pair, the heavy chain with the judgement of both chains.
        rejected: why nothing is scored; None if something is.
        light: the light chain of a pair; else "".
    """

    part: Part
    rejected: str | None
    light: str = ""

    @property
    def record(self) -> str:
        """The scored part as one text, as in Input.records."""
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
    """Check each value of a column of sequences, by the rules for records of a file (input.checked).

    Args:
        values: n texts; None = missing.
        rule, limit, gaps: as for checked.check_records.
        in_children: whether other processes may judge the values.

    Returns:
        n results, in order.
    """
    cleaned = [_cleaned(value, gaps) for value in values]
    readable = [sequence for sequence, why in cleaned if why is None]
    judgements = dict(
        zip(readable, rule.judgements(readable, judge_in_children if in_children else judge_in_turn), strict=True)
    )
    # A trimmed part is judged again. The dictionary makes sure that this is done once for each distinct sequence.
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
    """Check two columns of sequences: each chain by its own rule, and the record by both.

    Args:
        pairs: the column of heavy chains and the column of light chains.
        rule, limit, gaps, in_children: as for judged.
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
    """(cleaned sequence, why its letters cannot be scored, or None)."""
    if not isinstance(value, str):
        return "", f"the sequence is {'null' if value is None else type(value).__name__}, not text"
    return judge(value, gaps)
