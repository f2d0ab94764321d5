"""What a run does with the judgements: flag, refuse, trim, or nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple

from abonyx.alphabet import SequenceLimit
from abonyx.domain.flags import Judgement, judge_in_turn, judged_by, trimmed
from abonyx.errors import ConfigError, first_line
from abonyx.wording import option

Check = Literal["check", "require", "off"]
CHECKS: tuple[Check, ...] = ("check", "require", "off")
# A function of sequences and the chains of a rule. It returns one judgement for each sequence, in order.
Judge = Callable[[list[str], tuple[str, ...]], Iterable[Judgement]]


class DomainRule(NamedTuple):
    """How chain and domain of each record are checked before it is scored.

    Attributes:
        check: what happens to a record unlike the head's training set. "check" flags it, "require" rejects it, "off"
            does not test it.
        trim: score the variable domain inside a longer record, in place of all of its residues.
        chains: the chains that the head was trained on, as letters of flags.CHAIN_NAMES.
    """

    check: Check = "check"
    trim: bool = False
    chains: tuple[str, ...] = ("H",)

    def judgements(self, sequences: list[str], judge: Judge = judge_in_turn) -> Iterator[Judgement]:
        """One judgement for each sequence, in order. By default, each is made in this process when it is read.

        Args:
            sequences: cleaned sequences that contain only letters of the alphabet.
            judge: the function that judges them.
        """
        if self.check == "off":
            return itertools.repeat(Judgement(), len(sequences))
        return iter(judge(sequences, self.chains))

    def facts(self) -> dict[str, str | bool | None]:
        """The settings of this rule that change results, under names that users know; a part of a run's identity."""
        judges = None if self.check == "off" else f"{judged_by()}, chains {', '.join(self.chains)}"
        return {"--domain": self.check, "--trim domain": self.trim, "chain and domain judged by": judges}


def refuse_rule(check: object, trim: object) -> None:
    """Raise a ConfigError if the values of the options `domain` and `trim` do not make a valid rule."""
    if check not in CHECKS:
        raise ConfigError(
            f"{option('domain')} is {first_line(repr(check))}", f"Give one of {', '.join(map(repr, CHECKS))}."
        )
    if trim not in (None, "domain"):
        raise ConfigError(
            f"{option('trim')} is {first_line(repr(trim))}", "Give 'domain', or None to score sequences as they are."
        )
    if trim and check == "off":
        what = f"{option('trim')} domain with {option('domain')} off: nothing looks for the domain to trim to"
        raise ConfigError(what, "Leave one of them out.")


# For sequences that are not scored for a user: golden rows and calibration.
NO_RULE = DomainRule("off")


class Part(NamedTuple):
    """The residues of a record that are scored.

    Attributes:
        sequence: those residues.
        judgement: the judgement of these residues.
        place: "FIRST-LAST", counted from 1 in the cleaned record, if the rule trims and there is a domain to trim to;
            else "", and the whole record is scored.
    """

    sequence: str
    judgement: Judgement
    place: str = ""


def part_problem(part: Part, rule: DomainRule, limit: SequenceLimit) -> str | None:
    """Why a judged part is not scored: its length, an X, or a rule that requires trust; None if it is scored."""
    flags = part.judgement.text
    why = limit.problem(part.sequence)
    if why and flags:
        found = f"{why}; what was found: {flags}"
        inside = trimmed(part.sequence, part.judgement)
        if rule.trim or inside is None or limit.problem(inside.sequence):
            return found
        return f"{found}; its domain alone is short enough (docs/domain.md says how to trim)"
    if rule.check == "require" and not part.judgement.trusted:
        return flags
    return why


def scored_part(sequence: str, judgement: Judgement, rule: DomainRule) -> Part:
    """The variable domain, judged alone, if the rule trims and there is a single one; else the whole record."""
    domain = trimmed(sequence, judgement) if rule.trim else None
    if domain is None:
        return Part(sequence, judgement)
    whole = domain.sequence == sequence
    alone = judgement if whole else next(judge_in_turn([domain.sequence], rule.chains))
    return Part(domain.sequence, alone, f"{domain.start + 1}-{domain.end}")
