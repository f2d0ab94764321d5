"""Compare time, memory and parity of abonyx and its peers on the CPU; one run writes one JSON record.

    python benchmarks/cpu.py -o benchmarks/records/cpu.json --work out/bench
    python benchmarks/cpu.py -o RECORD.json --work DIR --layers 6 --repeats 2 --only old,abonyx-int8

Each engine runs in a separate process that stays loaded. In each repeat, every engine in turn scores the same real
sequences, from strings to probabilities. The encoders have the real shapes and random weights; the head is recentred.
If an engine's probabilities are too far from PyTorch's in float32, no record is written.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from abonyx.alphabet import Alphabet
from abonyx.bundle import open_bundle, tolerances
from abonyx.bundle.threshold import choose_threshold
from abonyx.engine.process import usable_processors
from commands import REPOSITORY, machine
from peaks import measure_peaks, peaks_line
from preparation import Prepared, digest, prepare, read_sequences, trusted_sample
from profile_cpu import show

DATA = REPOSITORY.parent / "shared" / "data"
SEQUENCES = 96
FEW = 32  # rows of the warm-up (one full batch of the peers), and of the check of an engine that only gives logits
PAUSE_S = 0.5  # wait between runs, because thread pools spin for a while after a run


class PeerEngine(NamedTuple):
    """How to run one engine: a module of peers/, its environment, its model and its options."""

    module: str
    precision: str
    model: str = "esm1v"
    environment: str = "main"
    options: dict[str, str] = {}  # noqa: RUF012  # never changed


ENGINES = {
    "old": PeerEngine("pytorch", "fp32"),
    "transformers-bf16": PeerEngine("pytorch", "bf16"),
    "optimum": PeerEngine("stock_onnx", "fp32", options={"with": "optimum"}),
    "fastembed-bio": PeerEngine("stock_onnx", "fp32", options={"with": "plain"}),
    "abonyx-fp32": PeerEngine("abonyx_session", "fp32", options={"provider": "cpu"}),
    "abonyx-int8": PeerEngine("abonyx_session", "int8", options={"provider": "cpu"}),
    "abonyx-openvino-fp32": PeerEngine("abonyx_session", "fp32", "esm1v", "openvino", {"provider": "openvino"}),
    "abonyx-openvino-int8": PeerEngine("abonyx_session", "int8", "esm1v", "openvino", {"provider": "openvino"}),
    "esm-cpp-int8": PeerEngine("esmcpp", "int8", "esm2", "esmcpp"),
    "abonyx-int8-esm2": PeerEngine("abonyx_session", "int8", "esm2", options={"provider": "cpu"}),
    "abonyx-openvino-int8-esm2": PeerEngine("abonyx_session", "int8", "esm2", "openvino", {"provider": "openvino"}),
}
# ESM-2 in PyTorch, and esm-cpp without quantisation. They check each other once, are not timed, and close before the
# other engines open.
REFERENCE_ESM2 = PeerEngine("pytorch", "fp32", "esm2")
ESMCPP_FP32 = PeerEngine("esmcpp", "fp32", "esm2", "esmcpp")
SHEHATA_ENGINES = ("abonyx-int8", "abonyx-openvino-int8")


class PeerProcess:
    """A process with one loaded engine."""

    def __init__(self, name: str, module: str, python: Path, request: dict[str, Any], log: Path) -> None:
        self.name, self.log = name, log
        threads = str(request["threads"])
        variables = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ESM_NUM_THREADS")
        environment = os.environ | dict.fromkeys(variables, threads)
        environment |= {"ABONYX_CACHE_DIR": str(log.parent / "cache"), "HF_HUB_OFFLINE": "1"}
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [str(python), "-m", f"peers.{module}"],
                cwd=Path(__file__).parent,  # from here `peers` can be imported without an install
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.opened = self.exchange(request)

    def exchange(self, question: dict[str, Any]) -> dict[str, Any]:
        """Send one line and return the answer. SystemExit with the end of the log if the process has ended."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise SystemExit(f"{self.name} ended with {self.process.wait()}:\n{self.log.read_text()[-3000:]}")
        found: dict[str, Any] = json.loads(answer)
        return found

    def ask(self, call: str, workload: str) -> dict[str, Any]:
        """{"seconds", "cpu_s", "p"} of one call."""
        return self.exchange({"call": call, "workload": workload})

    def memory_bytes(self, key: str) -> int | None:
        """VmHWM (peak memory) or VmRSS (current memory); None if the system has no /proc."""
        status = Path(f"/proc/{self.process.pid}/status")
        lines = status.read_text().splitlines() if status.exists() else []
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), None)

    def close(self) -> None:
        """Stop the process."""
        self.process.communicate()


@dataclass
class BenchmarkRun:
    """One engine's results.

    Attributes:
        seconds: time of each counted repeat.
        processors: number of busy processors; below the number of threads if other processes use them.
        p: probabilities of the last repeat; none from esm-cpp.
    """

    worker: PeerProcess
    seconds: list[float] = field(default_factory=list)
    processors: list[float] = field(default_factory=list)
    p: list[float] = field(default_factory=list)


def compare(p: npt.ArrayLike, reference: npt.ArrayLike, thresholds: list[float]) -> dict[str, Any]:
    """Differences between probabilities (n,) and the reference's."""
    from scipy.stats import spearmanr

    found, exact = np.asarray(p, np.float64), np.asarray(reference, np.float64)
    with np.errstate(divide="ignore"):
        logits = [np.log(values) - np.log1p(-values) for values in (found, exact)]
    return {
        "rows": len(exact),
        "max_dp": float(np.abs(found - exact).max()),
        "mean_dp": float(np.abs(found - exact).mean()),
        "max_dlogit": float(np.abs(logits[0] - logits[1]).max()),
        "spearman": float(spearmanr(found, exact).statistic),
        "flips": max(float(np.mean((found > value) != (exact > value))) for value in thresholds),
    }


def faults(figures: dict[str, Any], precision: str, max_dp: dict[str, float], *, peer: bool = False) -> list[str]:
    """Texts about exceeded limits.

    Args:
        figures: from compare().
        precision: "fp32", "bf16" or "int8".
        max_dp: precision -> limit of |dp|, given by the user. It replaces all other limits of that precision. A peer's
            int8 keeps its own limit.
        peer: whether another project did the quantisation.
    """
    usual = {"fp32": tolerances.FP32.p, "bf16": tolerances.PEER_BF16_P, "int8": tolerances.INT8_GATE_MAX_P}
    limits, least_spearman = {"max_dp": usual[precision]}, -1.0
    if peer and precision == "int8":
        limits["max_dp"] = tolerances.PEER_INT8_P
    elif precision in max_dp:
        limits["max_dp"] = max_dp[precision]
    elif precision == "int8":
        # The bundle's own gate has many rows; with fewer than 200 rows, a single flip is more than 0.5 %.
        flips = max(tolerances.INT8_GATE_FLIPS, 1 / figures["rows"])
        limits |= {"mean_dp": tolerances.INT8_GATE_MEAN_P, "flips": flips}
        least_spearman = tolerances.INT8_GATE_SPEARMAN
    # The condition is "not <=" instead of ">", so that NaN is a fault too.
    wrong = [f"{key} {figures[key]:.3g}, limit {limit:g}" for key, limit in limits.items() if not figures[key] <= limit]
    if not figures["spearman"] >= least_spearman:
        wrong.append(f"spearman {figures['spearman']:.5f}, at least {least_spearman:g}")
    return wrong


def spread(seconds: list[float]) -> dict[str, float]:
    """Median, min and max."""
    return {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)}


def parse() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("-o", "--output", type=Path, required=True)
    add("--work", type=Path, required=True, help="directory for checkpoints, bundles, logs; kept between runs")
    add("--layers", type=int, default=33, help="layers of both encoders; fewer for a quick run")
    add("--repeats", type=int, default=5)
    add("--only", help=f"engines to run, from {','.join(ENGINES)}; old always runs, as the reference")
    add("--variants", default="fp32,int8", help="variants to export; engines of other variants are left out")
    add("--sequences", type=Path, default=DATA / "repertoire" / "vh_vhh_repertoire.csv.gz")
    add("--count", type=int, default=SEQUENCES, help="number of sequences to sample, from those with a call")
    add("--shehata", type=Path, default=DATA / "shehata" / "VH_only_shehata.csv", help="CSV; only abonyx scores it")
    add("--no-shehata", action="store_true")
    add("--head", type=Path, default=DATA / "heads" / "esm1v_logreg" / "boughter_vh_esm1v_logreg.npz")
    add("--calibration", type=Path, help="as in abonyx export")
    add("--max-dp", action="append", default=[], metavar="VARIANT=VALUE", help="as in abonyx export; also a limit here")
    add("--accept", action="append", default=[], metavar="VARIANT=VALUE", help="limit of |dp| here, but not in export")
    add("--target", action="append", default=[], metavar="ENGINE/PEER=RATIO", help="expected ratio of speeds")
    add("--profile", action="store_true", help="also profile abonyx's graphs by operator")
    add("--peak-gops", type=float, help="peak speed of the processors in int8; the profile shows the reached share")
    for name in ("openvino", "esmcpp"):
        default = REPOSITORY / f".venv-bench-{name}" / "bin" / "python"
        add(f"--{name}-python", type=Path, default=default, help="interpreter of that environment")
    return parser.parse_args()


def choose(only: str | None, variants: list[str]) -> dict[str, PeerEngine]:
    """The engines to run, the reference first."""
    wanted = set(only.split(",")) if only else set(ENGINES)
    if unknown := wanted - set(ENGINES):
        raise SystemExit(f"no such engine: {', '.join(sorted(unknown))}; choose from {', '.join(ENGINES)}")
    return {
        name: engine
        for name, engine in ENGINES.items()
        if (name in wanted or name == "old") and (engine.module != "abonyx_session" or engine.precision in variants)
    }


class Benchmark:
    """One run: its options, its environments and its start time."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.started = time.perf_counter()
        self.threads = usable_processors()
        self.variants = arguments.variants.split(",")
        self.engines = choose(arguments.only, self.variants)
        given = (pair.partition("=") for pair in (*arguments.max_dp, *arguments.accept))
        self.max_dp = {name: float(value) for name, _, value in given}
        self.pythons = {
            "main": Path(sys.executable),
            "openvino": arguments.openvino_python.absolute(),
            "esmcpp": arguments.esmcpp_python.absolute(),
        }
        for engine in self.engines.values():
            if not self.pythons[engine.environment].exists():
                raise SystemExit(f"{self.pythons[engine.environment]} does not exist: run make bench, or use --only")
        for file in (arguments.sequences, arguments.head, *([] if arguments.no_shehata else [arguments.shehata])):
            if not file.is_file():
                raise SystemExit(f"{file} does not exist: give --sequences, --head and --shehata (or --no-shehata)")
        for text in arguments.target:
            if not set(text.partition("=")[0].split("/")) <= set(self.engines):
                raise SystemExit(f"--target {text}: this run does not have both engines")
        self.esmcpp_fp32: dict[str, Any] | None = None
        self.sequences = trusted_sample(read_sequences(arguments.sequences), arguments.count)
        self.shehata = [] if arguments.no_shehata else read_sequences(arguments.shehata)
        self.prepared = self._prepare()
        self.prepared_s = time.perf_counter() - self.started
        bundle = open_bundle(self.prepared.bundle["esm1v"])
        manifest = bundle.manifest
        self.thresholds = sorted({choose_threshold(bundle, None, None), *manifest.head.thresholds.values()})
        self.ids = [row.tolist() for row in Alphabet(manifest.alphabet).encode(self.sequences)]

    def say(self, line: str) -> None:
        """Print a line after the seconds since the start."""
        print(f"{time.perf_counter() - self.started:7.1f} s  {line}", flush=True)

    def _prepare(self) -> Prepared:
        given = self.arguments
        options = ["--head", str(given.head.absolute()), "--recentre-head", "--allow-encoder-mismatch"]
        options += ["--variants", given.variants]
        options += ["--calibration", str(given.calibration.absolute())] if given.calibration else []
        for pair in given.max_dp:
            options += ["--max-dp", pair] if pair.partition("=")[0] in self.variants else []
        modules = {engine.module for engine in self.engines.values()}
        peers = {peer for peer, module in (("stock", "stock_onnx"), ("masked_lm", "esmcpp")) if module in modules}
        models = {engine.model for engine in self.engines.values()}
        return prepare(given.work.absolute(), given.layers, models, peers, options, self.say)

    def open(self, name: str, engine: PeerEngine) -> PeerProcess:
        """Start an engine's process."""
        rows = self.ids if engine.module == "esmcpp" else self.sequences
        bundle = self.prepared.bundle[engine.model]
        request = {
            "threads": self.threads,
            "precision": engine.precision,
            "checkpoint": str(self.prepared.checkpoint[engine.model]),
            "bundle": str(bundle),
            "golden": str(bundle / "golden.npz"),
            "stock": str(self.prepared.stock),
            "masked_lm": str(self.prepared.masked_lm),
            "workloads": {"mixed": rows, "few": rows[:FEW], "first": rows[:4], "shehata": self.shehata},
            **engine.options,
        }
        log = self.arguments.work.absolute() / f"{name}.log"
        worker = PeerProcess(name, engine.module, self.pythons[engine.environment], request, log)
        self.say(f"opened {name} in {worker.opened['open_s']:.1f} s")
        return worker

    def references(self) -> dict[str, list[float]]:
        """ESM-2's probabilities in PyTorch float32, if an engine needs them."""
        if all(engine.model != "esm2" for engine in self.engines.values()):
            return {}
        p = self.once("reference-esm2", REFERENCE_ESM2, "score", "mixed")
        if "esm-cpp-int8" in self.engines:
            found = self.once("esm-cpp-fp32", ESMCPP_FP32, "check", "first")
            self.esmcpp_fp32 = compare(found, p[: len(found)], self.thresholds)
            if wrong := faults(self.esmcpp_fp32, "fp32", {}):
                raise SystemExit(f"esm-cpp without quantisation differs from PyTorch: {'; '.join(wrong)}")
        return {"esm2": p}

    def once(self, name: str, engine: PeerEngine, call: str, workload: str) -> list[float]:
        """Probabilities of one call, from a process that is started and closed here."""
        worker = self.open(name, engine)
        p: list[float] = worker.ask(call, workload)["p"]
        worker.close()
        return p

    def open_all(self, stack: ExitStack) -> dict[str, BenchmarkRun]:
        """Open every engine, one after the other."""
        runs = {}
        for name, engine in self.engines.items():
            runs[name] = BenchmarkRun(self.open(name, engine))
            stack.callback(runs[name].worker.close)
        return runs

    def repeat(self, runs: dict[str, BenchmarkRun], repeats: range) -> None:
        """Run each engine in turn. Repeat 0 is the warm-up with few rows and is not counted."""
        for repeat in repeats:
            for name, run in runs.items():
                time.sleep(PAUSE_S)
                answer = run.worker.ask("score", "mixed" if repeat else "few")
                run.p = answer["p"]
                if repeat:
                    run.seconds.append(answer["seconds"])
                    run.processors.append(answer["cpu_s"] / answer["seconds"])
                self.say(f"{f'repeat {repeat}' if repeat else 'warm-up'}: {name} {answer['seconds']:.2f} s")

    def parity(
        self, runs: dict[str, BenchmarkRun], references: dict[str, list[float]]
    ) -> tuple[dict[str, Any], list[str]]:
        """Every engine's differences from PyTorch float32, and texts about exceeded limits."""
        figures, wrong = {}, []
        for name, run in runs.items():
            engine = self.engines[name]
            reference = references[engine.model]
            p = run.p or run.worker.ask("check", "few")["p"]
            figures[name] = compare(p, reference[: len(p)], self.thresholds)
            peer = engine.module == "esmcpp"
            wrong += [f"{name}: {text}" for text in faults(figures[name], engine.precision, self.max_dp, peer=peer)]
        return figures, wrong

    def profiles(self) -> list[dict[str, Any]]:
        """Operator profiles of the ESM-1v bundle's variants, each in a separate process."""
        found = []
        script = Path(__file__).with_name("profile_cpu.py")
        for variant in self.variants:
            output = self.arguments.work.absolute() / f"profile-{variant}.json"
            command = [sys.executable, script, self.prepared.bundle["esm1v"], "--variant", variant, "-o", output]
            if self.arguments.peak_gops and variant == "int8":
                command += ["--peak-gops", str(self.arguments.peak_gops)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            found.append(json.loads(output.read_text()))
            show(found[-1])
        return found

    def record(self) -> dict[str, Any]:
        """Run everything. SystemExit if an engine's probabilities are too far from the reference."""
        peaks = measure_peaks()  # before the engines use memory and threads
        self.say(peaks_line(peaks))
        references = self.references()
        with ExitStack() as stack:
            runs = self.open_all(stack)
            self.repeat(runs, range(2))
            references["esm1v"] = runs["old"].p
            parity, wrong = self.parity(runs, references)
            if wrong:
                self.say("parity failed; the other repeats are skipped")
            else:
                self.repeat(runs, range(2, self.arguments.repeats + 1))
                parity, wrong = self.parity(runs, references)
            shehata = {}
            for name in SHEHATA_ENGINES if self.shehata and not wrong else ():
                if name in runs:
                    shehata[name] = runs[name].worker.ask("score", "shehata")["seconds"]
                    self.say(f"Shehata's {len(self.shehata)}: {name} {shehata[name]:.1f} s")
            engines = {
                name: {
                    **self.engines[name]._asdict(),
                    "seconds": spread(run.seconds),
                    "sequences_per_s": len(self.sequences) / statistics.median(run.seconds),
                    "runs": run.seconds,
                    "processors": statistics.median(run.processors),
                    "parity": parity[name],
                    "open_s": run.worker.opened["open_s"],
                    "peak_memory_bytes": run.worker.memory_bytes("VmHWM"),
                    "memory_bytes": run.worker.memory_bytes("VmRSS"),
                    "versions": run.worker.opened["versions"],
                }
                for name, run in runs.items()
            }
        times_faster = ratios({name: figures["seconds"]["median"] for name, figures in engines.items()})
        self.report(engines, times_faster)
        for model, bundle in self.bundles().items():
            for name, variant in bundle["variants"].items():
                self.say(f"{model} {name}: {variant.get('quantization') or 'not quantised'}")
        if wrong:
            raise SystemExit("parity failed, no record was written:\n  " + "\n  ".join(wrong))
        return {
            "machine": machine(),
            "achieved_peaks": peaks,
            "layers": self.arguments.layers,
            "workload": {
                "file": self.arguments.sequences.name,
                "sequences": len(self.sequences),
                "residues": sum(map(len, self.sequences)),
                "sha256": digest(self.sequences),
            },
            "thresholds": self.thresholds,
            "max_dp": self.max_dp,
            "bundles": self.bundles(),
            "engines": engines,
            "times_faster": times_faster,
            "targets": targets(self.arguments.target, times_faster),
            "shehata": {"sequences": len(self.shehata), "sha256": digest(self.shehata), "seconds": shehata},
            "profiles": self.profiles() if self.arguments.profile else [],
            "esm-cpp-fp32": self.esmcpp_fp32,
            "preparation_s": self.prepared_s,
            "total_s": time.perf_counter() - self.started,
        }

    def bundles(self) -> dict[str, Any]:
        """The exported bundles: hashes, and each variant's parity record."""
        found = {}
        for model in sorted({engine.model for engine in self.engines.values()}):
            bundle = open_bundle(self.prepared.bundle[model])
            variants = msgspec.to_builtins(bundle.manifest.variants)
            found[model] = {"sha256": bundle.sha256, "variants": variants}
        return found

    def report(self, engines: dict[str, Any], times_faster: dict[str, dict[str, float]]) -> None:
        """Print the table."""
        heads: tuple[str, ...] = ("median s", "min", "max", "seq/s", "cpus", "peak MB", "open s")
        heads += ("max dp", "mean dp", "dlogit", "spearman", "flips")
        print(f"{'engine':22s}", *(f"{head:>8s}" for head in heads))
        for name, figures in engines.items():
            seconds, parity = figures["seconds"], figures["parity"]
            print(f"{name:22s}", *(f"{seconds[key]:8.3f}" for key in ("median", "min", "max")), end=" ")
            print(f"{figures['sequences_per_s']:8.2f} {figures['processors']:8.2f}", end=" ")
            print(f"{(figures['peak_memory_bytes'] or 0) / 1e6:8.0f} {figures['open_s']:8.1f}", end=" ")
            print(*(f"{parity[key]:8.1e}" for key in ("max_dp", "mean_dp", "max_dlogit")), end=" ")
            print(f"{parity['spearman']:8.5f} {parity['flips']:8.2%}")
        for name, by_peer in times_faster.items():
            print(f"{name}: " + ", ".join(f"{value:.2f} x {peer}" for peer, value in by_peer.items()))


def ratios(medians: dict[str, float]) -> dict[str, dict[str, float]]:
    """How many times faster each abonyx engine is than every other engine."""
    return {
        name: {peer: other / seconds for peer, other in medians.items() if peer != name}
        for name, seconds in medians.items()
        if name.startswith("abonyx")
    }


def targets(wanted: list[str], times_faster: dict[str, dict[str, float]]) -> dict[str, dict[str, float | bool]]:
    """Compare each ENGINE/PEER=RATIO with the measured ratio."""
    found: dict[str, dict[str, float | bool]] = {}
    for text in wanted:
        pair, _, value = text.partition("=")
        engine, _, peer = pair.partition("/")
        ratio = times_faster[engine][peer]
        found[pair] = {"target": float(value), "ratio": ratio, "of_target": ratio / float(value)}
    return found


def main() -> None:
    """Run the benchmark and write the record."""
    arguments = parse()
    record = Benchmark(arguments).record()
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
