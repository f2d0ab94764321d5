"""Lists for the reader of an evaluation: the shortlist, and the rows that were called wrong, by margin."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from abonyx.arrays import shortest_decimal
from abonyx.bundle.chosen import choose_heads
from abonyx.evaluate.heads import EvaluatedHead
from abonyx.evaluate.sets import EvaluatedSet
from abonyx.run.request import RunRequest

SHORTLIST_CSV = "shortlist.csv"


class Table(NamedTuple):
    """Names of columns, and rows of cells as text, for a page and a CSV file."""

    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def shortlist(each: EvaluatedSet, run: RunRequest, head: EvaluatedHead) -> Table:
    """All scored rows, best first, rows without a call last: rank, id, the columns of results, and the flag."""
    (found,) = choose_heads(run.bundle, [head.spec.name], config=run.config).heads
    chosen = replace(found, rule=head.rule)
    checked = each.checked
    trusted = [judgement.trusted for judgement in checked.judgements]
    cells = chosen.cells(each.scores, trusted, checked.records)
    columns = [_texts(column) for column in cells.values()]
    worse = each.scores if head.spec.higher_is_worse else -each.scores
    order = np.lexsort((worse, ~np.array(trusted, bool))).tolist()
    flags = [judgement.text for judgement in checked.judgements]
    rows = [
        (str(rank), checked.ids[row], *(column[row] for column in columns), flags[row])
        for rank, row in enumerate(order, 1)
    ]
    return Table(("rank", "id", *cells, "flag"), rows)


def wrong_rows(each: EvaluatedSet, head: EvaluatedHead) -> Table:
    """The labelled rows with a wrong call, furthest from the threshold first; for values, all, largest error first."""
    threshold = head.threshold
    rows = []
    for id_, label, score, judged in zip(
        each.checked.ids, each.labels, each.scores, each.checked.judgements, strict=True
    ):
        if label is None:
            continue
        off = label - float(score) if threshold is None else float(score) - threshold
        # the same rule as threshold.is_nonspecific: strictly above, in float32
        if threshold is None or (score > np.float32(threshold)) != (label == 1):
            rows.append((abs(off), (id_, f"{label:g}", shortest_decimal(score), f"{off:+.3g}", judged.text)))
    rows.sort(key=lambda row: -row[0])
    margin = "measured minus predicted" if threshold is None else "p minus threshold"
    return Table(("id", "label", head.column, margin, "flag"), [cells for _, cells in rows])


def _texts(column: Iterable[object]) -> list[str]:
    """Cells as text for a CSV file; None is an empty cell."""
    return [
        "" if cell is None else shortest_decimal(cell) if isinstance(cell, np.float32) else str(cell) for cell in column
    ]
