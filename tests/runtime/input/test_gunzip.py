"""Untrusted gzip data: the same bytes and errors as GzipFile, within limits, with a call of `step` at each piece."""

from __future__ import annotations

import gzip
import io
import random
import struct
import zlib
from collections.abc import Callable

import pytest

from abonyx.errors import InputError, InputTooLarge
from abonyx.input.gunzip import unzip
from abonyx.input.limits import ReadLimits, no_step
from abonyx.input.records import read_records

_CHOOSE = random.Random(1).choices
TEXT = b"id,sequence\n" + b"".join(
    b"%d,%s\n" % (row, bytes(_CHOOSE(b"ACDEFGHIKLMNPQRSTVWY", k=90))) for row in range(2_000)
)
CRC, EXTRA, NAME, COMMENT = 2, 4, 8, 16


def limits(
    members: int = 1_000, extra: int = 1 << 20, unpacked: int = 1 << 24, step: Callable[[], None] = no_step
) -> ReadLimits:
    return ReadLimits(unpacked, members, extra, 100_000, 1 << 20, 4_096, 2_000_000, step)


def member(data: bytes, flags: int = 0, more: bytes = b"") -> bytes:
    """A gzip file with these parts in its header."""
    return b"\x1f\x8b\x08" + bytes([flags]) + bytes(6) + more + gzip.compress(data, mtime=0)[10:]


def bgzip(data: bytes, size: int = 65_280) -> bytes:
    """Data as bgzip writes it: members of 64 kB with their lengths in the header, and an empty member at the end."""
    found = b""
    for start in range(0, len(data) + size, size):
        body = gzip.compress(data[start : start + size], 1, mtime=0)[10:]
        found += b"\x1f\x8b\x08\x04" + bytes(6) + struct.pack("<HBBHH", 6, 66, 67, 2, len(body) + 17) + body
    return found


def empty_blocks(count: int) -> bytes:
    """Packed data that unpack to nothing, at any length."""
    return b"\x1f\x8b\x08" + bytes(7) + b"\0\0\0\xff\xff" * count


def outcome(open_: Callable[[bytes], io.BufferedIOBase], data: bytes) -> tuple[bytes, str]:
    """The output before the end or the error, read in pieces like a text reader."""
    found, stream = b"", open_(data)
    try:
        while more := stream.read(8192):
            found += more
    except (EOFError, OSError, zlib.error) as error:
        return found, f"{type(error).__name__}: {error}"
    return found, ""


def same(data: bytes) -> tuple[bytes, str]:
    """The outcomes of both readers."""
    ours = outcome(lambda packed: unzip(io.BytesIO(packed), "x", limits()), data)  # type: ignore[arg-type, return-value]
    assert ours == outcome(lambda packed: gzip.GzipFile(fileobj=io.BytesIO(packed)), data)
    return ours


@pytest.mark.parametrize(
    "data",
    [
        gzip.compress(TEXT, 1, mtime=0),
        b"".join(gzip.compress(TEXT[start : start + 999], mtime=0) for start in range(0, len(TEXT), 999)),
        bgzip(TEXT),
        gzip.compress(b"", mtime=0) * 3 + gzip.compress(TEXT, mtime=0) + gzip.compress(b"", mtime=0),
        gzip.compress(TEXT, mtime=0) + bytes(100_000),
        gzip.compress(TEXT[:5_000], mtime=0) + bytes(512) + gzip.compress(TEXT[5_000:], mtime=0) + bytes(3),
        member(TEXT, EXTRA | NAME | COMMENT | CRC, b"\x03\0abc" + b"x.csv\0" + b"a comment\0" + b"\1\2"),
        member(TEXT, NAME | COMMENT, b"n" * 20_000 + b"\0" + b"c" * 20_000 + b"\0"),
    ],
    ids=["one", "many", "bgzip", "empty", "padded", "between", "header", "long-header"],
)
def test_honest_files(data: bytes) -> None:
    assert same(data) == (TEXT, "")


def test_sixteen_megabytes_of_bgzip() -> None:
    data = (TEXT * 100)[: 1 << 24]
    assert unzip(io.BytesIO(bgzip(data)), "x", limits()).read() == data


def test_cut_anywhere() -> None:
    data = member(TEXT[:300], EXTRA | NAME | COMMENT | CRC, b"\x03\0abc" + b"n\0" + b"c\0" + b"\1\2")
    for size in range(1, len(data)):
        assert "Error: Compressed file ended" in same(data[:size])[1] or size == 1
    whole = gzip.compress(TEXT, 1, mtime=0)
    for size in range(20, len(whole), 4_001):
        assert "Compressed file ended" in same(whole[:size])[1]


def test_damaged_anywhere() -> None:
    data = bgzip(TEXT, 7_000)
    errors = set()
    for place in random.Random(1).sample(range(len(data)), 300):
        errors.add(same(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])[1].split(":")[0])
    assert {"BadGzipFile", "error"} <= errors
    assert "CRC check failed" in same(data[:-8] + b"1234" + data[-4:])[1]
    assert "Incorrect length" in same(data[:-4] + b"1234")[1]
    assert "Not a gzipped file" in same(data + b"more")[1]


def refusal(data: bytes, **given: int) -> str:
    with pytest.raises(InputTooLarge) as caught:
        list(read_records(None, stdin=io.BytesIO(data), name="x", limits=limits(**given)))
    return caught.value.what


def test_too_many_members() -> None:
    table = gzip.compress(b"id,sequence\na,EVQL\n", mtime=0)
    empty = gzip.compress(b"", mtime=0)
    what = "x: the gzip data have more than 50 members; max_gzip_members is 50"
    for data in (table + empty * 50, empty * 50 + table, gzip.compress(b"#", mtime=0) * 51):
        assert refusal(data, members=50) == what
        list(read_records(None, stdin=io.BytesIO(table + empty * 49), limits=limits(members=50)))


def test_too_long_headers_and_padding() -> None:
    table = gzip.compress(b"id,sequence\na,EVQL\n", mtime=0)
    long = b"n" * 20_000
    for data in (
        member(b"", NAME, long + b"\0") + table,
        member(b"", COMMENT, long),
        member(b"", NAME | COMMENT, long[:9_000] + b"\0" + long[:9_000] + b"\0") + table,
        member(b"", EXTRA, struct.pack("<H", 20_000) + long) + table,
        table + bytes(20_000),
        (table + bytes(2_000)) * 10,
    ):
        assert refusal(data, extra=15_000) == (
            "x: the gzip data have more than 15000 bytes of headers and of zeros around members; "
            "max_gzip_extra_bytes is 15000"
        )


@pytest.mark.parametrize(
    "data",
    [
        b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * 1_000_000,
        gzip.compress(b"", mtime=0) * 1_000,
        gzip.compress(b"#", mtime=0) * 1_000,
        gzip.compress(b"id,sequence\n", mtime=0) + bytes(1_000_000),
        empty_blocks(200_000),
    ],
    ids=["header", "empty-members", "one-byte-members", "padding", "empty-blocks"],
)
def test_reading_ends_at_a_step(data: bytes) -> None:
    """Even if there is almost no output, an abandoned read ends, and other requests get their turn."""
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1
        if steps == 50:
            raise InputError("ended")

    packed = io.BytesIO(data)
    with pytest.raises(InputError, match="ended"):
        list(read_records(None, stdin=packed, limits=limits(10**9, 10**9, step=step)))
    assert packed.tell() < 50 * 8192 + (1 << 17)


def test_the_command_line_has_no_such_limits() -> None:
    data = gzip.compress(b"id,sequence\na,EVQL\n", mtime=0) + gzip.compress(b"", mtime=0) * 1_500 + bytes(1 << 21)
    assert len(list(read_records(None, stdin=io.BytesIO(data)))) == 1
