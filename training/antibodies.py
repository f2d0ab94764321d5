"""Choose the antibodies that ship with export. int8 is calibrated on one half and judged on the other.

    python training/antibodies.py --data DATA -o export/abonyx_export/antibodies.csv
        --record training/records/antibodies.json

DATA is the folder with the published tables (boughter/, jain/, shehata/, harvey/, repertoire/). The script takes rows
of SOURCES with a complete domain. VH and VHH alternate, and so do the sources of each. It leaves out sequences that are
equal or nearly equal to a sequence of Boughter, to a sequence of a test set, or to a chosen sequence. So no judging row
is similar to a calibrating row. The script needs rapidfuzz.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import io
import json
import random
from collections import Counter
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import abonyx
from corpus import BOUGHTER, NEAR_IDENTITY, REPERTOIRE, TEST_TABLES, near, sequences_of

# Licences: OAS is CC BY 4.0 (Olsen et al. 2022), TNP's repository is BSD-3-Clause (Gordon et al. 2025). Briney's rows
# are not used, because they lack their first residues. AVIDa-SARS-CoV-2 and VHHCorpus-2M are not used, because they are
# CC BY-NC 4.0.
SOURCES = ("oas_bernat2019_igg", "tnp_")
TRAINING = {BOUGHTER: "sequence", "boughter/VH_only_boughter_training.csv": "sequence"}
# One half calibrates, the other half judges. The int8 limit of 0.5 % flips means five of 1,024 judged rows.
ROWS = 2_048
SEED = 20261126


class Antibody(NamedTuple):
    """A row of the repertoire."""

    id: str
    sequence: str
    domain: str
    source: str


def permitted(path: Path) -> list[Antibody]:
    """The rows of SOURCES in file order."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as lines:
        rows = [Antibody(*(row[name] for name in Antibody._fields)) for row in csv.DictReader(lines)]
    return [row for row in rows if row.source.startswith(SOURCES)]


def sources_in_turn(rows: list[Antibody]) -> Iterator[Antibody]:
    """All rows in an order in which the sources alternate. SEED shuffles the rows of each source."""
    shuffled = sorted(rows)
    random.Random(SEED).shuffle(shuffled)
    by_source: dict[str, list[Antibody]] = {}
    for row in shuffled:
        by_source.setdefault(row.source, []).append(row)
    queues = [by_source[name] for name in sorted(by_source)]
    for group in zip_longest(*queues):
        yield from (row for row in group if row is not None)


def without_near(rows: Iterator[Antibody], count: int) -> list[Antibody]:
    """The first `count` rows that are not similar to an earlier row."""
    chosen: list[Antibody] = []
    for row in rows:
        if len(chosen) == count:
            break
        if not chosen or not near([row.sequence], [other.sequence for other in chosen])[0]:
            chosen.append(row)
    return chosen


def choose(data: Path) -> tuple[list[Antibody], dict[str, object]]:
    """ROWS antibodies, alternating VH and VHH, and the record of the choice."""
    tables = TEST_TABLES | TRAINING
    tests = sorted({sequence for name, column in tables.items() for sequence in sequences_of(data / name, column)})
    rows = permitted(data / REPERTOIRE)
    close = near([row.sequence for row in rows], tests)
    whole = [judgement.trusted for judgement in abonyx.judge([row.sequence for row in rows])]
    usable = [row for row, drop, trusted in zip(rows, close, whole, strict=True) if not drop and trusted]
    # A VH is not compared with a VHH, because they differ at more than 5 % of their positions
    # (tests/export/test_antibodies.py compares all rows of one half with all rows of the other).
    halves = [
        without_near(sources_in_turn([row for row in usable if row.domain == domain]), ROWS // 2)
        for domain in ("VH", "VHH")
    ]
    chosen = [row for pair in zip(*halves, strict=True) for row in pair]
    return chosen, {
        "rows_read": len(rows),
        "sequences_of_boughter_and_the_test_sets": len(tests),
        "removed_equal_or_near_those": int(close.sum()),
        "removed_flagged": sum(not drop and not trusted for drop, trusted in zip(close, whole, strict=True)),
        "near_identity": NEAR_IDENTITY,
        "seed": SEED,
        "chosen": len(chosen),
        "chosen_by_domain": dict(sorted(Counter(row.domain for row in chosen).items())),
        "chosen_by_source": dict(sorted(Counter(row.source for row in chosen).items())),
        "residues": [min(len(row.sequence) for row in chosen), max(len(row.sequence) for row in chosen)],
    }


def text(rows: list[Antibody]) -> str:
    """The file, as CSV."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(Antibody._fields)
    writer.writerows(rows)
    return out.getvalue()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--record", type=Path, required=True)
    arguments = parser.parse_args()
    chosen, record = choose(arguments.data)
    content = text(chosen)
    arguments.output.write_text(content, encoding="utf-8")
    record["sha256"] = hashlib.sha256(content.encode()).hexdigest()
    arguments.record.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
