"""Completion with Tab in a shell works as docs/completion.md says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "completion.md").read_text(encoding="utf-8")
# Simulates Tab in an interactive Bash: set the words so far, then call the function that completes them.
_TAB = """
tab() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _abonyx_completion abonyx; echo "${COMPREPLY[*]}"; }
tab abonyx sc; tab abonyx fit --task ''; tab abonyx score --dom
"""


def shell(program: str, script: str, home: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "HOME": str(home)}
    command = [program, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.M | re.S)


@pytest.mark.parametrize("number", [0, 1])
def test_bash_completes_commands_options_and_choices(number: int, tmp_path: Path) -> None:
    if not shutil.which("bash"):
        pytest.skip("no bash here")
    load = blocks("bash")[number] + ("\n. ~/.bashrc" if number else "")
    found = shell("bash", load + _TAB, tmp_path).splitlines()
    assert [sorted(line.split()) for line in found] == [
        ["scan", "score"],
        ["classification", "regression"],
        ["--domain"],
    ]


@pytest.mark.parametrize("name", ["zsh", "fish"])
def test_the_other_shells_get_a_script_for_them(name: str, tmp_path: Path) -> None:
    """If the shell is installed, it reads the script."""
    (block,) = blocks(name)
    (command,) = re.findall(r"_ABONYX_COMPLETE=\w+ abonyx", block)
    script = shell("sh", command, tmp_path)
    assert {"zsh": "#compdef abonyx", "fish": "complete --no-files --command abonyx"}[name] in script
    if shutil.which(name):
        (tmp_path / "script").write_text(script, encoding="utf-8")
        shell(name, f"{name} --no-execute {tmp_path / 'script'}", tmp_path)
