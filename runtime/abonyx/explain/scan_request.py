"""What `abonyx scan` was asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from abonyx.explain.scan import ScanOptions
from abonyx.run.request import RunRequest

PARENTS_CSV = "parents.csv"


@dataclass(frozen=True)
class ScanRequest:
    """What the command was asked.

    Attributes:
        run: how the input was read, and the config.
        options: what to scan.
        output: the directory.
        id: of the only parent to scan; None = every record.
        rank: write ranks within equal charge.
        pictures: write a picture for each parent and head.
        confirmed: scan even if there are more than MOST_UNASKED mutants.
        restart: discard what an interrupted scan left.
        summary: where the summary goes as JSON; None = nowhere.
    """

    run: RunRequest
    options: ScanOptions
    output: Path
    id: str | None = None
    rank: bool = False
    pictures: bool = True
    confirmed: bool = False
    restart: bool = False
    summary: Path | None = None
