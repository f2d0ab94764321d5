"""A child process that judges sequences. It reads shares and writes judgements until its input ends.

A frame is a mark, four bytes with a length, and a message of that length in msgpack. The parent writes a frame and then
reads one, so no side is blocked by a full pipe. A child ignores the signals that end a service. It ends when its parent
kills it, or when its input ends or its output is closed.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import IO, Any, BinaryIO, TypeVar

import msgspec

from abonyx.domain.flags import Judgement, judge, judged_by
from abonyx.engine.process import search_path

# A start-up hook of Python can print to standard output too. What comes before a mark is skipped, up to this much.
_MOST_SKIPPED_BYTES = 1 << 16
_MARK = b"\0abonyx\0"
_LENGTH_BYTES = 4
# A waiting child checks this often whether its parent still runs, because a fork of the parent can keep the pipe open.
_LOOK_S = 5.0
# How long a child whose answer was wrong may take to end by itself.
_END_S = 5.0
_IGNORED = ("SIGINT", "SIGTERM", "SIGHUP")
# The parent's own search path: a child must find the same abonyx and immunum, wherever the parent found them.
_CHILD = "import sys; sys.path[:] = sys.argv[2:]; from abonyx.domain import child; child.serve(int(sys.argv[1]))"

Message = TypeVar("Message")


class Share(msgspec.Struct, frozen=True, array_like=True):
    """Sequences that are judged by the same rule.

    Attributes:
        sequences: ASCII texts.
        chains: as in flags.judge.
    """

    sequences: list[str]
    chains: tuple[str, ...]


class Request(msgspec.Struct, frozen=True, array_like=True):
    """What a child is asked.

    Attributes:
        number: that of the request to this child, counted from 1.
    """

    number: int
    shares: list[Share]


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """What a child answers.

    Attributes:
        number: that of the request.
        judged_by: as flags.judged_by, in the child.
        judgements: those of each share, in order.
    """

    number: int
    judged_by: str
    judgements: list[list[Judgement]]


class ChildEnded(Exception):
    """A child ended, or its answer was not the judgements of its shares.

    Attributes:
        reason: the child's exit code, and the problem with its answer or else the last line that it printed.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class OtherRules(ChildEnded):
    """A child judges by other rules or another immunum than this process."""


class Child:
    """A running child. One thread at a time uses it; any thread may kill it.

    Args:
        judged_by: what flags.judged_by gives in this process. A child may differ: a package can be replaced meanwhile.

    Raises:
        OSError: the system cannot start a process.
    """

    def __init__(self, judged_by: str) -> None:
        self._judged_by = judged_by
        self._printed = _file_for_text()
        self._number = 0  # of the last request
        self._old_text = 0  # bytes in _printed from before the child got its present shares
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _CHILD, str(os.getpid()), *search_path()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL if self._printed is None else self._printed,
                start_new_session=True,  # Ctrl-C in a terminal is for the parent
            )
        except BaseException:
            if self._printed is not None:
                self._printed.close()
            raise

    def judge(self, shares: Sequence[Share]) -> list[list[Judgement]]:
        """The judgements of each share's sequences, in order.

        Raises:
            ChildEnded: the child gave no judgements. It cannot be used again.
            OtherRules: it judges in another way.
        """
        try:
            self._number += 1
            _write(_open(self._process.stdin), Request(self._number, list(shares)))
            answer = _read(_open(self._process.stdout), Answer)
        except OSError as error:
            raise self._ended() from error
        except ValueError as error:  # msgspec's errors are ValueErrors
            raise self._ended(str(error)) from error
        if answer is None:
            raise self._ended()
        if answer.judged_by != self._judged_by:
            raise OtherRules(f"{self._judged_by} in this process, {answer.judged_by} in a new process")
        if answer.number != self._number:  # a fork of this process can write a request twice
            raise self._ended(f"its answer is that to request {answer.number}, not {self._number}")
        if [len(each) for each in answer.judgements] != [len(share.sequences) for share in shares]:
            raise self._ended("its answer has another number of judgements than there are sequences")
        if self._printed is not None:
            self._old_text = os.fstat(self._printed.fileno()).st_size
        return answer.judgements

    def kill(self) -> None:
        """End the process; a thread in judge() gets ChildEnded."""
        self._process.kill()

    def end(self) -> None:
        """End the process and wait for its end. Only the thread that used the child calls this."""
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout, self._printed):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()
        self._process.wait()

    def _ended(self, problem: str = "") -> ChildEnded:
        for stream in (self._process.stdin, self._process.stdout):  # closed, they make a running child end
            with contextlib.suppress(OSError):
                _open(stream).close()
        try:
            code = self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        lines = [*self._text().split("\n"), problem]
        message = next((line.strip() for line in reversed(lines) if line.strip()), "without a message")
        return ChildEnded(f"code {code}: {message[:200]}")

    def _text(self) -> str:
        """What the child printed since it got its present shares, because older text may be about other records."""
        if self._printed is None:
            return ""
        self._printed.seek(self._old_text)
        return self._printed.read().decode(errors="replace")


def _file_for_text() -> IO[bytes] | None:
    """A file for what a child prints; None if there is no folder for it.

    A file takes any number of warnings. A pipe that nobody reads would stop the child once it is full.
    """
    try:
        return tempfile.TemporaryFile()
    except OSError:
        return None


def serve(parent: int, source: BinaryIO | None = None, target: BinaryIO | None = None) -> None:
    """Run as the child: judge share after share until the input ends.

    Args:
        parent: id of the process that reads the judgements.
        source, target: streams from which frames are read and to which they are written; None = standard input and
            standard output. What else prints to standard output then goes to standard error.
    """
    for name in _IGNORED:
        if number := getattr(signal, name, None):
            signal.signal(number, signal.SIG_IGN)
    if os.name == "posix" and os.getppid() != parent:
        sys.exit(
            f"it was not started by process {parent}: sys.executable must not be a program that starts another one"
        )
    source = source or sys.stdin.buffer
    if target is None:
        target = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        sys.stdout.flush()
    with contextlib.suppress(BrokenPipeError):
        while _waits(source, parent) and (asked := _read(source, Request)) is not None:
            judgements = [judge(share.sequences, share.chains) for share in asked.shares]
            _write(target, Answer(asked.number, judged_by(), judgements))


def _waits(source: BinaryIO, parent: int) -> bool:
    """Wait for the next frame or the end of the input; False if the parent has ended."""
    if os.name != "posix":  # there, select does not accept pipes
        return True
    while os.getppid() == parent:
        if select.select([source], [], [], _LOOK_S)[0]:
            return True
    return False


def _write(stream: IO[bytes], message: Any) -> None:
    data = msgspec.msgpack.encode(message)
    stream.write(_MARK + len(data).to_bytes(_LENGTH_BYTES, "big") + data)
    stream.flush()


def _skip_to_mark(stream: IO[bytes]) -> None:
    """Read to the end of the next mark, or to the end of the stream."""
    seen = stream.read(len(_MARK))
    while seen[-len(_MARK) :] != _MARK and (more := stream.read(1)):
        seen += more
        if len(seen) > _MOST_SKIPPED_BYTES:
            raise ValueError(f"standard output must contain only judgements, but it begins with {seen[:40]!r}")


def _read(stream: IO[bytes], kind: type[Message]) -> Message | None:
    """The message of the next frame; None if the stream ends before the frame is complete.

    Raises:
        ValueError: the data are not a frame, or the message is not of this kind.
    """
    _skip_to_mark(stream)
    length = int.from_bytes(stream.read(_LENGTH_BYTES), "big")
    data = stream.read(length) if length else b""
    if not length or len(data) < length:
        return None
    return msgspec.msgpack.decode(data, type=kind)


def _open(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None  # subprocess.PIPE was given
    return stream
