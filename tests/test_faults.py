"""benchmarks/faults.py in its short form: a killed or disturbed command loses nothing."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import faults
import faults_table
import power_loss
from abonyx.output import files, resumable

from .conftest import REPOSITORY


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Of each command's engine: for such short rows a second one costs half as much processor again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ABONYX_CPU_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def undisturbed(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[faults.Scene, dict[str, bytes]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ABONYX_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))
        scene = faults.make_scene(tmp_path_factory.mktemp("faults") / "scene", rows=320, window=32)
        expected = faults.reference(scene)
    # The reference run starts cold, so that it may take much longer than the runs that are killed.
    scene.window_s = min(scene.window_s, 0.1)
    assert set(expected) == {"out.csv", "out.csv.rejected.csv"}
    assert expected["out.csv"].count(b"\n") == 321
    assert expected["out.csv.rejected.csv"].count(b"\n") == 4
    return scene, expected


@pytest.fixture
def scene(undisturbed: tuple[faults.Scene, dict[str, bytes]]) -> faults.Scene:
    scene, _ = undisturbed
    shutil.rmtree(scene.output().parent)
    scene.output().parent.mkdir()
    return scene


@pytest.fixture
def expected(undisturbed: tuple[faults.Scene, dict[str, bytes]]) -> dict[str, bytes]:
    return undisturbed[1]


def test_kill_9(scene: faults.Scene, expected: dict[str, bytes]) -> None:
    assert faults.kill(scene, expected, kills=3, seed=1) == []


def test_signals(scene: faults.Scene, expected: dict[str, bytes]) -> None:
    assert faults.interrupt(scene, expected) == []


def test_another_input_bundle_or_config(scene: faults.Scene, expected: dict[str, bytes]) -> None:
    assert faults.another_run(scene, expected) == []


def test_two_runs_on_one_output(scene: faults.Scene, expected: dict[str, bytes]) -> None:
    assert faults.two_at_once(scene, expected) == []


def test_full_disk_as_a_limit_on_file_sizes(
    scene: faults.Scene, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`make faults` without the permission to mount; tests/runtime/output/test_resumable.py fills a disk per format."""
    real = faults.subprocess.run

    def no_mount(line: list[str], **options: object) -> object:
        if line[0] == "mount":
            raise FileNotFoundError
        return real(line, **options)

    monkeypatch.setattr(faults.subprocess, "run", no_mount)
    assert faults.full_disk(scene, expected) == ("RLIMIT_FSIZE", [])


def test_weights_that_change_while_a_run_scores(scene: faults.Scene, expected: dict[str, bytes]) -> None:
    assert faults.model_changed(scene, expected) == []


def test_the_script_detects_differences(scene: faults.Scene, expected: dict[str, bytes]) -> None:
    faults.stop_at(scene, scene.output(), 64, signal.SIGKILL)
    (found,) = faults.end(scene, expected | {"out.csv": b"other bytes"})
    assert found == "differs from the undisturbed run: out.csv"
    (scene.output().parent / "left behind").touch()
    assert any("started again" in fault for fault in faults.end(scene, expected))


def test_input_is_seeded(tmp_path: Path) -> None:
    faults.write_input(tmp_path / "a.csv", 50)
    faults.write_input(tmp_path / "b.csv", 50)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


@pytest.mark.parametrize(("command", "suffix"), [("score", ".csv"), ("score", ".parquet"), ("embed", ".npy")])
def test_power_cuts(tmp_path: Path, command: str, suffix: str) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    run = power_loss.small_run(command, suffix, rows=9, window=4)
    outcomes, found = power_loss.cut_everywhere(tmp_path, f"out{suffix}", run)
    assert found == []
    assert set(outcomes) == {"same bytes"}, "no cut needs the user's help"
    assert outcomes.total() > 300


@pytest.mark.parametrize(
    ("module", "name", "harmless"),
    [(resumable, "flush_directory", lambda _: None), (files.PartialFile, "flush", lambda _: None)],
)
def test_power_cuts_find_what_is_not_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: object, name: str, harmless: object
) -> None:
    monkeypatch.setattr(module, name, harmless)
    outcomes, _ = power_loss.cut_everywhere(tmp_path, "out.csv", power_loss.small_run("score", ".csv", 9, 4))
    assert set(outcomes) > {"same bytes"}


def test_power_cuts_find_an_output_that_is_not_whole(tmp_path: Path) -> None:
    def run(output: Path) -> None:
        partial = output.with_name("partial")
        file = getattr(files, "open", open)(partial, "xb", buffering=0)  # the recorder replaces open
        file.write(b"new")
        file.close()
        partial.replace(output)  # without flushing its bytes

    _, found = power_loss.cut_everywhere(tmp_path, "out.csv", run)
    assert any("neither the old nor the new" in fault for fault in found)


def test_kill_9_at_each_rename(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    assert faults.killed_at_renames(tmp_path, rows=20, window=10) == (7, [])


def test_the_page_shows_the_record() -> None:
    record = json.loads((REPOSITORY / "benchmarks" / "records" / "faults.json").read_text())
    assert faults_table.table(record) in (REPOSITORY / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert [row["fault"] for row in record["outcomes"] if row["faults"]] == []
