"""Compute the figures of artifacts/mini/README.md: the shipped bundle and its baselines on the test sets.

    python training/card.py DATA --rows rows.csv --seeds seeds/seeds.json --untrained untrained/seeds.json \
        --record training/records/card.json

DATA is the folder with the published tables, and rows.csv comes from folds.py. Both seeds.json come from choose.py: one
for the five pretraining seeds, the other for the same seeds with --try steps=0. The composition baseline uses the C
with the highest cross-validated AUC; no test set decides anything. "First" is the mini before the current one
(records/card_first.json).
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

import abonyx
from abonyx.alphabet import SequenceLimit
from abonyx.bundle.manifest import RESIDUES
from abonyx.bundle.threshold import is_nonspecific
from abonyx.evaluate.metrics import measure
from abonyx.evaluate.variations import VARIATIONS
from abonyx.input.checked import Input, read_input
from abonyx.model import open_model
from choose import setting_of
from encoders import read_column
from stable_head import CHANGES, fit_head, judge_setting

TESTS = {
    "jain": ("jain/VH_only_jain_test_PARITY_86.csv", "sequence"),
    "shehata": ("shehata/VH_only_shehata.csv", "sequence"),
    "harvey": ("harvey/harvey_1000_labelled.csv.gz", "heavy_seq"),
}
# The 137 clinical antibodies whose sequences are changed, to count the calls that flip.
CLINICAL = "jain/VH_only_jain.csv"
ARCHIVED = {
    "jain": None,  # the published figure is for another set of 86 antibodies
    "shehata": "predictions_boughter_vh_esm1v_logreg_VH_only_shehata_20251106_212500.csv",
    "harvey": "predictions_boughter_vh_esm1v_logreg_VHH_only_harvey_20251106_223905.csv.gz",
}
LONGEST = 10**6
THRESHOLD, RESAMPLES, SEED = 0.5, 2000, 0
# The files that decide the scores. The words of the bundle's card may change without another run of this script.
MODEL_FILES = ("fp16-weights/model.onnx", "fp16-weights/model.onnx.data", "head.onnx")
COMPOSITION_GRID = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
FIRST = Path(__file__).resolve().parent / "records"


def composition(sequences: list[str]) -> torch.Tensor:
    """Shares of the 20 residues: (n, 20) float64."""
    letters = RESIDUES.replace("X", "")
    shares = [[sequence.count(letter) / len(sequence) for letter in letters] for sequence in sequences]
    return torch.tensor(shares, dtype=torch.float64)


def metrics_of(labels: np.ndarray, p: np.ndarray) -> dict[str, Any]:
    """Accuracy at 0.5 and ROC AUC, with 95 % bootstrap intervals."""
    found = measure(labels, p.astype(np.float32), THRESHOLD, RESAMPLES, SEED).metrics
    named = {name: (found[name].value, found[name].low, found[name].high) for name in ("accuracy", "roc_auc")}
    return {name: [float(value) for value in values if value is not None] for name, values in named.items()}


def of_encoders(path: Path, tests: dict[str, np.ndarray], tables: dict[str, str]) -> dict[str, Any]:
    """Figures of five seeds of one recipe: cross-validated, median seed on the tests, and test AUC of each seed."""
    found = json.loads(path.read_text())
    by_seed = {name: setting_of(run, found["chosen"]) for name, run in found["runs"].items()}
    scored = {name: run["scores"] for name, run in found["runs"].items()}
    figures = {
        name: {test: metrics_of(truth, np.array(scores[tables[test]])) for test, truth in tests.items()}
        for name, scores in scored.items()
    }
    return {
        "chosen": found["chosen"],
        "cross_validation_by_seed": by_seed,
        "median_seed": found["median"],
        "tests_of_median": figures[found["median"]],
        "test_roc_auc_of_seeds": {
            test: {name: each[test]["roc_auc"][0] for name, each in figures.items()} for test in tests
        },
    }


def of_composition(rows: Path, inputs: dict[str, Input], tests: dict[str, np.ndarray]) -> dict[str, Any]:
    """The composition baseline: the 20 residue shares as features, with the same rows and folds."""
    sequences = read_column(str(rows))
    labels = torch.tensor(list(map(float, read_column(str(rows), "label"))), dtype=torch.float64)
    folds = np.array([list(map(int, read_column(str(rows), f"fold_{number}"))) for number in range(5)])
    features = {name: composition([change(each) for each in sequences]) for name, change in CHANGES.items()}
    settings = [judge_setting(features, labels, folds, False, c) for c in COMPOSITION_GRID]
    best = max(settings, key=lambda setting: float(setting["roc_auc"]))
    head = fit_head(composition(sequences), labels, 1, float(best["C"]))
    scored = {name: head.decision(composition(inputs[name].sequences)).sigmoid().numpy() for name in tests}
    return {"cross_validation": best, "tests": {name: metrics_of(tests[name], p) for name, p in scored.items()}}


def of_esm1v(folder: Path) -> dict[str, Any]:
    """Figures of the old pipeline's archived ESM-1v predictions."""
    figures = {}
    for name, file in ARCHIVED.items():
        if file is None:
            continue
        with gzip.open(folder / file, "rt") if file.endswith(".gz") else (folder / file).open() as lines:
            rows = list(csv.DictReader(lines))
        labels = np.array([int(float(row["y_true"])) for row in rows])
        figures[name] = metrics_of(labels, np.array([float(row["y_proba"]) for row in rows]))
    return figures


def of_mini(inputs: dict[str, Input], tests: dict[str, np.ndarray], clinical: list[str]) -> dict[str, Any]:
    """Figures of the shipped bundle, as `abonyx score` runs it, and how often a changed sequence flips its call."""
    with open_model(abonyx.RuntimeConfig()) as session:
        manifest, bundle = session.manifest, session.bundle
        scored = {name: session.score(inputs[name].sequences)[:, 0] for name in tests}
        calls = is_nonspecific(session.score(clinical)[:, 0], THRESHOLD)
        changed = {name: session.score([vary(each) for each in clinical])[:, 0] for name, vary in VARIATIONS.items()}
    training = manifest.head.training
    if training is None:
        raise SystemExit(f"{bundle.name}: the manifest has no training record; give a bundle made by `abonyx fit`")
    return {
        "name": bundle.name,
        "encoder_sha256": manifest.encoder.weights_sha256,
        "bundle_sha256": bundle.sha256,
        "model_files": {name: manifest.files[name].sha256 for name in MODEL_FILES},
        "training": msgspec.to_builtins(training),
        "tests": {name: metrics_of(tests[name], scored[name]) for name in tests},
        "flips": {name: float((is_nonspecific(p, THRESHOLD) != calls).mean()) for name, p in changed.items()},
    }


def of_first() -> dict[str, Any]:
    """Figures of the mini before the current one, from its own record, for the same rows and folds."""
    tests = json.loads((FIRST / "card_first.json").read_text())["mini"]["tests"]
    stability = json.loads((FIRST / "stability_first.json").read_text())["variations"]
    return {
        "cross_validation": json.loads((FIRST / "first_on_folds.json").read_text()),
        "tests": {name: tests[name] for name in TESTS},
        "flips": {name: each["flips"] for name, each in stability.items()},
    }


def table(record: dict[str, Any]) -> str:
    """The card's tables in Markdown. A test compares artifacts/mini/README.md with them."""
    trained, untrained = record["trained"], record["untrained"]
    validated = [
        record["composition"]["cross_validation"],
        untrained["cross_validation_by_seed"][untrained["median_seed"]],
        record["first"]["cross_validation"],
        trained["cross_validation_by_seed"][trained["median_seed"]],
    ]
    cells = [f"{row['accuracy']:.3f} / {row['roc_auc']:.3f}" for row in validated]
    lines = ["| set | composition | untrained | first mini | **mini** | ESM-1v, published |", "| --- " * 6 + "|"]
    lines.append(" | ".join(["| Boughter 908, cluster folds x 5", *cells, "not run |"]))
    names = {"jain": "Jain 86", "shehata": "Shehata 398", "harvey": "Harvey 1,000 (ESM-1v: 141,021)"}
    columns = [record["composition"]["tests"], untrained["tests_of_median"], record["first"]["tests"]]
    columns += [record["mini"]["tests"], record["esm1v_archived"]]
    for key, title in names.items():
        # for the current Jain set, the old pipeline's documents have an accuracy but no AUC
        row = [_cell(figures[key]) if key in figures else "0.663 / not published" for figures in columns]
        lines.append(" | ".join([f"| {title}", *row]) + " |")
    areas = sorted(row["roc_auc"] for row in trained["cross_validation_by_seed"].values())
    spread = ", ".join(f"{area:.3f}" for area in areas)
    ranges = ", ".join(
        f"{name} {min(values.values()):.3f} to {max(values.values()):.3f}"
        for name, values in trained["test_roc_auc_of_seeds"].items()
    )
    lines += ["", f"ROC AUC of the five seeds: cross-validated {spread}; {ranges}.", ""]
    lines += ["| changed in the 137 clinical antibodies | first mini | **mini** |", "| --- | --- | --- |"]
    for name, share in record["mini"]["flips"].items():
        lines.append(f"| {name} | {record['first']['flips'][name]:.0%} | {share:.0%} |".replace("%", " %"))
    return "\n".join(lines) + "\n"


def _cell(figures: dict[str, list[float]]) -> str:
    parts = (figures["accuracy"], figures["roc_auc"])
    return " / ".join(f"{value:.3f} [{low:.2f}, {high:.2f}]" for value, low, high in parts)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--seeds", type=Path, required=True)
    parser.add_argument("--untrained", type=Path, required=True)
    parser.add_argument("--record", type=Path, required=True)
    arguments = parser.parse_args()
    inputs = {
        name: read_input(arguments.data / path, SequenceLimit(LONGEST), sequence_column=column, label_column="label")
        for name, (path, column) in TESTS.items()
    }
    tests = {name: np.array(checked.labels, np.int64) for name, checked in inputs.items()}
    names = {"jain": "jain86.csv", "shehata": "shehata.csv", "harvey": "harvey1000.csv"}
    clinical = read_input(arguments.data / CLINICAL, SequenceLimit(LONGEST), sequence_column="sequence").sequences
    record = {
        "threshold": THRESHOLD,
        "bootstrap": {"resamples": RESAMPLES, "seed": SEED, "interval": "95 % percentile"},
        "rows": {name: len(checked.sequences) for name, checked in inputs.items()} | {"clinical": len(clinical)},
        "composition": of_composition(arguments.rows, inputs, tests),
        "untrained": of_encoders(arguments.untrained, tests, names),
        "trained": of_encoders(arguments.seeds, tests, names),
        "first": of_first(),
        "mini": of_mini(inputs, tests, clinical),
        "esm1v_archived": of_esm1v(arguments.data / "upstream_predictions" / "esm1v"),
    }
    arguments.record.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(table(record))


if __name__ == "__main__":
    main()
