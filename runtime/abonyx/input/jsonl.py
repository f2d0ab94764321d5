"""Records of a JSONL file, which has one object on each line."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from itertools import chain, islice
from typing import Any

import msgspec

from abonyx.errors import InputError, printable
from abonyx.input.cells import Record, RejectedRecord, typed
from abonyx.input.columns import ALL, Wanted, find_columns
from abonyx.wording import option

# The header has the keys of the first lines, up to this number, because some writers leave out a key without a value.
_HEADER_ROWS = 1_000

_Row = tuple[int, "dict[str, Any] | str"]


def read_jsonl(lines: Iterable[str], name: str, wanted: Wanted, notes: list[str]) -> Generator[Record | RejectedRecord]:
    """Yield the records. A line that is not an object is a rejected record."""
    rows = ((number, _object(line)) for number, line in enumerate(lines, 1) if line.strip("\ufeff \t\r\n"))
    top: list[_Row] = list(islice(rows, _HEADER_ROWS))
    if not top:
        raise InputError(f"{name}: has only blank lines, no records", "Give at least one object.")
    where = f"{name}:{top[0][0]}"
    header = list(dict.fromkeys(key for _, row in top if isinstance(row, dict) for key in row))
    if not header:
        fix = 'Write one object on each line: {"id": "...", "sequence": "..."}.'
        raise InputError(f"{where}: is not JSONL: {top[0][1] or 'the object is empty'}", fix)
    if len(top) == 1 and isinstance(top[0][1], dict):
        for key, value in top[0][1].items():
            if isinstance(value, list) and value and isinstance(value[0], dict):
                fix = "Write one object on each line: jq -c '.KEY[]' FILE > FILE.jsonl."
                raise InputError(f"{where}: all records are in one object, under the key {printable(key)!r}", fix)
    at = find_columns(header, where, wanted, notes)
    known = frozenset(header) if wanted.keep == (ALL,) else None
    for ordinal, (number, row) in enumerate(chain(top, rows), 1):
        if isinstance(row, str):
            yield RejectedRecord(str(ordinal), number, row)
            continue
        if known is not None and not known.issuperset(row):
            key = printable(min(row.keys() - known))
            what = f"{name}:{number}: key {printable(key)!r} is not in the first {_HEADER_ROWS:,} rows"
            raise InputError(what, f"Name the keys to keep instead of {ALL}: {option('keep')} KEY,...")
        cells = at.cells({place: row.get(header[place]) for place in at.used})
        yield typed(cells, ordinal, number)


def _object(line: str) -> dict[str, Any] | str:
    """The object of a line, or the reason why the line is not an object."""
    try:
        row = msgspec.json.decode(line.encode("utf-8", "surrogateescape"))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return f"the line is not JSON: {printable(str(error))}"
    return row if isinstance(row, dict) else f"the line is {type(row).__name__}, not a JSON object"
