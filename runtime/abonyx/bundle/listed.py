"""Read small files that a bundle's manifest may list, and check their hash."""

from __future__ import annotations

import hashlib

import msgspec

from abonyx.bundle.bundle import Bundle
from abonyx.errors import BundleError, ChecksumMismatch, printable

CARD_MD, CARD_HTML, METRICS_JSON = "card.md", "card.html", "metrics.json"
FIX = "Fit or export the bundle again."


class _Card(msgspec.Struct):
    sentence: str


class _CardFile(msgspec.Struct):
    card: _Card


def read_listed(bundle: Bundle, name: str) -> bytes | None:
    """The bytes of a file; None if the manifest does not list it.

    Raises:
        BundleError: the file is missing or damaged.
    """
    entry = bundle.manifest.files.get(name)
    if entry is None:
        return None
    path = bundle.path / name
    try:
        # A hostile bundle could link to a device that never ends.
        if path.is_symlink() or not path.is_file() or path.stat().st_size != entry.size_bytes:
            raise BundleError(f"{path}: is not a plain file of {entry.size_bytes} bytes, the size in the manifest", FIX)
        data = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}", FIX) from error
    if (found := hashlib.sha256(data).hexdigest()) != entry.sha256:
        raise ChecksumMismatch(f"{path}: sha256 is {found}, the manifest says {entry.sha256}", FIX)
    return data


def file_of_head(name: str, head: str, first: str) -> str:
    """The name of a head's file: `name` for the bundle's first head; for another head e.g. card.HEAD.md."""
    stem, _, suffix = name.rpartition(".")
    return name if head == first else f"{stem}.{head}.{suffix}"


def card_sentence(bundle: Bundle, head: str) -> str | None:
    """The first sentence of a head's card; None if the head has no card.

    Raises:
        BundleError: the file is missing or damaged, or contains no card.
    """
    name = file_of_head(METRICS_JSON, head, bundle.manifest.head.name)
    data = read_listed(bundle, name)
    if data is None:
        return None
    try:
        return msgspec.json.decode(data, type=_CardFile).card.sentence
    except msgspec.DecodeError as error:
        raise BundleError(f"{bundle.path / name}: contains no card: {printable(str(error))}", FIX) from error
