"""Choose the sequences for pretraining the mini encoder, and record the choice.

    python training/corpus.py DATA -o corpus.txt --record training/records/corpus.json

DATA is the folder with the published tables (boughter/, jain/, shehata/, harvey/, repertoire/). The script takes
Boughter's sequences and the repertoire rows whose licence allows use (SOURCES). It leaves out sequences that are equal
or nearly equal to a sequence of a test set. The script needs rapidfuzz.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from abonyx.alphabet import SequenceLimit
from abonyx.input.checked import read_input
from abonyx.input.records import Record, read_records

REPERTOIRE = "repertoire/vh_vhh_repertoire.csv.gz"
# Licences: OAS is CC BY 4.0 (Olsen et al. 2022), TNP's repository is BSD-3-Clause (Gordon et al. 2025).
# AVIDa-SARS-CoV-2 and VHHCorpus-2M are not used, because they are CC BY-NC 4.0.
SOURCES = {"oas_": "CC BY 4.0 (OAS)", "tnp_": "BSD-3-Clause (TNP)"}
BOUGHTER = "boughter/VH_only_boughter.csv"  # includes the 151 antibodies with 1-3 flags, which no head is fitted on
# Every table with sequences of a test set, and the column of the sequences.
TEST_TABLES = {
    "jain/VH_only_jain.csv": "sequence",
    "jain/VH_only_jain_86_p5e_s2.csv": "vh_sequence",
    "jain/VH_only_jain_test_PARITY_86.csv": "sequence",
    "jain/VH_only_jain_test_PARITY_86_as_of_2025-11-06.csv": "sequence",
    "shehata/VH_only_shehata.csv": "sequence",
    "harvey/harvey_1000_labelled.csv.gz": "heavy_seq",
    "harvey/harvey_500_high_with_upstream_proba.csv": "sequence",
    "harvey/low_throughput_polyspecificity_scores_w_exp.csv": "1:128",
}
# Share of the shorter sequence's residues. An alignment cannot have more identical residues than the longest common
# subsequence. So every pair that an aligner calls 95 % identical is found, even if one sequence lacks its start.
NEAR_IDENTITY = 0.95
LONGEST = 10**6


def near(sequences: Sequence[str], tests: Sequence[str]) -> np.ndarray:
    """Whether each sequence has an identity of at least NEAR_IDENTITY with a test sequence, (n,) bool."""
    from rapidfuzz.distance import LCSseq
    from rapidfuzz.process import cdist

    common = cdist(sequences, tests, scorer=LCSseq.similarity, dtype=np.uint16, workers=-1)  # (n, tests)
    lengths = np.array([len(sequence) for sequence in sequences])[:, None]
    shorter = np.minimum(lengths, np.array([len(test) for test in tests])[None, :])
    return np.asarray((common >= NEAR_IDENTITY * shorter).any(axis=1))


def sequences_of(path: Path, column: str) -> list[str]:
    """A table's sequences, after cleaning."""
    return read_input(path, SequenceLimit(LONGEST), sequence_column=column).sequences


def permitted(path: Path) -> list[tuple[str, str]]:
    """(sequence, source) of the repertoire rows of SOURCES."""
    sources = [record.label for record in read_records(path, label_column="source") if isinstance(record, Record)]
    sequences = sequences_of(path, "sequence")
    pairs = zip(sequences, sources, strict=True)
    return [(sequence, source) for sequence, source in pairs if source.startswith(tuple(SOURCES))]


def choose(data: Path) -> tuple[list[str], dict[str, object]]:
    """The corpus without duplicates, and its record."""
    tests = sorted({sequence for name, column in TEST_TABLES.items() for sequence in sequences_of(data / name, column)})
    rows = permitted(data / REPERTOIRE)
    rows += [(sequence, "boughter") for sequence in sequences_of(data / BOUGHTER, "sequence")]
    source_of: dict[str, str] = {}
    for sequence, source in rows:
        source_of.setdefault(sequence, source)
    unique = list(source_of)
    equal = np.isin(np.array(unique), np.array(tests))
    close = near(unique, tests) & ~equal
    kept = [sequence for sequence, drop in zip(unique, equal | close, strict=True) if not drop]
    text = "\n".join(kept) + "\n"
    return kept, {
        "licences": SOURCES | {"boughter": "published with Boughter et al. 2020 (CC BY 4.0)"},
        "rows_read": len(rows),
        "unique": len(unique),
        "test_sequences": len(tests),
        "removed_equal_to_a_test_sequence": int(equal.sum()),
        "removed_near_a_test_sequence": int(close.sum()),
        "near_identity": NEAR_IDENTITY,
        "removed_by_source": _counts(source_of, unique, equal | close),
        "kept": len(kept),
        "kept_by_source": _counts(source_of, unique, ~(equal | close)),
        "longest_residues": max(map(len, kept)),
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
    }


def _counts(source_of: dict[str, str], unique: list[str], chosen: np.ndarray) -> dict[str, int]:
    names = [source_of[sequence] for sequence, here in zip(unique, chosen, strict=True) if here]
    return dict(sorted(Counter(names).items()))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True, help="corpus file, one sequence per line")
    parser.add_argument("--record", type=Path, required=True)
    arguments = parser.parse_args()
    kept, record = choose(arguments.data)
    arguments.output.write_text("\n".join(kept) + "\n", encoding="utf-8")
    arguments.record.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
