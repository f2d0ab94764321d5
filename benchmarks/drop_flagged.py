"""Measure what `abonyx fit --drop-flagged` changes in the head of abonyx-mini; writes a JSON record.

    python benchmarks/drop_flagged.py --data DIR -o benchmarks/records/drop_flagged.json

DIR has boughter/VH_only_boughter_training.csv. The head is fitted like the shipped head (--scale --C 0.01 --cv 10, five
seeds): with all rows, without the flagged rows, and without the same number of random other rows. The third fit shows
the effect of leaving out any rows. The record compares the scores of examples/therapeutic_vh.csv.
"""

from __future__ import annotations

import argparse
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import abonyx
from abonyx.bundle.heads import sigmoid
from abonyx.domain import judged_by, reason
from abonyx.input.checked import Input
from abonyx.run.request import prepare
from abonyx_export.fit.cross_validation import cross_validate, fit_once
from abonyx_export.fit.flagged import flagged_rows
from commands import machine

EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "therapeutic_vh.csv"
TABLE = "boughter/VH_only_boughter_training.csv"
C, FOLDS, SEEDS = 0.01, 10, range(5)
# Number of random draws of other rows to leave out.
DRAWS = 100
FIT = functools.partial(fit_once, scale=True, balanced=False)
Matrix = npt.NDArray[np.float64]


def embed(checked: Input) -> Matrix:
    """Embeddings by abonyx-mini, in float64 as in `fit`."""
    with abonyx.open_session() as session:
        return session.embed(checked.sequences).astype(np.float64)


def cross_validated(rows: Matrix, labels: npt.NDArray[np.int64]) -> dict[str, Any]:
    """The figures that `fit` records for one C."""
    (candidate,) = cross_validate(rows, labels, [C], folds=FOLDS, seeds=SEEDS, fit=FIT)
    names = ("accuracy_mean", "roc_auc_mean", "roc_auc_sd", "roc_auc_seed_sd")
    return {"rows": len(labels), "positives": int(labels.sum())} | {name: getattr(candidate, name) for name in names}


def measure(data: Path) -> dict[str, Any]:
    """The record without the facts about the machine."""
    run = prepare()
    checked, examples = run.read(data / TABLE, "label", label_required=True), run.read(EXAMPLES)
    rows, therapeutic = embed(checked), embed(examples)
    labels = np.array(checked.labels, np.int64)
    flagged = flagged_rows(checked)
    others = np.setdiff1d(np.arange(len(labels)), flagged)

    def p(left_out: npt.NDArray[np.int64] | list[int]) -> Matrix:
        kept = np.delete(np.arange(len(labels)), left_out)
        return sigmoid(FIT(rows[kept], labels[kept], C).decision(therapeutic))

    with_all, without = p([]), p(flagged)
    generator = np.random.default_rng(0)
    drawn = [np.abs(p(generator.choice(others, len(flagged), replace=False)) - with_all).max() for _ in range(DRAWS)]
    by_reason: dict[str, int] = {}
    for row in flagged:
        for flag in checked.judgements[row].flags:
            by_reason[reason(flag)] = by_reason.get(reason(flag), 0) + 1
    return {
        "judged_by": judged_by(),
        "flagged": [
            {"row": row + 1, "label": int(labels[row]), "flag": checked.judgements[row].text} for row in flagged
        ],
        "flagged_by_reason": by_reason,
        "all_rows": cross_validated(rows, labels),
        "without_flagged": cross_validated(rows[others], labels[others]),
        "scores_of": EXAMPLES.name,
        "scores": len(with_all),
        "max_dp": float(np.abs(without - with_all).max()),
        "mean_dp": float(np.abs(without - with_all).mean()),
        "calls_changed": int(((without > 0.5) != (with_all > 0.5)).sum()),
        "max_dp_without_as_many_others": {
            "draws": DRAWS,
            "median": float(np.median(drawn)),
            "min": float(min(drawn)),
            "max": float(max(drawn)),
        },
    }


def main() -> None:
    """Measure, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("-o", "--output", required=True, type=Path)
    arguments = parser.parse_args()
    record = {"machine": machine()} | measure(arguments.data)
    arguments.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
