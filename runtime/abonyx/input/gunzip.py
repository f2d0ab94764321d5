"""Unpack gzip data that are not trusted, in small pieces.

Python's GzipFile reads headers and padding byte by byte, and accepts any number of members. This reader gives the same
bytes and the same errors, but has limits. A trusted source is read with GzipFile.
"""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from typing import TYPE_CHECKING, BinaryIO, cast

from abonyx.errors import InputTooLarge
from abonyx.input.limits import ReadLimits

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# Number of packed bytes that are unpacked at once.
_PIECE = 8192
_CRC, _EXTRA, _NAME, _COMMENT = 2, 4, 8, 16  # flags of a header
_DEFLATE = 8
_TRUNCATED = "Compressed file ended before the end-of-stream marker was reached"
_FIX = "Compress the file again, as one piece: gunzip -c FILE.gz | gzip."


def unzip(stream: BinaryIO, name: str, limits: ReadLimits) -> BinaryIO:
    """Unpack the gzip data of a stream, one member after another.

    Args:
        stream: the packed data.
        name: name of the source in messages.
        limits: the limits. limits.step() is called before each piece of at most 8 kB of packed data, and before each
            member.

    Returns:
        A stream. Closing it leaves the packed stream open. Reading it raises InputTooLarge if gzip_members or
        gzip_extra_bytes is exceeded; and EOFError, gzip.BadGzipFile or zlib.error if the data are truncated or damaged.
    """
    return cast("BinaryIO", io.BufferedReader(_Unzipped(stream, name, limits)))


class _Unzipped(io.RawIOBase):
    """The unpacked bytes of all members."""

    def __init__(self, stream: BinaryIO, name: str, limits: ReadLimits) -> None:
        self._packed = _Packed(stream, name, limits)
        self._name = name
        self._limits = limits
        self._members = 0
        self._inflate: zlib._Decompress | None = None  # None: between members
        self._crc = self._size = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        while True:
            if self._inflate is not None and self._inflate.eof:
                self._end()
            if self._inflate is None and not self._begin():
                return 0
            if data := self._piece(len(view)):
                view[: len(data)] = data
                return len(data)

    def _begin(self) -> bool:
        """Read the header of the next member; False at the end of the data."""
        self._limits.step()
        if not self._packed.header():
            return False
        self._members += 1
        most = self._limits.gzip_members
        if self._members > most:
            what = f"{self._name}: the gzip data have more than {most} members; max_gzip_members is {most}"
            raise InputTooLarge(what, _FIX)
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        self._crc = self._size = 0
        return True

    def _piece(self, size: int) -> bytes:
        """At most `size` unpacked bytes of the member. A piece may unpack to nothing."""
        assert self._inflate is not None
        packed = self._packed.piece()
        data = self._inflate.decompress(packed, size)
        self._packed.give_back(self._inflate.unconsumed_tail or self._inflate.unused_data)
        self._crc = zlib.crc32(data, self._crc)
        self._size += len(data)
        if not data and not packed:
            raise EOFError(_TRUNCATED)
        return data

    def _end(self) -> None:
        """Compare a member with the checksum and the size at its end."""
        self._inflate = None
        crc, size = struct.unpack("<II", self._packed.exactly(8))
        if crc != self._crc:
            raise gzip.BadGzipFile(f"CRC check failed {crc:#x} != {self._crc:#x}")
        if size != self._size & 0xFFFFFFFF:
            raise gzip.BadGzipFile("Incorrect length of data produced")
        self._packed.skip_zeros()


class _Packed:
    """The packed data. Bytes can be given back. Headers and zeros between members count as extra bytes."""

    def __init__(self, stream: BinaryIO, name: str, limits: ReadLimits) -> None:
        self._stream = stream
        self._name = name
        self._limits = limits
        self._kept = b""
        self._extra = 0

    def piece(self) -> bytes:
        """The next bytes; b"" at the end."""
        self._limits.step()
        data, self._kept = self._kept + self._stream.read(_PIECE - len(self._kept)), b""
        return data

    def give_back(self, data: bytes) -> None:
        """Give back the last bytes of a piece. The next piece begins with them."""
        self._kept = data

    def exactly(self, size: int) -> bytes:
        """Exactly `size` bytes. Raises EOFError if there are fewer."""
        found = self._upto(size)
        if len(found) < size:
            raise EOFError(_TRUNCATED)
        return found

    def header(self) -> bool:
        """Read the header of the next member; False at the end of the data."""
        mark = self._upto(2)
        if not mark:
            return False
        if mark != b"\x1f\x8b":
            raise gzip.BadGzipFile(f"Not a gzipped file ({mark!r})")
        method, flags = struct.unpack("<BB6x", self.exactly(8))
        if method != _DEFLATE:
            raise gzip.BadGzipFile("Unknown compression method")
        self._count(10)
        if flags & _EXTRA:
            (size,) = struct.unpack("<H", self.exactly(2))
            self._count(2 + len(self.exactly(size)))
        for flag in (_NAME, _COMMENT):
            if flags & flag:
                self._skip_text()
        if flags & _CRC:
            self._count(len(self.exactly(2)))
        return True

    def _upto(self, size: int) -> bytes:
        found = b""
        while len(found) < size and (data := self.piece()):
            missing = size - len(found)
            found += data[:missing]
            self.give_back(data[missing:])
        return found

    def _skip_text(self) -> None:
        """Skip a text that ends with a zero. If the data end in the text, a later read notices it."""
        while data := self.piece():
            text, zero, rest = data.partition(b"\0")
            self._count(len(text) + len(zero))
            if zero:
                self.give_back(rest)
                return

    def skip_zeros(self) -> None:
        """Skip zeros at the end of a file, or before the next member."""
        while data := self.piece():
            rest = data.lstrip(b"\0")
            self._count(len(data) - len(rest))
            if rest:
                self.give_back(rest)
                return

    def _count(self, size: int) -> None:
        self._extra += size
        most = self._limits.gzip_extra_bytes
        if self._extra > most:
            what = f"{self._name}: the gzip data have more than {most} bytes of headers and of zeros around members"
            raise InputTooLarge(f"{what}; max_gzip_extra_bytes is {most}", _FIX)
