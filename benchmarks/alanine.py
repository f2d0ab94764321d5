"""Compare contributions with the changes that alanine mutations make to the score; writes a JSON record.

    python benchmarks/alanine.py examples/therapeutic_vh.csv -o benchmarks/records/alanine.json

Every residue that is not alanine is mutated to alanine, one at a time. Both numbers are logits of the first head.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

import abonyx
from commands import machine
from preparation import read_sequences


def rank_correlation(model: abonyx.Session, sequence: str) -> float:
    """Spearman correlation between a residue's contribution and the logit that its mutation to alanine removes."""
    positions = [index for index, residue in enumerate(sequence) if residue != "A"]
    mutants = [f"{sequence[:index]}A{sequence[index + 1 :]}" for index in positions]
    p = np.asarray(model.score([sequence, *mutants]), np.float64)
    logits = np.log(p / (1 - p))
    (found,) = model.contributions([sequence])
    return float(spearmanr(found.chains[0].residues[positions, 0], logits[0] - logits[1:]).statistic)


def main() -> None:
    """Write the record of one file of sequences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sequences", type=Path, help="CSV with a column sequence")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    with abonyx.open_session(abonyx.RuntimeConfig()) as model:
        found = [rank_correlation(model, sequence) for sequence in read_sequences(arguments.sequences)]
        record = {
            "machine": machine(),
            "bundle": {"name": model.name, "sha256": model.sha256, "weights": "trained"},
            "sequences": arguments.sequences.name,
            "rank_correlations": [round(value, 3) for value in found],
            "median": round(statistics.median(found), 3),
        }
    arguments.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(f"median {record['median']}, from {min(found):.2f} to {max(found):.2f}", file=sys.stderr)


if __name__ == "__main__":
    main()
