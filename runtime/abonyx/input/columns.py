"""Which columns of a table hold the ids, the sequences and the labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from abonyx.errors import InputError
from abonyx.wording import option


class Wanted(NamedTuple):
    """Names of columns as the user gives them; None = not given."""

    id: str | None
    sequence: str | None
    label: str | None


class Columns(NamedTuple):
    """Positions of the columns; None: ordinals as ids, no labels. Several of the sequence: one a residue, aligned."""

    id: int | None
    sequence: range
    label: int | None

    def cells(self, row: Sequence[object] | Mapping[int, object]) -> tuple[object, object, object]:
        """Return id, sequence and label of a row, by column position; an alignment's gaps are no residues."""
        parts = [row[place] for place in self.sequence]
        sequence = parts[0] if len(parts) == 1 else "".join(map(_text, parts)).replace("-", "")
        return ("" if self.id is None else row[self.id]), sequence, "" if self.label is None else _text(row[self.label])


def _text(cell: object) -> str:
    return "" if cell is None else str(cell).strip()


def find_columns(header: Sequence[str], where: str, wanted: Wanted) -> Columns:
    """Find the columns asked for in a header.

    Args:
        header: the names as the file has them.
        where: file and line, for messages.
        wanted: the names asked for; a sequence's FIRST:LAST, where it is no name itself, is a range of columns.

    Raises:
        InputError: one of them is not there, or two columns share a name.
    """
    names = [column.strip() for column in header]
    found = ", ".join(repr(column[:40]) for column in names[:20]) + (", ..." if len(names) > 20 else "")
    twice = [column for column, times in Counter(names).items() if column and times > 1]
    if twice:
        what = f"{where}: column {twice[0][:40]!r} stands twice; columns: {found}"
        raise InputError(what, "Rename or drop one of them.")
    id_ = "id" if wanted.id is None else wanted.id.strip()
    sequence = "sequence" if wanted.sequence is None else wanted.sequence.strip()
    label = "" if wanted.label is None else wanted.label.strip()
    ends = [sequence] if sequence in names else sequence.split(":", 1)
    named = [("sequence_column", end) for end in ends]
    named += [("id_column", id_)] * (wanted.id is not None) + [("label_column", label)] * (wanted.label is not None)
    for name, column in named:
        if column not in names:
            fix = f"Name one of them with {option(name)}; columns are split at commas in .csv and at tabs in .tsv."
            raise InputError(f"{where}: no column {column!r}; columns: {found}", fix)
    first, last = names.index(ends[0]), names.index(ends[-1])
    if first > last:
        raise InputError(f"{where}: column {ends[0]!r} stands behind {ends[-1]!r}", "Name the first column first.")
    id_at = names.index(id_) if id_ in names else None
    label_at = None if wanted.label is None else names.index(label)
    return Columns(id_at, range(first, last + 1), label_at)
