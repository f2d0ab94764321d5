"""Shared by the tests of packaging: the sdist and the wheel, built once, and new environments outside the clone.

uv makes an environment in a folder that the caller gives. torch is the version of CPU_TORCH, never one that a resolver
chooses, because another build would bring gigabytes of CUDA.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
# Tools that the tests need in addition to the extras.
TEST_TOOLS = ("pytest", "pytest-xdist", "hypothesis", "psutil")
# pip finds the build for the CPU through its own settings, which uv does not read.
CPU_TORCH = "torch==2.13.0"
UV = (sys.executable, "-m", "uv", "--quiet", "--no-progress")


def run(command: Sequence[str | Path], folder: Path, *, timeout_s: float = 1800) -> str:
    """Run a command that must end with 0; returns its standard output.

    Raises:
        RuntimeError: the exit code is not 0; with the end of the output.
    """
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(map(str, command))}\nended with {done.returncode}\n{(done.stdout + done.stderr)[-6000:]}"
        )
    return done.stdout


def build(folder: Path) -> tuple[Path, Path]:
    """Build the sdist of the clone, and the wheel from the sdist alone."""
    run([sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder], REPOSITORY)
    (sdist,) = folder.glob("abonyx-*.tar.gz")
    unpacked = unpack(sdist, folder / "unpacked")
    run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], unpacked)
    (wheel,) = folder.glob("abonyx-*.whl")
    return sdist, wheel


def unpack(sdist: Path, folder: Path) -> Path:
    """The folder inside the sdist."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (top,) = folder.iterdir()
    return top


def environment(folder: Path, python: str, *, pip: bool = True) -> Path:
    """A new environment; the path of its Python."""
    run([*UV, "venv", *(["--seed"] if pip else []), "--python", python, folder], folder.parent)
    return folder / ("Scripts" if os.name == "nt" else "bin") / "python"


def install(python: Path, *what: str | Path, constraints: Path | None = None) -> None:
    """Install into an environment with uv, whose cache makes the second time fast."""
    limits = ["-c", constraints] if constraints else []
    run([*UV, "pip", "install", "--python", python, *limits, *what], python.parent)


def install_torch(python: Path, torch: str = CPU_TORCH) -> None:
    """Install PyTorch for the CPU with pip, before any package that requires torch."""
    run([python, "-m", "pip", "install", "--quiet", torch], python.parent)


def interpreters() -> dict[int, Path]:
    """Minor version of Python 3 -> an interpreter on this machine that works, from the PATH or pyenv."""
    found: dict[int, Path] = {}
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for minor in range(11, 20):
        name = f"python3.{minor}"
        on_path = shutil.which(name)
        for candidate in [*([Path(on_path)] if on_path else []), *sorted(pyenv.glob(f"3.{minor}.*/bin/{name}"))]:
            # A name from pyenv on the PATH may not work.
            done = subprocess.run([candidate, "-c", "import ssl, sqlite3"], capture_output=True, check=False)
            if done.returncode == 0:
                found[minor] = candidate
                break
    return found


def index_answers(folder: Path) -> bool:
    """Whether packages can be downloaded here; the tests need a package index."""
    requirement = folder / "one.in"
    requirement.write_text("msgspec\n")
    try:
        run([*UV, "pip", "compile", requirement, "-o", folder / "one.txt"], folder, timeout_s=60)
    except (RuntimeError, subprocess.TimeoutExpired):
        return False
    return True
