"""Judge a record before it is scored. The record is refused, flagged with reasons, or trusted."""

from abonyx.domain.flags import (
    CHAIN_NAMES,
    NANOBODY_LIKE,
    PAIR_WORDS,
    Judgement,
    Trimmed,
    judge,
    judge_in_turn,
    judged_by,
    judgement_of_pair,
    reason,
    trimmed,
)
from abonyx.domain.later import LaterJudgements, beside, can_wait, judge_long
from abonyx.domain.pool import Judges, judge_in_children, share_processors
from abonyx.domain.refusal import refusal
from abonyx.domain.rule import CHECKS, NO_RULE, Check, DomainRule, Judge, Part, part_problem, refuse_rule, scored_part

__all__ = [
    "CHAIN_NAMES",
    "CHECKS",
    "NANOBODY_LIKE",
    "NO_RULE",
    "PAIR_WORDS",
    "Check",
    "DomainRule",
    "Judge",
    "Judgement",
    "Judges",
    "LaterJudgements",
    "Part",
    "Trimmed",
    "beside",
    "can_wait",
    "judge",
    "judge_in_children",
    "judge_in_turn",
    "judge_long",
    "judged_by",
    "judgement_of_pair",
    "part_problem",
    "reason",
    "refusal",
    "refuse_rule",
    "scored_part",
    "share_processors",
    "trimmed",
]
