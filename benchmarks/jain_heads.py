"""Fit heads for five assays of the clinical antibodies on several encoders; records their cards and the time.

    python benchmarks/jain_heads.py DATA -o RECORD.json --bundle mini --bundle out/esm2_8m --bundle out/antiberty

DATA is a folder with `paired/jain_sd02.csv` (sequences) and `paired/jain_sd03.csv` (assays) of Jain et al. 2017. A
bundle is "mini", or a directory from `abonyx export` with or without a head. Each bundle gets the heads of ASSAYS one
by one, with `abonyx fit` and its defaults. The record has the complete card of each head, good or bad.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from abonyx.bundle import open_bundle
from abonyx.bundle.listed import file_of_head
from commands import ABONYX, machine

_REGRESSION = ("--task", "regression", "--unit", "min", "--direction", "higher-is-worse")
# Head -> its column in jain_sd03.csv, and the options of its fit. 0.27 is Jain et al.'s threshold for PSR.
ASSAYS: dict[str, tuple[str, tuple[str, ...]]] = {
    "psr": ("Poly-Specificity Reagent (PSR) SMP Score (0-1)", ("--positive-above", "0.27")),
    "cic": ("CIC Retention Time (Min)", _REGRESSION),
    "smac": ("SMAC Retention Time (Min)a", _REGRESSION),
    "hic": ("HIC Retention Time (Min)a", _REGRESSION),
    "acsins": (
        "Affinity-Capture Self-Interaction Nanoparticle Spectroscopy (AC-SINS) ∆λmax (nm) Average",
        ("--task", "regression", "--unit", "nm", "--direction", "higher-is-worse"),
    ),
}


def write_table(data: Path, path: Path) -> int:
    """Write id, sequence (VH) and one column for each assay; returns the number of antibodies."""
    with (data / "paired" / "jain_sd02.csv").open(newline="", encoding="utf-8-sig") as file:
        heavy = {row["Name"]: row["VH"] for row in csv.DictReader(file) if row["VH"]}
    with (data / "paired" / "jain_sd03.csv").open(newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.DictReader(file) if row["Name"] in heavy]
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["id", "sequence", *ASSAYS])
        for row in rows:
            table.writerow([row["Name"], heavy[row["Name"]], *(row[column] for column, _ in ASSAYS.values())])
    return len(rows)


def fit_heads(table: Path, bundle: str, work: Path) -> dict[str, Any]:
    """Fit every head; returns the bundle's record. The first fit is without --add, the others are with it."""
    parent, heads = ([] if bundle == "mini" else ["--bundle", bundle]), {}
    for number, (name, (_, options)) in enumerate(ASSAYS.items()):
        output = work / f"{number + 1}-heads"
        command = [*ABONYX, "fit", str(table), "-o", str(output), "--label-column", name, "--head-name", name]
        command += [*parent, *options, *(["--add"] if number else [])]
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed with {done.returncode}:\n{done.stderr}")
        seconds, fitted = time.perf_counter() - started, open_bundle(output)
        card = output / file_of_head("metrics.json", name, fitted.manifest.head.name)
        heads[name] = {"fit_s": seconds, "card": json.loads(card.read_text())["card"]}
        print(f"{bundle} {name}: {seconds:.1f} s: {heads[name]['card']['sentence']}", flush=True)
        parent = ["--bundle", str(output)]
    source = open_bundle(None if bundle == "mini" else Path(bundle))
    return {"name": source.manifest.name, "sha256": source.sha256, "heads": heads}


def main() -> None:
    """Fit the heads and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--bundle", dest="bundles", action="append", required=True, help='directory, or "mini"')
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        table = Path(name) / "jain.csv"
        count = write_table(arguments.data, table)
        found = []
        for number, bundle in enumerate(arguments.bundles):
            work = Path(name) / str(number)
            work.mkdir()
            found.append(fit_heads(table, bundle, work))
    record = {"antibodies": count, "assays": {head: column for head, (column, _) in ASSAYS.items()}, "bundles": found}
    arguments.output.write_text(json.dumps(record | {"machine": machine()}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
