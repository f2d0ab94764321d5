"""Compare int8 calibrated on the shipped antibodies with int8 calibrated on a file; writes one JSON record.

    python benchmarks/calibration.py --encoder CHECKPOINT -o benchmarks/records/calibration.json

The record shows the gain from --calibration, and the gain from the int8 methods over plain rounding. Both calibrations
use the same number of sequences. Rows of the file that calibrate neither judge both, and the head is
recentred on them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from abonyx.alphabet import Alphabet
from abonyx.batching import make_inputs
from abonyx.engine.process import usable_processors
from abonyx_export.encoder.checkpoint import Checkpoint, load_checkpoint
from abonyx_export.encoder.graph import ENCODER_INPUTS, write_encoder
from abonyx_export.head.head import read_head
from abonyx_export.int8.calibration import calibration_sequences, observe
from abonyx_export.int8.levels import ladder
from abonyx_export.int8.quantization import Plan, quantize_encoder
from abonyx_export.int8.score_gate import GateRows, faults, judge
from commands import REPOSITORY, machine

DATA = REPOSITORY.parent / "shared" / "data"
Rows = list[npt.NDArray[np.int64]]


def embed(checkpoint: Checkpoint, plan: Plan | None, rows: Rows) -> npt.NDArray[np.float32]:
    """Embeddings (n, D) of token rows, run one at a time with the graph of a plan; None = float32."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_processors()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "model.onnx"
        write_encoder(checkpoint.config, checkpoint.tensor, path, plan=plan)
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        pad_id = checkpoint.alphabet.pad_id
        feeds = (make_inputs([row], ENCODER_INPUTS, pad_id) for row in rows)
        return np.concatenate([session.run(["embedding"], feed)[0] for feed in feeds])


def compare(encoder: Path, head_file: Path, file: Path) -> dict[str, Any]:
    """The score gate's record for each calibration and each mean cost of a product."""
    checkpoint = load_checkpoint(str(encoder))
    limit = checkpoint.config.max_residues
    given, default = calibration_sequences(file, limit), calibration_sequences(None, limit)
    encode = Alphabet(checkpoint.alphabet).encode
    calibrated_on = set(given.calibration) | set(default.calibration)
    judged = encode([sequence for sequence in given.gate if sequence not in calibrated_on])
    exact = embed(checkpoint, None, judged)
    head = read_head(head_file)
    head = head.recentred(-float(np.median(head.logit(exact))))
    found = {}
    for name, sequences, plain in (("plain, file", given, True), ("file", given, False), ("default", default, False)):
        observation = observe(checkpoint, encode(sequences.calibration))
        candidates = quantize_encoder(checkpoint.config, checkpoint.tensor, observation, plain=plain)
        by_cost = {}
        for leveled in ladder(candidates):
            gate = judge(GateRows(exact, embed(checkpoint, leveled.plan, judged)), head)
            by_cost[f"{leveled.cost:.2f}"] = msgspec.to_builtins(gate) | {"faults": faults(gate)}
            print(f"{name}, cost {leveled.cost:.2f}: max |dp| {gate.p.max:.4f}, mean {gate.p.mean:.4f}", flush=True)
        found[name] = {"source": sequences.source, "sequences": len(sequences.calibration), "costs": by_cost}
    return {"machine": machine(), "layers": checkpoint.config.layers, "calibrations": found}


def main() -> None:
    """Run the benchmark and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--encoder", type=Path, required=True, help="checkpoint directory (benchmarks/make_checkpoint.py)"
    )
    default = DATA / "heads" / "esm1v_logreg" / "boughter_vh_esm1v_logreg.npz"
    parser.add_argument("--head", type=Path, default=default)
    parser.add_argument("--file", type=Path, default=DATA / "repertoire" / "vh_vhh_repertoire.csv.gz")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    record = compare(arguments.encoder, arguments.head, arguments.file)
    arguments.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
