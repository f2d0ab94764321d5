"""The figures of artifacts/mini/README.md: the shipped bundle on the test sets, beside what it has to beat.

    python training/card.py DATA --seeds SEEDS --untrained UNTRAINED --record training/records/card.json

DATA is the folder with the published tables; SEEDS and UNTRAINED are choose.py's outputs for the five pretraining seeds
and for the same seeds with --try steps=0, made with --tables of the three test sets. Settings of composition and of the
untrained encoders are those of the highest cross-validated AUC on Boughter. Nothing here chooses by a test set.
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

import abonyx
from abonyx.alphabet import SequenceLimit
from abonyx.bundle.manifest import RESIDUES
from abonyx.evaluate.metrics import measure
from abonyx.input.checked import Input, read_input
from abonyx.model import open_model
from abonyx_export.fit.cross_validation import fit_once
from choose import CV_SEEDS, FOLDS, SETTINGS, validate_all

BOUGHTER = "boughter/VH_only_boughter_training.csv"
TESTS = {
    "jain": ("jain/VH_only_jain_test_PARITY_86.csv", "sequence"),
    "shehata": ("shehata/VH_only_shehata.csv", "sequence"),
    "harvey": ("harvey/harvey_1000_labelled.csv.gz", "heavy_seq"),
}
# The 86 that carried the same name on 2025-11-06, which the archived ESM-1v predictions are of.
OLDER_JAIN = ("jain/VH_only_jain_test_PARITY_86_as_of_2025-11-06.csv", "sequence")
ARCHIVED = {
    "jain_2025_11_06": "predictions_boughter_vh_esm1v_logreg_VH_only_jain_test_PARITY_86_20251106_211815.csv",
    "shehata": "predictions_boughter_vh_esm1v_logreg_VH_only_shehata_20251106_212500.csv",
    "harvey_141021": "predictions_boughter_vh_esm1v_logreg_VHH_only_harvey_20251106_223905.csv.gz",
}
LONGEST = 10**6
THRESHOLD, RESAMPLES, SEED = 0.5, 2000, 0
SHIPPED = (True, 0.01)  # training/records/choice.json, by the rule in choose.py
Features = dict[str, np.ndarray]


def composition(sequences: list[str]) -> np.ndarray:
    """Shares of the 20 residues: (n, 20)."""
    letters = RESIDUES.replace("X", "")
    return np.array([[sequence.count(letter) / len(sequence) for letter in letters] for sequence in sequences])


def metrics_of(labels: np.ndarray, p: np.ndarray) -> dict[str, Any]:
    """Accuracy at 0.5 and ROC AUC, with 95 % bootstrap intervals."""
    found = measure(labels, p.astype(np.float32), THRESHOLD, RESAMPLES, SEED).metrics
    named = {name: (found[name].value, found[name].low, found[name].high) for name in ("accuracy", "roc_auc")}
    return {name: [float(value) for value in values if value is not None] for name, values in named.items()}


def head_scores(features: Features, labels: np.ndarray, setting: tuple[bool, float]) -> dict[str, np.ndarray]:
    """P on each test set of a head fitted on all of Boughter."""
    head = fit_once(features["boughter"], labels, setting[1], scale=setting[0], balanced=False)
    return {name: 1 / (1 + np.exp(-head.decision(rows))) for name, rows in features.items()}


def best_setting(settings: list[list[dict[str, Any]]]) -> int:
    """Number of the setting with the highest cross-validated AUC, mean over runs."""
    return int(np.argmax(np.mean([[row["roc_auc"] for row in rows] for rows in settings], axis=0)))


def of_encoders(folder: Path, labels: np.ndarray, tests: dict[str, np.ndarray], setting: int | None) -> dict[str, Any]:
    """Five seeds of one recipe: their cross-validation, the median seed's test figures, the seeds' ranges."""
    runs = sorted(folder.glob("*.npz"))
    stems = {"boughter": Path(BOUGHTER).stem} | {name: Path(path).stem for name, (path, _) in TESTS.items()}
    features = {}
    for path in runs:
        arrays = np.load(path)
        features[path.stem] = {name: arrays[stem].astype(np.float64) for name, stem in stems.items()}
    validated = validate_all({name: rows["boughter"] for name, rows in features.items()}, labels, jobs=2)
    chosen = best_setting(list(validated.values())) if setting is None else setting
    by_seed = {name: validated[name][chosen] for name in features}
    ranked = sorted(by_seed, key=lambda name: float(by_seed[name]["roc_auc"]))
    median = ranked[len(ranked) // 2]
    scored = {name: head_scores(rows, labels, SETTINGS[chosen]) for name, rows in features.items()}
    areas = {
        test: {name: metrics_of(truth, scored[name][test])["roc_auc"][0] for name in features}
        for test, truth in tests.items()
    }
    return {
        "setting": dict(zip(("scaled", "C"), SETTINGS[chosen], strict=True)),
        "cross_validation_by_seed": by_seed,
        "median_seed": median,
        "tests_of_median": {test: metrics_of(truth, scored[median][test]) for test, truth in tests.items()},
        "test_roc_auc_of_seeds": areas,
    }


def of_composition(inputs: dict[str, Input], labels: np.ndarray, tests: dict[str, np.ndarray]) -> dict[str, Any]:
    """The 20 residue shares as features."""
    features = {name: composition(checked.sequences) for name, checked in inputs.items()}
    validated = validate_all({"composition": features["boughter"]}, labels, jobs=2)["composition"]
    chosen = best_setting([validated])
    scored = head_scores(features, labels, SETTINGS[chosen])
    figures = {name: metrics_of(truth, scored[name]) for name, truth in tests.items()}
    return {"cross_validation": validated[chosen], "tests": figures}


def of_esm1v(folder: Path) -> dict[str, Any]:
    """The old pipeline's own archived ESM-1v predictions."""
    figures = {}
    for name, file in ARCHIVED.items():
        with gzip.open(folder / file, "rt") if file.endswith(".gz") else (folder / file).open() as lines:
            rows = list(csv.DictReader(lines))
        labels = np.array([int(float(row["y_true"])) for row in rows])
        figures[name] = metrics_of(labels, np.array([float(row["y_proba"]) for row in rows]))
    return figures


def of_mini(inputs: dict[str, Input], tests: dict[str, np.ndarray]) -> dict[str, Any]:
    """The shipped bundle, as `abonyx score` runs it."""
    with open_model(abonyx.RuntimeConfig()) as session:
        manifest, bundle = session.manifest, session.bundle
        scored = {name: session.score(inputs[name].sequences)[:, 0] for name in tests}
    training = manifest.head.training
    if training is None:
        raise SystemExit(f"{bundle.name}: its manifest has no training record")
    return {
        "name": bundle.name,
        "encoder_sha256": manifest.encoder.weights_sha256,
        "bundle_sha256": bundle.sha256,
        "training": msgspec.to_builtins(training),
        "tests": {name: metrics_of(tests[name], scored[name]) for name in tests},
    }


def table(record: dict[str, Any]) -> str:
    """The card's table, in Markdown; a test holds artifacts/mini/README.md to it."""
    seeds, untrained, archived = record["trained"], record["untrained"], record["esm1v_archived"]
    (candidate,) = record["mini"]["training"]["candidates"]
    validated = {
        "composition": record["composition"]["cross_validation"],
        "untrained": untrained["cross_validation_by_seed"][untrained["median_seed"]],
        "mini": {"accuracy": candidate["accuracy_mean"], "roc_auc": candidate["roc_auc_mean"]},
        # the old pipeline's documents: 67.5 % and 0.741
        "ESM-1v": {"accuracy": 0.675, "roc_auc": 0.741},
    }
    first = [f"{row['accuracy']:.3f} / {row['roc_auc']:.3f}" for row in validated.values()]
    lines = ["| set | composition | untrained | **mini** | ESM-1v, published |", "| --- | --- | --- | --- | --- |"]
    lines.append(" | ".join(["| Boughter 914, 10-fold x 5", *first]) + " |")
    names = {
        "jain": ("Jain 86, present set", None),
        "jain_2025_11_06": ("Jain 86, set of 2025-11-06", "jain_2025_11_06"),
        "shehata": ("Shehata 398", "shehata"),
        "harvey": ("Harvey 1,000 (ESM-1v: 141,021)", "harvey_141021"),
    }
    for key, (title, published) in names.items():
        found = [record["composition"]["tests"], untrained["tests_of_median"], record["mini"]["tests"]]
        cells = [_cell(figures.get(key)) for figures in found]
        # the present Jain set's accuracy is from the old pipeline's documents, without an AUC
        cells.append(_cell(archived[published]) if published else "0.663 / not published")
        lines.append(" | ".join([f"| {title}", *cells]) + " |")
    areas = sorted(row["roc_auc"] for row in seeds["cross_validation_by_seed"].values())
    spread = ", ".join(f"{area:.3f}" for area in areas)
    ranges = ", ".join(
        f"{name} {min(values.values()):.3f} to {max(values.values()):.3f}"
        for name, values in seeds["test_roc_auc_of_seeds"].items()
    )
    return "\n".join([*lines, "", f"ROC AUC of the five seeds: cross-validated {spread}; {ranges}."]) + "\n"


def _cell(figures: dict[str, list[float]] | None) -> str:
    if figures is None:
        return "not run"
    parts = (figures["accuracy"], figures["roc_auc"])
    return " / ".join(f"{value:.3f} [{low:.2f}, {high:.2f}]" for value, low, high in parts)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=Path, required=True)
    parser.add_argument("--untrained", type=Path, required=True)
    parser.add_argument("--record", type=Path, required=True)
    arguments = parser.parse_args()
    tables = {"boughter": (BOUGHTER, "sequence"), **TESTS, "jain_2025_11_06": OLDER_JAIN}
    inputs = {
        name: read_input(arguments.data / path, SequenceLimit(LONGEST), sequence_column=column, label_column="label")
        for name, (path, column) in tables.items()
    }
    truth = {name: np.array(checked.labels, np.int64) for name, checked in inputs.items()}
    labels, tests = truth["boughter"], {name: truth[name] for name in TESTS}
    every = {name: values for name, values in truth.items() if name != "boughter"}
    record = {
        "threshold": THRESHOLD,
        "bootstrap": {"resamples": RESAMPLES, "seed": SEED, "interval": "95 % percentile"},
        "cross_validation": {"folds": FOLDS, "seeds": len(CV_SEEDS)},
        "rows": {name: len(checked.sequences) for name, checked in inputs.items()},
        "composition": of_composition(inputs, labels, every),
        "untrained": of_encoders(arguments.untrained, labels, tests, None),
        "trained": of_encoders(arguments.seeds, labels, tests, SETTINGS.index(SHIPPED)),
        "mini": of_mini(inputs, every),
        "esm1v_archived": of_esm1v(arguments.data / "upstream_predictions" / "esm1v"),
    }
    arguments.record.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(table(record))


if __name__ == "__main__":
    main()
