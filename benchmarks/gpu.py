"""Compare abonyx's cuda-fp16 with transformers on one NVIDIA GPU; the engines take turns; writes one JSON record.

    python benchmarks/gpu.py -o benchmarks/records/gpu.json --work DIR

Ratios of speed are measured on a sample. Every engine has the same batches (sorted by length, with one token budget),
except `old`, which has batches of 32 in file order. The command line scores harvey-scale, 141,021 sequences made from
real ones, CSV to CSV. The encoder has the real shape and random weights; the head is recentred. No record is
written if an engine runs another model, or if abonyx's difference from float32 is more than
CUDA_FP16_OVER_TRANSFORMERS times that of transformers in float16. The record says whether abonyx is within its own
limit.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from abonyx.alphabet import Alphabet
from abonyx.batching import plan_batches
from abonyx.bundle import open_bundle
from abonyx.bundle.heads import sigmoid
from abonyx.bundle.tolerances import CUDA_FP16_OVER_TRANSFORMERS, CUDA_FP16_P, PEER_FP16_P
from abonyx.config import RuntimeConfig
from abonyx.engine.providers import PROVIDERS
from abonyx.session import Session, open_session
from abonyx_export.golden import mutant
from commands import REPOSITORY, machine
from preparation import prepare, read_sequences, sample

DATA = REPOSITORY.parent / "shared" / "data"
HARVEY_SCALE = 141_021
MUTATION_SEED = 20261124
OLD_ROWS = 32
SIDE = 8192  # rows and columns of the product that measures the GPU's limit

Rows = list[npt.NDArray[np.int64]]
Score = Callable[[Rows], npt.NDArray[np.float64]]


def harvey_scale(sequences: list[str], count: int) -> list[str]:
    """`count` different sequences: those of the file, then point mutants (1 to 5 substitutions, fixed seed)."""
    rng = np.random.default_rng(MUTATION_SEED)
    found = dict.fromkeys(sequences[:count])
    while len(found) < count:
        parent = sequences[len(found) % len(sequences)]
        found[mutant(parent, int(rng.integers(1, 6)), rng)] = None
    return list(found)


def floating_point_operations(layers: int, hidden: int, tokens: npt.NDArray[np.int64]) -> float:
    """Operations of the encoder's products on rows with these lengths; multiplication and addition count as two."""
    weights = 12 * hidden**2  # QKV, output, and two of the feed-forward
    return float(layers * (2 * weights * tokens.sum() + 4 * hidden * (tokens.astype(float) ** 2).sum()))


def matrix_limit() -> float:
    """Operations per second of one large float16 product of random numbers, the median of ten runs."""
    import torch

    a, b = (torch.randn(SIDE, SIDE, device="cuda", dtype=torch.float16) for _ in range(2))
    seconds = []
    for index in range(13):
        torch.cuda.synchronize()
        started = time.perf_counter()
        a @ b
        torch.cuda.synchronize()
        if index > 2:
            seconds.append(time.perf_counter() - started)
    return 2 * SIDE**3 / statistics.median(seconds)


def memory_used_bytes() -> int:
    """Used memory of the whole GPU, from nvidia-smi."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[0]) * 2**20


class Peak:
    """Record the largest memory_used_bytes, read four times per second."""

    def __enter__(self) -> Peak:
        self.bytes = memory_used_bytes()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.25):
            self.bytes = max(self.bytes, memory_used_bytes())

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


class Transformers:
    """transformers' EsmModel on the GPU, with the mean over residues and the bundle's head in numpy."""

    def __init__(self, checkpoint: Path, golden: Any, kind: str, pad_id: int) -> None:
        import torch
        from transformers import EsmModel

        dtype = torch.float32 if kind == "fp32" else torch.float16
        self.model: Any = EsmModel.from_pretrained(
            checkpoint, add_pooling_layer=False, dtype=dtype, attn_implementation="sdpa"
        )
        self.model = self.model.eval().to("cuda")
        if kind == "compiled":
            self.model = torch.compile(self.model, dynamic=True)
        self.golden, self.pad_id = golden, pad_id

    def embed(self, rows: Rows) -> npt.NDArray[np.float32]:
        """Embeddings (B, H) of a batch that is padded to its longest row."""
        import torch

        lengths = np.array([len(row) for row in rows])
        ids = np.full((len(rows), lengths.max()), self.pad_id, np.int64)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = row
        mask = np.arange(ids.shape[1]) < lengths[:, None]
        pooled = mask & (np.arange(ids.shape[1]) >= 1) & (np.arange(ids.shape[1]) < (lengths - 1)[:, None])
        with torch.inference_mode():
            hidden = self.model(
                input_ids=torch.from_numpy(ids).cuda(), attention_mask=torch.from_numpy(mask.astype(np.int64)).cuda()
            ).last_hidden_state
            weights = torch.from_numpy(pooled / pooled.sum(axis=1, keepdims=True)).cuda().float()
            mean = torch.bmm(weights[:, None], hidden.float())[:, 0]
        return np.asarray(mean.cpu().numpy())

    def score(self, rows: Rows, batches: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.float64]:
        """Probabilities (n,)."""
        p = np.empty(len(rows))
        for batch in batches:
            embedding = self.embed([rows[index] for index in batch]).astype(np.float64)
            p[batch] = sigmoid(embedding @ self.golden.head_coef[0] + self.golden.head_intercept[0])
        return p


def export(work: Path, layers: int, head: Path, max_dp: float | None) -> tuple[Path, Path]:
    """A checkpoint of ESM-1v's shape and its bundle; made in `work` if they do not exist."""
    options = ["--head", str(head.absolute()), "--recentre-head", "--allow-encoder-mismatch"]
    options += ["--variants", "cuda-fp16"]
    if max_dp is not None:  # peers() judges the scores again, on the GPU
        options += ["--max-dp", f"cuda-fp16={max_dp:g}"]
    prepared = prepare(work.absolute(), layers, {"esm1v"}, set(), options, print)
    return prepared.checkpoint["esm1v"], prepared.bundle["esm1v"]


def timed(engines: dict[str, Callable[[], Any]], repeats: int) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of each engine and repeat, and the engines' last results. The engines take turns after a warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    last = {}
    for repeat in range(repeats + 1):
        for name, run in engines.items():
            started = time.perf_counter()
            last[name] = run()
            taken = time.perf_counter() - started
            print(f"repeat {repeat}: {name} {taken:.2f} s", flush=True)
            if repeat:
                seconds[name].append(taken)
    return seconds, last


def peers(arguments: argparse.Namespace, checkpoint: Path, bundle: Path, sequences: list[str]) -> dict[str, Any]:
    """Run every engine on the same sample. SystemExit if parity fails."""
    opened = open_bundle(bundle)
    golden, alphabet = opened.golden(), opened.manifest.alphabet
    few = sequences[: arguments.few]
    encode = Alphabet(alphabet).encode
    rows, few_rows = encode(sequences), encode(few)
    budget = arguments.token_budget
    batches = list(plan_batches(np.array([len(row) for row in rows]), budget))
    few_batches = list(plan_batches(np.array([len(row) for row in few_rows]), budget))
    old_batches = [np.arange(start, min(start + OLD_ROWS, len(few))) for start in range(0, len(few), OLD_ROWS)]
    made = {kind: Transformers(checkpoint, golden, kind, alphabet.pad_id) for kind in arguments.kinds.split(",")}
    full, half = made["fp32"], made["fp16"]
    with open_session(RuntimeConfig(provider="cuda", bundle=str(bundle), token_budget=budget)) as session:
        engines: dict[str, Callable[[], Any]] = {
            "old": lambda: full.score(few_rows, old_batches),
            "transformers-fp32": lambda: full.score(few_rows, few_batches),
            "transformers-fp16": lambda: half.score(rows, batches),
            "abonyx-cuda-fp16": lambda: session.score(sequences),
        }
        if "compiled" in made:
            engines["transformers-compiled"] = lambda: made["compiled"].score(rows, batches)
        seconds, last = timed(engines, arguments.repeats)
    exact = last["transformers-fp32"]
    dp = {name: float(np.abs(p[: len(few)] - exact).max()) for name, p in last.items()}
    figures = {}
    for name, taken in seconds.items():
        count = len(few) if name in ("old", "transformers-fp32") else len(sequences)
        rate = count / statistics.median(taken)
        mean_dp = float(np.abs(last[name][: len(few)] - exact).mean())
        figures[name] = {
            "seconds": taken,
            "sequences": count,
            "sequences_per_s": rate,
            "max_dp": dp[name],
            "mean_dp": mean_dp,
        }
        print(f"{name:24s} {rate:9.1f} seq/s  |dp| max {dp[name]:.2e} mean {mean_dp:.2e}")
    # For a peer's float16, only check that it runs the same model.
    wrong = [f"{name}: {value:.3g}, limit {PEER_FP16_P:g}" for name, value in dp.items() if not value <= PEER_FP16_P]
    if not dp["abonyx-cuda-fp16"] <= CUDA_FP16_OVER_TRANSFORMERS * dp["transformers-fp16"]:
        wrong.append(f"abonyx {dp['abonyx-cuda-fp16']:.3g} against transformers fp16's {dp['transformers-fp16']:.3g}")
    if wrong:
        raise SystemExit("parity failed, no record was written:\n  " + "\n  ".join(wrong))
    if not dp["abonyx-cuda-fp16"] <= CUDA_FP16_P:
        print(f"abonyx is over its limit of {CUDA_FP16_P:g}: {dp['abonyx-cuda-fp16']:.3g} (the record says so)")
    return figures


def budgets(arguments: argparse.Namespace, bundle: Path, sequences: list[str]) -> list[dict[str, Any]]:
    """Speed and memory for each token budget."""
    found = []
    for budget in map(int, arguments.budgets.split(",")):
        before = memory_used_bytes()
        with Peak() as peak:
            session: Session
            with open_session(RuntimeConfig(provider="cuda", bundle=str(bundle), token_budget=budget)) as session:
                opened = memory_used_bytes()
                session.score(sequences)  # the first run of each new shape is slow
                started = time.perf_counter()
                session.score(sequences)
                taken = time.perf_counter() - started
        row = {
            "token_budget": budget,
            "sequences_per_s": len(sequences) / taken,
            "before_bytes": before,
            "open_bytes": opened,
            "peak_bytes": peak.bytes,
            "after_bytes": memory_used_bytes(),
        }
        print(row, flush=True)
        found.append(row)
    return found


def command_line(work: Path, bundle: Path, sequences: list[str], repeats: int, domains: str) -> list[dict[str, Any]]:
    """Time `abonyx score` from process start to exit, CSV to CSV. The domain checks take turns, `repeats` times."""
    source, output = work / "harvey_scale.csv", work / "scores.csv"
    with source.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "sequence"])
        writer.writerows((f"h{index}", sequence) for index, sequence in enumerate(sequences))
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "abonyx",
        "score",
        source,
        "-o",
        output,
        "--provider",
        "cuda",
        "--bundle",
        bundle,
    ]
    found = []
    for domain in domains.split(",") * repeats:
        output.unlink(missing_ok=True)
        with Peak() as peak:
            started = time.perf_counter()
            done = subprocess.run([*command, "--domain", domain], check=False, capture_output=True, text=True)
            taken = time.perf_counter() - started
        if done.returncode:
            raise SystemExit(f"score failed with {done.returncode}:\n{done.stderr}")
        with output.open() as file:
            lines = sum(1 for _ in file)
        row = {
            "domain": domain,
            "seconds": taken,
            "rows": lines - 1,
            "peak_bytes": peak.bytes,
            "summary": done.stderr.splitlines()[:2],
        }
        print(row, flush=True)
        found.append(row)
    return found


def main() -> None:
    """Run the benchmark and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("-o", "--output", type=Path, required=True)
    add("--work", type=Path, required=True, help="directory for the checkpoint and the bundle; kept")
    add("--layers", type=int, default=33)
    add("--repeats", type=int, default=5)
    add("--count", type=int, default=HARVEY_SCALE)
    add("--many", type=int, default=8192, help="sequences of the sample for the float16 engines and the budgets")
    add("--few", type=int, default=1024, help="sequences of this sample for the float32 engines")
    add("--token-budget", type=int, default=PROVIDERS["cuda"].token_budget)
    add("--budgets", default="8192,16384,32768,65536")
    add("--kinds", default="fp32,fp16,compiled", help="kinds of transformers' model to run")
    add("--command-repeats", type=int, default=2)
    add("--domains", default="off,check", help="domain checks to time the command with")
    add("--max-dp", type=float, help="limit of |dp| for export, which checks on the CPU; default: the variant's")
    add("--only-export", action="store_true", help="only make the checkpoint and the bundle")
    add("--commit", help="commit of these sources, if they are not a git checkout")
    add("--sequences", type=Path, default=DATA / "repertoire" / "vh_vhh_repertoire.csv.gz")
    add("--head", type=Path, default=DATA / "heads" / "esm1v_logreg" / "boughter_vh_esm1v_logreg.npz")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    checkpoint, bundle = export(arguments.work, arguments.layers, arguments.head, arguments.max_dp)
    if arguments.only_export:
        return
    everything = harvey_scale(read_sequences(arguments.sequences), arguments.count)
    chosen = sample(everything, arguments.many)
    opened = open_bundle(bundle)
    tokens = np.array([len(sequence) + 2 for sequence in chosen], np.int64)
    limit = matrix_limit()
    each = floating_point_operations(opened.manifest.encoder.layers, opened.manifest.encoder.hidden, tokens) / len(
        chosen
    )
    print(f"limit {limit / 1e12:.0f} TFLOP/s, {limit / each:.0f} seq/s", flush=True)
    by_budget = budgets(arguments, bundle, chosen)
    commands = command_line(arguments.work, bundle, everything, arguments.command_repeats, arguments.domains)
    figures = peers(arguments, checkpoint, bundle, chosen)
    import onnxruntime
    import torch
    import transformers

    # Versions come from the modules, because the engine's distribution has another name here.
    versions = {module.__name__: module.__version__ for module in (onnxruntime, torch, transformers)}
    record = {
        "machine": machine() | {"gpu": torch.cuda.get_device_name(), **versions},
        "layers": arguments.layers,
        "matrix_limit": {"tflops": limit / 1e12, "sequences_per_s": limit / each},
        "parity": msgspec.to_builtins(opened.manifest.variants["cuda-fp16"].parity),
        "engines": figures,
        "max_dp_limit": {"limit": CUDA_FP16_P, "held": figures["abonyx-cuda-fp16"]["max_dp"] <= CUDA_FP16_P},
        "abonyx_of_limit": figures["abonyx-cuda-fp16"]["sequences_per_s"] * each / limit,
        "token_budget": arguments.token_budget,
        "budgets": by_budget,
        "harvey_scale": {"sequences": len(everything), "commands": commands},
    }
    if arguments.commit:
        record["machine"]["commit"] = arguments.commit
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
