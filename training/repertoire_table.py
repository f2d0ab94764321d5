"""Count the residues at each IMGT position of human VH. The output is runtime/abonyx/explain/repertoire.json.

    python training/repertoire_table.py ../shared/data/repertoire/vh_vhh_repertoire.csv.gz

The script prints the table. It counts every VH of the three OAS sources that is a single heavy domain. Most domains of
Briney et al. lack their first residues; they are counted at the positions that they have.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path

from abonyx.domain import judge, reason
from abonyx.domain.numbering import imgt_positions

SOURCES = {
    "tnp_vh_oas": "human VH of OAS, by the therapeutic nanobody profiler (Gordon et al. 2025)",
    "oas_bernat2019_igg": "IgG of OAS, Bernat et al. 2019",
    "oas_briney2019_igm": "IgM of OAS, Briney et al. 2019; most lack the first 15 residues",
}
LICENCE = "counts of OAS sequences (Olsen et al. 2022), CC BY 4.0; the profiler's selection of them is BSD-3-Clause"
# A domain with these flags is still counted.
IGNORED = {"fragment", "nanobody-like", "unusual framework residues"}
# A position with fewer domains is left out, because a single domain would be more than 1 %.
FEWEST = 100


def main() -> None:
    """Print the table, one line for each position."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repertoire", type=Path)
    with gzip.open(parser.parse_args().repertoire, "rt", encoding="utf-8", newline="") as lines:
        rows = [(row["source"], row["sequence"]) for row in csv.DictReader(lines) if row["source"] in SOURCES]
    judgements = judge([sequence for _, sequence in rows])
    counts: dict[str, Counter[str]] = {}
    domains: Counter[str] = Counter()
    for (source, sequence), judgement in zip(rows, judgements, strict=True):
        if judgement.chain != "H" or not {reason(flag) for flag in judgement.flags} <= IGNORED:
            continue
        domains[source] += 1
        for position, residue in imgt_positions(sequence).items():
            counts.setdefault(position, Counter())[residue] += 1
    known = {position: count for position, count in counts.items() if count.total() >= FEWEST}
    head = {
        "what": "how many human VH have each residue, by IMGT position",
        "made_by": f"training/repertoire_table.py, immunum {version('immunum')}",
        "licence": LICENCE,
        "sources": {source: f"{text}: {domains[source]} domains" for source, text in SOURCES.items()},
        "domains": domains.total(),
    }
    body = ",\n".join(
        f'    "{position}": {json.dumps(dict(sorted(known[position].items())))}'
        for position in sorted(known, key=lambda position: (int(position.rstrip("ABCDEFGHIJ")), position))
    )
    opening = json.dumps(head, indent=2)[: -len("\n}")]
    sys.stdout.write(f'{opening},\n  "counts": {{\n{body}\n  }}\n}}\n')
    sys.stderr.write(f"{domains.total()} domains of {len(rows)} rows, {len(known)} of {len(counts)} positions\n")


if __name__ == "__main__":
    main()
