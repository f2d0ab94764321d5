"""docs/python.md: each example runs alone and prints what the page says; no public name is left out."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import abonyx

from .conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "python.md").read_text(encoding="utf-8")
SECTIONS = PAGE.split("\n## ")[1:]
# The address at which examples expect a service.
SERVICE = "http://127.0.0.1:8000"
EXAMPLES = [
    pytest.param(example, id=section.splitlines()[0])
    for section in SECTIONS
    for example in re.findall(r"^```python\n(.*?)^```", section, flags=re.M | re.S)
]


@pytest.mark.parametrize("example", EXAMPLES)
def test_example(example: str, tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "configs", tmp_path / "configs")
    with service() if SERVICE in example else contextlib.nullcontext(SERVICE) as address:
        run_example(example, address, tmp_path)


@contextlib.contextmanager
def service() -> Iterator[str]:
    """The address of a service that runs in a separate process at a free port."""
    pytest.importorskip("uvicorn", reason="the serve extra is not installed")
    command = [sys.executable, "-m", "abonyx", "serve", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as started:
        assert started.stderr
        try:
            found = (re.search(r"listening at (http://\S+)", line) for line in started.stderr)
            yield next(match[1] for match in found if match)
        finally:
            started.kill()


def run_example(example: str, address: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example.replace(SERVICE, address)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = re.findall(r"# prints: (.*)$", example, flags=re.M)
    assert expected
    assert done.stdout.splitlines() == expected


def test_every_section_has_an_example() -> None:
    assert len(EXAMPLES) == len(SECTIONS)


def test_every_public_name_is_on_the_page() -> None:
    for name in abonyx.__all__:
        assert f"`abonyx.{name}`" in PAGE, name
    members = {name for name in dir(abonyx.Session) if not name.startswith("_")}
    for name in members:
        assert re.search(rf"session\.{name}\b|`{name}`", PAGE), name
