"""Split a list of sequences into requests that are within the service's limits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from abonyx.errors import InputError, first_line
from abonyx.texts import as_pairs, as_texts


class Limits(msgspec.Struct, frozen=True):
    """The limits of one request, from /v1/model."""

    max_body_bytes: int
    max_sequences: int
    max_explained_sequences: int
    max_residues_per_request: int


@dataclass(frozen=True)
class Part:
    """The items of one request.

    Attributes:
        start: index of the first item in the whole list.
        items: each has an id, and a sequence or two chains.
    """

    start: int
    items: list[dict[str, str]]


def items_of(sequences: Iterable[object], ids: Sequence[str] | None) -> list[dict[str, str]]:
    """The sequences or (heavy, light) pairs of a list, each with its id.

    Args:
        sequences: texts or pairs.
        ids: their ids; None = their numbers, from 1.

    Raises:
        InputError: the list is empty, is not a list of texts or of pairs, or is not as long as `ids`.
    """
    given = list(sequences) if isinstance(sequences, Iterator) else sequences
    first = next(iter(given), None) if isinstance(given, list | tuple) else None
    if isinstance(first, tuple | list):
        pairs = zip(*as_pairs(given), strict=True)
        items = [{"heavy": heavy, "light": light} for heavy, light in pairs]
    else:
        items = [{"sequence": sequence} for sequence in as_texts(given)]
    if not items:
        raise InputError("sequences is empty", "Give at least one.")
    names = [str(number) for number in range(1, len(items) + 1)] if ids is None else as_texts(ids)
    items = [{name: _encodable(text, name, at) for name, text in item.items()} for at, item in enumerate(items)]
    names = [_encodable(name, "id", at) for at, name in enumerate(names)]
    if len(names) != len(items):
        what = f"there are {len(names)} ids and {len(items)} sequences"
        raise InputError(what, "Give one id for each sequence, or no ids.")
    return [{"id": name} | item for name, item in zip(names, items, strict=True)]


def _encodable(text: str, name: str, at: int) -> str:
    """The text as plain str (NumPy has its own class), if JSON can contain it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        what = f"sequences[{at}]: the {name} is not valid Unicode: {first_line(repr(text), 60)}"
        raise InputError(what, "Give text that can be encoded as UTF-8.") from None
    return str(text)


def parts_of(items: Sequence[dict[str, str]], limits: Limits, most: int, body_bytes: int) -> Iterator[Part]:
    """Split items into parts that fit into a request. An item that is too large for any request gets its own part.

    Args:
        items: the items.
        limits: the limits of a request.
        most: largest number of items in a request.
        body_bytes: size of a request without items.
    """
    start, count, residues, size = 0, 0, 0, body_bytes
    for at, item in enumerate(items):
        more = sum(len(text) for name, text in item.items() if name != "id")
        length = len(msgspec.json.encode(item)) + 1
        fits = (
            count < most
            and residues + more <= limits.max_residues_per_request
            and size + length <= limits.max_body_bytes
        )
        if count and not fits:
            yield Part(start, list(items[start:at]))
            start, count, residues, size = at, 0, 0, body_bytes
        count, residues, size = count + 1, residues + more, size + length
    yield Part(start, list(items[start:]))
