"""The parents of a scan: which records they are, and the names of their files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from abonyx.errors import InputError, printable
from abonyx.explain.scan import ScanOptions, ScanPlan, plan_scan
from abonyx.input.checked import Input
from abonyx.wording import option

_TRIM_FIX = f"To cut off what lies outside the domain, use {option('trim_domain')}."
_FLAGGED_FIX = f"To leave flagged records out, use {option('skip')} with {option('domain')} require."


@dataclass(frozen=True)
class Parent:
    """One parent: its id, the beginning of its pictures' names, and its plan."""

    id: str
    stem: str
    plan: ScanPlan


def choose_parents(checked: Input, id_: str | None) -> Input:
    """The parents to scan: all records, or the one with this id. Raises InputError."""
    counts = Counter(checked.ids)
    if id_ is None:
        twice = [name for name, count in counts.items() if count > 1]
        if twice:
            appear = "id appears" if len(twice) == 1 else "ids appear"
            what = f"{len(twice)} {appear} more than once: {printable(twice[0])!r} {counts[twice[0]]} times"
            raise InputError(what, f"Give each parent an id of its own; {option('id_column')} names the ids' column.")
        return checked
    found = [at for at, name in enumerate(checked.ids) if name == id_]
    bad = [record for record in checked.rejected if record.id == id_]
    if len(found) + len(bad) != 1 or bad:
        rejected = bad[0] if bad else None
        if rejected is not None and not found:
            what = f"{option('id')} {printable(id_)!r}: the record was rejected: {rejected.reason}"
            raise InputError(what, "Correct it, or scan another record.")
        if not found:
            some = ", ".join(printable(name) for name in checked.ids[:5]) + ", ..." * (len(checked.ids) > 5)
            fix = f"The input has the ids {some}; {option('id_column')} names another column of ids."
            raise InputError(f"{option('id')} {printable(id_)!r}: no record has this id", fix)
        refused = f", {len(bad)} of them rejected" if bad else ""
        what = f"{option('id')} {printable(id_)!r}: {len(found) + len(bad)} records have this id{refused}"
        raise InputError(what, "Give each parent an id of its own.")
    (at,) = found
    return Input(
        [id_], [checked.sequences[at]], checked.rejected, judgements=[checked.judgements[at]], notes=checked.notes
    )


def plan_parents(chosen: Input, options: ScanOptions) -> list[Parent]:
    """The plans of the parents. Raises as plan_scan does for the first parent that cannot be scanned."""
    judgements = [None] * len(chosen.ids) if options.check == "off" else chosen.judgements
    rows = zip(chosen.ids, _stems(chosen.ids), chosen.sequences, judgements, strict=True)
    return [
        Parent(
            id_,
            stem,
            plan_scan(sequence, options, printable(id_), judgement, trim_fix=_TRIM_FIX, fix=_FLAGGED_FIX),
        )
        for id_, stem, sequence, judgement in rows
    ]


def _stems(ids: Sequence[str]) -> Iterator[str]:
    """A different file name for each id. Some file systems take A and a as the same name."""
    taken: set[str] = set()
    numbers: Counter[str] = Counter()
    for id_ in ids:
        plain = re.sub("[^A-Za-z0-9._-]+", "_", id_)[:60].lstrip(".-") or "parent"
        key, stem = plain.casefold(), plain
        while stem.casefold() in taken:
            numbers[key] += 1
            stem = f"{plain}_{numbers[key] + 1}"
        taken.add(stem.casefold())
        yield stem


def last_rows(parents: Sequence[Parent]) -> list[int]:
    """For each parent, how many rows scan.csv has up to the last row of this parent."""
    ends, total = [], 0
    for parent in parents:
        total += parent.plan.n_mutants
        ends.append(total)
    return ends
