"""Measure parity, int8's gate and speed of every variant for the two trained encoders; writes one JSON record.

    python benchmarks/trained.py --encoders DIR --boughter VH_only_boughter_training.csv --provider cpu
        -o benchmarks/records/trained_cpu.json

DIR has esm2_t6_8M and antiberty (../shared/tools/make_trained.py DIR makes them). For each encoder, a head is fitted on
the labelled file. Each variant is exported separately; if one is refused, the record has the reason, and the others
still run. Then real antibodies are scored, from --sequences or from the shipped antibodies that judge int8. They are
scored by transformers in float64 (the reference), by optimum's stock export if it is installed, and by every variant on
the CPU and on --provider. The seconds are for all sequences with an open model; the variants take turns. With
--esmcpp-python (see the target bench of the Makefile), esm-cpp scores them too if the encoder is an ESM-2. The script
needs no network. The file has over 300 lines, because it is one measurement with one record.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from abonyx import RuntimeConfig, open_session
from abonyx.alphabet import Alphabet
from abonyx.bundle import open_bundle
from abonyx.bundle.heads import sigmoid
from abonyx.config import ProviderName
from abonyx.engine.process import usable_processors
from abonyx.errors import EngineError
from abonyx_export.antibodies import ANTIBODIES_NAME, shipped_antibodies
from abonyx_export.cli import fit
from abonyx_export.encoder.checkpoint import Checkpoint, load_checkpoint
from abonyx_export.export import export_bundle
from abonyx_export.head.head import Head, read_head
from abonyx_export.request import ExportRequest
from abonyx_export.variants import VARIANTS
from commands import machine
from cpu import PeerProcess
from preparation import MASKED_LM, STANDARD, digest, read_sequences, sample

ENCODERS = ("esm2_t6_8M", "antiberty")
# With this limit of |dp|, int8 has practically no gate in the bundle for the fit. The fit uses the int8 error of that
# bundle to choose the head.
NO_LIMIT = 0.99
THRESHOLD = 0.5
Float64 = npt.NDArray[np.float64]


def fit_head(encoder: Path, boughter: Path, work: Path, lines: list[str]) -> tuple[Path, dict[str, Any]]:
    """The head from `abonyx fit`, with int8 in the bundle if the encoder supports it, and its training record."""
    parent, head = work / "parent", work / "head.npz"
    variants = ("fp32", "int8")
    try:
        export_bundle(
            ExportRequest(encoder=str(encoder), output=parent, variants=variants, max_dp={"int8": NO_LIMIT}),
            lines.append,
        )
    except EngineError as error:
        lines.append(f"the head is fitted without int8: {error}")
        export_bundle(ExportRequest(encoder=str(encoder), output=parent, variants=("fp32",)), lines.append)
    arguments = [str(boughter), "--bundle", str(parent), "-o", str(work / "fitted"), "--head-out", str(head)]
    arguments += ["--embedding-cache", str(work / "embeddings"), "--on-invalid", "skip"]  # AntiBERTy has no X
    fit.main(arguments, standalone_mode=False)
    training = open_bundle(work / "fitted").manifest.head.training
    assert training is not None
    return head, msgspec.to_builtins(training)


def export_variants(encoder: Path, head: Path, work: Path) -> dict[str, dict[str, Any]]:
    """For each variant, its bundle and parity record, or the reason why it was refused."""
    found: dict[str, dict[str, Any]] = {}
    for name in VARIANTS:
        lines: list[str] = []
        output = work / name
        started = time.perf_counter()
        try:
            heads = (("nonspecificity", head),)
            request = ExportRequest(encoder=str(encoder), heads=heads, output=output, variants=(name,))
            variant = export_bundle(request, lines.append).variants[name]
            found[name] = {"bundle": str(output), "parity": msgspec.to_builtins(variant.parity)}
            found[name]["quantization"] = msgspec.to_builtins(variant.quantization)
        except EngineError as error:
            found[name] = {"refused": str(error), "steps": lines}
        found[name]["export_s"] = time.perf_counter() - started
        print(f"  {name}: {found[name].get('refused', 'exported')}", flush=True)
    return found


def reference(checkpoint: Checkpoint, head: Head, sequences: list[str]) -> tuple[Float64, Float64]:
    """Embeddings (n, D) and p (n,) by transformers in float64, one row at a time."""
    import torch

    model = checkpoint.model.double()
    embeddings = []
    with torch.inference_mode():
        for row in Alphabet(checkpoint.alphabet).encode(sequences):
            ids = torch.from_numpy(row)[None]
            hidden = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
            embeddings.append(hidden[0, 1:-1].mean(dim=0).numpy())
    embedding: Float64 = np.array(embeddings)
    return embedding, sigmoid(head.logit(embedding))


def stock_export(
    encoder: Path, checkpoint: Checkpoint, head: Head, sequences: list[str], work: Path
) -> tuple[Float64, Float64] | None:
    """Embeddings and p by optimum's stock export with ONNX Runtime on the CPU; None if optimum is not installed."""
    if importlib.util.find_spec("optimum") is None:
        return None
    import onnxruntime
    from optimum.exporters.onnx import main_export

    target = work / "stock"
    main_export(str(encoder), output=target, task="feature-extraction", do_validation=False, no_post_process=True)
    session = onnxruntime.InferenceSession(str(target / "model.onnx"), providers=["CPUExecutionProvider"])
    names = {entry.name for entry in session.get_inputs()}
    embeddings = []
    for row in Alphabet(checkpoint.alphabet).encode(sequences):
        ids = row[None]
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        hidden = session.run(None, {name: values for name, values in feed.items() if name in names})[0]
        embeddings.append(hidden[0, 1:-1].astype(np.float64).mean(axis=0))
    embedding: Float64 = np.array(embeddings)
    return embedding, sigmoid(head.logit(embedding))


def compare(embedding: npt.NDArray[Any], p: npt.NDArray[Any], exact: tuple[Float64, Float64]) -> dict[str, Any]:
    """Differences of scores and embeddings from the reference."""
    from scipy.stats import spearmanr

    difference = np.abs(p - exact[1])
    return {
        "max_dp": float(difference.max()),
        "mean_dp": float(difference.mean()),
        "max_embedding": float(np.abs(embedding - exact[0]).max()),
        "label_flips": int(((p > THRESHOLD) != (exact[1] > THRESHOLD)).sum()),
        "spearman": float(spearmanr(p, exact[1]).statistic),
    }


def score(
    provider: ProviderName,
    variants: dict[str, dict[str, Any]],
    sequences: list[str],
    exact: tuple[Float64, Float64],
    repeats: int,
) -> dict[str, Any]:
    """Parity and seconds of each variant for the provider, or why the provider does not start."""
    seconds: dict[str, list[float]] = {}
    figures: dict[str, Any] = {}
    for repeat in range(repeats):
        for name, facts in variants.items():
            if "bundle" not in facts or provider not in VARIANTS[name].providers or "error" in figures.get(name, {}):
                continue
            try:
                config = RuntimeConfig(bundle=facts["bundle"], provider=provider, variant=name)
                with open_session(config) as session:
                    p = session.score(sequences)  # the first run of each new shape is slow
                    started = time.perf_counter()
                    session.score(sequences)
                    seconds.setdefault(name, []).append(time.perf_counter() - started)
                    if not repeat:
                        figures[name] = compare(session.embed(sequences), p, exact)
            except EngineError as error:
                figures[name] = {"error": str(error)}
    for name, taken in seconds.items():
        figures[name] |= {"seconds": taken, "median_s": statistics.median(taken)}
        figures[name]["sequences_per_s"] = len(sequences) / statistics.median(taken)
    return figures


def esmcpp(
    encoder: Path, bundle: Path, sequences: list[str], exact: tuple[Float64, Float64], arguments: argparse.Namespace
) -> dict[str, Any]:
    """Parity and seconds of esm-cpp with and without int8. It computes logits of a head with random weights, too."""
    work = bundle.parent
    subprocess.run([sys.executable, "-W", "ignore", "-c", MASKED_LM, encoder, work / "masked_lm"], check=True)
    rows = [row.tolist() for row in Alphabet(open_bundle(bundle).manifest.alphabet).encode(sequences)]
    request = {
        "threads": usable_processors(),
        "masked_lm": str(work / "masked_lm" / "model.safetensors"),
        "golden": str(bundle / "golden.npz"),
        "workloads": {"all": rows},
    }
    found: dict[str, Any] = {}
    for precision in ("fp32", "int8"):
        name = f"esm-cpp-{precision}"
        python = arguments.esmcpp_python.absolute()
        worker = PeerProcess(name, "esmcpp", python, request | {"precision": precision}, work / f"{name}.log")
        p = np.array(worker.ask("check", "all")["p"])
        seconds = [worker.ask("score", "all")["seconds"] for _ in range(arguments.repeats)]
        worker.close()
        not_finite = int((~np.isfinite(p)).sum())
        found[name] = {"not_finite": not_finite, "seconds": seconds, "median_s": statistics.median(seconds)}
        if not not_finite:
            found[name] |= compare(exact[0], p, exact)
            del found[name]["max_embedding"]  # the worker returns no embeddings
        found[name] |= {"sequences_per_s": len(rows) / found[name]["median_s"], "versions": worker.opened["versions"]}
    return found


def measure(encoder: Path, arguments: argparse.Namespace, sequences: list[str], work: Path) -> dict[str, Any]:
    """The record of one encoder."""
    lines: list[str] = []
    work.mkdir(parents=True)
    print(f"{encoder.name}: fitting a head", flush=True)
    head_file, training = fit_head(encoder, arguments.boughter, work, lines)
    head, checkpoint = read_head(head_file), load_checkpoint(str(encoder))
    variants = export_variants(encoder, head_file, work)
    exact = reference(checkpoint, head, sequences)
    stock = stock_export(encoder, checkpoint, head, sequences, work)
    providers = dict.fromkeys(["cpu", arguments.provider])
    found = {
        "weights": "trained",
        "encoder": msgspec.to_builtins(load_checkpoint(str(encoder)).encoder()),
        "head": training,
        "head_weights_norm": float(np.linalg.norm(head.weights()[0])),
        "fitting": lines,
        "sd_of_p": float(exact[1].std()),
        "optimum": None if stock is None else compare(*stock, exact),
        "variants": variants,
        "providers": {name: score(name, variants, sequences, exact, arguments.repeats) for name in providers},
    }
    if arguments.esmcpp_python and encoder.name.startswith("esm2"):
        found["providers"]["esm-cpp"] = esmcpp(encoder, Path(variants["fp32"]["bundle"]), sequences, exact, arguments)
    for facts in variants.values():
        facts.pop("bundle", None)  # a path of this machine
    return found


def table(record: dict[str, Any]) -> Iterator[str]:
    """Lines of text, one for each encoder, provider and variant."""
    yield f"{'encoder':12} {'provider':9} {'variant':13} {'max |dp|':>9} {'mean |dp|':>9} {'flips':>5} {'seq/s':>8}"
    for encoder, found in record["encoders"].items():
        stock = found["optimum"]
        if stock:
            start = f"{encoder:12} {'cpu':9} {'optimum':13}"
            yield f"{start} {stock['max_dp']:9.1e} {stock['mean_dp']:9.1e} {stock['label_flips']:5}"
        for provider, figures in found["providers"].items():
            for name, row in figures.items():
                start = f"{encoder:12} {provider:9} {name:13}"
                if "error" in row:
                    yield f"{start} {row['error'].splitlines()[0]}"
                    continue
                rate = row["sequences_per_s"]
                if row.get("not_finite"):
                    yield f"{start} {row['not_finite']} of {record['rows']} scores are not finite; {rate:.1f} a second"
                    continue
                yield f"{start} {row['max_dp']:9.1e} {row['mean_dp']:9.1e} {row['label_flips']:5} {rate:8.1f}"
        for name, facts in found["variants"].items():
            if "refused" in facts:
                yield f"{encoder:12} {'export':9} {name:13} refused: {facts['refused'].splitlines()[0]}"


def devices(provider: str) -> dict[str, str]:
    """The machine and versions that the figures depend on."""
    import torch
    import transformers

    found = {module.__name__: str(module.__version__) for module in (torch, transformers)}
    return found | ({"gpu": torch.cuda.get_device_name()} if provider == "cuda" and torch.cuda.is_available() else {})


@contextmanager
def working(directory: Path | None) -> Iterator[Path]:
    """The given directory, which is kept, or a temporary one."""
    if directory is not None:
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        yield directory.absolute()
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield Path(scratch)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", type=Path, required=True, help="directory with esm2_t6_8M and antiberty")
    parser.add_argument("--boughter", type=Path, required=True, help="labelled sequences for the heads")
    parser.add_argument("--provider", default="cpu", choices=("cpu", "openvino", "cuda"))
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=500, help="sequences to score")
    parser.add_argument(
        "--sequences", type=Path, help="CSV to draw the sequences from  [default: half of the shipped antibodies]"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=ENCODERS)
    parser.add_argument("--esmcpp-python", type=Path, help="interpreter of an environment with esm-cpp")
    parser.add_argument(
        "--work", type=Path, help="keep the bundles here; the directory is emptied first  [default: temporary]"
    )
    parser.add_argument("--commit", help="commit of the code, if it is not a git checkout")
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    source = arguments.sequences
    judging = [text for text in shipped_antibodies().judging if set(text) <= STANDARD]
    sequences = sample(read_sequences(source) if source else judging, arguments.rows)
    names = [arguments.only] if arguments.only else list(ENCODERS)
    with working(arguments.work) as work:
        found = {name: measure(arguments.encoders / name, arguments, sequences, work / name) for name in names}
    record: dict[str, Any] = {
        "machine": machine() | devices(arguments.provider),
        "weights": "trained",
        "provider": arguments.provider,
        "rows": len(sequences),
        "sequences": {"source": source.name if source else ANTIBODIES_NAME, "sha256": digest(sequences)},
        "repeats": arguments.repeats,
        "encoders": found,
    }
    if arguments.commit:
        record["machine"]["commit"] = arguments.commit
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(record, indent=2) + "\n")
    print("\n".join(table(record)))


if __name__ == "__main__":
    main()
