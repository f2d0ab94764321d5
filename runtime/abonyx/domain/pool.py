"""Judging many records in child processes: immunum holds the interpreter's lock, so threads do not help.

A child reads its whole share, judges it, writes the judgements and ends. It ignores Ctrl-C, because its parent ends it,
and looks now and then whether the parent is still there. No threads: a caller that wants to score meanwhile runs
judge_in_children on a thread of its own, which only waits.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator
from typing import IO

import msgspec

from abonyx.domain.flags import Judgement, judge
from abonyx.engine.process import usable_processors
from abonyx.errors import EngineError
from abonyx.wording import option

# A child starts in a fifth of a second, in which one process judges some 1,500 records.
MIN_POOLED = 8_000
MAX_CHILDREN = 8
# Records that a child judges before it looks whether its parent is still there; under half a second.
_PIECE = 500
# The parent's own search path: a child must find the same abonyx and immunum, wherever the parent found them.
_CHILD = "import sys; sys.path[:] = sys.argv[2:]; from abonyx.domain import pool; pool.serve(int(sys.argv[1]))"


class PoolShare(msgspec.Struct, frozen=True, array_like=True):
    """What a child judges."""

    sequences: list[str]
    chains: tuple[str, ...]


def judge_in_children(
    sequences: Collection[str], chains: Collection[str] = ("H",), children: int | None = None
) -> list[Judgement]:
    """As judge, with the same result, by several processes if that is faster.

    Args:
        sequences, chains: as judge.
        children: how many processes to start; 0 = judge here; None = choose by the work and the processors.

    Raises:
        ValueError: an unknown chain.
        EngineError: a child did not end well.
    """
    judge((), chains)  # for what it raises
    unique = list(dict.fromkeys(sequences))
    if children is None:
        children = chosen_children(len(unique))
    # A lone surrogate cannot cross a pipe as UTF-8; it is no residue, so it costs nothing to judge it here.
    portable = [sequence for sequence in unique if sequence.isascii()] if children else []
    if not portable:
        return judge(sequences, chains)
    children = min(children, len(portable))
    # Every n-th record, so that a file sorted by length or chain gives equal shares.
    shares = [PoolShare(portable[index::children], tuple(chains)) for index in range(children)]
    judgements: dict[str, Judgement] = {}
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(_child()) for _ in shares]
        for process, share in zip(processes, shares, strict=True):
            _send(process, share)
        for process, share in zip(processes, shares, strict=True):
            judgements.update(zip(share.sequences, _receive(process), strict=True))
    others = [sequence for sequence in unique if sequence not in judgements]
    judgements.update(zip(others, judge(others, chains), strict=True))
    return [judgements[sequence] for sequence in sequences]


def chosen_children(unique: int) -> int:
    """Processes for so many different records: half of the processors, at most MAX_CHILDREN; 0 = none."""
    processors = usable_processors()
    if unique < MIN_POOLED or processors < 4 or not sys.executable:
        return 0
    return min(MAX_CHILDREN, processors // 2, unique // (MIN_POOLED // 4))


def serve(parent: int) -> None:
    """A child's life: one share in, its judgements out.

    Args:
        parent: the process that reads the judgements.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C and ends its children
    data = sys.stdin.buffer.read()
    if not data:  # the parent ended first
        return
    share = msgspec.msgpack.decode(data, type=PoolShare)
    judgements: list[Judgement] = []
    for start in range(0, len(share.sequences), _PIECE):
        if os.name == "posix" and os.getppid() != parent:
            os._exit(0)
        judgements += judge(share.sequences[start : start + _PIECE], share.chains)
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.buffer.write(msgspec.msgpack.encode(judgements))
        sys.stdout.buffer.flush()
    os._exit(0)  # nothing to clean up, and a closed pipe is not an error here


@contextlib.contextmanager
def _child() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(os.getpid()), *sys.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        process.wait()


def _send(process: subprocess.Popen[bytes], share: PoolShare) -> None:
    """Write the whole share; a child answers only after it has read all of it, so neither waits for the other."""
    stream = _open(process.stdin)
    with contextlib.suppress(BrokenPipeError):  # a child that ended says why in _receive
        stream.write(msgspec.msgpack.encode(share))
        stream.close()


def _receive(process: subprocess.Popen[bytes]) -> list[Judgement]:
    data = _open(process.stdout).read()
    # Read after the output's end, when the child has ended: a traceback is far smaller than a pipe's buffer.
    message = _open(process.stderr).read().decode(errors="replace").strip()
    code = process.wait()
    if code or not data:
        raise EngineError(
            f"a process that judges records ended with code {code}: {message[-500:] or 'without a message'}",
            f"Run it again. If it fails again, report the message; {option('domain')} off scores without judging.",
        )
    return msgspec.msgpack.decode(data, type=list[Judgement])


def _open(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None  # subprocess.PIPE was given
    return stream
