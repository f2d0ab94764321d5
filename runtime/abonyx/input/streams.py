"""Open the bytes of a source, and look at the first bytes without losing them."""

from __future__ import annotations

import io
import sys
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from abonyx.errors import InputError, InputTooLarge
from abonyx.input.recognition import ACCEPTED

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_HEAD_BYTES = 1 << 16


class _Replay(io.RawIOBase):
    """The bytes that were already read from a stream, then the rest. Closing this leaves the stream open."""

    def __init__(self, head: bytes, rest: BinaryIO, max_bytes: int | None) -> None:
        self._head = head
        self._rest = rest
        self._max_bytes = max_bytes
        self._given = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        data = self._head[: len(view)] or self._rest.read(len(view))
        self._head = self._head[len(view) :]
        self._given += len(data)
        if self._max_bytes is not None and self._given > self._max_bytes:
            what = f"the gzip data unpack to more than {self._max_bytes} bytes, which is the limit"
            raise InputTooLarge(what, "Send fewer records at a time.")
        view[: len(data)] = data
        return len(data)


def open_source(source: Path | None, stdin: BinaryIO | None) -> AbstractContextManager[BinaryIO]:
    """Open a file. If `source` is None, give `stdin`, or the standard input of the process, which stays open."""
    if source is None:
        if stdin is None and sys.stdin is None:
            raise InputError("standard input is closed", "Name a file, or pipe one in.")
        return nullcontext(stdin if stdin is not None else sys.stdin.buffer)
    if source.is_dir():
        raise InputError(f"{source}: is a directory", f"Name one file in it; accepted: {ACCEPTED}.")
    return source.open("rb")


def peek(stream: BinaryIO, stack: ExitStack, max_bytes: int | None = None) -> tuple[bytes, BinaryIO]:
    """(first bytes, stream that still has them). Needed because a pipe cannot be rewound."""
    head = b""
    while len(head) < _HEAD_BYTES and (more := stream.read(_HEAD_BYTES - len(head))):
        head += more
    whole = stack.enter_context(io.BufferedReader(_Replay(head, stream, max_bytes), _HEAD_BYTES))
    return head, cast("BinaryIO", whole)
