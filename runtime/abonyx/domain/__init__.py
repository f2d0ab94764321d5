"""What a record is, judged before it is scored: refused, flagged with reasons, or trusted."""

from abonyx.domain.flags import CHAIN_NAMES, NANOBODY_LIKE, Judgement, Trimmed, judge, judged_by, reason, trimmed
from abonyx.domain.pool import judge_in_children
from abonyx.domain.refusal import refusal

__all__ = [
    "CHAIN_NAMES",
    "NANOBODY_LIKE",
    "Judgement",
    "Trimmed",
    "judge",
    "judge_in_children",
    "judged_by",
    "reason",
    "refusal",
    "trimmed",
]
