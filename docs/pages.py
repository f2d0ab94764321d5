"""What the site shows beside docs/: pages of other folders, notebooks, and the files that pages link to.

MkDocs calls the on_ functions; mkdocs.yml names this file. Pages link to each other as they do in a clone. Here these
links are rewritten: a link to a file that the site does not show as a page leads to a copy of it under source/.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert.exporters import MarkdownExporter

ROOT = Path(__file__).resolve().parents[1]
# Path in the clone -> page of the site.
OUTSIDE = {
    "README.md": "index.md",
    "docs/README.md": "all-pages.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "RELEASE.md": "release.md",
    "SECURITY.md": "security.md",
    "artifacts/mini/README.md": "abonyx-mini.md",
    "artifacts/mini/card.md": "abonyx-mini-card.md",
    "benchmarks/NOTES.md": "measurements.md",
    "training/README.md": "training.md",
    "configs": "configs.md",
}
_HOMES = {page: path for path, page in OUTSIDE.items()}
# Fenced blocks and code are left alone.
_LINK = re.compile(
    r"^```.*?^```|`[^`\n]*`|\[(?P<text>[^][]*)\]\((?P<target>[^()\s:#]+)(?P<heading>#[^()\s]*)?\)", re.M | re.S
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of other folders, a page for each notebook, and copies of the other files that pages link to."""
    for path, page in OUTSIDE.items():
        text = _configs() if path == "configs" else (ROOT / path).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        _add_notebook(files, notebook, config)
    for page in [file for file in files if file.is_documentation_page()]:
        for path in _linked(page.content_string, _home(page.src_uri)):
            if not _place(path, files) and (ROOT / path).is_file():
                files.append(File.generated(config, f"source/{path}", abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with its links of the clone made links of the site."""
    home, folder = _home(page.file.src_uri), posixpath.dirname(page.file.src_uri)

    def rewritten(link: re.Match[str]) -> str:
        place = link["target"] and _place(_resolved(link["target"], home), files)
        if not place or place == page.file.src_uri:  # a notebook's page links to the notebook
            return link[0]
        # A path as the text means the file to a reader of the clone; here it is the page's title.
        text = _title(files, place) if link["text"].endswith(".md") else link["text"]
        return f"[{text}]({posixpath.relpath(place, folder or '.')}{link['heading'] or ''})"

    return _LINK.sub(rewritten, markdown)


def _home(page: str) -> str:
    """Where in the clone a page of the site comes from."""
    return _HOMES.get(page, f"docs/{page}")


def _resolved(target: str, home: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(home), target))


def _linked(markdown: str, home: str) -> set[str]:
    return {_resolved(link["target"], home) for link in _LINK.finditer(markdown) if link["target"]}


def _place(path: str, files: Files) -> str | None:
    """The site's file for a path of the clone; None if it has none."""
    if path in OUTSIDE:
        return OUTSIDE[path]
    if path.startswith("docs/"):
        inside = path.removeprefix("docs/")
        shown = inside.removesuffix(".ipynb") + ".md" if inside.endswith(".ipynb") else inside
        if files.get_file_from_path(shown):
            return shown
    copy = f"source/{path}"
    return copy if files.get_file_from_path(copy) else None


def _title(files: Files, page: str) -> str:
    """The first heading of a page, as text."""
    file = files.get_file_from_path(page)
    heading = re.search(r"^# (.*)$", file.content_string, flags=re.M) if file else None
    return heading[1] if heading else page


def _configs() -> str:
    """One page of all config files."""
    parts = ["# Config files", "One complete, commented file for each provider. In a clone they are in `configs/`."]
    for path in sorted((ROOT / "configs").glob("*.toml")):
        parts.append(f"## {path.name}\n\n```toml\n{path.read_text(encoding='utf-8').rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def _add_notebook(files: Files, notebook: File, config: MkDocsConfig) -> None:
    """A page of the notebook's text, code and stored outputs, with its pictures; the notebook itself to download."""
    stem = notebook.src_uri.removesuffix(".ipynb")
    name = posixpath.basename(stem)
    exporter = MarkdownExporter()
    text, resources = exporter.from_notebook_node(
        nbformat.read(notebook.abs_src_path, as_version=4), {"output_files_dir": "", "unique_key": name}
    )
    title, _, rest = text.lstrip().partition("\n")
    note = f"This page is a notebook: [download it]({name}.ipynb) and run it in a clone."
    files.append(File.generated(config, f"{stem}.md", content=f"{title}\n\n{note}\n{rest}"))
    for picture, content in resources.get("outputs", {}).items():
        place = posixpath.join(posixpath.dirname(stem), posixpath.basename(picture))
        files.append(File.generated(config, place, content=content))
