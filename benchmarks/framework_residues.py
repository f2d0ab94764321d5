"""List the residues at each framework position of VH and VHH, for the table in runtime/abonyx/domain/framework.py.

    python benchmarks/framework_residues.py ../shared/data/repertoire/vh_vhh_repertoire.csv.gz

The script prints the table. It counts the complete domains of sources that may be used for any purpose: OAS (Bernat et
al. 2019) and the VH and VHH of the therapeutic nanobody profiler (TNP). It lists a residue that
occurs in at least two domains, and in at least the share FREQUENCY of the domains.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import sys
from collections import Counter
from pathlib import Path

from immunum import Annotator

from abonyx.domain.chain import MIN_CONFIDENCE
from abonyx.domain.flags import NANOBODY_LIKE, judge, reason

SOURCES = {"oas_bernat2019_igg", "tnp_vh_oas", "tnp_vh_tsd", "tnp_vhh_oas", "tnp_vhh_pdn_struc"}
FREQUENCY = 0.001
# A domain with these flags is still counted; the second flag comes from the table itself.
IGNORED = {NANOBODY_LIKE, "unusual framework residues"}
POSITIONS = [*range(1, 27), *range(39, 56), *range(66, 105), *range(118, 129)]


def main() -> None:
    """Print a line for each position."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repertoire", type=Path)
    with gzip.open(parser.parse_args().repertoire, "rt", encoding="utf-8", newline="") as lines:
        rows = [row["sequence"] for row in csv.DictReader(lines) if {row["domain"], row["source"]} & SOURCES]
    judgements = zip(rows, judge(rows), strict=True)
    whole = [row for row, judgement in judgements if {reason(flag) for flag in judgement.flags} <= IGNORED]
    annotator = Annotator(chains=["H"], scheme="imgt", min_confidence=MIN_CONFIDENCE)
    counts: dict[str, Counter[str]] = {str(position): Counter() for position in POSITIONS}
    for row in whole:
        for position, residue in (annotator.number(row).numbering or {}).items():
            if position in counts:
                counts[position][residue] += 1
    sys.stderr.write(f"{len(whole)} domains of {len(rows)} rows\n")
    for position, count in counts.items():
        letters = sorted(residue for residue, n in count.items() if n >= max(2, FREQUENCY * count.total()))
        sys.stdout.write(f'    "{position}": "{"".join(letters)}",\n')


if __name__ == "__main__":
    main()
