"""Write Boughter's training rows, with folds that keep similar sequences together; leaves out some flagged rows.

    python training/folds.py VH_only_boughter_training.csv -o rows.csv --record training/records/folds.json

rows.csv has the columns sequence, label and fold_0 to fold_4. Each fold_N assigns the clusters of 80 % identity to ten
folds, as `abonyx fit` does for a card. Rows that `abonyx score` flags for another chain, for no domain or as a fragment
are left out. Rows that are flagged for X or unusual residues are kept.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
from collections import Counter
from pathlib import Path

import numpy as np

from abonyx.alphabet import SequenceLimit
from abonyx.card.clusters import cluster_folds, cluster_rows
from abonyx.card.identity import number_rows
from abonyx.domain import judge
from abonyx.input.checked import read_input

FOLDS, ASSIGNMENTS = 10, 5
LONGEST = 10**6
# A flagged row is kept if each of its flags ends with one of these.
KEPT = ("unknown residue (X)", "unknown residues (X)", "unusual framework residues")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("boughter", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--record", type=Path, required=True)
    arguments = parser.parse_args()
    read = read_input(arguments.boughter, SequenceLimit(LONGEST), sequence_column="sequence", label_column="label")
    judged = judge(read.sequences)
    reasons = [[flag for flag in each.flags if not flag.endswith(KEPT)] for each in judged]
    rows = [pair for *pair, why in zip(read.sequences, read.labels, reasons, strict=True) if not why]
    sequences, labels = [str(sequence) for sequence, _ in rows], [label for _, label in rows]
    clusters = cluster_rows(number_rows([sequences]), FOLDS)
    folds = np.stack([cluster_folds(clusters.of_row, FOLDS, seed) for seed in range(ASSIGNMENTS)])
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["sequence", "label", *(f"fold_{seed}" for seed in range(ASSIGNMENTS))])
    writer.writerows(zip(sequences, labels, *folds.tolist(), strict=True))
    arguments.output.write_text(out.getvalue(), encoding="utf-8")
    record = {
        "rows_read": len(judged),
        "rows": len(rows),
        "positives": sum(label == 1 for label in labels),
        "left_out": dict(sorted(Counter(name for why in reasons for name in why).items())),
        "kept_flagged": sum(bool(each.flags) and not why for each, why in zip(judged, reasons, strict=True)),
        "identity_percent": clusters.level.percent,
        "clusters": clusters.level.clusters,
        "largest_cluster": clusters.level.largest,
        "folds": FOLDS,
        "assignments": ASSIGNMENTS,
        "sha256": hashlib.sha256(out.getvalue().encode()).hexdigest(),
    }
    arguments.record.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
