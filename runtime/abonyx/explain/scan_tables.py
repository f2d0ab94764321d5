"""The tables of `abonyx scan`, and scan.json, which says how they were made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from abonyx.explain.scan import ScanOptions
from abonyx.explain.scan_result import Scan, statement_of, statements
from abonyx.output.formats import Columns, Format, csv_bytes

STATEMENT = "statement"
_PARENT_COLUMNS = (
    *("id", "chain", "sequence", "charge", "pI", "mutants", "head", "unit", "score"),
    *("charge_slope", "charge_intercept", "charge_r2", "charge_n", STATEMENT),
)


def scan_facts(options: ScanOptions, read: Mapping[str, object], made_by: Mapping[str, object], *, rank: bool) -> bytes:
    """scan.json: how far the order can be trusted, what was scanned, and the bundle and config that made the tables."""
    facts = {
        STATEMENT: " ".join(statements(options.validated, options.names)),
        "heads": options.names,
        "positions": options.positions,
        "exclude": options.excluded,
        "rank": rank,
        **read,
        **made_by,
    }
    return msgspec.json.format(msgspec.json.encode(facts), indent=2) + b"\n"


def scan_format(*, rank: bool) -> Format:
    """The rows of both tables for one parent; before the first parent, the names of the columns."""

    def encode(start: int, window: Columns) -> tuple[bytes, bytes]:
        id_, found = window
        table = found.table(rank=rank)
        said = " ".join(found.statements)
        rows = [(id_, *row, said) for row in zip(*table.values(), strict=True)]
        names: list[tuple[tuple[str, ...], ...]] = [(), ()]
        if start == 0:
            names = [(_PARENT_COLUMNS,), (("id", *table, STATEMENT),)]
        return csv_bytes([*names[0], *_parent_rows(id_, found)]), csv_bytes([*names[1], *rows])

    return Format((b"", b""), encode)


def _parent_rows(id_: str, found: Scan) -> Iterator[tuple[object, ...]]:
    """A row for each head: the parent, its score, and what charge explains of the changes."""
    of_parent = (id_, found.chain or "", found.sequence, round(found.charge, 4), round(found.pi, 4), len(found.mutants))
    for each in found.heads:
        fit = ["", "", "", ""] if each.fit is None else [*(round(number, 6) for number in each.fit[:3]), each.fit.n]
        yield (
            *of_parent,
            each.head.name,
            each.head.unit or "",
            each.parent,
            *fit,
            statement_of(found.validated, each.head.name),
        )
