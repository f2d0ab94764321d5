"""One variant timed in a process of its own, which can be ended in the middle of a batch.

The process scores nothing that anybody is given. It runs two golden rows first: the speed of a variant that computes
wrongly is no speed.
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

# Residues of each sequence that is timed: a VH domain has about as many.
RESIDUES = 120
_LETTERS = tuple("ACDEFGHIKLMNPQRSTVWY")
# Of batches after the first one, which is not counted: kernels are chosen and memory is taken in it.
_SECONDS = 3.0
_LEAST = 2
# The parent's own search path: the child must find the same abonyx.
_CHILD = "import sys; sys.path[:] = sys.argv[1:]; from abonyx.cli import timing; timing.serve()"


class Timing(msgspec.Struct, frozen=True):
    """What was measured.

    Attributes:
        sequences_per_s: median over the batches; of RESIDUES residues each.
        open_s: opening it, two golden rows included.
        processors: that the batches kept busy; fewer than the threads if other processes had them.
    """

    sequences_per_s: float
    open_s: float
    processors: float


class _Answer(msgspec.Struct):
    """What the child writes: a Timing, or the error's class, what and fix."""

    found: Timing | None = None
    error: tuple[str, str, str] | None = None


def time_in_child(config: RuntimeConfig, limit_s: float) -> Timing | None:
    """Time the config's variant.

    Returns:
        None if the child did not end within `limit_s`, and was ended.

    Raises:
        EngineError: what the child raised.
        BundleError: the child was ended by a signal.
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
        what = f"{config.bundle}: the process that timed it ended with {done.returncode}"
        raise BundleError(what, "`abonyx doctor` without --measure tries it, self-test and all.")
    answer = msgspec.json.decode(done.stdout, type=_Answer)
    if answer.error is not None:
        name, what, fix = answer.error
        raise getattr(errors, name)(what, fix)
    return answer.found


def serve() -> None:
    """The child's life: a config on standard input, an answer on standard output."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
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
    """Open the config's variant in this process and run full batches for about `seconds`."""
    started = time.perf_counter()
    # direct: this process is the child that may crash
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
    """Sequences that fill the batches in flight, all different: the same one again would be run once."""
    length = min(RESIDUES, model.limit.residues)
    rows = model.static_shape[0] if model.static_shape else max(1, model.budget.tokens // (length + 2))
    drawn = np.random.default_rng(0).choice(_LETTERS, (rows * model.streams, length))
    return ["".join(row) for row in drawn]
