"""A built wheel, installed outside the clone, finds its model and scores."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from abonyx.pages import shipped_folder

from .conftest import EXAMPLES, REPOSITORY

pytest.importorskip("hatchling", reason="the test extra is not installed")


def cited_pages() -> set[str]:
    """Pages that the code names in a message, a help text or a docstring."""
    sources = [path for folder in ("runtime", "export") for path in (REPOSITORY / folder).rglob("*.py")]
    found = {page for path in sources for page in re.findall(r"docs/\w+\.md", path.read_text(encoding="utf-8"))}
    return found - {"docs/NAME.md"}


def test_wheel_holds_the_model_and_scores_outside_the_clone(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(REPOSITORY)]
    subprocess.run(build, check=True, timeout=300)
    (wheel,) = tmp_path.glob("abonyx-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "abonyx/mini/manifest.json" in names
    assert {f"abonyx_export/{name}" for name in ("antibodies.csv", "antibodies.md")} <= set(names)
    assert {f"abonyx/deploy/{path.name}" for path in (REPOSITORY / "deploy").iterdir()} <= set(names)
    assert {f"abonyx/configs/{path.name}" for path in (REPOSITORY / "configs").iterdir()} <= set(names)
    assert {f"abonyx/examples/{name}" for name in ("therapeutic_vh.csv", "labelled.csv")} <= set(names)
    assert {"abonyx/py.typed", "abonyx/explain/repertoire.json"} <= set(names)
    assert {f"abonyx/serve/page/{name}" for name in ("index.html", "app.js", "pasted.js", "style.css")} <= set(names)
    assert cited_pages() <= {name.removeprefix("abonyx/") for name in names if name.startswith("abonyx/docs/")}
    assert not [name for name in names if "/docs/" in name and not name.endswith(".md")]
    assert wheel.stat().st_size < 17 * 2**20
    site = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True, timeout=300)

    code = (
        "import sys, abonyx.bundle, abonyx_export.golden as golden; from abonyx.cli import main;"
        "print(abonyx.bundle.locate_mini(), golden.examples_path());"
        f"sys.argv = ['abonyx', 'score', {str(EXAMPLES)!r}, '-o', 'out.csv']; main()"
    )
    environment = os.environ | {"PYTHONPATH": str(site)}  # before the abonyx of this environment
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        str(site / "abonyx" / "mini"),
        str(site / "abonyx" / "examples" / "therapeutic_vh.csv"),
    ]
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 13
    helped = [sys.executable, "-m", "abonyx", "--help"]
    said = subprocess.run(helped, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    assert f"arein{site / 'abonyx'}" in "".join(said.split())
    shutil.rmtree(site / "abonyx" / "mini")
    command = [sys.executable, "-m", "abonyx", "score", str(EXAMPLES), "-o", "again.csv"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert "the shipped mini bundle is not in" in done.stderr and "name a bundle with --bundle" in done.stderr


def test_the_pages_of_a_clone_are_in_its_docs_folder() -> None:
    assert shipped_folder() == REPOSITORY
    assert len(cited_pages()) > 8
    assert all((REPOSITORY / page).is_file() for page in cited_pages())
