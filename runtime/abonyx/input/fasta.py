"""Records of a FASTA file."""

from __future__ import annotations

import gzip
import re
import zlib
from array import array
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field

from abonyx.errors import InputError, printable
from abonyx.input.cells import NO_CELLS, Record, RejectedRecord, named
from abonyx.input.columns import ALL
from abonyx.wording import option

# The name that `keep` uses for the header after its first word.
DESCRIPTION = "description"
# First characters of lines that are skipped: comments, and "" for a blank line.
_SKIPPED = frozenset(("", "#", ";"))
# A first word that ends with the chain of a pair: mab1|H, mab1|L, mab1:H.
_OF_CHAIN = re.compile(r"(.+)[|:]([HL])")
_WORDS = {"H": "heavy", "L": "light"}


def read_fasta(
    lines: Iterable[str], name: str, keep: tuple[str, ...], notes: list[str], chains: tuple[str, ...] = ("H",)
) -> Generator[Record | RejectedRecord]:
    """Yield the records. The id is the first word of the header; if first words repeat, all ids are whole headers.

    Args:
        lines: the lines of the file.
        name: name of the file in messages.
        keep: () = nothing; ("description",) or (ALL,) = the header after its first word, for a pair that of its first
            chain.
        notes: a list to which lines for the user are added.
        chains: the chains that a record needs. If they are both, or if a file has both chains of a record, the first
            words end with |H or |L (or :H or :L). The text before this ending is the id.
    """
    if keep not in ((), (ALL,), (DESCRIPTION,)):
        what = f"{name}: is FASTA, which has no column {printable(next(key for key in keep if key != DESCRIPTION))!r}"
        raise InputError(what, f"Use {option('keep')} {DESCRIPTION}, which keeps the header after its first word.")
    entries = _Entries()
    try:
        entries.read(lines, name)
    except (InputError, OSError, EOFError, gzip.BadGzipFile, zlib.error):
        yield from entries.records(
            whole=False, keep=bool(keep)
        )  # the records before the fault: an error in gzip data gives the last one's line
        raise
    if len(chains) > 1:
        yield from entries.pairs(keep=bool(keep))
        return
    if others := entries.take_chain(chains[0]):
        other = _WORDS["L" if chains[0] == "H" else "H"]
        has, chain = ("record has", "chain is") if others == 1 else ("records have", "chains are")
        what = f"{name}: {others} {has} both chains: the {other} {chain} not scored"
        notes.append(f"{what}: the heads expect only the {_WORDS[chains[0]]} chain")
    yield from entries.rejected
    whole = entries.collide()
    if whole:
        notes.append(f"{name}: the first words of some headers are equal, so every id is the whole header")
    yield from entries.records(whole=whole, keep=bool(keep))


@dataclass
class _Entries:
    """Headers, sequences and line numbers in file order. They are kept, because the last header may change all ids."""

    headers: list[str] = field(default_factory=list)
    sequences: list[str] = field(default_factory=list)
    lines: array[int] = field(default_factory=lambda: array("Q"))
    rejected: list[RejectedRecord] = field(default_factory=list)

    def read(self, lines: Iterable[str], name: str) -> None:
        """Read all lines."""
        header, start = "", 0
        parts: list[str] = []
        for number, line in enumerate(lines, 1):
            text = line.strip(" \t\r\n")
            first = text[:1]
            if first == ">":
                if start:
                    self._add(header, parts, start)
                header, start, parts = text[1:].strip(), number, []
            elif first in _SKIPPED:
                continue
            elif start:
                parts.append(text)
            else:
                fix = "Start each record with a '>' line. If the file is a table, name it .csv or .tsv."
                raise InputError(f"{name}:{number}: {text[:40]!r} is before the first '>'", fix)
        if not start:
            raise InputError(f"{name}: has only blank lines, no records", "Give at least one '>' record.")
        self._add(header, parts, start)

    def _add(self, header: str, parts: list[str], line: int) -> None:
        self.headers.append(header)
        self.sequences.append("".join(parts))
        self.lines.append(line)

    def take_chain(self, chain: str) -> int:
        """If some records have both chains, keep only this chain, with the pair's name as id.

        In such a file, a record without this chain is rejected. So is each further chain of the same kind and name.

        Returns:
            The number of records that have both chains.
        """
        named = [_OF_CHAIN.fullmatch(header.split(maxsplit=1)[0] if header else "") for header in self.headers]
        chains = {(found[1], found[2]) for found in named if found}
        both = {name for name, _ in chains if (name, "H") in chains and (name, "L") in chains}
        if not both:
            return 0
        kept, taken = [], set[str]()
        for at, found in enumerate(named):
            if found is None:
                kept.append(at)
            elif found[2] == chain and found[1] not in taken:
                taken.add(found[1])
                kept.append(at)
                _, space, rest = self.headers[at].partition(" ")
                self.headers[at] = found[1] + space + rest
            elif found[2] == chain:
                self._reject(at, found[0], f"a second {_WORDS[chain]} chain of {printable(found[1])}")
            elif (found[1], chain) not in chains:
                self._reject(at, found[0], f"no {_WORDS[chain]} chain, which the heads expect")
        self.headers, self.sequences = [self.headers[at] for at in kept], [self.sequences[at] for at in kept]
        self.lines = array("Q", [self.lines[at] for at in kept])
        return len(both)

    def _reject(self, at: int, id_: str, why: str) -> None:
        self.rejected.append(RejectedRecord(printable(id_), self.lines[at], why))

    def pairs(self, *, keep: bool) -> Generator[Record | RejectedRecord]:
        """Yield the pairs in the order of their first chains. A missing chain is "".

        A header that names no chain, or a second chain of the same kind and name, is a rejected record.
        """
        of_pair: dict[str, dict[str, int]] = {}
        unpaired: dict[int, tuple[str, str]] = {}  # place -> id and reason
        for at, header in enumerate(self.headers):
            word = header.split(maxsplit=1)[0] if header else ""
            found = _OF_CHAIN.fullmatch(word)
            if found is None:
                why = f"the header names no chain: the heads need both, >{word or 'ID'}|H and >{word or 'ID'}|L"
                unpaired[at] = (word or str(at + 1), why)
            elif found[2] in of_pair.setdefault(found[1], {}):
                unpaired[at] = (word, f"a second {_WORDS[found[2]]} chain of {printable(found[1])}")
            else:
                of_pair[found[1]][found[2]] = at
        first = {min(chains.values()): name for name, chains in of_pair.items()}
        for at in sorted([*first, *unpaired]):
            if at in unpaired:
                yield RejectedRecord(printable(unpaired[at][0]), self.lines[at], unpaired[at][1])
                continue
            chains = of_pair[first[at]]
            heavy, light = (self.sequences[chains[chain]] if chain in chains else "" for chain in "HL")
            words = self.headers[at].split(maxsplit=1)
            kept = {DESCRIPTION: words[1] if len(words) == 2 else ""} if keep else NO_CELLS
            yield named(first[at], heavy, self.lines[at], "", kept, light)

    def collide(self) -> bool:
        """Whether two records have the same first word, and some headers have more than one word."""
        words = {header.split(maxsplit=1)[0] for header in self.headers if header}
        named = sum(map(bool, self.headers))
        return len(words) < named and any(len(header.split(maxsplit=1)) > 1 for header in self.headers)

    def records(self, *, whole: bool, keep: bool) -> Generator[Record | RejectedRecord]:
        """Yield the records. whole: the ids are the whole headers. keep: keep the descriptions."""
        rows = zip(self.headers, self.sequences, self.lines, strict=True)
        for ordinal, (header, sequence, line) in enumerate(rows, 1):
            words = header.split(maxsplit=1)
            id_ = words[0] if words and not whole else header
            kept = {DESCRIPTION: words[1] if len(words) == 2 else ""} if keep else NO_CELLS
            yield named(id_ or str(ordinal), sequence, line, "", kept)
