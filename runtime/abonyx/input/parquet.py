"""Records of a Parquet file."""

from __future__ import annotations

import io
from collections.abc import Generator
from pathlib import Path

from abonyx.errors import InputError
from abonyx.extras import load
from abonyx.input.cells import Record, RejectedRecord, typed
from abonyx.input.columns import Wanted, find_columns


def read_parquet(
    file: Path | io.BytesIO, name: str, wanted: Wanted, notes: list[str]
) -> Generator[Record | RejectedRecord]:
    """Yield the records. The line of a record is the number of its data row."""
    pa, pq = load("Parquet", "pyarrow"), load("Parquet", "pyarrow.parquet")
    row = 0
    try:
        with pq.ParquetFile(file) as parquet:
            header = parquet.schema_arrow.names
            at = find_columns(header, f"{name}, header", wanted, notes)
            for batch in parquet.iter_batches(columns=[header[place] for place in at.used]):
                columns = {place: batch.column(header[place]).to_pylist() for place in at.used}
                for at_row in range(batch.num_rows):
                    row += 1
                    yield typed(at.cells({place: cells[at_row] for place, cells in columns.items()}), row, row)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise InputError(f"{name}: cannot be read as Parquet after row {row}: {reason}", "Write it again.") from error
    if not row:
        raise InputError(f"{name}: has columns, but no records", "Give at least one record.")
