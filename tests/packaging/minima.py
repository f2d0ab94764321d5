"""Install each extra with the lowest versions that pyproject.toml allows, and run its tests against the built wheel.

    python tests/packaging/minima.py          # every extra
    python tests/packaging/minima.py serve    # some
    python tests/packaging/minima.py export --torch 2.11.0

Direct dependencies have their lowest version, and their dependencies have the newest (uv's lowest-direct). The tests
come from the sdist and abonyx from the wheel, so no code of the clone runs.

PyTorch is the exception. Without --torch it is the version of constraints.txt, not its lower bound: an index may have
no build of another version for the CPU, and the builds for CUDA are gigabytes. `make packaging` runs without --torch.
The release workflow gives the lower bound, and is the only place where that is tried.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

if __package__:
    from . import built
else:
    import built  # type: ignore[no-redef]

# The oldest Python for abonyx, because the lowest versions may have no wheels for a newer Python.
PYTHON = "3.11"
# Extra -> extras that are installed with it, and the tests of its features.
TESTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "cpu": (
        ("cpu",),
        ("tests/runtime/test_session.py", "tests/runtime/cli", "tests/runtime/domain", "tests/runtime/input"),
    ),
    "openvino": (("openvino",), ("tests/runtime/engine/test_openvino.py",)),
    "gpu": (("gpu",), ("tests/runtime/engine/test_cuda_driver.py",)),
    "parquet": (("cpu", "parquet"), ("tests/runtime/input", "tests/runtime/output")),
    "excel": (("cpu", "excel"), ("tests/runtime/input/test_excel.py",)),
    "frames": (("cpu", "frames"), ("tests/runtime/test_frames.py",)),
    "ray": (("cpu", "ray"), ("tests/runtime/ray",)),
    "evaluate": (
        ("cpu", "evaluate"),
        ("tests/runtime/evaluate", "tests/runtime/card", "tests/runtime/sklearn/test_estimator_checks.py"),
    ),
    "explain": (("cpu", "explain"), ("tests/runtime/explain",)),
    "serve": (("cpu", "serve"), ("tests/runtime/serve",)),
    "client": (("cpu", "serve", "client"), ("tests/runtime/client",)),
    "hub": (("cpu", "hub"), ("tests/runtime/bundle",)),
    "training": (("cpu", "training", "evaluate"), ("tests/training",)),
    "fit": (("cpu", "fit", "evaluate"), ("tests/test_docs_heads.py", "tests/test_docs_calibrate.py")),
    "export": (
        ("cpu", "export"),
        ("tests/export/test_export.py", "tests/export/fit", "tests/export/head", "tests/export/encoder"),
    ),
}
# Engine -> the execution provider that its lowest version must have. The tests of a provider are skipped without it.
PROVIDERS = {"cpu": "CPU", "gpu": "CUDA", "openvino": "OpenVINO"}
# Tools that some test folders need and that the extra does not include.
BESIDE = {
    "frames": ("pandas>=2.2", "polars"),
    "export": ("joblib", "fair-esm==2.0.0"),
    "serve": ("joblib",),
}


def minima(extras: tuple[str, ...], folder: Path, torch: str = built.CPU_TORCH) -> Path:
    """A constraints file with the lowest version of each direct dependency of the extras, and this torch."""
    file = folder / "minima.txt"
    chosen = [part for extra in extras for part in ("--extra", extra)]
    # Replaces torch's lower bound, which may have no build for the CPU.
    override = folder / "override.txt"
    override.write_text(torch + "\n")
    lowest = ["--resolution", "lowest-direct", "--python-version", PYTHON, "--no-header", "--no-annotate"]
    project = built.REPOSITORY / "pyproject.toml"
    built.run([*built.UV, "pip", "compile", project, *chosen, *lowest, "--override", override, "-o", file], folder)
    lines = [line for line in file.read_text().splitlines() if not line.startswith(("nvidia-", "triton", "cuda-"))]
    file.write_text("\n".join(lines) + "\n")
    return file


def try_extra(extra: str, sdist: Path, wheel: Path, folder: Path, torch: str = built.CPU_TORCH) -> str:
    """Run the tests of one extra; returns their last line.

    Raises:
        RuntimeError: the lowest versions cannot be installed, or a test fails with them.
    """
    extras, tests = TESTS[extra]
    python = built.environment(folder / "env", PYTHON)
    limits = minima(extras, folder, torch)
    if "export" in extras:
        built.install_torch(python, torch)
    built.install(python, f"{wheel}[{','.join(extras)}]", *built.TEST_TOOLS, *BESIDE.get(extra, ()), constraints=limits)
    clone = built.unpack(sdist, folder / "sdist")
    if extra in PROVIDERS:
        look = "import onnxruntime; print(*onnxruntime.get_available_providers())"
        has = built.run([python, "-c", look], folder).split()
        if f"{PROVIDERS[extra]}ExecutionProvider" not in has:
            raise RuntimeError(f"the lowest version of the engine {extra} has {has}")
        built.run([python, "-m", "abonyx", "verify", "--provider", "cpu"], folder)
    # Old versions of libraries may warn of what new versions of others deprecate.
    options = [
        "-q",
        "-n",
        "2",
        "--dist",
        "loadfile",
        "-o",
        "filterwarnings=default",
        "-p",
        "no:cacheprovider",
        "--disable-warnings",
        "--tb=short",
        "-rf",
    ]
    return built.run([python, "-m", "pytest", *options, *tests], clone).strip().splitlines()[-1]


def main() -> None:
    """Test the extras that the command line names, or all extras."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("extras", nargs="*", metavar="EXTRA", help=f"of {', '.join(TESTS)}  [default: all]")
    parser.add_argument("--torch", metavar="VERSION", help=f"[default: {built.CPU_TORCH.partition('==')[2]}]")
    asked = parser.parse_args()
    chosen, torch = asked.extras or list(TESTS), f"torch=={asked.torch}" if asked.torch else built.CPU_TORCH
    if unknown := sorted(set(chosen) - set(TESTS)):
        parser.error(f"no such extra: {', '.join(unknown)}; there are {', '.join(TESTS)}")
    failed = []
    with tempfile.TemporaryDirectory(prefix="abonyx-minima-") as name:
        sdist, wheel = built.build(Path(name))
        for extra in chosen:
            folder = Path(name, extra)
            folder.mkdir()
            started = time.monotonic()
            try:
                outcome = try_extra(extra, sdist, wheel, folder, torch)
            except RuntimeError as error:
                failed.append(extra)
                outcome = f"FAILED\n{error}"
            print(f"{extra}: {outcome} ({time.monotonic() - started:.0f} s)", flush=True)  # noqa: T201
    if failed:
        sys.exit(f"lower bounds that do not hold, or tests that need more: {', '.join(failed)}")


if __name__ == "__main__":
    main()
