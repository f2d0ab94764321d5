"""The columns that scores add to rows which are already a table: a Ray Dataset's, a DataFrame's."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from abonyx.arrays import Float32Array
from abonyx.bundle.threshold import CALL, CALLED, CallRule
from abonyx.errors import InputError
from abonyx.input.judged import JudgedValue
from abonyx.wording import Interface, in_words

P, FLAG, PLACE, REASON = "p_nonspecific", "flag", "domain", "rejected"


def refuse_results(names: Collection[str], where: str, trim: bool) -> None:
    """Refuse a table that has result columns already.

    Args:
        names: its columns.
        where: what messages call it.
        trim: whether PLACE is added, too.

    Raises:
        InputError: names those columns.
    """
    if there := {P, CALLED, CALL, FLAG, REASON, *([PLACE] if trim else [])} & set(names):
        raise InputError(f"{where} has columns {sorted(there)} already", "Rename or drop them.")


def result_columns(
    rows: Sequence[JudgedValue], p: Float32Array, rule: CallRule, trim: bool, numbers: bool = True
) -> dict[str, list[float | int | str | None]]:
    """The new columns by name, of all rows; None in the place of what a rejected row does not have.

    Args:
        rows: n judged values.
        p: (k,) float32, of those that are not rejected.
        rule: of the calls.
        numbers: whether there is a column CALLED; without it, there is CALL only if the head has a band.
        trim: whether to name, in PLACE, which residues were scored.
    """
    parts = [row.part for row in rows if row.rejected is None]
    scored: dict[str, Sequence[float | int | str | None]] = {P: p.tolist()}
    trusted = [part.judgement.trusted for part in parts]
    if numbers:
        scored[CALLED] = rule.numbers(p, trusted)
    if numbers or rule.band is not None:
        scored[CALL] = rule.words(p, trusted)
    scored[FLAG] = [part.judgement.text for part in parts]
    if trim:
        scored[PLACE] = [part.place for part in parts]
    columns: dict[str, list[float | int | str | None]] = {}
    for name, values in scored.items():
        upcoming = iter(values)
        columns[name] = [None if row.rejected else next(upcoming) for row in rows]
    columns[REASON] = [None if row.rejected is None else in_words(row.rejected, Interface.PYTHON) for row in rows]
    return columns
