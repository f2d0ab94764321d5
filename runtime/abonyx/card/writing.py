"""A card's files in a directory."""

from __future__ import annotations

from pathlib import Path

from abonyx.bundle.listed import CARD_HTML, CARD_MD, METRICS_JSON
from abonyx.card.page import html, markdown
from abonyx.card.record import Card


def write_pages(card: Card, directory: Path, *, md: str = CARD_MD, page: str = CARD_HTML) -> None:
    """Write the card as Markdown to the file `md`, and as HTML to the file `page`.

    The caller writes metrics.json, which holds more than the card.
    """
    (directory / md).write_bytes(markdown(card).encode("utf-8", "backslashreplace"))
    (directory / page).write_bytes(html(card).encode("utf-8", "backslashreplace"))


__all__ = ["CARD_HTML", "CARD_MD", "METRICS_JSON", "write_pages"]
