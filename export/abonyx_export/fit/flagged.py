"""Labelled rows that `score` would flag: report them, and leave them out if requested."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

from abonyx.bundle.heads import chain_words
from abonyx.domain.flags import reason
from abonyx.errors import InputError, printable
from abonyx.input.checked import Input
from abonyx.wording import option
from abonyx_export.fit.request import FitRequest

# Largest number of flagged rows that are listed one by one.
SHOWN_ROWS = 20
_Value = TypeVar("_Value")


def flagged_rows(checked: Input) -> list[int]:
    """Indexes of the rows whose score would have no call. Rows that are only nanobody-like are not included."""
    return [row for row, judgement in enumerate(checked.judgements) if not judgement.trusted]


def flag_lines(checked: Input, request: FitRequest) -> list[str]:
    """Lines about flagged rows: whether they are left out, how many have each reason, and the first rows."""
    if request.run.check == "off":
        return [f"{option('domain')} off: chains and domains are not checked, so no row is flagged"]
    rows, count = flagged_rows(checked), len(checked.judgements)
    if not rows:
        return [f"none of the {count} rows is flagged (expected: {chain_words(request.trained_on)})"]
    fate = "left out" if request.drop_flagged else f"kept; {option('drop_flagged')} leaves them out"
    reasons = ", ".join(f"{name} {number}" for name, number in checked.flag_counts())
    lines = [f"{len(rows)} of {count} rows are flagged and {fate} (reasons, counted over all rows: {reasons})"]
    for row in rows[:SHOWN_ROWS]:
        lines.append(f"  row {row + 1}, id {printable(checked.ids[row])}: {checked.judgements[row].text}")
    return lines + ([f"  ... and {len(rows) - SHOWN_ROWS} more"] if len(rows) > SHOWN_ROWS else [])


def left_out_notes(checked: Input, request: FitRequest) -> tuple[str, ...]:
    """Notes for the card about records that the head is not fitted on: how many, and why.

    Args:
        checked: the input with all rows.
        request: what to fit.
    """
    rejected, rows, notes = len(checked.rejected), flagged_rows(checked), []
    if rejected:
        total = rejected + len(checked.ids)
        notes.append(f"{rejected} of {total} records were rejected and left out; see the list of rejected records")
    if rows and request.drop_flagged:
        counts = Counter(reason(flag) for row in rows for flag in checked.judgements[row].flags)
        reasons = ", ".join(f"{name} {number}" for name, number in counts.most_common())
        notes.append(f"{len(rows)} of {len(checked.ids)} rows were flagged and left out ({reasons})")
    return tuple(notes)


def without_flagged(checked: Input, request: FitRequest) -> Input:
    """The input without flagged_rows.

    Raises:
        InputError: no row is left.
    """
    left_out = set(flagged_rows(checked))
    if len(left_out) == len(checked.ids):
        what = f"{request.source_name}: all {len(checked.ids)} rows are flagged; {option('drop_flagged')} leaves no row"
        raise InputError(
            what,
            f"Check {option('chains')}, use {option('trim')} domain, or leave out {option('drop_flagged')}.",
        )

    def kept(values: Sequence[_Value]) -> list[_Value]:
        return [value for row, value in enumerate(values) if row not in left_out]

    # originals and places are empty without --trim
    return dataclasses.replace(
        checked,
        ids=kept(checked.ids),
        sequences=kept(checked.sequences),
        labels=kept(checked.labels),
        values=kept(checked.values),
        judgements=kept(checked.judgements),
        originals=kept(checked.originals),
        places=kept(checked.places),
        light=kept(checked.light),
        light_originals=kept(checked.light_originals),
    )
