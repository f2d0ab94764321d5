"""Compare small concurrent requests to `abonyx serve` with `abonyx score` of the same sequences; writes a JSON record.

    python benchmarks/serve.py -o benchmarks/records/serve.json
    python benchmarks/serve.py -o RECORD.json --rows 100 --repeats 1 [FILE]
    python benchmarks/serve.py -o RECORD.json --bundle DIR --provider cuda --clients 64 --processes 8 --rows 20000

The rows are FILE's sequences (default: the examples) and mutants of them, with one to five substitutions each (fixed
seed). The mutants stay close to antibodies, because other text takes five times as long to judge. The script starts one
service. Then it repeats the following --repeats times: the command scores the file, and the service scores it once for
each number of sequences per request (PER_REQUEST). The clients are threads of this process or of other processes on the
same machine, and use part of its processor time. For the command, reading, opening and exit are not counted. The exit
code is 1 if a score differs by more than the tolerance between batches, or if the median ratio of the throughputs is
below TARGET.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import http.client
import json
import queue
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from abonyx.bundle import open_bundle
from abonyx.bundle.tolerances import BATCH_NEIGHBOURS, FLOAT16_NEIGHBOURS
from abonyx.engine.cuda_driver import read_cuda_driver
from commands import ABONYX, REPOSITORY, machine
from gpu import harvey_scale
from preparation import read_sequences

TARGET = 0.85
PER_REQUEST = (1, 8)
# By default, the service accepts at most 32 requests at a time from one address.
CLIENTS = 24
# Code of a process with clients. It reads the rows from standard input and writes the answers to standard output.
CLIENT = "import serve; serve.client_process()"


def score(source: Path, output: Path, options: list[str]) -> tuple[float, dict[str, float]]:
    """Seconds of scoring and writing, and p by id."""
    command = [*ABONYX, "score", str(source), "-o", str(output), "--log-json", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r", in ([\d.]+) s on ", done.stderr)
    if done.returncode or not found:
        raise SystemExit(f"{command} failed with {done.returncode}:\n{done.stderr}")
    with output.open(newline="") as file:
        return float(found[1]), {row["id"]: float(row["p_nonspecific"]) for row in csv.DictReader(file)}


@contextlib.contextmanager
def service(*arguments: str) -> Iterator[int]:
    """Run a service with its defaults, except for these arguments; yields its port."""
    command = [*ABONYX, "serve", "--port", "0", "--log-json", *arguments]
    with tempfile.NamedTemporaryFile("w+") as log:  # not a pipe: if nobody reads it, it fills up and blocks the service
        process = subprocess.Popen(command, stderr=log, text=True)
        while not (found := re.search(r"listening at http://127\.0\.0\.1:(\d+)\D", Path(log.name).read_text())):
            if process.poll() is not None:
                raise SystemExit(f"{command} ended with {process.returncode}:\n{Path(log.name).read_text()}")
            time.sleep(0.05)
        try:
            yield int(found[1])
        finally:
            process.send_signal(signal.SIGTERM)
            if process.wait():
                raise SystemExit(f"{command} ended with {process.returncode}:\n{Path(log.name).read_text()[-4000:]}")


def client_process() -> None:
    """Send the requests that standard input describes, and write the seconds and p by id to standard output."""
    asked = json.load(sys.stdin)
    json.dump(ask(asked["port"], asked["rows"], asked["per_request"], asked["clients"]), sys.stdout)


def ask_from(
    processes: int, port: int, rows: list[dict[str, str]], per_request: int, clients: int
) -> tuple[float, dict[str, float]]:
    """Like ask(), with the clients in several processes. The seconds are those of the slowest, without its start."""
    if processes == 1:
        return ask(port, rows, per_request, clients)
    running = []
    for number in range(processes):
        process = subprocess.Popen(
            [sys.executable, "-c", CLIENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        part = {"port": port, "rows": rows[number::processes], "per_request": per_request}
        assert process.stdin is not None
        json.dump(part | {"clients": clients // processes}, process.stdin)
        running.append(process)
    for process in running:  # every process has its rows before the first one sends a request
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    answers = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise SystemExit("a client process failed; its error is above")
    found = [json.loads(answer) for answer in answers]
    return max(seconds for seconds, _ in found), {id_: p for _, part in found for id_, p in part.items()}


def ask(port: int, rows: list[dict[str, str]], per_request: int, clients: int) -> tuple[float, dict[str, float]]:
    """Seconds from the first request to the last answer, and p by id."""
    bodies: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    for start in range(0, len(rows), per_request):
        bodies.put(json.dumps({"sequences": rows[start : start + per_request]}).encode())
    found: dict[str, float] = {}
    failed: list[str] = []

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        with contextlib.closing(connection), contextlib.suppress(queue.Empty):
            while not failed:
                connection.request("POST", "/v1/score", bodies.get_nowait(), {"Content-Type": "application/json"})
                answer = connection.getresponse()
                body = answer.read()
                if answer.status != 200:
                    failed.append(body.decode())
                    return
                found.update((row["id"], row["p_nonspecific"]) for row in json.loads(body)["results"])

    threads = [threading.Thread(target=client) for _ in range(clients)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise SystemExit(f"the service refused a request: {failed[0]}")
    return time.perf_counter() - started, found


def compare(
    source: Path, folder: Path, repeats: int, options: list[str], clients: int, processes: int
) -> dict[str, Any]:
    """Run the command and the service in turns, both with `options`; returns figures and the largest |dp|."""
    with source.open(newline="") as file:
        rows = [{"id": row["id"], "sequence": row["sequence"]} for row in csv.DictReader(file)]
    seconds: dict[str, list[float]] = {name: [] for name in ("score", *map(str, PER_REQUEST))}
    largest = 0.0
    limits = ["--max-requests-per-client", str(max(32, 2 * clients)), "--max-requests", str(max(128, 2 * clients))]
    with service(*options, *limits) as port:
        for size in PER_REQUEST:  # a warm-up, because a service in use is warm
            ask(port, rows[: 4 * size * clients], size, clients)
        for repeat in range(repeats):
            taken, expected = score(source, folder / f"{repeat}.csv", options)
            seconds["score"].append(taken)
            for size in PER_REQUEST:
                taken, found = ask_from(processes, port, rows, size, clients)
                seconds[str(size)].append(taken)
                largest = max(largest, *(abs(found[id_] - p) for id_, p in expected.items()))
                print(f"{size} per request: {taken:.2f} s, abonyx score {seconds['score'][-1]:.2f} s", flush=True)
    base = seconds.pop("score")
    return {
        "score": _figure(base, len(rows)),
        "serve": {
            size: _figure(times, len(rows))
            | {"of_score": statistics.median(one / other for one, other in zip(base, times, strict=True))}
            for size, times in seconds.items()
        },
        "max_dp": largest,
    }


def _figure(seconds: list[float], rows: int) -> dict[str, Any]:
    return {"seconds": seconds, "sequences_per_s": rows / statistics.median(seconds)}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "source", nargs="?", type=Path, default=REPOSITORY / "examples" / "therapeutic_vh.csv", metavar="FILE"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON record")
    parser.add_argument("--rows", type=int, default=1_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--bundle", help="default: the shipped one")
    parser.add_argument("--provider", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--processes", type=int, default=1, help="processes that run the clients")
    parser.add_argument("--weights", default="trained (abonyx-mini)", help="text about the weights, for the record")
    arguments = parser.parse_args()
    bundle = open_bundle(arguments.bundle)
    options = ["--provider", arguments.provider, *(["--bundle", arguments.bundle] if arguments.bundle else [])]
    variant = bundle.variant(arguments.provider, None)[0]
    tolerance = FLOAT16_NEIGHBOURS if variant == "cuda-fp16" else BATCH_NEIGHBOURS
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in.csv"
        rows = harvey_scale(read_sequences(arguments.source), arguments.rows)
        source.write_text(
            "id,sequence\n" + "".join(f"row{at},{row}\n" for at, row in enumerate(rows)), encoding="utf-8"
        )
        found = compare(source, Path(folder), arguments.repeats, options, arguments.clients, arguments.processes)
    record = {
        "machine": machine(),
        "card": [device.name for device in read_cuda_driver().devices] if arguments.provider == "cuda" else None,
        "weights": arguments.weights,
        "bundle": bundle.name,
        "bundle_sha256": bundle.sha256,
        "variant": variant,
        "layers": bundle.manifest.encoder.layers,
        "rows": arguments.rows,
        "clients": arguments.clients,
        "client_processes": arguments.processes,
        "target": TARGET,
        **found,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(record, indent=2) + "\n")
    slow = {size: part["of_score"] for size, part in found["serve"].items() if part["of_score"] < TARGET}
    if slow or found["max_dp"] > tolerance:
        sys.exit(f"throughput ratio below {TARGET}: {slow}; max |dp| {found['max_dp']:.3g}, limit {tolerance}")


if __name__ == "__main__":
    main()
