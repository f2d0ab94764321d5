"""What a record is, judged before it is scored: refused, flagged with reasons, or trusted."""

from abonyx.domain.flags import (
    CHAIN_NAMES,
    NANOBODY_LIKE,
    PAIR_WORDS,
    Judgement,
    Trimmed,
    judge,
    judged_by,
    judgement_of_pair,
    reason,
    trimmed,
)
from abonyx.domain.pool import judge_in_children
from abonyx.domain.refusal import refusal
from abonyx.domain.rule import CHECKS, NO_RULE, Check, DomainRule, Part, part_problem, refuse_rule, scored_part

__all__ = [
    "CHAIN_NAMES",
    "CHECKS",
    "NANOBODY_LIKE",
    "NO_RULE",
    "PAIR_WORDS",
    "Check",
    "DomainRule",
    "Judgement",
    "Part",
    "Trimmed",
    "judge",
    "judge_in_children",
    "judged_by",
    "judgement_of_pair",
    "part_problem",
    "reason",
    "refusal",
    "refuse_rule",
    "scored_part",
    "trimmed",
]
