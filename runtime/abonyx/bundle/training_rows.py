"""The training sequences of a head. Bundles store their hashes, to recognise them, and their text only on request."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from abonyx.arrays import BoolArray
from abonyx.bundle.bundle import Bundle
from abonyx.bundle.listed import FIX, file_of_head, read_listed
from abonyx.errors import BundleError

TRAINING_ROWS_NAME = "training_rows.sha256"
TRAINING_SEQUENCES_NAME = "training_sequences.txt"
_SEQUENCES = re.compile(rb"(?:[A-Z]+\n)*")
_LINES = re.compile(rb"(?:[0-9a-f]{64}\n)*")


def write_training_rows(sequences: Iterable[str], path: Path, domains: Iterable[str] = ()) -> None:
    """Write the sha256 of each distinct sequence and domain, one on each line. Sorting hides the order of the rows.

    Args:
        sequences: Input.records; for pairs, both chains in one text.
        path: the file to write.
        domains: Input.domains.
    """
    lines = sorted({_hash(sequence) for sequence in (*sequences, *filter(None, domains))})
    path.write_bytes(b"".join(line + b"\n" for line in lines))


def training_rows(
    bundle: Bundle, sequences: Sequence[str], head: str | None = None, domains: Sequence[str] | None = None
) -> BoolArray | None:
    """(n,) bool: whether each of n records was a training row of a head; None if the bundle does not record them.

    Args:
        bundle: the bundle.
        sequences: n texts, as for write_training_rows.
        head: name of the head; None = the first.
        domains: n texts, as for rows_among.

    Raises:
        BundleError: the file is missing or damaged.
    """
    known = training_hashes(bundle, head)
    return None if known is None else rows_among(known, sequences, domains)


def training_hashes(bundle: Bundle, head: str | None = None) -> frozenset[bytes] | None:
    """The hashes of a head's training rows, for rows_among; None if the bundle does not record them.

    Args:
        bundle: the bundle.
        head: name of the head; None = the first.

    Raises:
        BundleError: the file is missing or damaged.
    """
    first = bundle.manifest.head.name
    name = file_of_head(TRAINING_ROWS_NAME, first if head is None else head, first)
    data = read_listed(bundle, name)
    if data is None:
        return None
    if not _LINES.fullmatch(data):
        raise BundleError(f"{bundle.path / name}: does not have one sha256 on each line", FIX)
    return frozenset(data.splitlines())


def rows_among(known: frozenset[bytes], sequences: Sequence[str], domains: Sequence[str] | None = None) -> BoolArray:
    """(n,) bool: whether each of n records is among training rows.

    Args:
        known: training_hashes of a head.
        sequences: n texts, as for write_training_rows.
        domains: n texts, the variable domain of each record. A record also counts if its domain is a training row, or
            the domain of a training row. So a tag on the record or on the training row does not hide the match.
    """
    found = zip(sequences, domains or [""] * len(sequences), strict=True)
    return np.array([any(each and _hash(each) in known for each in record) for record in found], bool)


def write_training_sequences(sequences: Iterable[str], path: Path) -> None:
    """Write each distinct cleaned sequence, one on each line. Sorting hides the order of the rows."""
    path.write_text("".join(f"{sequence}\n" for sequence in sorted(set(sequences))), encoding="ascii")


def training_sequences(bundle: Bundle, head: str) -> tuple[str, ...] | None:
    """The distinct training sequences of a head; None if the bundle does not store them.

    Raises:
        BundleError: the file is missing or damaged.
    """
    name = file_of_head(TRAINING_SEQUENCES_NAME, head, bundle.manifest.head.name)
    data = read_listed(bundle, name)
    if data is None:
        return None
    if not _SEQUENCES.fullmatch(data):
        raise BundleError(f"{bundle.path / name}: does not have one sequence on each line", FIX)
    return tuple(data.decode("ascii").splitlines())


def _hash(sequence: str) -> bytes:
    return hashlib.sha256(sequence.encode()).hexdigest().encode()
