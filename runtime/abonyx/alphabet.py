"""Residue letters to token ids: validation and a 256-entry table. No tokenizer library, same ids."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from abonyx.bundle.manifest import RESIDUES, AlphabetSpec

_WHITESPACE = re.compile(r"[ \t\r\n\f\v]+")
_NOT_RESIDUE = re.compile(f"[^{RESIDUES}]")


def clean(sequence: str) -> str:
    """The sequence without spaces and line ends, upper-cased.

    Non-ASCII text is returned as found: Unicode's upper() can turn a foreign letter into residues ("ß" -> "SS").
    """
    if not sequence.isascii():
        return sequence
    return _WHITESPACE.sub("", sequence).upper()


def problem(sequence: str, max_residues: int, static_tokens: int | None = None) -> str | None:
    """Why a cleaned sequence cannot be scored, or None: empty, a letter outside RESIDUES, or too long.

    Args:
        max_residues: the bundle's limit.
        static_tokens: tokens of every row, CLS and EOS included, where the config fixes them.
    """
    if not sequence:
        return "empty sequence"
    bad = _NOT_RESIDUE.search(sequence)
    if bad:
        letter = bad.group()
        shown = repr(letter) if letter.isprintable() else f"U+{ord(letter):04X}"
        return f"character {shown} at position {bad.start() + 1} is not a residue ({RESIDUES})"
    if len(sequence) > max_residues:
        return f"{len(sequence)} residues, this bundle takes at most {max_residues} (nothing is truncated)"
    if static_tokens is not None and len(sequence) > static_tokens - 2:
        limit = f"static_tokens = {static_tokens} in the config takes at most {static_tokens - 2}"
        return f"{len(sequence)} residues, {limit} (CLS and EOS are two tokens; nothing is truncated)"
    return None


class Alphabet:
    """A bundle's token ids.

    Args:
        spec: the manifest's alphabet.
    """

    def __init__(self, spec: AlphabetSpec) -> None:
        self.cls_id, self.pad_id, self.eos_id = spec.cls_id, spec.pad_id, spec.eos_id
        self._table = np.full(256, -1, np.int64)
        for letter, token_id in spec.residues.items():
            self._table[ord(letter)] = token_id

    def encode(self, sequences: Sequence[str]) -> list[npt.NDArray[np.int64]]:
        """Token ids of cleaned, valid sequences: CLS, residues, EOS; each (residues + 2,) int64."""
        rows = []
        for sequence in sequences:
            ids = np.empty(len(sequence) + 2, np.int64)
            ids[0], ids[-1] = self.cls_id, self.eos_id
            ids[1:-1] = self._table[np.frombuffer(sequence.encode("ascii"), np.uint8)]
            rows.append(ids)
        return rows
