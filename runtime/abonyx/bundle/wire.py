"""Read the parts of protobuf's wire format that graph files use: https://protobuf.dev/programming-guides/encoding/."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

# Wire types: VARINT is a number; BYTES is a length and that many bytes; _FIXED is 8 or 4 bytes. onnx.proto has no
# groups (types 3 and 4).
VARINT, BYTES = 0, 2
_FIXED = {1: 8, 5: 4}

# (name, start, stop) for a field of bytes; (name, value, 0) for a number.
Fields = Iterator[tuple[str, int, int]]


class WireError(Exception):
    """The bytes are damaged, or are not a graph that an export could have written. The text says where or why."""


def key(number: int, wire_type: int = BYTES) -> int:
    """The key before a field: its number and its wire type."""
    return number << 3 | wire_type


def read_fields(data: bytes, start: int, stop: int, table: Mapping[int, str]) -> Fields:
    """Yield the fields in `table`. All others are skipped, as parsers do, even if only the wire type differs.

    Raises:
        WireError: the bytes are damaged.
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
        # Parsers drop the bits of a key above the 32nd, and would see another field than this function.
        if end > stop or not 8 <= tag < 1 << 32:
            raise WireError(f"damaged at byte {at}")
        if name is not None:
            yield (name, at, end) if wire_type == BYTES else (name, value, 0)
        at = end


def read_varint(data: bytes, at: int, stop: int) -> tuple[int, int]:
    """(number, end): a number with 7 bits in each byte, and the position after it. Raises WireError."""
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
    """A field of text. Bytes that are not UTF-8 are escaped."""
    return data[start:stop].decode("utf-8", "backslashreplace")


def read_texts(data: bytes, start: int, stop: int, table: Mapping[int, str]) -> dict[str, str]:
    """Name -> text of the text fields. If a field appears twice, the last one counts, as in protobuf."""
    return {name: read_text(data, at, end) for name, at, end in read_fields(data, start, stop, table)}
