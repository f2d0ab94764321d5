"""Turn residue letters into token ids. A table of 256 entries gives the same ids as the encoder's tokenizer."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from abonyx.arrays import Int64Array
from abonyx.bundle.manifest import RESIDUES, UNKNOWN, AlphabetSpec, Manifest
from abonyx.config import RuntimeConfig

_WHITESPACE = re.compile(r"[ \t\r\n\f\v]+")
_NOT_RESIDUE = re.compile(f"[^{RESIDUES}]")
_LOWER, _UPPER = re.compile("[a-z]+"), re.compile("[A-Z]")


class SequenceLimit(NamedTuple):
    """How long a sequence may be, and which letters it may have.

    Attributes:
        max_residues: the bundle's limit.
        static_tokens: number of tokens in every row, CLS and EOS included; None if the config does not fix it.
        letters: the letters that the encoder has a token for.
    """

    max_residues: int
    static_tokens: int | None = None
    letters: str = RESIDUES

    @classmethod
    def of(cls, manifest: Manifest, config: RuntimeConfig) -> SequenceLimit:
        """The limit of a bundle that runs with this config."""
        static_tokens = config.static_shape[1] if config.static_shape else None
        return cls(manifest.max_residues, static_tokens, "".join(manifest.alphabet.residues))

    @property
    def residues(self) -> int:
        """Residues of the longest sequence that can be scored."""
        return self.max_residues if self.static_tokens is None else min(self.max_residues, self.static_tokens - 2)

    def problem(self, sequence: str) -> str | None:
        """Why a sequence that has only letters of RESIDUES cannot be scored; None if it can."""
        residues = len(sequence)
        if UNKNOWN not in self.letters and UNKNOWN in sequence:
            place = sequence.index(UNKNOWN) + 1
            return f"X (unknown residue) at position {place}: this bundle's encoder has no token for X"
        if residues > self.max_residues:
            return f"{residues} residues; this bundle takes at most {self.max_residues} (nothing is truncated)"
        if self.static_tokens is not None and residues > self.static_tokens - 2:
            limit = f"static_tokens = {self.static_tokens} in the config takes at most {self.static_tokens - 2}"
            return f"{residues} residues; {limit} (CLS and EOS are two tokens; nothing is truncated)"
        return None


def clean(sequence: str) -> str:
    """The sequence without spaces and line ends, in upper case if all of its letters are lower-case.

    The case of a mixed-case sequence is not changed, and `problem` refuses the sequence: the lower-case part may be
    masked residues, or a "nan" that pandas joined to the text. The case of non-ASCII text is not changed either,
    because Unicode's upper() can turn a foreign letter into residues ("ß" -> "SS").
    """
    if sequence.isupper() and sequence.isalpha():
        return sequence
    text = _WHITESPACE.sub("", sequence)
    return text.upper() if text.isascii() and text.islower() else text


def problem(sequence: str, limit: SequenceLimit) -> str | None:
    """Why a cleaned sequence cannot be scored (empty, a letter outside RESIDUES, or too long); None if it can."""
    return letter_problem(sequence) or limit.problem(sequence)


def letter_problem(sequence: str) -> str | None:
    """Why the letters of a cleaned sequence cannot be scored (none, or one outside RESIDUES); None if they can."""
    if not sequence:
        return "empty sequence"
    bad = _NOT_RESIDUE.search(sequence)
    if bad and not _UPPER.search(sequence):  # no upper-case letter: report the wrong letter, not the case
        bad = _NOT_RESIDUE.search(_LOWER.sub(lambda letters: letters.group().upper(), sequence))
    if bad:
        letter, position = bad.group(), bad.start() + 1
        if _LOWER.match(letter):
            where = f"lower-case {letter!r} at position {position} of an upper-case sequence"
            return f"{where} (a masked residue, or a nan that was joined to the text?)"
        return f"character {_shown(letter)} at position {position} is not a residue ({RESIDUES})"
    return None


def _shown(letter: str) -> str:
    if letter.isprintable() and letter != " ":
        return repr(letter)
    name = unicodedata.name(letter, "")
    return f"U+{ord(letter):04X}" + (f" ({name})" if name else "")


class Alphabet:
    """The token ids of a bundle.

    Args:
        spec: the manifest's alphabet.
    """

    def __init__(self, spec: AlphabetSpec) -> None:
        self.cls_id, self.pad_id, self.eos_id = spec.cls_id, spec.pad_id, spec.eos_id
        self._table = np.full(256, -1, np.int64)
        for letter, token_id in spec.residues.items():
            self._table[ord(letter)] = token_id

    def encode(self, sequences: Sequence[str]) -> list[Int64Array]:
        """Token ids of cleaned, valid sequences: one (residues + 2,) int64 array each, with CLS, residues and EOS."""
        rows = []
        for sequence in sequences:
            ids = np.empty(len(sequence) + 2, np.int64)
            ids[0], ids[-1] = self.cls_id, self.eos_id
            ids[1:-1] = self._table[np.frombuffer(sequence.encode("ascii"), np.uint8)]
            rows.append(ids)
        return rows
