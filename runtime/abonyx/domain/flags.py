"""Find the reasons why the score of a record should not be trusted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version

import msgspec

from abonyx import alphabet
from abonyx.domain.chain import MAX_RESIDUES, Domain, Domains, search_domains
from abonyx.domain.refusal import refusal
from abonyx.texts import as_texts

# Increase this number with every change that could change the judgement of a record. Runs record the number.
RULES = 3
# Read at import: the version on the disk may change while this process runs.
try:
    _IMMUNUM = version("immunum")
except PackageNotFoundError:  # a frozen program may lack the package's metadata
    _IMMUNUM = "of unknown version"
CHAIN_NAMES = {
    "H": "heavy chain",
    "K": "light chain (kappa)",
    "L": "light chain (lambda)",
    "A": "T-cell receptor alpha chain",
    "B": "T-cell receptor beta chain",
    "G": "T-cell receptor gamma chain",
    "D": "T-cell receptor delta chain",
}
NANOBODY_LIKE = "nanobody-like"
# At least two of the four framework-2 hallmarks occur in 99.9 % of Harvey's nanobodies, and in only 2 of the
# repertoire's 15,293 human VH.
MIN_HALLMARKS = 2
# The first word of a pair's flag names the chain that has the flag.
PAIR_WORDS = ("heavy", "light")
_OF_CHAIN = tuple(f"{word}: " for word in PAIR_WORDS)
# A whole domain starts at IMGT 1 to 3 and ends at 126 to 128. Inside it, natural deletions leave up to three framework
# positions of an antibody empty; T-cell receptors lack more of them.
LATEST_START = 3
EARLIEST_END = 126
MAX_MISSING = 3


class Judgement(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What was found in one record.

    Attributes:
        flags: why its score should not be trusted, in a fixed order. Empty if the record is exactly one whole domain of
            the head's chains, without X. The flag NANOBODY_LIKE is only a note.
        chain: chain letter of the domain at `start`; None if there is no domain, or more than one candidate.
        start: index of that domain's first residue in the cleaned sequence, from 0; None if `chain` is None.
        end: index after that domain's last residue; None if `chain` is None.
        refusal: why the record is not scored at all; None if it can be scored. If there is a refusal, flags is empty.
    """

    flags: tuple[str, ...] = ()
    chain: str | None = None
    start: int | None = None
    end: int | None = None
    refusal: str | None = None

    @property
    def text(self) -> str:
        """The column `flag`."""
        return "; ".join(self.flags)

    @property
    def trusted(self) -> bool:
        """Whether the record can be called specific or non-specific. Being nanobody-like does not prevent a call."""
        return self.refusal is None and all(_without_chain(flag)[1] == NANOBODY_LIKE for flag in self.flags)


class Trimmed(msgspec.Struct, frozen=True):
    """The variable domain inside a longer record.

    Attributes:
        sequence: the domain's residues.
        start: first of them in the cleaned sequence, from 0.
        end: the residue after the last.
    """

    sequence: str
    start: int
    end: int


def judge(sequences: Iterable[str], chains: Iterable[str] = ("H",)) -> list[Judgement]:
    """One judgement for each sequence, in order. Each depends only on its own sequence; equal ones are judged once.

    Args:
        sequences: as a file or a user gives them. Positions in a judgement refer to the cleaned sequence
            (alphabet.clean).
        chains: the chains that the head was trained on, as letters of CHAIN_NAMES: H, K, L, A, B, G, D. L is lambda
            alone; the "L" of a manifest means ("K", "L").

    Raises:
        InputError: sequences is not a list of texts.
        ValueError: an unknown chain.
    """
    return list(judge_in_turn(as_texts(sequences), chains))


def judge_in_turn(sequences: Iterable[str], chains: Iterable[str]) -> Iterator[Judgement]:
    """Judge as `judge` does, but take only texts, and judge each sequence when its judgement is read."""
    expected = frozenset(chains)
    if not expected or not expected <= CHAIN_NAMES.keys():
        raise ValueError(f"chains is {sorted(expected)}, expected one or more of {', '.join(CHAIN_NAMES)}")
    judgements: dict[str, Judgement] = {}
    for sequence in sequences:
        if sequence not in judgements:
            judgements[sequence] = _judge(alphabet.clean(sequence), expected)
        yield judgements[sequence]


def judged_by() -> str:
    """What the judgements depend on besides the sequence and the chains; a part of a run's identity."""
    return f"immunum {_IMMUNUM}, rules {RULES}"


def trimmed(sequence: str, judgement: Judgement) -> Trimmed | None:
    """The domain's residues, to be judged and scored in place of the record; None if there is no single candidate.

    Args:
        sequence: the sequence that was judged.
        judgement: its judgement.
    """
    if judgement.start is None or judgement.end is None:
        return None
    residues = alphabet.clean(sequence)[judgement.start : judgement.end]
    return Trimmed(residues, judgement.start, judgement.end)


def reason(flag: str) -> str:
    """A flag without its count, for a summary: "6 residues outside the domain" is "residues outside the domain"."""
    chain, words = _without_chain(flag)
    return chain + words.lstrip("0123456789 ").replace("residue ", "residues ", 1)


def judgement_of_pair(heavy: Judgement, light: Judgement) -> Judgement:
    """The judgement of a pair: the flags of both chains. Each flag begins with the chain that has it."""
    both = zip(_OF_CHAIN, (heavy, light), strict=True)
    return Judgement(tuple(word + flag for word, judgement in both for flag in judgement.flags))


def _without_chain(flag: str) -> tuple[str, str]:
    """Split a flag into the word for the chain ("" if it is not a flag of a pair) and the rest."""
    chain = next((word for word in _OF_CHAIN if flag.startswith(word)), "")
    return chain, flag[len(chain) :]


def _judge(sequence: str, chains: frozenset[str]) -> Judgement:
    """The judgement of one cleaned sequence."""
    refused = refusal(sequence) or alphabet.letter_problem(sequence)
    if refused is not None:
        return Judgement(refusal=refused)
    unknown = _unknown_flags(sequence)
    if len(sequence) > MAX_RESIDUES:
        return Judgement((f"longer than {MAX_RESIDUES:,} residues: chain not judged", *unknown))
    domains, whole = search_domains(sequence)
    if not domains:
        return Judgement(("no antibody domain", *unknown))
    # If only a part of the record was searched, the rest may contain a second domain of the same chain.
    domain = _candidate(domains, chains) if whole or len(domains) == 1 else None
    flags = (
        *_number_flags(domains, whole),
        *_domain_flags(domain, chains),
        *_outside_flags(sequence, domains, whole),
        *unknown,
    )
    if domain is None or not whole:
        return Judgement(flags)
    if len(domains) == 1 and domain.chain == "H" and domain.hallmarks >= MIN_HALLMARKS:
        flags = (*flags, NANOBODY_LIKE)
    return Judgement(flags, domain.chain, domain.start, domain.end)


def _candidate(domains: Domains, chains: frozenset[str]) -> Domain | None:
    """The domain of the head's chains, else the domain of other chains; None if there are several such domains."""
    expected = [domain for domain in domains if domain.chain in chains]
    candidates = expected or domains
    return candidates[0] if len(candidates) == 1 else None


def _number_flags(domains: Domains, whole: bool) -> tuple[str, ...]:
    if not whole:
        return ("at least two domains",) if len(domains) > 1 else ()
    return () if len(domains) == 1 else ("two domains",) if len(domains) == 2 else ("more than two domains",)


def _domain_flags(domain: Domain | None, chains: frozenset[str]) -> tuple[str, ...]:
    if domain is None:
        return ()
    other = () if domain.chain in chains else (CHAIN_NAMES[domain.chain],)
    hole = domain.chain in "HKL" and domain.missing > MAX_MISSING
    whole = domain.first <= LATEST_START and domain.last >= EARLIEST_END and not hole
    fragment = () if whole else ("fragment",)
    unusual = (f"{domain.unusual} unusual framework residues",) if domain.unusual else ()
    return (*other, *fragment, *unusual)


def _outside_flags(sequence: str, domains: Domains, whole: bool) -> tuple[str, ...]:
    if len(domains) > 2 or (len(domains) > 1 and not whole):  # the rest may contain another
        return ()
    count = len(sequence) - sum(domain.end - domain.start for domain in domains)
    return () if not count else (f"{count} residue{'s' * (count > 1)} outside the domain",)


def _unknown_flags(sequence: str) -> tuple[str, ...]:
    count = sequence.count("X")
    return () if not count else (f"{count} unknown residue{'s' * (count > 1)} (X)",)
