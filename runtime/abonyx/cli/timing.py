"""Measure the speed of one variant in a child process, which can be ended in the middle of a batch.

The scores that the process computes are not returned. It runs two golden rows first. A variant that computes wrong
numbers fails there, and no speed is reported for it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time

import msgspec
import numpy as np

from abonyx import errors
from abonyx.config import RuntimeConfig
from abonyx.errors import BundleError, EngineError, first_line
from abonyx.model import OpenModel, open_model

# Number of residues in each sequence: about as many as in a VH domain.
RESIDUES = 120
_LETTERS = tuple("ACDEFGHIKLMNPQRSTVWY")
# Seconds of measurement, after a first batch that is not counted: it chooses kernels and allocates memory.
_SECONDS = 3.0
_LEAST = 2
# The child gets the parent's search path, because it must import the same abonyx.
_CHILD = "import sys; sys.path[:] = sys.argv[1:]; from abonyx.cli import timing; timing.serve()"


class Timing(msgspec.Struct, frozen=True):
    """The result of a measurement.

    Attributes:
        sequences_per_s: sequences of RESIDUES residues per second; median over the batches.
        open_s: seconds to open the model, two golden rows included.
        processors: number of processors that the batches used. It is smaller than the number of threads if other
            processes were busy.
    """

    sequences_per_s: float
    open_s: float
    processors: float


class _Answer(msgspec.Struct):
    """The child's answer: a Timing, or an error as (class name, what, fix)."""

    found: Timing | None = None
    error: tuple[str, str, str] | None = None


def time_in_child(config: RuntimeConfig, limit_s: float) -> Timing | None:
    """Measure the speed of the config's variant.

    Returns:
        The result; None if the child took longer than `limit_s` seconds and was ended.

    Raises:
        EngineError: the child raised this error.
        BundleError: the child ended with another exit code than 0, for example because of a signal.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _CHILD, *(entry for entry in sys.path if entry)],
            input=json.dumps(dataclasses.asdict(config)).encode(),
            capture_output=True,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:
        what = f"{config.bundle}: the process that measured its speed ended with exit code {done.returncode}"
        raise BundleError(what, "Run `abonyx doctor` without --measure: it tests the variant and reports more.")
    answer = msgspec.json.decode(done.stdout, type=_Answer)
    if answer.error is not None:
        name, what, fix = answer.error
        raise getattr(errors, name)(what, fix)
    return answer.found


def serve() -> None:
    """Run as the child: read a config from standard input, write an answer to standard output."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # text that a library prints must not mix with the answer
    config = msgspec.convert(json.load(sys.stdin), type=RuntimeConfig)
    try:
        answer = _Answer(found=time_variant(config))
    except EngineError as error:
        answer = _Answer(error=(type(error).__name__, *error.marked))
    except MemoryError as error:
        answer = _Answer(error=("OutOfDeviceMemory", f"{config.bundle}: {first_line(error)}", "Free memory."))
    with answers:
        answers.write(json.dumps(msgspec.to_builtins(answer)).encode())


def time_variant(config: RuntimeConfig, seconds: float = _SECONDS) -> Timing:
    """Open the config's variant in this process, and run full batches for about `seconds`."""
    started = time.perf_counter()
    # direct=True: this process is the child, so it may crash
    with open_model(config, self_test="quick", direct=True) as model:
        open_s = time.perf_counter() - started
        sequences = _full_batch(model)
        model.embed(sequences)
        rates: list[float] = []
        started, used = time.perf_counter(), time.process_time()
        while len(rates) < _LEAST or time.perf_counter() - started < seconds:
            before = time.perf_counter()
            model.embed(sequences)
            rates.append(len(sequences) / (time.perf_counter() - before))
        processors = (time.process_time() - used) / (time.perf_counter() - started)
    return Timing(statistics.median(rates), open_s, processors)


def _full_batch(model: OpenModel) -> list[str]:
    """Sequences that fill all batches that run at the same time. They all differ, because equal ones would run once."""
    length = min(RESIDUES, model.limit.residues)
    rows = model.static_shape[0] if model.static_shape else max(1, model.budget.tokens // (length + 2))
    drawn = np.random.default_rng(0).choice(_LETTERS, (rows * model.streams, length))
    return ["".join(row) for row in drawn]
