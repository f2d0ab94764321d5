"""Nothing leaves the machine, and nothing is written outside abonyx's cache."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from abonyx import privacy

from ...conftest import EXAMPLES

LOOKUPS = Path(__file__).with_name("lookups.py")
OPEN = (
    "import time, abonyx\nwith abonyx.open_session() as s: s.score(['EVQLVESGGGLVQPGGSLRLSCAASGFTFS']); time.sleep({})"
)
# ONNX Runtime's first lookup came 10 s after the import.
LONG_S = 20


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A separate home directory for commands, without variables that say where libraries write."""
    for name in ("ABONYX_CACHE_DIR", "XDG_CACHE_HOME", "MPLCONFIGDIR", "ORT_DISABLE_TELEMETRY", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def written(home: Path) -> set[str]:
    """The files below a home directory that are not abonyx's."""
    paths = {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()}
    return {path for path in paths if not path.startswith((".cache/abonyx/", "out"))}


def looked_up(command: list[str], home: Path) -> list[str]:
    """The host names that a command looks up; skips if this machine gives no network namespace."""
    if not shutil.which("unshare") or not shutil.which("ip"):
        pytest.skip("no unshare or ip here")
    space = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-rn"]
    if subprocess.run([*space, "ip", "link", "set", "lo", "up"], capture_output=True, check=False).returncode:
        pytest.skip("no network namespace here")
    done = subprocess.run(
        [*space, sys.executable, LOOKUPS, *command], capture_output=True, text=True, cwd=home, check=True, timeout=300
    )
    found = json.loads(done.stdout)
    assert found["code"] == 0, done.stderr
    names: list[str] = found["names"]
    return names


def test_a_session_writes_to_its_own_cache_alone(home: Path) -> None:
    subprocess.run([sys.executable, "-c", OPEN.format(0)], check=True, timeout=120)
    assert written(home) == set()


@pytest.mark.parametrize("given", ["0", "", "1"])
def test_the_engines_variable_is_assigned(given: str, home: Path) -> None:
    probe = "import os, abonyx\nwith abonyx.open_session(): print(os.environ['ORT_DISABLE_TELEMETRY'])"
    env = os.environ | {"ORT_DISABLE_TELEMETRY": given}
    done = subprocess.run([sys.executable, "-c", probe], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


def test_an_engine_that_was_imported_first_is_named(home: Path) -> None:
    probe = "import onnxruntime, abonyx, sys\nfrom abonyx.cli.commands import main\nsys.argv[1:] = {!r}\nmain()"
    command = ["score", str(EXAMPLES), "-o", str(home / "out.csv")]
    done = subprocess.run([sys.executable, "-c", probe.format(command)], capture_output=True, text=True, check=True)
    assert privacy.ENGINE_NOTE in done.stderr
    done = subprocess.run([sys.executable, "-m", "abonyx", *command], capture_output=True, text=True, check=True)
    assert "onnxruntime was imported" not in done.stderr


@pytest.mark.slow
def test_an_open_session_looks_nothing_up(home: Path) -> None:
    assert looked_up([sys.executable, "-c", OPEN.format(LONG_S)], home) == []
    assert written(home) == set()


@pytest.mark.slow
def test_the_lookups_are_seen(home: Path) -> None:
    """The test above can fail: run the engine alone with its telemetry on."""
    probe = f"import onnxruntime, time; time.sleep({LONG_S})"
    assert any("microsoft" in name for name in looked_up([sys.executable, "-c", probe], home))


@pytest.mark.slow
@pytest.mark.parametrize("command", ["score", "evaluate", "ray"])
def test_a_command_looks_nothing_up(command: str, home: Path) -> None:
    abonyx = [sys.executable, "-m", "abonyx"]
    if command == "score":
        arguments = ["score", str(EXAMPLES), "-o", str(home / "out.csv")]
    elif command == "evaluate":
        pytest.importorskip("matplotlib")
        labelled = home / "out.labelled.csv"
        rows = EXAMPLES.read_text(encoding="utf-8").splitlines()[1:]
        lines = [",".join(row.split(",")[:2]) + f",{at % 2}\n" for at, row in enumerate(rows)]
        labelled.write_text("id,sequence,label\n" + "".join(lines), encoding="utf-8")
        arguments = ["evaluate", str(labelled), "-o", str(home / "out")]
    else:
        pytest.importorskip("ray.data")
        (home / "out.in").mkdir()
        shutil.copy(EXAMPLES, home / "out.in" / "a.csv")
        arguments = ["score", str(home / "out.in"), "-o", str(home / "out"), "--ray"]
    # Ray asks Google's metadata server whether this is a TPU host. It sends no data of abonyx, and nothing else asks.
    expected = {"metadata.google.internal"} if command == "ray" else set()
    assert set(looked_up([*abonyx, *arguments], home)) <= expected
    assert written(home) <= ({".ray/auth_token"} if command == "ray" else set())
