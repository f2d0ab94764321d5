"""The input of a run, read and checked as a whole before any model is opened."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from abonyx.alphabet import SequenceLimit
from abonyx.errors import RecordsRejected, printable
from abonyx.input.cells import MISSING
from abonyx.input.records import Record, RejectedRecord, read_records
from abonyx.input.sequences import Gaps, judge

# Problems shown in the error message; all of them go to OUT.rejected.csv with --on-invalid skip.
SHOWN_PROBLEMS = 10
_HASHED_ROWS = 4_096
# In any case: as text, as integers and as the floats that pandas writes once a column has a gap (the Boughter set).
_SPECIFIC, _NONSPECIFIC = ("0", "0.0", "false", "no", "specific"), ("1", "1.0", "true", "yes", "non-specific")
LABELS = dict.fromkeys(_SPECIFIC, 0) | dict.fromkeys((*_NONSPECIFIC, "nonspecific", "non specific"), 1)


@dataclass(frozen=True)
class Input:
    """A checked input: what can be scored, in file order, and what cannot.

    Attributes:
        labels: 0 specific, 1 non-specific, None not labelled, one a sequence; empty if no column was requested.
        notes: what a user should know of how it was read, a line each.
    """

    ids: list[str] = field(default_factory=list)
    sequences: list[str] = field(default_factory=list)
    rejected: list[RejectedRecord] = field(default_factory=list)
    labels: list[int | None] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

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
    gaps: Gaps = "refuse",
    sheet: str | None = None,
) -> Input:
    """Read and check a whole input before any model is opened.

    Args:
        source: a file; None = standard input.
        limit: how long a sequence may be.
        label_column: column of labels, each a word of LABELS or missing (not labelled); None = read none.
        label_required: a blank label makes a bad record.
        skip_invalid: collect bad records instead of refusing the input.
        gaps: what happens to gaps and a final stop.
        sheet: of a workbook.

    Raises:
        InputError: the file cannot be read as records, or none of them can be scored.
        RecordsRejected: bad records, and not skip_invalid; shows the first ten.
    """
    notes: list[str] = []
    records = read_records(
        source,
        id_column=id_column,
        sequence_column=sequence_column,
        label_column=label_column,
        sheet=sheet,
        notes=notes,
    )
    return check_records(
        records,
        str(source) if source else "standard input",
        limit,
        label_column=label_column,
        label_required=label_required,
        skip_invalid=skip_invalid,
        gaps=gaps,
        notes=notes,
    )


def check_records(
    records: Iterable[Record | RejectedRecord],
    name: str,
    limit: SequenceLimit,
    *,
    label_column: str | None = None,
    label_required: bool = False,
    skip_invalid: bool = False,
    gaps: Gaps | None = None,
    notes: list[str] | None = None,
) -> Input:
    """Sort out which records can be scored, wherever they come from. Arguments and errors as read_input's.

    Args:
        name: what messages call the source.
        gaps: None = refused, by an interface that has no such option.
        notes: the list that the records' reader fills.
    """
    checked = Input(notes=[] if notes is None else notes)
    for record in records:
        if isinstance(record, RejectedRecord):
            checked.rejected.append(record)
            continue
        sequence, reason = judge(record.sequence, limit, gaps)
        label = "" if record.label in MISSING else record.label.lower()
        reason = reason or _label_problem(label, label_required)
        if reason:
            checked.rejected.append(RejectedRecord(record.id, record.line, reason))
            continue
        checked.ids.append(record.id)
        checked.sequences.append(sequence)
        if label_column is not None:
            checked.labels.append(LABELS.get(label))
    repeated = len(checked.ids) - len(set(checked.ids))
    if repeated:
        checked.notes.append(f"{name}: {repeated} ids repeat an earlier one; all are kept")
    if checked.rejected and not (skip_invalid and checked.sequences):
        _refuse(checked, name)
    return checked


def _label_problem(label: str, required: bool) -> str | None:
    if not label:
        return "no label" if required else None
    if label in LABELS:
        return None
    words = "0 or 1" if required else "0, 1 or blank"
    return f"the label is {printable(label)!r}, not {words}, true or false, yes or no, specific or non-specific"


def _refuse(checked: Input, name: str) -> None:
    count = len(checked.rejected)
    lines = [f"  {name}:{problem.line}: {printable(problem.id)}: {problem.reason}" for problem in checked.rejected]
    more = [f"  ... and {count - SHOWN_PROBLEMS} more"] if count > SHOWN_PROBLEMS else []
    total = count + len(checked.sequences)
    raise RecordsRejected(
        "\n".join(
            [f"{name}: {count} of {total} records cannot be scored; nothing was scored", *lines[:SHOWN_PROBLEMS], *more]
        ),
        "Mend them, or score the rest with --on-invalid skip."
        if checked.sequences
        else "Mend them; docs/errors.md lists what is accepted.",
    )
