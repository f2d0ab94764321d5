"""The sdist and the wheel as a user gets them: checked, installed outside the clone, and tested on two Pythons.

These tests are slow, because each makes a new environment. `make packaging` runs them. Without a package index they are
skipped.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ..test_readme import COMMANDS, SERVE, blocks, clone
from . import built, minima

pytest.importorskip("uv", reason="the test extra is not installed")
pytest.importorskip("twine", reason="the test extra is not installed")
pytest.importorskip("hatchling", reason="the test extra is not installed")
pytestmark = pytest.mark.slow

PYTHONS = built.interpreters()
# The oldest Python for abonyx, and the newest on this machine.
EDGES = sorted({min(PYTHONS), max(PYTHONS)}) if PYTHONS else []
# The limits of the lean install, `abonyx[cpu]`.
LEAN_PACKAGES, LEAN_BYTES = 16, 220_000_000
# Parts of README commands that need an extra in addition to the engine's.
NEEDS = {
    "parquet": r"\.parquet",
    "evaluate": r"abonyx evaluate",
    "explain": r"abonyx explain",
    "fit": r"abonyx fit",
    "ray": "--ray",
}


@pytest.fixture(scope="session")
def index(tmp_path_factory: pytest.TempPathFactory) -> None:
    if not built.index_answers(tmp_path_factory.mktemp("index")):
        pytest.skip("no package index answers here")


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist, and the wheel made of it."""
    return built.build(tmp_path_factory.mktemp("dist"))


def extras_of(line: str) -> tuple[str, ...]:
    return ("cpu", *(extra for extra, sign in NEEDS.items() if re.search(sign, line)))


RUN = [line for line in COMMANDS if not re.match(f"make|pip|git|cd |{SERVE}|.*esm1v", line)]
SETS = sorted({extras_of(line) for line in RUN})


def test_an_sdist_and_a_wheel_pass_the_checks_of_an_upload(files: tuple[Path, Path]) -> None:
    sdist, wheel = files
    built.run([sys.executable, "-m", "twine", "check", "--strict", *files], sdist.parent)
    built.run(
        [sys.executable, "-m", "check_wheel_contents", "--config", built.REPOSITORY / "pyproject.toml", wheel],
        sdist.parent,
    )
    unpacked = built.unpack(sdist, sdist.parent / "looked-at")
    hidden = [path.name for path in unpacked.iterdir() if path.name.startswith(".")]
    assert sorted(hidden) == [".gitignore", ".pre-commit-config.yaml"] or sorted(hidden) == [
        ".github",
        ".gitignore",
        ".pre-commit-config.yaml",
    ]
    assert not list(unpacked.rglob("*.pyc"))


def installed(folder: Path, files: tuple[Path, Path], minor: int, form: str, extras: tuple[str, ...]) -> Path:
    """The Python of a new environment with abonyx (from the wheel or from a clone) and only these extras."""
    sdist, wheel = files
    python = built.environment(folder / "env", str(PYTHONS[minor]))
    if form == "wheel":
        built.install(python, f"{wheel}[{','.join(extras)}]")
    else:
        built.install(python, "-e", f"{built.unpack(sdist, folder / 'clone')}[{','.join(extras)}]")
    return python


def test_the_lean_install_is_small_and_runs_the_first_command(
    files: tuple[Path, Path], index: None, tmp_path: Path
) -> None:
    """What `abonyx[cpu]` brings, without pip: packages, and bytes of all files with the byte code that pip compiles."""
    _, wheel = files
    python = built.environment(tmp_path / "env", sys.executable, pip=False)
    built.install(python, "--compile-bytecode", f"{wheel}[cpu]")
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    packages = list(site.glob("*.dist-info"))
    size = sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
    assert len(packages) <= LEAN_PACKAGES
    assert size <= LEAN_BYTES
    (tmp_path / "work").mkdir()
    first = f"PATH={shlex.quote(str(python.parent))}:$PATH; {COMMANDS[0]}"
    built.run(["sh", "-ec", first], clone(tmp_path / "work"))
    assert (tmp_path / "work" / "scores.csv").stat().st_size > 100


@pytest.mark.parametrize("extras", SETS, ids="+".join)
@pytest.mark.parametrize("form", ["wheel", "clone"])
@pytest.mark.parametrize("minor", sorted(PYTHONS))
def test_readme_commands_run_with_just_the_extras_they_name(
    minor: int, form: str, extras: tuple[str, ...], files: tuple[Path, Path], index: None, tmp_path: Path
) -> None:
    python = installed(tmp_path, files, minor, form, extras)
    (tmp_path / "work").mkdir()
    directory = clone(tmp_path / "work")
    for line in RUN:
        if extras_of(line) == extras:
            built.run(["sh", "-ec", f"PATH={shlex.quote(str(python.parent))}:$PATH; {line}"], directory)
    if "explain" in extras:
        assert list((directory / "explained").rglob("*.png")), "the pictures need the extra explain"
    if extras == ("cpu",):
        (example,) = blocks("python")
        assert built.run([python, "-c", example], directory) == "()\n"
    origin = built.run([python, "-c", "import abonyx; print(abonyx.__file__)"], directory)
    assert ("site-packages" in origin) == (form == "wheel")


@pytest.mark.parametrize("form", ["wheel", "clone"])
def test_the_pip_command_of_a_message_installs_the_missing_extra(
    form: str, files: tuple[Path, Path], index: None, tmp_path: Path
) -> None:
    """Run the command in the message of `abonyx serve` without its extra, word for word, with the environment's pip."""
    python = installed(tmp_path, files, EDGES[0], form, ("cpu",))
    command = [python, "-m", "abonyx", "serve", "--port", "0", "--bundle", "nowhere"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "serve needs fastapi" in done.stderr
    (fix,) = re.findall(r"Install the extra serve: (pip install .*)", done.stderr)
    built.run(["sh", "-ec", f"PATH={shlex.quote(str(python.parent))}:$PATH; {fix} --quiet"], tmp_path)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 4 and "nowhere" in done.stderr


@pytest.mark.parametrize("minor", EDGES)
def test_the_tests_of_the_sdist_pass_with_the_wheel(
    minor: int, files: tuple[Path, Path], index: None, tmp_path: Path
) -> None:
    """The tests run outside the clone with the lean install; tests that need an extra are skipped."""
    sdist, wheel = files
    python = built.environment(tmp_path / "env", str(PYTHONS[minor]))
    built.install(python, f"{wheel}[cpu]", *built.TEST_TOOLS)
    unpacked = built.unpack(sdist, tmp_path / "sdist")
    origin = built.run([python, "-c", "import abonyx; print(abonyx.__file__)"], unpacked)
    assert "site-packages" in origin
    tests = ["tests/runtime/test_session.py", "tests/runtime/cli", "tests/runtime/input", "tests/runtime/run"]
    said = built.run([python, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", *tests], unpacked)
    assert " passed" in said.splitlines()[-1]


def test_wheelhouse_installs_without_a_network(files: tuple[Path, Path], index: None, tmp_path: Path) -> None:
    """docs/deploy.md: an offline machine only needs the files from `pip download`."""
    _, wheel = files
    python = built.environment(tmp_path / "env", str(PYTHONS[EDGES[0]]))
    house = tmp_path / "wheelhouse"
    built.run([python, "-m", "pip", "download", "--quiet", "-d", house, f"{wheel}[cpu,serve]"], tmp_path)
    offline = [python, "-m", "pip", "--isolated", "install", "--quiet", "--no-index", "--find-links", house]
    built.run([*offline, "abonyx[cpu,serve]"], tmp_path)
    said = built.run([python, "-m", "abonyx", "verify"], tmp_path)
    assert said


@pytest.mark.parametrize("extra", minima.TESTS)
def test_the_lower_bounds_of_an_extra_hold(extra: str, files: tuple[Path, Path], index: None, tmp_path: Path) -> None:
    last = minima.try_extra(extra, *files, tmp_path)
    assert " passed" in last


def test_every_extra_for_users_has_its_lower_bounds_tried() -> None:
    import tomllib

    project = tomllib.loads((built.REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(minima.TESTS) == set(project["optional-dependencies"]) - {"docs", "test"}
