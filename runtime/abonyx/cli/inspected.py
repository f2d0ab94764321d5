"""`abonyx inspect --json`: the manifest as it is, and what the text says beside it."""

from __future__ import annotations

import msgspec

from abonyx.bundle import Bundle
from abonyx.bundle.listed import CARD_HTML, card_sentence, file_of_head
from abonyx.bundle.manifest import Manifest
from abonyx.errors import BundleError
from abonyx.wording import Interface


class InspectedCard(msgspec.Struct, frozen=True, kw_only=True):
    """A head's card: its first sentence and its file; or what is wrong with it."""

    head: str
    sentence: str | None = None
    file: str | None = None
    problem: str | None = None


class Inspected(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle is, from its manifest alone: `verify` compares the files with it.

    Attributes:
        sha256: of the manifest, which holds the hash of every file.
        notes: the notice, and what makes a head's scores mean nothing.
        cards: of the heads that have one.
        variant_bytes: variant -> what its folder takes.
        manifest: manifest.json; docs/bundle.md describes it.
    """

    name: str
    sha256: str
    path: str
    notes: list[str]
    cards: list[InspectedCard]
    variant_bytes: dict[str, int]
    manifest: Manifest


def inspected(bundle: Bundle) -> Inspected:
    """Describe a bundle whose manifest was read."""
    manifest = bundle.manifest
    folders = {name: f"{variant.folder}/" for name, variant in manifest.variants.items()}
    return Inspected(
        name=bundle.name,
        sha256=bundle.sha256,
        path=str(bundle.path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"),
        notes=bundle.notes(),
        cards=[card for head in manifest.heads if (card := _card(bundle, head.name)) is not None],
        variant_bytes={
            name: sum(entry.size_bytes for path, entry in manifest.files.items() if path.startswith(folder))
            for name, folder in folders.items()
        },
        manifest=manifest,
    )


def _card(bundle: Bundle, head: str) -> InspectedCard | None:
    try:
        sentence = card_sentence(bundle, head)
    except BundleError as error:
        return InspectedCard(head=head, problem=error.worded(Interface.COMMAND_LINE)[0])
    if sentence is None:
        return None
    return InspectedCard(head=head, sentence=sentence, file=file_of_head(CARD_HTML, head, bundle.manifest.head.name))
