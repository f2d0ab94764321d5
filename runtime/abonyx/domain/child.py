"""A child process that judges sequences. It reads shares and writes judgements until its input ends.

A frame is a mark, four bytes with a length, and a message of that length in msgpack. The parent writes a frame and then
reads one, so no side is blocked by a full pipe. A child ignores the signals that end a service. It ends when its parent
kills it, or when its input ends.
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

from abonyx.domain.flags import Judgement, judge

# A start-up hook of Python can print to standard output too. So a frame without the mark is refused.
_MARK = b"abonyx:"
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


class ChildEnded(Exception):
    """A child ended, or its answer was not the judgements of its shares.

    Attributes:
        reason: the child's exit code, and the problem with its answer or else the last line that it printed.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Child:
    """A running child. One thread at a time uses it; any thread may kill it.

    Raises:
        OSError: the system cannot start a process.
    """

    def __init__(self) -> None:
        # A file takes any number of warnings. A pipe that nobody reads would stop the child once it is full.
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115  # end() closes it
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _CHILD, str(os.getpid()), *sys.path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._printed,
                start_new_session=True,  # Ctrl-C in a terminal is for the parent
            )
        except BaseException:
            self._printed.close()
            raise

    def judge(self, shares: Sequence[Share]) -> list[list[Judgement]]:
        """The judgements of each share's sequences, in order.

        Raises:
            ChildEnded: the child gave no judgements. It cannot be used again.
        """
        try:
            _write(_open(self._process.stdin), shares)
            answers = _read(_open(self._process.stdout), list[list[Judgement]])
        except OSError as error:
            raise self._ended() from error
        except ValueError as error:  # msgspec's errors are ValueErrors
            raise self._ended(str(error)) from error
        if answers is None or [len(each) for each in answers] != [len(share.sequences) for share in shares]:
            raise self._ended()
        return answers

    def kill(self) -> None:
        """End the process; a thread in judge() gets ChildEnded."""
        self._process.kill()

    def end(self) -> None:
        """End the process and wait for its end. Only the thread that used the child calls this."""
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout, self._printed):
            with contextlib.suppress(OSError):
                _open(stream).close()
        self._process.wait()

    def _ended(self, problem: str = "") -> ChildEnded:
        with contextlib.suppress(OSError):
            _open(self._process.stdin).close()  # makes a running child end
        try:
            code = self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._printed.seek(0)
        lines = [*self._printed.read().decode(errors="replace").split("\n"), problem]
        message = next((line.strip() for line in reversed(lines) if line.strip()), "without a message")
        return ChildEnded(f"code {code}: {message[:200]}")


def serve(parent: int, source: BinaryIO | None = None, target: BinaryIO | None = None) -> None:
    """Run as the child: judge share after share until the input ends.

    Args:
        parent: id of the process that reads the judgements.
        source, target: streams from which frames are read and to which they are written; None = standard input and
            standard output.
    """
    for name in _IGNORED:
        if number := getattr(signal, name, None):
            signal.signal(number, signal.SIG_IGN)
    source, target = source or sys.stdin.buffer, target or sys.stdout.buffer
    with contextlib.suppress(BrokenPipeError):
        while _waits(source, parent) and (shares := _read(source, list[Share])) is not None:
            _write(target, [judge(share.sequences, share.chains) for share in shares])


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


def _read(stream: IO[bytes], kind: type[Message]) -> Message | None:
    """The message of the next frame; None if the stream ends before the frame is complete.

    Raises:
        ValueError: the data are not a frame, or the message is not of this kind.
    """
    mark = stream.read(len(_MARK))
    if mark and mark != _MARK:
        raise ValueError(f"standard output must contain only judgements, but it contains {mark!r}")
    length = int.from_bytes(stream.read(_LENGTH_BYTES), "big")
    data = stream.read(length) if length else b""
    if not length or len(data) < length:
        return None
    return msgspec.msgpack.decode(data, type=kind)


def _open(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None  # subprocess.PIPE was given
    return stream
