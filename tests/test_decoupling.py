"""The runtime is independent: no torch, no export package, and no imports as a side effect."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import abonyx

from .conftest import EXAMPLES, REPOSITORY

HEAVY = (
    *("torch", "transformers", "sklearn", "onnx", "optimum", "scipy", "matplotlib"),
    *("ray", "abonyx_export"),
)
# Only runtime/abonyx/evaluate/ may import these (explain/ may import matplotlib), and only when their commands run.
EVALUATE_ONLY = ("sklearn", "matplotlib")
# Only runtime/abonyx/serve/ may import these.
SERVE_ONLY = ("fastapi", "starlette", "pydantic", "uvicorn", "prometheus_client")

BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {heavy!r}:
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Block())
import abonyx.cli
sys.argv = ["abonyx", {command!r}, {source!r}, "-o", {output!r}]
abonyx.cli.main()
"""

LOADED = """
import sys
import abonyx.cli
sys.argv = ["abonyx", *{arguments!r}]
try:
    abonyx.cli.main()
except SystemExit as exit_:
    assert not exit_.code
print([name for name in ("numpy", "onnxruntime", *{heavy!r}) if name in sys.modules], file=sys.stderr)
"""


def test_scores_in_a_process_where_heavy_packages_cannot_be_imported(tmp_path: Path) -> None:
    output = tmp_path / "scores.csv"
    code = BLOCKED.format(heavy=HEAVY, command="score", source=str(EXAMPLES), output=str(output))
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(output.read_text().splitlines()) == 13


def test_evaluates_in_a_process_where_only_its_own_extra_can_be_imported(tmp_path: Path) -> None:
    for name in EVALUATE_ONLY:
        pytest.importorskip(name)
    source, output = tmp_path / "labelled.csv", tmp_path / "out"
    lines = EXAMPLES.read_text(encoding="utf-8").splitlines()
    labelled = (f"{line},{index % 2}" for index, line in enumerate(lines[1:]))
    source.write_text("\n".join([f"{lines[0]},label", *labelled]), encoding="utf-8")
    # scikit-learn needs scipy.
    blocked = tuple(set(HEAVY) - {*EVALUATE_ONLY, "scipy"})
    code = BLOCKED.format(heavy=blocked, command="evaluate", source=str(source), output=str(output))
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (output / "report.html").is_file()


@pytest.mark.parametrize(
    "arguments", [["--help"], ["evaluate", "--help"], ["scan", "--help"], ["score", "--help"], ["serve", "--help"]]
)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = LOADED.format(
        arguments=arguments, heavy=(*HEAVY[:-1], *SERVE_ONLY)
    )  # --help lists the commands of abonyx_export
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_scoring_does_not_import_packages_of_evaluate_or_the_service(tmp_path: Path) -> None:
    code = LOADED.format(
        arguments=["score", str(EXAMPLES), "-o", str(tmp_path / "scores.csv")], heavy=(*HEAVY, *SERVE_ONLY)
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "['numpy', 'onnxruntime']"


def test_importing_loads_neither_engine_nor_numpy_nor_model() -> None:
    code = "import sys, abonyx; print([m for m in ('onnxruntime', 'numpy', 'click', 'rich') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_modules_that_are_imported_by_name_are_few_and_listed() -> None:
    """The import contracts in pyproject.toml cannot check these imports."""
    sources = [
        path for part in ("runtime/abonyx", "export/abonyx_export") for path in (REPOSITORY / part).rglob("*.py")
    ]
    by_name = {path.relative_to(REPOSITORY).as_posix() for path in sources if "import_module(" in path.read_text()}
    assert by_name == {
        "runtime/abonyx/__init__.py",
        "runtime/abonyx/engine/onnx.py",
        "runtime/abonyx/extras.py",
        "export/abonyx_export/export.py",
    }


def test_public_names() -> None:
    assert set(abonyx.__all__) == {
        "Contributions",
        "RuntimeConfig",
        "ScoreRow",
        "ScoreSummary",
        "close_session",
        "Session",
        "__version__",
        "errors",
        "judge",
        "load_config",
        "open_session",
        "scan",
        "score_file",
        "score_frame",
    }
    for name in abonyx.__all__:
        assert getattr(abonyx, name) is not None
    assert issubclass(abonyx.errors.EngineError, Exception)
    assert abonyx.RuntimeConfig() == abonyx.RuntimeConfig(bundle=None, provider="cpu")
