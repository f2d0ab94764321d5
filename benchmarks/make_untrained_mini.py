"""Write artifacts/mini as it stands until the trained one: an untrained, fixed-seed encoder and a head fitted on it.

    python benchmarks/make_untrained_mini.py BOUGHTER_TRAINING_CSV artifacts/mini

The head is a plain LogisticRegression(C=1) on the encoder's own residue means of the Boughter training set (sequence,
label). C=1 without a scaler keeps the head's norm small, and with it what a batch's shape can move in p.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path

from make_checkpoint import SHAPES, make_checkpoint

SEED = 0
NOTICE = "UNTRAINED encoder (random weights): shows that abonyx runs, its scores mean little"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("training", type=Path, help="CSV with columns sequence and label (0/1)")
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()

    import joblib
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    from abonyx.alphabet import Alphabet, clean
    from abonyx_export.checkpoint import load_checkpoint
    from abonyx_export.export import export_bundle
    from abonyx_export.parity import reference_embeddings
    from abonyx_export.request import ExportRequest

    with arguments.training.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    labels = np.array([int(float(row["label"])) for row in rows])
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint_dir, head_file = Path(scratch) / "checkpoint", Path(scratch) / "boughter_untrained.joblib"
        make_checkpoint(SHAPES["mini"], checkpoint_dir, seed=SEED, half_exact=True)
        checkpoint = load_checkpoint(str(checkpoint_dir))
        tokens = Alphabet(checkpoint.alphabet).encode([clean(row["sequence"]) for row in rows])
        embedding = reference_embeddings(checkpoint, tokens)
        head = LogisticRegression(C=1.0, max_iter=5000)
        folds = StratifiedKFold(10, shuffle=True, random_state=SEED)
        scores = cross_val_score(head, embedding, labels, cv=folds, scoring="roc_auc")
        print(f"{len(labels)} sequences, 10-fold ROC AUC {scores.mean():.3f} +- {scores.std():.3f}")
        joblib.dump(head.fit(embedding, labels), head_file)
        request = ExportRequest(
            encoder=str(checkpoint_dir),
            head=head_file,
            output=arguments.output,
            variants=("fp16-weights",),
            name="mini-untrained",
            notice=NOTICE,
            licence="Apache-2.0",
        )
        export_bundle(request, print)


if __name__ == "__main__":
    main()
