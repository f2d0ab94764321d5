"""The columns that scores add to a table in memory: a Ray Dataset or a DataFrame."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from abonyx.arrays import Float32Array
from abonyx.bundle.chosen import ChosenHeads, P
from abonyx.bundle.panel import PERCENTILE
from abonyx.bundle.threshold import CALL, CALLED
from abonyx.errors import InputError
from abonyx.input.judged import JudgedValue
from abonyx.output.beside import column_cells, column_kinds
from abonyx.wording import Interface, in_words

FLAG, PLACE, REASON = "flag", "domain", "rejected"


def refuse_results(
    names: Collection[str], where: str, trim: bool, heads: ChosenHeads, with_columns: Sequence[str] = ()
) -> None:
    """Refuse a table that already has result columns.

    Args:
        names: names of its columns.
        where: name of the table in messages.
        trim: whether PLACE is added.
        heads: the heads whose columns are added. The columns of the first head are always refused, because a reader
            would take them for results.
        with_columns: columns on request.

    Raises:
        InputError: the table has such columns. The message names them.
    """
    added = {*heads.kinds, *column_kinds(with_columns, heads), FLAG, REASON, *([PLACE] if trim else [])}
    if there := ({P, CALLED, CALL, PERCENTILE} | added) & set(names):
        raise InputError(f"{where} has columns {sorted(there)} already", "Rename or drop them.")


def result_columns(
    rows: Sequence[JudgedValue],
    values: Float32Array,
    heads: ChosenHeads,
    trim: bool,
    with_columns: Sequence[str] = (),
) -> dict[str, list[float | int | str | None]]:
    """The new columns, as name -> n cells. In a rejected row, all cells but REASON are None.

    Args:
        rows: n judged values.
        values: (k, len(heads.names)) float32, for the k rows that are not rejected.
        heads: the heads that gave the values.
        trim: whether to add PLACE, with the residues that were scored.
        with_columns: columns on request, as for column_cells.
    """
    parts = [row.part for row in rows if row.rejected is None]
    records = [row.record for row in rows if row.rejected is None]
    cells = heads.cells(values, [part.judgement.trusted for part in parts], records)
    of_heads = {name: column.tolist() if isinstance(column, np.ndarray) else column for name, column in cells.items()}
    scored: dict[str, Sequence[float | int | str | None]] = {name: of_heads[name] for name in heads.leading}
    scored[FLAG] = [part.judgement.text for part in parts]
    scored |= {name: of_heads[name] for name in heads.following}
    scored |= column_cells(with_columns, [part.sequence for part in parts], [part.judgement for part in parts], heads)
    if trim:
        scored[PLACE] = [part.place for part in parts]
    columns: dict[str, list[float | int | str | None]] = {}
    for name, column in scored.items():
        upcoming = iter(column)
        columns[name] = [None if row.rejected else next(upcoming) for row in rows]
    columns[REASON] = [None if row.rejected is None else in_words(row.rejected, Interface.PYTHON) for row in rows]
    return columns
