"""The object that `abonyx inspect --json` prints: the whole manifest, and what the text output adds."""

from __future__ import annotations

import msgspec

from abonyx.bundle import Bundle
from abonyx.bundle.listed import CARD_HTML, card_sentence, file_of_head
from abonyx.bundle.manifest import Manifest
from abonyx.errors import BundleError
from abonyx.wording import Interface


class InspectedCard(msgspec.Struct, frozen=True, kw_only=True):
    """The card of a head: its first sentence and its file, or the problem with it."""

    head: str
    sentence: str | None = None
    file: str | None = None
    problem: str | None = None


class Inspected(msgspec.Struct, frozen=True, kw_only=True):
    """A description of a bundle from its manifest. The files are not checked; `verify` does that.

    Attributes:
        sha256: hash of the manifest, which contains the hash of every file.
        notes: the bundle's notice, and warnings about heads whose scores have no meaning.
        cards: the cards of the heads that have one.
        variant_bytes: variant -> size of its folder in bytes.
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
    """Describe an opened bundle."""
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
