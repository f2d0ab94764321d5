"""Write the table of faults in docs/reliability.md from benchmarks/records/faults.json.

benchmarks/faults.py does this after a run. To write the table only:

    python benchmarks/faults_table.py benchmarks/records/faults.json docs/reliability.md
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MARKS = ("<!-- table: made by benchmarks/faults.py -->", "<!-- end of table -->")


def table(record: Mapping[str, Any]) -> str:
    """The record as a Markdown table: fault, how it is injected, how many times, and the outcome."""
    options, machine = record["options"], record["machine"]
    rows = [
        "| fault | injected by | times | outcome |",
        "| --- | --- | ---: | --- |",
        *(f"| {one['fault']} | {one['injected']} | {one['times']:,} | {_outcome(one)} |" for one in record["outcomes"]),
    ]
    command = f"--rows {options['rows']} --window {options['window']} --kills {options['kills']}"
    made = (
        f"`python benchmarks/faults.py {command}`, "
        f"{machine['date']}, commit {machine['commit'][:12]}, {machine['threads']} threads, onnxruntime "
        f"{machine['onnxruntime']}, Python {machine['python']}."
    )
    return "\n".join([*rows, "", made])


def _outcome(row: Mapping[str, Any]) -> str:
    faults: Sequence[str] = row["faults"]
    return f"**{len(faults)} faults** (see the record)" if faults else str(row["expected"])


def write_table(page: Path, text: str) -> None:
    """Replace the text between the two marks of a page."""
    before, rest = page.read_text(encoding="utf-8").split(MARKS[0])
    _, after = rest.split(MARKS[1], 1)
    page.write_text(f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{after}", encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path)
    parser.add_argument("page", type=Path)
    arguments = parser.parse_args()
    write_table(arguments.page, table(json.loads(arguments.record.read_text())))


if __name__ == "__main__":
    main()
