"""Add the two panels of artifacts/mini to a bundle: clinical-stage antibodies, and a human repertoire.

    python training/panels.py BUNDLE DATA -o NEW

DATA is the folder with the published tables. The panel `clinical` has the VH of the 137 antibodies of Jain et al. 2017.
The panel `repertoire` has ROWS human VH of OAS (CC BY 4.0), from STUDY, which has complete domains. The panel has no
nanobodies, and no rows of Briney et al. 2019, which lack their first residues. The script reads no labels.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from pathlib import Path

from abonyx.input.records import Record, read_records
from abonyx.run.reference import ReferenceRequest, add_panel
from abonyx.run.request import prepare

CLINICAL = "jain/VH_only_jain.csv"
REPERTOIRE = "repertoire/vh_vhh_repertoire.csv.gz"
STUDY = "oas_bernat2019_igg"
ROWS = 1_000
ORIGINS = {
    "clinical": "VH of clinical-stage antibodies, Jain et al. 2017 (PNAS 114:944)",
    "repertoire": "human VH of IgG repertoires, Bernat et al. 2019 in OAS (Olsen et al. 2022), CC BY 4.0",
}


def repertoire_sample(path: Path) -> list[tuple[str, str]]:
    """Id and sequence of the ROWS rows of STUDY with the lowest sha256 of the sequence, whatever the file's order."""
    rows = [
        (record.id, record.sequence)
        for record in read_records(path, keep=("domain", "source"))
        if isinstance(record, Record) and (record.kept["domain"], record.kept["source"]) == ("VH", STUDY)
    ]
    return sorted(rows, key=lambda row: hashlib.sha256(row[1].encode()).hexdigest())[:ROWS]


def main() -> None:
    """Write the bundle with both panels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.output.absolute().parent) as folder:
        sample, between = Path(folder) / "repertoire.csv", Path(folder) / "clinical"
        lines = [f"{id_},{sequence}\n" for id_, sequence in repertoire_sample(options.data / REPERTOIRE)]
        sample.write_text("".join(["id,sequence\n", *lines]), encoding="utf-8")
        steps = (
            ("clinical", options.bundle, options.data / CLINICAL, between),
            ("repertoire", between, sample, options.output),
        )
        for name, bundle, source, output in steps:
            run = prepare(flags={"bundle": str(bundle)})
            request = ReferenceRequest(run=run, source=source, output=output, name=name, origin=ORIGINS[name])
            panel = add_panel(request, print)
            print(f"panel {panel.name}: {panel.rows} rows of {panel.source}")


if __name__ == "__main__":
    main()
