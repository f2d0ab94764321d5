"""The columns that scores add to rows which are already a table: a Ray Dataset's, a DataFrame's."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from abonyx.arrays import Float32Array
from abonyx.bundle.threshold import called
from abonyx.errors import InputError
from abonyx.input.judged import JudgedValue
from abonyx.wording import Interface, in_words

P, CALLED, FLAG, PLACE, REASON = "p_nonspecific", "nonspecific", "flag", "domain", "rejected"


def refuse_results(names: Collection[str], where: str, trim: bool) -> None:
    """Refuse a table that has result columns already.

    Args:
        names: its columns.
        where: what messages call it.
        trim: whether PLACE is added, too.

    Raises:
        InputError: names those columns.
    """
    if there := {P, CALLED, FLAG, REASON, *([PLACE] if trim else [])} & set(names):
        raise InputError(f"{where} has columns {sorted(there)} already", "Rename or drop them.")


def result_columns(
    rows: Sequence[JudgedValue], p: Float32Array, threshold: float | None, trim: bool
) -> dict[str, list[float | int | str | None]]:
    """The new columns by name, of all rows; None in the place of what a rejected row does not have.

    Args:
        rows: n judged values.
        p: (k,) float32, of those that are not rejected.
        threshold: of the column CALLED; None = no such column.
        trim: whether to name, in PLACE, which residues were scored.
    """
    parts = [row.part for row in rows if row.rejected is None]
    scored: dict[str, Sequence[float | int | str | None]] = {P: p.tolist()}
    if threshold is not None:
        scored[CALLED] = called(p, threshold, [part.judgement.trusted for part in parts])
    scored[FLAG] = [part.judgement.text for part in parts]
    if trim:
        scored[PLACE] = [part.place for part in parts]
    columns: dict[str, list[float | int | str | None]] = {}
    for name, values in scored.items():
        upcoming = iter(values)
        columns[name] = [None if row.rejected else next(upcoming) for row in rows]
    columns[REASON] = [None if row.rejected is None else in_words(row.rejected, Interface.PYTHON) for row in rows]
    return columns
