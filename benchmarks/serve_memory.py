"""Watch the memory of `abonyx serve` over many requests and reloads; writes a JSON record.

    python benchmarks/serve_memory.py -o benchmarks/records/serve_memory.json
    python benchmarks/serve_memory.py -o RECORD.json --requests 1000 --reloads 4

There is one service with the shipped bundle. Every tenth request scores a new sequence. The service refuses all other
requests; their paths, methods, headers and bodies are all different. Then the service is reloaded, alternating between
a bad copy of the bundle (which leaves no model open) and the bundle itself. There are three kinds of bad copies (BAD).
The service reports its resident memory and open files (/metrics). The exit code is 1 if memory grows by more than
tolerances.MEMORY_BYTES after the first tenth of the requests or after the second good reload, or if files stay open.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from abonyx.bundle import open_bundle
from abonyx.bundle.manifest import RESIDUES
from abonyx.bundle.tolerances import MEMORY_BYTES
from abonyx.hashing import file_sha256
from commands import machine
from serve import service

TOKEN = "the-token-of-this-benchmark"
_JSON = {"Content-Type": "application/json"}


def ask(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes = b"", headers: dict[str, str] = _JSON
) -> tuple[int, bytes]:
    """Send one request on a connection that stays open."""
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


def held(connection: http.client.HTTPConnection) -> dict[str, int]:
    """Resident bytes and open files of the service."""
    text = ask(connection, "GET", "/metrics")[1].decode()
    found = dict(re.findall(r"^process_(resident_memory_bytes|open_fds) (\S+)$", text, re.MULTILINE))
    return {name: int(float(value)) for name, value in found.items()}


def requests(connection: http.client.HTTPConnection, count: int, seed: int = 0) -> list[dict[str, int]]:
    """Send `count` requests; returns memory and open files after each tenth of them."""
    draw = random.Random(seed)
    samples = []
    for number in range(1, count + 1):
        if number % 10 == 0:
            sequence = "".join(draw.choices(RESIDUES.replace("X", ""), k=draw.randint(40, 120)))
            status, _ = ask(connection, "POST", "/v1/score", json.dumps([sequence]).encode())
            wanted = 200
        elif number % 10 < 4:
            status, _ = ask(connection, "GET", f"/{draw.randrange(10**9)}", headers={f"X-{number}": str(number)})
            wanted = 404
        elif number % 10 < 7:
            status, _ = ask(connection, f"WORD{number}", "/readyz")
            wanted = 405
        else:
            status, _ = ask(connection, "POST", "/v1/score", b'{"k%d": 1}' % number)
            wanted = 422
        if status != wanted:
            raise SystemExit(f"request {number} was answered {status}, not {wanted}")
        if number % max(1, count // 10) == 0:
            samples.append(held(connection))
    return samples


def other_bytes(copy: Path) -> None:
    """Reverse the order of the bytes in the middle of the largest file, so that its hash is wrong."""
    largest = max((path for path in copy.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    whole = largest.read_bytes()
    third = len(whole) // 3
    largest.write_bytes(whole[:third] + whole[third:-third][::-1] + whole[-third:])


def other_weights(copy: Path) -> None:
    """Change the file like other_bytes, with a correct hash, so that the golden rows give wrong numbers."""
    other_bytes(copy)
    reseal(copy)


def another_axis(copy: Path) -> None:
    """Add an axis to the embedding, with a correct hash, so that the outputs do not have the manifest's shape."""
    (path,) = copy.glob("*/model.onnx")
    graph = onnx.load(path, load_external_data=False)
    for node in graph.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == "embedding":
                    names[index] = "flat"
    graph.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0, 2], np.int64), "axes"))
    graph.graph.node.append(onnx.helper.make_node("Unsqueeze", ["flat", "axes"], ["embedding"]))
    next(output for output in graph.graph.output if output.name == "embedding").type.tensor_type.ClearField("shape")
    path.write_bytes(graph.SerializeToString())
    reseal(copy)


BAD: tuple[Callable[[Path], None], ...] = (other_bytes, other_weights, another_axis)


def reseal(copy: Path) -> None:
    """Write the manifest again with the hashes of the current files."""
    path = copy / "manifest.json"
    manifest = json.loads(path.read_text())
    for name in manifest["files"]:
        size = (copy / name).stat().st_size
        manifest["files"][name] = {"sha256": file_sha256(copy / name), "size_bytes": size}
    path.write_text(json.dumps(manifest))


def reloads(connection: http.client.HTTPConnection, count: int, config: Path, folder: Path) -> list[dict[str, int]]:
    """Reload `count` times, bad and good in turn; returns memory and open files after each good reload."""
    bundle = open_bundle(None).path
    for spoil in BAD:
        spoil(shutil.copytree(bundle, folder / spoil.__name__))
    samples = []
    for number in range(count):
        good = number % 2 == 1
        bad = folder / BAD[number // 2 % len(BAD)].__name__
        config.write_text(f'bundle = "{(bundle if good else bad).as_posix()}"\n')
        status, body = ask(connection, "POST", "/v1/reload", headers={"Authorization": f"Bearer {TOKEN}"})
        ready, _ = ask(connection, "GET", "/readyz")
        if (status, ready) != ((200, 200) if good else (500, 503)):
            raise SystemExit(f"reload {number} was answered {status}, /readyz {ready}: {body[:500]!r}")
        if good:
            samples.append(held(connection))
    return samples


def growth(samples: list[dict[str, int]], first: int) -> dict[str, int]:
    """The growth of the largest later sample over the sample at index `first`."""
    return {name: max(one[name] for one in samples[first:]) - samples[first][name] for name in samples[first]}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON record")
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--reloads", type=int, default=30)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        config, token = folder / "abonyx.toml", folder / "token"
        config.write_text("")
        token.write_text(TOKEN)
        with service("--config", str(config), "--admin-token-file", str(token)) as port:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
            asked = requests(connection, arguments.requests)
            reloaded = reloads(connection, arguments.reloads, config, folder)
            connection.close()
    record: dict[str, Any] = {
        "machine": machine(),
        "requests": {"count": arguments.requests, "growth_after_a_tenth": growth(asked, 0), "samples": asked},
        "reloads": {
            "count": arguments.reloads,
            "bad": [one.__name__ for one in BAD],
            "growth_after_second": growth(reloaded, 1),
            "samples": reloaded,
        },
        "limits": {"resident_memory_bytes": MEMORY_BYTES, "open_fds": 0},
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(record, indent=2) + "\n")
    over = [
        f"{part}: {name} grew by {value}, limit {record['limits'][name]}"
        for part, found in (("requests", growth(asked, 0)), ("reloads", growth(reloaded, 1)))
        for name, value in found.items()
        if value > record["limits"][name]
    ]
    print("\n".join(over) or f"within the limits: growth {growth(asked, 0)}, over reloads {growth(reloaded, 1)}")
    sys.exit(bool(over))


if __name__ == "__main__":
    main()
