"""The variable domains in a sequence: where each is, its chain, and how complete it is. immunum numbers them."""

from __future__ import annotations

import re
import signal
from collections import deque
from functools import cache
from typing import NamedTuple

from abonyx.domain.framework import unusual_residues
from abonyx.domain.signals import signals_held

# If a signal handler raises an exception during the import of immunum, the exception is lost. So is Ctrl-C.
with signals_held():
    from immunum import Annotator, NumberingResult

# immunum imports polars if polars is installed. polars makes a blocking read continue after Ctrl-C, as if nothing had
# been typed. The call below restores Python's own setting. Windows has no such setting.
if hasattr(signal, "siginterrupt"):
    signal.siginterrupt(signal.SIGINT, True)

# Shuffled, reversed, random and unrelated proteins reach at most 0.292 (3,840 sequences); T-cell receptors have at
# least 0.42, antibodies 0.52. immunum's own default, 0.5, would lose T-cell receptors.
MIN_CONFIDENCE = 0.35
# If the heavy annotator alone finds a heavy domain, it needs at least this confidence (immunum's own default). Below
# it, all chains compete, because a fragment of another chain can look like a heavy domain of low confidence.
HEAVY_CONFIDENCE = 0.5
# A second domain needs at least this many residues (immunum's own minimum).
MIN_DOMAIN = 30
# Longer records are not numbered: at 1,000 residues the seven chains take about 5 ms.
MAX_RESIDUES = 1_000
# Largest number of residues that the search with all chains may align in all its steps together. Each residue takes
# about 5 microseconds. Without this limit, the search takes a second if many short pieces of the text align well.
# With 2,500, a record of 1,000 residues is searched for its best domain, and then on both sides of that domain.
SEARCH_RESIDUES = 2_500
# IMGT framework positions that nearly every chain has. Positions 10, 73, 81 and 82 are left out, because heavy or light
# chains lack them. The ends (1-3 and 126-128) are left out too.
FRAMEWORK = frozenset(
    str(position)
    for first, last in ((4, 9), (11, 26), (39, 55), (66, 72), (74, 80), (83, 104), (118, 125))
    for position in range(first, last + 1)
)
# Framework 4 starts with Trp or Phe, Gly, often Gln, Gly, Thr (IMGT 118 to 122; the pattern shows which may
# differ). The alignment alone counts the first residues of a tag as part of the domain, most often after a long CDR3.
# One His after the domain went unnoticed in this way in 2 to 4 % of the VH of Jain and Shehata, and in a fifth of
# Harvey's nanobodies. The alignment also mistakes the end of CDR3 or a shifted reading frame for framework 4. The
# pattern is a lookahead, because two matches can overlap.
FRAMEWORK_4 = re.compile("(?=[WF]G.G|.G.GT|[WF]..GT|..QGT|[WF]G..T|.GQG)")
# If the aligned end of a heavy domain matches this pattern, the domain is whole, whatever its framework 4 starts with.
_HEAVY_END = re.compile("[TIS]VS[SAP]")
# How many residues framework 4 has, by chain.
FRAMEWORK_4_RESIDUES = {"H": 11, "K": 10, "L": 10}
# Framework 4 may start at most this many residues before the aligned end: its own residues and ten of a tag.
_TAIL = 21
# The Cys before CDR3, and the last position of CDR3.
_CYSTEINE, _CDR3_END = "104", 117
# The residues that make framework 2 of a camelid VHH soluble without a light chain (IMGT positions).
HALLMARKS = {"42": "FY", "49": "EQ", "50": "RC", "52": "GFL"}


class Domain(NamedTuple):
    """One variable domain.

    Attributes:
        chain: H, K, L (antibody), A, B, G or D (T-cell receptor).
        start: first residue in the sequence, from 0.
        end: the residue after the last.
        first: IMGT position of the first residue.
        last: IMGT position of the last residue.
        missing: how many positions of FRAMEWORK have no residue.
        hallmarks: how many of the four framework-2 positions hold a nanobody's residue.
        unusual: of a heavy domain, framework.unusual_residues; else 0.
    """

    chain: str
    start: int
    end: int
    first: int
    last: int
    missing: int
    hallmarks: int
    unusual: int


Domains = tuple[Domain, ...]


def search_domains(sequence: str) -> tuple[Domains, bool]:
    """The domains of one cleaned sequence, in the order of the sequence, and whether all of it was searched.

    Heavy chains are searched first. All seven chains are searched too, unless one confident heavy domain leaves no
    room for a second domain. Text that is shorter than MIN_DOMAIN, longer than MAX_RESIDUES or not only ASCII letters
    has no domain.
    """
    # immunum raises UnicodeEncodeError for a lone surrogate, and calls other text invalid.
    if not MIN_DOMAIN <= len(sequence) <= MAX_RESIDUES or not (sequence.isascii() and sequence.isalpha()):
        return (), True
    heavy = _domain(sequence, 0, annotate(sequence, "H"))
    if heavy is not None and heavy[1] >= HEAVY_CONFIDENCE:
        domain = heavy[0]
        # If fewer than MIN_DOMAIN residues lie outside the domain, there cannot be a second one.
        if domain.end - domain.start >= MIN_DOMAIN > len(sequence) - (domain.end - domain.start):
            return (domain,), True
    return _search(sequence)


def _search(sequence: str) -> tuple[Domains, bool]:
    """Search as immunum's number_domains does with all chains, but step by step and within SEARCH_RESIDUES.

    Each step takes the best alignment of a part. The next steps search the parts before and after it. An alignment
    shorter than MIN_DOMAIN is not a domain, but the parts around it are searched too.
    """
    domains: list[Domain] = []
    parts = deque([(0, len(sequence))])
    left = SEARCH_RESIDUES
    while parts:
        start, end = parts.popleft()
        left -= end - start
        if left < 0:
            break
        best = _domain(sequence, start, annotate(sequence[start:end], "all"))
        if best is None:
            continue
        domain = best[0]
        if domain.end - domain.start >= MIN_DOMAIN:
            domains.append(domain)
        sides = ((start, domain.start), (domain.end, end))
        parts.extend(side for side in sides if side[1] - side[0] >= MIN_DOMAIN)
    return tuple(sorted(domains, key=lambda domain: domain.start)), left >= 0


def _domain(sequence: str, offset: int, result: NumberingResult) -> tuple[Domain, float] | None:
    """The domain of an alignment and its confidence; None if there is no confident one.

    Args:
        sequence: the whole sequence.
        offset: index in the sequence where the aligned part starts.
        result: the alignment of this part.
    """
    numbering = result.numbering
    # If a text starts with 23 X, immunum can report success with an empty numbering.
    if not numbering or result.confidence is None or result.query_start is None or result.query_end is None:
        return None
    chain, start = result.chain or "", offset + result.query_start
    end, last = offset + result.query_end + 1, _number(next(reversed(numbering)))
    if chain in FRAMEWORK_4_RESIDUES and _CYSTEINE in numbering:
        end, last = _end(sequence, chain, end, last)
    domain = Domain(
        chain=chain,
        start=start,
        end=end,
        first=_number(next(iter(numbering))),
        last=last,
        missing=len(FRAMEWORK - numbering.keys()),
        hallmarks=sum(numbering.get(position, "-") in letters for position, letters in HALLMARKS.items()),
        unusual=unusual_residues(numbering) if chain == "H" else 0,
    )
    return domain, result.confidence


def _end(sequence: str, chain: str, end: int, last: int) -> tuple[int, int]:
    """Use framework 4 to find where an antibody's domain ends, and the IMGT position of its last residue.

    Args:
        end, last: the end and the position that the alignment gives.
    """
    if chain == "H" and _HEAVY_END.fullmatch(sequence, end - 4, end):
        return end, last
    matches = list(FRAMEWORK_4.finditer(sequence, end - _TAIL, end))
    if not matches:  # the aligned framework 4 is the end of CDR3
        return end, min(last, _CDR3_END)
    residues = min(end - matches[-1].start(), FRAMEWORK_4_RESIDUES[chain])
    return matches[-1].start() + residues, _CDR3_END + residues


def _number(position: str) -> int:
    """An IMGT position without the letter of an insertion: "111A" is 111."""
    return int(position.rstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ"))


def annotate(sequence: str, chains: str) -> NumberingResult:
    """The numbering that immunum gives to a text of ASCII letters.

    Args:
        chains: "H", or "all" for all seven.
    """
    return _annotator(chains).number(sequence)


@cache
def _annotator(chains: str) -> Annotator:
    return Annotator(chains=[chains], scheme="imgt", min_confidence=MIN_CONFIDENCE)
