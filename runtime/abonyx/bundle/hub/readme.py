"""The README.md of a pushed bundle: metadata for the hub, the bundle's own README, how to use it, and its cards."""

from __future__ import annotations

import json
import re

from abonyx.bundle.bundle import Bundle
from abonyx.bundle.listed import CARD_MD, file_of_head, read_listed
from abonyx.bundle.manifest import README_NAME
from abonyx.errors import BundleError
from abonyx.hub_name import HubName

# Start of the licence text in a manifest -> the hub's word for that licence.
_LICENCES = {
    "apache-2.0": "apache-2.0",
    "mit": "mit",
    "bsd-3-clause": "bsd-3-clause",
    "cc-by-4.0": "cc-by-4.0",
    "cc by 4.0": "cc-by-4.0",
    "cc0-1.0": "cc0-1.0",
}
_TAGS = ("antibody", "developability", "polyreactivity", "protein-language-model", "onnx", "abonyx")
# The metadata at the top of a README from the hub.
_FRONT = re.compile(r"\A---\r?\n.*?\n---\r?\n", re.DOTALL)
# Marks the start of the part that a push adds. A later push of the same bundle replaces that part.
_ADDED = "<!-- From here on by abonyx push. -->"


def readme(bundle: Bundle, repo: str) -> str:
    """The text in Markdown. Raises a BundleError if the bundle's README or a card cannot be read."""
    manifest = bundle.manifest
    own, cards = _own(bundle), _cards(bundle)
    name = str(HubName(repo, None, bundle.sha256))
    use = [
        _ADDED,
        "",
        "## Use with abonyx",
        "",
        "```sh",
        f"abonyx score antibodies.csv -o scores.csv --bundle '{name}'",
        "```",
        "",
        f"The bundle's hash is `{bundle.sha256}`. Licence, as the bundle states it: {_escaped(manifest.licence)}.",
    ]
    if manifest.notice:
        use.append(f"Notice: {_escaped(manifest.notice)}.")
    text = own or f"# {_escaped(bundle.name)}\n"
    return "\n".join([_front(bundle), text.rstrip(), "", *use, "", *cards])


def _front(bundle: Bundle) -> str:
    """The metadata that the hub reads, as YAML. A JSON string is also a YAML string."""
    licence = bundle.manifest.licence
    known = next(
        (ours for start, ours in _LICENCES.items() if re.match(rf"{re.escape(start)}(?![\w.-])", licence.lower())), None
    )
    lines = [f"license: {known or 'other'}"]
    if known is None:
        lines.append(f"license_name: {re.sub(r'[^a-z0-9.]+', '-', licence.lower()).strip('-')[:60] or 'not-stated'}")
    if bundle.manifest.encoder.repo_id:
        lines.append(f"base_model: {json.dumps(bundle.manifest.encoder.repo_id)}")
    return "\n".join(["---", *lines, "library_name: abonyx", "tags:", *(f"- {tag}" for tag in _TAGS), "---", ""])


def _own(bundle: Bundle) -> str:
    path = bundle.path / README_NAME
    try:
        if path.is_symlink() or not path.is_file():
            return ""
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}", "Make it readable, or delete it.") from error
    return _FRONT.sub("", text).partition(_ADDED)[0].lstrip()


def _cards(bundle: Bundle) -> list[str]:
    """The cards that `abonyx fit` wrote for the heads."""
    heads = bundle.manifest.heads
    files = [file_of_head(CARD_MD, head.name, heads[0].name) for head in heads]
    read = [read_listed(bundle, file) for file in files]
    return [data.decode("utf-8", "replace") for data in read if data is not None]


def _escaped(text: str) -> str:
    """A text of a manifest, with the characters escaped that Markdown would read as markup."""
    return re.sub(r"([\\`*_\[\]<>|~#])", r"\\\1", text) or "not stated"
