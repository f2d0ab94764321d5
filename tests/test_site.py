"""The documentation site builds without a warning, has every page and public name, and loads only its own files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import abonyx
import abonyx.errors

from .conftest import REPOSITORY

pytest.importorskip("mkdocs", reason="the docs extra is not installed")
pytest.importorskip("mkdocstrings", reason="the docs extra is not installed")
pytest.importorskip("nbconvert", reason="the docs extra is not installed")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site once; a warning is a failure."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


class _Loaded(HTMLParser):
    """The addresses that a browser fetches to show the page, without links to click."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        name = {"script": "src", "img": "src", "iframe": "src", "link": "href"}.get(tag)
        self.addresses += [value for key, value in attrs if key == name and value]


def test_no_page_loads_files_from_other_sites(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        loaded = _Loaded()
        loaded.feed(page.read_text(encoding="utf-8"))
        assert loaded.addresses
        assert not [address for address in loaded.addresses if re.match("[a-z]+:|//", address)], page.name
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?(https?:|//)|@import", style.read_text(encoding="utf-8")), style.name


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    reference = "".join(page.read_text(encoding="utf-8") for page in (site / "reference").glob("*.html"))
    names = {f"abonyx.{name}" for name in abonyx.__all__ if name != "__version__"} | {"abonyx.ray.score"}
    names |= {
        f"abonyx.errors.{name}"
        for name, value in vars(abonyx.errors).items()
        if isinstance(value, type) and issubclass(value, abonyx.errors.EngineError)
    }
    missing = sorted(name for name in names - {"abonyx.errors"} if f'id="{name}"' not in reference)
    assert not missing
    assert "<code>abonyx.errors</code>" in reference


def test_links_of_the_clone_lead_to_pages_of_the_site(site: Path) -> None:
    start = (site / "index.html").read_text(encoding="utf-8")
    for page in ("scores.html", "abonyx-mini.html", "all-pages.html", "contributing.html", "heads.html"):
        assert f'href="{page}"' in start
    assert 'href="configs.html"' in (site / "all-pages.html").read_text(encoding="utf-8")
    assert list((site / "source" / "benchmarks" / "records").glob("*.json"))
    assert not list(site.rglob("*.pyc"))


def test_a_notebook_is_a_page_with_its_output_and_a_download(site: Path) -> None:
    page = (site / "notebooks" / "score_and_shortlist.html").read_text(encoding="utf-8")
    assert "trastuzumab" in page and 'href="score_and_shortlist.ipynb"' in page
    assert (site / "notebooks" / "score_and_shortlist.ipynb").is_file()
    assert 'href="../scores.html"' in page


def test_the_search_finds_pages(site: Path) -> None:
    index = (site / "search" / "search_index.json").read_text(encoding="utf-8")
    assert "scores.html" in index and "reference/session.html" in index
