"""Pretrain by several recipes or seeds, and cross-validate a head on each encoder: Boughter's training set alone.

    python training/choose.py --corpus corpus.txt --boughter VH_only_boughter_training.csv -o OUT \
        --try base --try dropout=0.1 --try steps=1600 --seeds 0,1 --device cuda

A --try changes keys of training/recipe.toml. OUT gets NAME-SEED/ (the checkpoint), NAME-SEED.npz (pooled embeddings of
the embedding layer and of the last, one row a sequence of each table) and choice.json (held-out losses, cross-validated
figures).

Decided before any figure was seen. Features: both layers' residue means, concatenated. Of the recipes the one with the
highest AUC, mean over its seeds at its best head setting; of the head settings within one standard error (of the seeds'
mean) of the best, the most strongly regularised. No test set is opened: --tables only embeds.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from abonyx_export.fit.cross_validation import cross_validate, fit_once
from encoders import RECIPE, changed, pooled, read_column
from pretrain import Recipe, TrainingRun, pretrain, read_corpus, read_recipe

FOLDS, CV_SEEDS = 10, range(5)
C_RAW = (0.01, 0.1, 1.0, 10.0)
C_SCALED = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
SETTINGS = [(False, C) for C in C_RAW] + [(True, C) for C in C_SCALED]


def validate(features: np.ndarray, labels: np.ndarray, scaled: bool, inverse_strength: float) -> dict[str, Any]:
    """The cross-validated figures of one head setting, as `abonyx fit` reports them."""
    fit = functools.partial(fit_once, scale=scaled, balanced=False)
    (found,) = cross_validate(features, labels, [inverse_strength], folds=FOLDS, seeds=CV_SEEDS, fit=fit)
    return {
        "scaled": scaled,
        "C": inverse_strength,
        "accuracy": found.accuracy_mean,
        "roc_auc": found.roc_auc_mean,
        "roc_auc_sd_folds": found.roc_auc_sd,
    }


def validate_all(features: dict[str, np.ndarray], labels: np.ndarray, jobs: int) -> dict[str, list[dict[str, Any]]]:
    """Every setting for each named feature matrix, in the order of SETTINGS."""
    from joblib import Parallel, delayed

    tasks = [(name, *setting) for name in features for setting in SETTINGS]
    done = Parallel(n_jobs=jobs)(delayed(validate)(features[name], labels, *setting) for name, *setting in tasks)
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in features}
    for (name, *_), figures in zip(tasks, done, strict=True):
        results[name].append(figures)
    return results


def train(recipe: Recipe, corpus: list[str], seed: int, arguments: argparse.Namespace, name: str) -> dict[str, Any]:
    """One encoder: its checkpoint, its pooled embeddings, its training record."""
    run = TrainingRun.begin(recipe, corpus, seed, arguments.device)
    if recipe.steps:
        if arguments.device == "cuda":
            run.model.compile()
        record = pretrain(run, arguments.output / name, lambda line: sys.stderr.write(f"{name}: {line}\n"))
    else:
        record = {"history": []}
    run.model.eval()
    with torch.no_grad():
        for parameter in run.model.parameters():
            parameter.copy_(parameter.half())
    tables = {Path(spec.partition(":")[0]).stem: read_column(spec) for spec in [arguments.boughter, *arguments.tables]}
    arrays: dict[str, Any] = {
        table: pooled(run.model, sequences, arguments.device) for table, sequences in tables.items()
    }
    np.savez(arguments.output / f"{name}.npz", **arrays)
    return dict(record or {})


def summarise(rows: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean over seeds of each recipe and setting, best first."""
    groups: dict[tuple[str, bool, float], list[float]] = {}
    for name, row in rows.items():
        for setting in row["settings"]:
            groups.setdefault((name.rpartition("-")[0], setting["scaled"], setting["C"]), []).append(setting["roc_auc"])
    means = [
        {
            "recipe": recipe,
            "scaled": scaled,
            "C": inverse_strength,
            "roc_auc": float(np.mean(values)),
            "se": float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None,
        }
        for (recipe, scaled, inverse_strength), values in groups.items()
    ]
    return sorted(means, key=lambda row: -float(str(row["roc_auc"])))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--boughter", required=True, help="CSV with columns sequence and label")
    parser.add_argument("--tables", nargs="*", default=[], help="CSVs to embed besides, PATH or PATH:SEQUENCE_COLUMN")
    parser.add_argument("--try", dest="changes", action="append", default=[])
    parser.add_argument("--seeds", default="0", help="comma-separated")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--stop-after-seconds", type=float, default=math.inf, help="begin no further run then")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    started = time.monotonic()
    arguments.output.mkdir(parents=True, exist_ok=True)
    corpus = read_corpus(arguments.corpus)
    labels = np.array([int(float(label)) for label in read_column(arguments.boughter, "label")])
    rows: dict[str, dict[str, Any]] = {}
    for seed in map(int, arguments.seeds.split(",")):
        for change in arguments.changes or ["base"]:
            name = f"{change.replace('=', '_').replace(',', '+')}-{seed}"
            if time.monotonic() - started > arguments.stop_after_seconds:
                print(f"no time for {name}")
                continue
            began = time.monotonic()
            recipe = changed(read_recipe(RECIPE), change)
            record = train(recipe, corpus, seed, arguments, name)
            rows[name] = {"training": record, "seconds": round(time.monotonic() - began, 1)}
    table = Path(arguments.boughter).stem
    features = {name: np.load(arguments.output / f"{name}.npz")[table].astype(np.float64) for name in rows}
    for name, settings in validate_all(features, labels, arguments.jobs).items():
        rows[name]["settings"] = settings
    means = summarise(rows)
    (arguments.output / "choice.json").write_text(json.dumps({"means": means, "runs": rows}, indent=1) + "\n")
    for row in means[:24]:
        print(row)
    for name, row in rows.items():
        best = max(row["settings"], key=lambda setting: float(setting["roc_auc"]))
        print(name, row["seconds"], "s", row["training"]["history"][-1:], best)


if __name__ == "__main__":
    main()
