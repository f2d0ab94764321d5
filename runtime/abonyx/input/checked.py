"""The input of a run, read and checked as a whole before any model is opened."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from abonyx import alphabet
from abonyx.alphabet import SequenceLimit
from abonyx.errors import RecordsRejected, printable
from abonyx.input.records import Record, RejectedRecord, read_records
from abonyx.wording import option

# Problems shown in the error message; all of them go to OUT.rejected.csv where they are skipped.
SHOWN_PROBLEMS = 10
_HASHED_ROWS = 4_096
# As text, as integers and as the floats that pandas writes once a column has a gap (the Boughter set).
LABELS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}


@dataclass(frozen=True)
class Input:
    """A checked input: what can be scored, in file order, and what cannot.

    Attributes:
        labels: 0 specific, 1 non-specific, None not labelled, one a sequence; empty where no column was asked for.
    """

    ids: list[str] = field(default_factory=list)
    sequences: list[str] = field(default_factory=list)
    rejected: list[RejectedRecord] = field(default_factory=list)
    labels: list[int | None] = field(default_factory=list)

    def sha256(self) -> str:
        """Hash of ids, sequences and rejected records, as read: of what a run scores, however the file holds it."""
        digest = hashlib.sha256()
        for start in range(0, len(self.ids), _HASHED_ROWS):
            # ascii(): the same text for any id, whatever it holds, in every version of Python.
            rows = (self.ids[start : start + _HASHED_ROWS], self.sequences[start : start + _HASHED_ROWS])
            digest.update(ascii(rows).encode())
        digest.update(ascii([tuple(problem) for problem in self.rejected]).encode())
        return digest.hexdigest()


def read_input(
    source: Path | None,
    limit: SequenceLimit,
    *,
    id_column: str | None = None,
    sequence_column: str | None = None,
    label_column: str | None = None,
    label_required: bool = False,
    skip_invalid: bool = False,
) -> Input:
    """Read and check a whole input before any model is opened.

    Args:
        source: a file; None = standard input.
        limit: how long a sequence may be.
        label_column: column of labels, each 0, 1 or blank (not labelled); None = read none.
        label_required: a blank label makes a bad record.
        skip_invalid: collect bad records instead of refusing the input.

    Raises:
        InputError: the file cannot be read as records, or none of them can be scored.
        RecordsRejected: bad records, and not skip_invalid; shows the first ten.
    """
    return check_records(
        read_records(source, id_column=id_column, sequence_column=sequence_column, label_column=label_column),
        str(source) if source else "standard input",
        limit,
        label_column=label_column,
        label_required=label_required,
        skip_invalid=skip_invalid,
    )


def check_records(
    records: Iterable[Record | RejectedRecord],
    name: str,
    limit: SequenceLimit,
    *,
    label_column: str | None = None,
    label_required: bool = False,
    skip_invalid: bool = False,
) -> Input:
    """Sort out which records can be scored, wherever they come from. Arguments and errors as read_input's.

    Args:
        name: what messages call the source.
    """
    checked = Input()
    for record in records:
        if isinstance(record, RejectedRecord):
            checked.rejected.append(record)
            continue
        sequence = alphabet.clean(record.sequence)
        reason = alphabet.problem(sequence, limit) or _label_problem(record.label, label_required)
        if reason:
            checked.rejected.append(RejectedRecord(record.id, record.line, reason))
            continue
        checked.ids.append(record.id)
        checked.sequences.append(sequence)
        if label_column is not None:
            checked.labels.append(LABELS.get(record.label))
    if checked.rejected and not (skip_invalid and checked.sequences):
        _refuse(checked, name)
    return checked


def _label_problem(label: str, required: bool) -> str | None:
    if not label:
        return "no label" if required else None
    if label in LABELS:
        return None
    return f"the label is {printable(label)!r}, not " + ("0 or 1" if required else "0, 1 or blank")


def _refuse(checked: Input, name: str) -> None:
    count = len(checked.rejected)
    lines = [f"  {name}:{problem.line}: {printable(problem.id)}: {problem.reason}" for problem in checked.rejected]
    more = [f"  ... and {count - SHOWN_PROBLEMS} more"] if count > SHOWN_PROBLEMS else []
    total = count + len(checked.sequences)
    raise RecordsRejected(
        "\n".join(
            [f"{name}: {count} of {total} records cannot be scored; nothing was scored", *lines[:SHOWN_PROBLEMS], *more]
        ),
        f"Mend them, or score the rest with {option('skip')}."
        if checked.sequences
        else "Mend them; docs/errors.md lists what is accepted.",
    )
