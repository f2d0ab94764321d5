"""The worker's side of the pipe, with JSON lines in both directions. It runs in every environment without packages."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from typing import Any

# Rows of a workload (strings, or token ids for an engine without a tokeniser) -> probabilities, or None.
Call = Callable[[list[Any]], Iterable[float]]


def serve(open_engine: Callable[[dict[str, Any]], dict[str, Call]], packages: Sequence[str]) -> None:
    """Open the engine for the request in the first line. Then answer each line and time it, until the pipe closes.

    Args:
        open_engine: takes the request and returns the calls that it answers. Its time includes imports.
        packages: packages whose versions go into the record.
    """
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # so that printed text of a library does not mix with the answers

        def answer(**values: Any) -> None:
            print(json.dumps(values), file=answers, flush=True)

        request = json.loads(sys.stdin.readline())
        started = time.perf_counter()
        calls = open_engine(request)
        open_s = time.perf_counter() - started
        versions = {"python": platform.python_version(), **{name: version(name) for name in packages}}
        answer(open_s=open_s, versions=versions)
        for line in sys.stdin:
            question = json.loads(line)
            rows = request["workloads"][question["workload"]]
            started, cpu_started = time.perf_counter(), time.process_time()
            p = calls[question["call"]](rows)
            seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
            answer(seconds=seconds, cpu_s=cpu_s, p=[float(value) for value in p])
