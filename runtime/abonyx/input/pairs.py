"""Records of both chains: each chain is judged with the chain that it must be, and the record by both."""

from __future__ import annotations

from collections.abc import Sequence

from abonyx.alphabet import SequenceLimit
from abonyx.bundle.manifest import chain_letters
from abonyx.domain import PAIR_WORDS, DomainRule, Part, judgement_of_pair, part_problem
from abonyx.input.sequences import Gaps, judge


def judge_pair(heavy: str, light: str | None, gaps: Gaps | None) -> tuple[str, str, str | None]:
    """Both chains cleaned, and why the record cannot be scored whatever its lengths, or None; see sequences.judge."""
    cleaned, reasons = [], []
    for word, sequence in zip(PAIR_WORDS, (heavy, light or ""), strict=True):
        found, why = judge(sequence, gaps)
        cleaned.append(found)
        if why and not found:
            reasons.append(f"no {word} chain: the heads need both chains of a record")
        elif why:
            reasons.append(f"{word} chain: {why}")
    return cleaned[0], cleaned[1], "; ".join(reasons) or None


def rules_of_chains(rule: DomainRule, chains: Sequence[str]) -> list[DomainRule]:
    """What is done with each chain of a record; of one chain, the rule itself."""
    return [rule] if len(chains) == 1 else [rule._replace(chains=chain_letters(chain)) for chain in chains]


def record_problem(parts: Sequence[Part], rule: DomainRule, limit: SequenceLimit) -> str | None:
    """Why a record is not scored, or None; see domain.part_problem. A pair's reason names the chain."""
    if len(parts) == 1:
        return part_problem(parts[0], rule, limit)
    reasons = ((word, part_problem(part, rule, limit)) for word, part in zip(PAIR_WORDS, parts, strict=True))
    return "; ".join(f"{word} chain: {why}" for word, why in reasons if why) or None


def part_of_record(parts: Sequence[Part]) -> Part:
    """A record's sequence, that of a pair's heavy chain, with what is known of all its chains."""
    if len(parts) == 1:
        return parts[0]
    heavy, light = parts
    places = (f"{word} {part.place}" for word, part in zip(PAIR_WORDS, parts, strict=True) if part.place)
    return Part(heavy.sequence, judgement_of_pair(heavy.judgement, light.judgement), "; ".join(places))
