"""Protobuf's wire format, as far as a graph file needs it: https://protobuf.dev/programming-guides/encoding/."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

# Wire types: a number; bytes behind their number; 8 bytes and 4. onnx.proto has no groups (3 and 4).
VARINT, BYTES = 0, 2
_FIXED = {1: 8, 5: 4}

# (name, start, stop) of a field of bytes; (name, value, 0) of a number.
Fields = Iterator[tuple[str, int, int]]


class WireError(Exception):
    """The bytes are not a protobuf message; names the byte."""


def key(number: int, wire_type: int = BYTES) -> int:
    """What stands before a field: its number and its wire type."""
    return number << 3 | wire_type


def read_fields(data: bytes, start: int, stop: int, table: Mapping[int, str]) -> Fields:
    """The fields in `table`; all others are stepped over, those of another wire type too, as parsers do.

    Raises:
        WireError: damaged.
    """
    at = start
    while at < stop:
        tag, at = (data[at], at + 1) if data[at] < 0x80 else read_varint(data, at, stop)
        name, wire_type = table.get(tag), tag & 7
        if wire_type == BYTES:
            size, at = (data[at], at + 1) if at < stop and data[at] < 0x80 else read_varint(data, at, stop)
            end = at + size
        elif wire_type == VARINT:
            value, end = read_varint(data, at, stop)
        else:
            end = at + _FIXED.get(wire_type, len(data))
        # Parsers drop a key's bits above the 32nd, and would see another field than this does.
        if end > stop or not 8 <= tag < 1 << 32:
            raise WireError(f"damaged at byte {at}")
        if name is not None:
            yield (name, at, end) if wire_type == BYTES else (name, value, 0)
        at = end


def read_varint(data: bytes, at: int, stop: int) -> tuple[int, int]:
    """A number, 7 bits a byte, and where it ends. Raises WireError."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= stop:
            break
        byte, at = data[at], at + 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise WireError(f"damaged at byte {at}")


def read_text(data: bytes, start: int, stop: int) -> str:
    """A field of text; bytes that are not UTF-8 are escaped."""
    return data[start:stop].decode("utf-8", "backslashreplace")


def read_texts(data: bytes, start: int, stop: int, table: Mapping[int, str]) -> dict[str, str]:
    """Text fields by name; the last of one that appears twice, as protobuf has it."""
    return {name: read_text(data, at, end) for name, at, end in read_fields(data, start, stop, table)}
