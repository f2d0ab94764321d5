"""Records with both chains. Each chain is checked by the rule for its kind, and the record by both results."""

from __future__ import annotations

from collections.abc import Sequence

from abonyx.alphabet import SequenceLimit
from abonyx.bundle.manifest import chain_letters
from abonyx.domain import PAIR_WORDS, DomainRule, Part, judgement_of_pair, part_problem
from abonyx.errors import ConfigError, printable
from abonyx.input.sequences import Gaps, judge
from abonyx.wording import option


def columns_of(
    chains: Sequence[str], sequence: str | None, heavy: str | None, light: str | None
) -> tuple[str | None, str | None]:
    """The arguments sequence_column and light_column for read_records.

    Args:
        chains: the chains that a record needs.
        sequence, heavy, light: names of columns that the user gives; None = not given.

    Raises:
        ConfigError: a column of sequences is given together with a column of a chain, or is given for pairs.
    """
    if sequence is None:
        if len(chains) > 1:
            return heavy, light
        return heavy if tuple(chains) == ("H",) else light, None
    what = f"{option('sequence_column')} {printable(sequence)}"
    if (other := heavy or light) is not None:
        named = "light_column" if heavy is None else "heavy_column"
        fix = "Give only one of them, or the columns of both chains."
        raise ConfigError(f"{what} and {option(named)} {printable(other)} were both given", fix)
    if len(chains) > 1:
        fix = f"Name a column for each chain: {option('heavy_column')} and {option('light_column')}."
        raise ConfigError(f"{what}: the heads need both chains", fix)
    return sequence, None


def judge_pair(heavy: str, light: str | None, gaps: Gaps | None) -> tuple[str, str, str | None]:
    """(cleaned heavy chain, cleaned light chain, why their letters cannot be scored, or None); see sequences.judge."""
    cleaned, reasons = [], []
    for word, sequence in zip(PAIR_WORDS, (heavy, light or ""), strict=True):
        found, why = judge(sequence, gaps)
        cleaned.append(found)
        if why and not found:
            reasons.append(missing_chain(word))
        elif why:
            reasons.append(f"{word} chain: {why}")
    return cleaned[0], cleaned[1], "; ".join(reasons) or None


def missing_chain(word: str) -> str:
    """Why a record without its heavy or light chain is not scored."""
    return f"no {word} chain: the heads need both chains of a record"


def rules_of_chains(rule: DomainRule, chains: Sequence[str]) -> list[DomainRule]:
    """One rule for each chain of a record. For one chain it is the rule itself."""
    return [rule] if len(chains) == 1 else [rule._replace(chains=chain_letters(chain)) for chain in chains]


def record_problem(parts: Sequence[Part], rule: DomainRule, limit: SequenceLimit) -> str | None:
    """Why a record is not scored, or None (see domain.part_problem). For a pair, the reason names the chain."""
    if len(parts) == 1:
        return part_problem(parts[0], rule, limit)
    reasons = ((word, part_problem(part, rule, limit)) for word, part in zip(PAIR_WORDS, parts, strict=True))
    return "; ".join(f"{word} chain: {why}" for word, why in reasons if why) or None


def part_of_record(parts: Sequence[Part]) -> Part:
    """The part of a record; for a pair, the heavy chain with the judgement of both chains."""
    if len(parts) == 1:
        return parts[0]
    heavy, light = parts
    places = (f"{word} {part.place}" for word, part in zip(PAIR_WORDS, parts, strict=True) if part.place)
    return Part(heavy.sequence, judgement_of_pair(heavy.judgement, light.judgement), "; ".join(places))
