"""Records of both chains: each chain is judged with the chain that it must be, and the record by both."""

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
    """The sequence_column and light_column that read_records is to take.

    Args:
        chains: that a record needs.
        sequence, heavy, light: names of columns as the user gives them; None = not given.

    Raises:
        ConfigError: a column of sequences beside a chain's, or of pairs.
    """
    if sequence is None:
        if len(chains) > 1:
            return heavy, light
        return heavy if tuple(chains) == ("H",) else light, None
    what = f"{option('sequence_column')} {printable(sequence)}"
    if (other := heavy or light) is not None:
        named = "light_column" if heavy is None else "heavy_column"
        fix = "Give one of them, or the columns of both chains."
        raise ConfigError(f"{what} and {option(named)} {printable(other)} were both given", fix)
    if len(chains) > 1:
        fix = f"Name a column for each: {option('heavy_column')} and {option('light_column')}."
        raise ConfigError(f"{what}: the heads need both chains", fix)
    return sequence, None


def judge_pair(heavy: str, light: str | None, gaps: Gaps | None) -> tuple[str, str, str | None]:
    """Both chains cleaned, and why the record cannot be scored whatever its lengths, or None; see sequences.judge."""
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
