"""`score --ray` on a local Ray with two workers gives the bytes of the single-file command, whatever process dies."""

from __future__ import annotations

import contextlib
import errno
import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import abonyx
from abonyx import model as model_module
from abonyx import scoring
from abonyx.bundle import open_bundle
from abonyx.bundle.chosen import choose_heads
from abonyx.bundle.tolerances import BATCH_NEIGHBOURS
from abonyx.cli.options import prepare
from abonyx.config import CudaOptions, OpenVinoOptions, load_config
from abonyx.domain import DomainRule
from abonyx.errors import (
    BundleError,
    ConfigError,
    EngineError,
    InputError,
    OutOfDeviceMemory,
    ResumeRefused,
    RunInterrupted,
)
from abonyx.input.checked import check_records
from abonyx.input.judged import judged, judged_pairs
from abonyx.input.records import Record
from abonyx.model import OpenModel, State
from abonyx.ray import cluster, score
from abonyx.ray import files as files_module
from abonyx.ray.dataset import Scorer
from abonyx.ray.files import RayDispatch
from abonyx.ray.worker import Worker
from abonyx.run import resumed as runs
from abonyx.run import scorer as scorer_module
from abonyx.run.interrupts import Stop
from abonyx.run.run_file import SIDE, File, RunHeader, open_run_file
from abonyx.run.scorer import DirectoryRequest

from ..cli.test_commands import rows
from ..conftest import Done
from ..input.test_pairs import LIGHT, heavy_chains
from ..output.written import contents
from ..paired import make_paired

ray = pytest.importorskip("ray", reason="the ray extra is not installed")
pytest.importorskip("ray.data", reason="the ray extra is not installed")

Call = Callable[..., Done]
# Only a hanging process takes longer.
PATIENCE_S = 120
USUAL = choose_heads(open_bundle(None), None)
OPTIONS = {
    "config_file": None,
    "bundle": None,
    "provider": None,
    "id_column": None,
    "sequence_column": None,
    "sheet": None,
    "gaps": "refuse",
    "on_invalid": "fail",
    "domain": "check",
    "trim": None,
}


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Ray with room for two workers of one thread, shared by the tests of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # The workers' environment, as in the fixture `isolated`.
        patch.setenv("ABONYX_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))
        ending = signal.getsignal(signal.SIGTERM)
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()
    signal.signal(signal.SIGTERM, ending)


@pytest.fixture
def one_worker(two_workers: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """For what does not depend on how many there are: each takes seconds of a processor to start."""
    monkeypatch.setattr(files_module, "worker_count", lambda config: 1)


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABONYX_WINDOW_SIZE", "4")
    monkeypatch.setenv("ABONYX_CPU_THREADS", "1")


@pytest.fixture
def parts(tmp_path: Path, sequences: list[str]) -> Path:
    """A directory of four inputs with 6 records; one input also has a record that cannot be scored."""
    folder = tmp_path / "parts"
    folder.mkdir()
    written = [[(f"id{at}", sequence) for at, sequence in enumerate(sequences[n : n + 6])] for n in range(0, 8, 2)]
    (folder / "a.csv").write_text(table(written[0]), encoding="utf-8")
    (folder / "b.fasta").write_text("".join(f">{id_}\n{sequence}\n" for id_, sequence in written[1]), encoding="utf-8")
    (folder / "c.csv.gz").write_bytes(gzip.compress(table(written[2]).encode(), mtime=0))
    (folder / "d.csv").write_text(table([*written[3], ("bad", "EVQLB")]), encoding="utf-8")
    (folder / "notes.txt").write_text("no sequences")
    return folder


def table(written: list[tuple[str, str]]) -> str:
    return "".join(f"{id_},{sequence}\n" for id_, sequence in [("id", "sequence"), *written])


def many(folder: Path, sequences: list[str], count: int, files: int = 2) -> Path:
    """Files with `count` different records; a window of 4 takes some hundred milliseconds."""
    folder.mkdir()
    for number in range(files):
        written = [(f"{number}-{at}", sequences[at % 12] + "AGSTV"[number] * (at // 12)) for at in range(count)]
        (folder / f"{number}.csv").write_text(table(written), encoding="utf-8")
    return folder


def without_ray(run: Call, folder: Path, output: Path, *options: str, suffix: str = "csv") -> dict[str, bytes]:
    """The results of the single-file command for each file."""
    output.mkdir()
    for source in sorted(folder.glob("*.*")):
        if source.suffix != ".txt":
            done = run("score", source, "-o", output / f"{source.name.partition('.')[0]}.{suffix}", *options)
            assert done.code == 0, done.err
    return contents(output)


def results(output: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(output).items() if name not in ("run.journal", "summary.json")}


@contextlib.contextmanager
def meanwhile(act: Callable[[], bool]) -> Iterator[None]:
    """Call `act` repeatedly until it returns True. It must do so before the block ends."""
    over, done = threading.Event(), threading.Event()

    def watch() -> None:
        while not over.wait(0.005):
            if act():
                done.set()
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert done.is_set(), "nothing was done meanwhile"


def lines(journal: Path) -> list[dict[str, Any]]:
    """The complete lines of a journal that another process may be writing."""
    try:
        return [json.loads(line) for line in journal.read_bytes().split(b"\n")[:-1]]
    except FileNotFoundError:
        return []


def test_the_bytes_of_the_single_file_command_and_nothing_twice(
    two_workers: None, run: Call, parts: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    options = ["--on-invalid", "skip", "--threshold", "0.6"]
    expected = without_ray(run, parts, tmp_path / "single", *options, suffix="parquet")
    assert len(expected) == 8  # with the rejected records of each
    command = ["score", parts, "-o", output, *options, "--ray"]
    done = run(*command)
    assert done.code == 0, done.err
    assert done.out == ""
    assert results(output) == expected
    for part in (
        "not read: notes.txt",
        "4 files; 2 workers, each num_cpus 1",
        "4 files done: 24 sequences scored, 1 rejected",
        "not ESM-1v",
    ):
        assert part in done.err
    summary = json.loads((output / SIDE / "summary.json").read_bytes())
    assert (summary["records"], summary["rejected"], summary["failed"], summary["workers"]) == (24, 1, [], 2)
    assert [each["output"] for each in summary["files"]] == [f"{name}.parquet" for name in "abcd"]
    assert summary["run"]["engine"].startswith("onnxruntime")

    # The second time nothing is scored, so Ray is not started. Then there is one more file, and one removed result.
    before = {path: path.stat().st_mtime_ns for path in output.rglob("[abcd].*")}
    done = run(*command, "192.0.2.1:1")
    assert done.code == 0, done.err
    assert "4 of 4 files are already done" in done.err
    (parts / "e.csv").write_text((parts / "a.csv").read_text(encoding="utf-8"), encoding="utf-8")
    (output / "a.parquet").unlink()
    del before[output / "a.parquet"], before[output / SIDE / "a.parquet.rejected.csv"]
    done = run(*command)
    assert done.code == 0, done.err
    assert "3 of 5 files are already done" in done.err
    assert "2 files scored now by 2 workers: 12 sequences" in done.err
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert results(output) == expected | {
        f"e.parquet{end}": expected[f"a.parquet{end}"] for end in ("", ".rejected.csv")
    }


def test_flags_are_counted_over_all_files_and_are_a_part_of_the_run(
    one_worker: None, run: Call, tmp_path: Path, sequences: list[str]
) -> None:
    folder, output = tmp_path / "flagged", tmp_path / "out"
    folder.mkdir()
    tagged, cut = f"{sequences[0]}HHHHHH", sequences[1][30:]
    (folder / "a.csv").write_text(table([("good", sequences[0]), ("tagged", tagged), ("cut", cut)]), encoding="utf-8")
    (folder / "b.csv").write_text(table([("tagged", f"M{tagged}"), ("X", sequences[2][:50] + "X" * 80)]))
    options = ["--on-invalid", "skip", "--format", "csv"]
    expected = without_ray(run, folder, tmp_path / "single", *options)
    command = ["score", folder, "-o", output, *options]
    done = run(*command, "--ray")
    assert done.code == 0, done.err
    assert results(output) == expected
    assert [(row["nonspecific"] == "", row["flag"]) for row in rows(output / "a.csv")] == [
        (False, ""),
        (True, "6 residues outside the domain"),
        (True, "fragment"),
    ]
    summary = json.loads((output / SIDE / "summary.json").read_bytes())
    assert (summary["records"], summary["flagged"], summary["uncalled"], summary["rejected"]) == (4, 3, 3, 1)
    assert summary["flags"] == {"residues outside the domain": 2, "fragment": 1}
    assert [each["flags"] for each in summary["files"]] == [
        {"residues outside the domain": 1, "fragment": 1},
        {"residues outside the domain": 1},
    ]
    assert summary["run"]["--domain"] == "check"
    assert done.err.count("flagged: ") == 1, "one line for all files"
    assert "flagged: 3 of 4 records (residues outside the domain 2, fragment 1); 3 without a call" in done.err
    done = run(*command, "--domain", "off", "--ray")
    assert done.code == 2
    assert "--domain: 'check' then, 'off' now" in done.err
    done = run(*command, "--domain", "off", "--restart", "--ray")
    assert done.code == 0, done.err
    assert "--domain off: chain and domain were not looked at" in done.err
    assert "flagged: " not in done.err
    assert {row["flag"] for name in "ab" for row in rows(output / f"{name}.csv")} == {""}


def test_other_input_another_run_and_unknown_files_are_refused(
    one_worker: None, run: Call, parts: Path, tmp_path: Path
) -> None:
    (parts / "d.csv").unlink()
    output = tmp_path / "out"
    command = ["score", f"{parts}/*.csv", "-o", output, "--format", "csv", "--ray"]
    assert run(*command).code == 0
    kept = contents(output)
    done = run(*command[:4], "--format", "parquet", "--threshold", "0.6", "--ray")
    assert done.code == 2
    assert "--format: 'csv' then, 'parquet' now" in done.err
    assert "threshold: 0.5 then, 0.6 now" in done.err

    (parts / "b.csv").write_text((parts / "a.csv").read_text(encoding="utf-8"), encoding="utf-8")
    (parts / "a.csv").write_text("id,sequence\nx,EVQL\n", encoding="utf-8")
    (output / "b.csv").write_text("somebody's")
    done = run(*command)
    assert done.code == 2
    assert "a.csv: sha256" in done.err
    assert "b.csv: exists, but run.journal does not list it" in done.err
    assert contents(output) == kept | {"b.csv": b"somebody's"}

    done = run(*command[:-1], "--restart", "--ray")
    assert done.code == 0, done.err
    assert [len(rows(output / name)) for name in ("a.csv", "b.csv")] == [1, 6]
    (output / "a.csv").write_text("shorter")
    done = run(*command)
    assert done.code == 2
    assert "a.csv: " in done.err
    assert "bytes, and now has 7" in done.err


def test_killed_workers_are_replaced_and_their_files_resumed(
    two_workers: None, run: Call, tmp_path: Path, sequences: list[str]
) -> None:
    """One kill during 0.csv and three during 1.csv, each after the worker has finished a window."""
    folder, output = many(tmp_path / "many", sequences, 40), tmp_path / "out"
    expected = without_ray(run, folder, tmp_path / "single")
    killed: dict[str, list[int]] = {"0.csv": [], "1.csv": []}

    def kill() -> bool:
        for name, most in (("0.csv", 1), ("1.csv", 3)):
            journal = lines(output / f"{name}.journal")
            started = max((at for at, line in enumerate(journal) if line["type"] == "started"), default=len(journal))
            windows = [line for line in journal[started:] if line["type"] == "window"]
            if windows and len(killed[name]) < most and journal[started]["process"] not in killed[name]:
                killed[name].append(journal[started]["process"])
                os.kill(killed[name][-1], signal.SIGKILL)
        return list(map(len, killed.values())) == [1, 3]

    with meanwhile(kill):
        done = run("score", folder, "-o", output, "--format", "csv", "--ray")
    assert done.code == 1
    for name in killed:
        assert f"{name}: its worker died: " in done.err
    assert "another worker resumes it" in done.err
    assert "1 of 2 files failed; the others are done\n" in done.err
    assert f"  {folder}/1.csv: 3 workers failed with this file; its worker died" in done.err
    assert (output / "0.csv").read_bytes() == expected["0.csv"]
    assert json.loads((output / SIDE / "summary.json").read_bytes())["failed"][0]["input"] == "1.csv"
    done = run("score", folder, "-o", output, "--format", "csv", "--ray")
    assert done.code == 0, done.err
    assert results(output) == expected


def test_a_file_that_vanishes_or_has_bad_records_is_named_and_the_others_are_done(
    two_workers: None, run: Call, parts: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    (parts / "e.csv").write_bytes((parts / "a.csv").read_bytes())
    text = (parts / "e.csv").read_bytes()

    def vanish() -> bool:
        if not any(line["type"] == "begun" for line in lines(output / SIDE / "run.journal")):
            return False
        (parts / "e.csv").unlink()
        return True

    command = ["score", parts, "-o", output, "--format", "csv", "--ray"]
    with meanwhile(vanish):
        done = run(*command)
    assert done.code == 3, done.err
    assert "2 of 5 files failed; the others are done" in done.err
    assert f"{parts / 'e.csv'}: cannot be read: No such file or directory" in done.err
    assert "d.csv: 1 of 7 records cannot be scored" in done.err
    assert sorted(results(output)) == ["a.csv", "b.csv", "c.csv"]
    (parts / "e.csv").write_bytes(text)
    (parts / "d.csv").write_text((parts / "d.csv").read_text(encoding="utf-8").replace("bad,EVQLB\n", ""))
    done = run(*command)
    assert done.code == 0, done.err
    assert "2 files scored now by 2 workers: 12 sequences" in done.err


def test_ctrl_c_keeps_what_is_done_and_starts_and_ends_its_own_ray(
    two_workers: None, run: Call, tmp_path: Path, sequences: list[str]
) -> None:
    folder, output = many(tmp_path / "many", sequences, 32, files=4), tmp_path / "out"
    expected = without_ray(run, folder, tmp_path / "single")
    command = [sys.executable, "-m", "abonyx", "score", str(folder), "-o", str(output), "--format", "csv", "--ray"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    until = time.monotonic() + PATIENCE_S
    while not any(line["type"] == "done" for line in lines(output / SIDE / "run.journal")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)
    done = run("score", folder, "-o", output, "--format", "csv", "--ray")
    assert done.code == 2
    assert f"another run is writing it (process {process.pid}" in done.err
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out) == (130, ""), err
    assert "abonyx: SIGINT: stopped with " in err
    assert "The same command resumes the run" in err
    whole = {line["output"] for line in lines(output / SIDE / "run.journal") if line["type"] == "done"}
    assert 1 <= len(whole) < 4
    assert {name: (output / name).read_bytes() for name in whole} == {name: expected[name] for name in whole}
    done = run("score", folder, "-o", output, "--format", "csv", "--ray")
    assert done.code == 0, done.err
    assert f"{len(whole)} of 4 files are already done" in done.err
    assert results(output) == expected


def test_an_address_that_does_not_answer(parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and never listens
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        command = [sys.executable, "-m", "abonyx", "score", parts, "-o", tmp_path / "out", "--ray", address]
        command += ["--on-invalid", "skip"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 2, done.stderr
    assert f"abonyx: --ray {address}: no answer: [Errno 111] Connection refused" in done.stderr
    assert not (tmp_path / "out").exists()
    with socket.create_server(("127.0.0.1", 0)) as silent:  # answers, and says nothing
        monkeypatch.setattr(cluster, "_JOIN_S", 2)
        with pytest.raises(ConfigError, match="answers, but cannot be joined as a Ray cluster within 2 s"):
            cluster._refuse_silent(f"127.0.0.1:{silent.getsockname()[1]}")
    with pytest.raises(ConfigError, match="Ray cannot join it: ValueError: Invalid address format: nowhere"):
        monkeypatch.setattr(cluster, "_JOIN_S", 60)
        cluster._refuse_silent("nowhere")


def test_a_living_cluster_is_joined_at_its_address(two_workers: None, run: Call, parts: Path, tmp_path: Path) -> None:
    """The process has no Ray of its own, and the cluster keeps running after it."""
    (parts / "d.csv").unlink()
    expected = without_ray(run, parts, tmp_path / "single")
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-m", "abonyx", "score", parts, "-o", tmp_path / "out", "--format", "csv"]
    command += [f"--ray={address}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr
    assert "3 files scored now by 2 workers" in done.stderr
    assert results(tmp_path / "out") == expected
    nodes = ray.nodes()
    assert [node["Alive"] for node in nodes] == [True], "it was joined, not added to"


def test_a_ray_that_does_not_start_is_one_error_and_leaves_no_handler(
    run: Call, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(**_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # Ray puts its own there
        raise failures.pop(0)

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", failing)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(cluster, "_refuse_silent", lambda _: None)
    # The last: Ctrl-C while it starts.
    failures = [ConnectionError("gone since"), ray.exceptions.RayError("no raylet"), KeyboardInterrupt()]
    before = signal.getsignal(signal.SIGTERM)
    for address, part in (
        ("=there:1", "--ray there:1: Ray cannot join it: gone since"),
        ("", "--ray: Ray cannot be started on this machine: no raylet"),
    ):
        done = run("score", parts, "-o", tmp_path / "out", f"--ray{address}")
        assert (done.code, part in done.err) == (2, True), done.err
        assert signal.getsignal(signal.SIGTERM) is before
        assert not (tmp_path / "out").exists()

    assert run("score", parts, "-o", tmp_path / "out", "--ray").code == 130
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_asked_for(run: Call, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "out"

    def refused(part: str, *arguments: object, code: int = 2) -> None:
        done = run("score", *arguments, "--ray")
        assert done.code == code, done.err
        assert part in done.err
        assert not output.exists()

    refused("--table cannot be used with a directory of results", parts, "-o", output, "--table")
    refused("standard input and output cannot be used with several inputs", "-", "-o", output)
    refused("standard input and output cannot be used with several inputs", parts, "-o", "-")
    refused("no file to score was found", tmp_path / "nothing*.csv", "-o", output, code=3)
    refused("the next run would read the results as inputs", parts, "-o", parts)
    refused("cannot be created: No such file or directory", parts, "-o", output / "in" / "it")
    (parts / "A.csv").write_text((parts / "a.csv").read_text(encoding="utf-8"), encoding="utf-8")
    refused("both would be written to", parts, "-o", output)
    (parts / "A.csv").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", unreadable)  # root may read every directory
        refused("parts: cannot be read: Permission denied", parts, "-o", output, code=3)
    with monkeypatch.context() as patch:
        patch.setenv("ABONYX_CUDA_DEVICE_ID", "1")
        refused("cuda.device_id is 1 and --ray is given", parts, "-o", output)
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "ray.data", None)
    refused("Install the extra ray: pip install ", parts, "-o", output)


class Silent:
    """A Ray that never places workers; `stop` becomes true at the third check."""

    def __init__(self, stop: Stop) -> None:
        self._stop, self._looks = stop, 0

    def remote(self, **_: object) -> Callable[[type], SimpleNamespace]:
        actor = SimpleNamespace(open=SimpleNamespace(remote=lambda _shared, _workers: object()))
        return lambda _: SimpleNamespace(remote=lambda _: actor)

    def wait(self, calls: list[object], timeout: float) -> tuple[list[object], list[object]]:
        self._looks += 1
        self._stop.asked = "SIGTERM" if self._looks == 3 else ""
        return [], calls

    def available_resources(self) -> dict[str, float]:
        return {"CPU": 3.0}

    def nodes(self) -> list[dict[str, object]]:
        return [{"Alive": self._looks == 0, "Resources": {"CPU": 64.0}}]

    def kill(self, _: object) -> None:
        pass


def test_a_cluster_without_room_is_named_once_and_one_without_nodes_ends_the_run(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ABONYX_CPU_THREADS", "32")
    stop = Stop()
    silent = Silent(stop)
    for module in (cluster, files_module):
        monkeypatch.setattr(module, "load_ray", lambda: silent)
    monkeypatch.setattr(files_module, "_SILENCE_S", 0)
    file = File(parts / "a.csv", tmp_path / "a.csv")
    with open_run_file(tmp_path, restart=False) as run_file, caplog.at_level("INFO", "abonyx"):
        dispatch = RayDispatch(DirectoryRequest(prepare(OPTIONS), tmp_path, "csv", USUAL), run_file, False)
        with pytest.raises(RunInterrupted):
            dispatch._run([file], stop)
        said = "waiting for num_cpus 32 of one node (the cluster has 3 CPU, 0 GPU unused), or for the model to load"
        assert [said in message for message in caplog.messages] == [False, True]
        with pytest.raises(ConfigError, match=r"needs 32 CPU and 0 GPU of one node; .* have: nothing, because no node"):
            dispatch._replace(object(), None, "its worker died")


def test_importing_it_turns_rays_reports_off_unless_the_user_turned_them_on() -> None:
    code = "import abonyx.ray, os; print(os.environ['RAY_USAGE_STATS_ENABLED'])"
    found = []
    for given in ({}, {"RAY_USAGE_STATS_ENABLED": "1"}):
        environment = {name: value for name, value in os.environ.items() if name != "RAY_USAGE_STATS_ENABLED"} | given
        command = [sys.executable, "-c", code]
        found.append(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)
    assert found == ["0\n", "1\n"]


def unreadable(_: Path) -> Iterator[Path]:
    raise PermissionError(errno.EACCES, "Permission denied")


def test_workers_take_what_their_config_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [
        {"Alive": True, "Resources": {"CPU": 7.0, "GPU": 2.0}},
        {"Alive": True, "Resources": {"CPU": 3.0}},
        {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
    ]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    cuda = cluster.for_worker(abonyx.RuntimeConfig(provider="cuda"))
    assert (cluster.needs(cuda), cluster.worker_count(cuda)) == ({"num_cpus": 1, "num_gpus": 1}, 2)
    two = cluster.for_worker(load_config(None, environment={"ABONYX_CPU_THREADS": "2"}))
    assert (cluster.needs(two), cluster.worker_count(two)) == ({"num_cpus": 2, "num_gpus": 0}, 4)
    streams = cluster.for_worker(abonyx.RuntimeConfig(provider="openvino", openvino=OpenVinoOptions(streams=3)))
    assert (cluster.needs(streams)["num_cpus"], cluster.worker_count(streams)) == (3, 3)
    del nodes[0]
    with pytest.raises(ConfigError, match=r"needs 1 CPU and 1 GPU of one node; the cluster's nodes have: 3 CPU, 0 GPU"):
        cluster.worker_count(cuda)
    with pytest.raises(ConfigError, match="device_id is 1"):
        cluster.for_worker(abonyx.RuntimeConfig(provider="cuda", cuda=CudaOptions(device_id=1)))


def test_a_node_with_another_bundle_or_directory_is_refused(parts: Path, tmp_path: Path) -> None:
    run = prepare(OPTIONS)
    request = DirectoryRequest(run, tmp_path, "csv", USUAL)
    found = Worker(request).open([parts, tmp_path / "run.journal"])
    assert isinstance(found, ConfigError)
    assert f"{tmp_path / 'run.journal'}: does not exist" in found.what
    other = abonyx.run.request.RunRequest(
        run.config, abonyx.bundle.Bundle(run.bundle.path, run.bundle.manifest, "f" * 64)
    )
    found = Worker(DirectoryRequest(other, tmp_path, "csv", USUAL)).open([])
    assert isinstance(found, BundleError)
    assert f"sha256 is {run.bundle.sha256}; on the machine that started the run it is {'f' * 64}" in found.what


@pytest.fixture
def worker(parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    """A worker in this process that is not open yet; its run writes CSV."""
    monkeypatch.setenv("ABONYX_CACHE_DIR", str(tmp_path / "cache"))
    run = prepare(OPTIONS)
    worker = Worker(DirectoryRequest(run, tmp_path, "csv", USUAL))
    yield worker
    worker._model.close()


def test_every_file_begins_with_the_token_budget_of_before_the_model_was_loaded(
    worker: Worker, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = iter(range(300, 0, -100))  # a card that the worker's own model and arena fill

    def shrinking(config: abonyx.RuntimeConfig, _: object) -> int:
        return config.token_budget or next(free)

    for module in (scorer_module, runs, model_module):
        monkeypatch.setattr(module, "token_budget", shrinking)
    budgets = seen_budgets(monkeypatch)
    assert isinstance(worker.open([]), dict)
    for name in ("a", "b"):
        done = worker.score(next(parts.glob(f"{name}.*")), tmp_path / f"{name}.csv", False)
        assert not isinstance(done, EngineError), done
    assert set(budgets) == {300}


def test_what_the_self_test_halved_stays_halved_in_every_file_and_its_note_with_it(
    worker: Worker, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = OpenModel.run_batch

    def small(self: OpenModel, rows_: Any, *rest: Any) -> Any:
        if self.state is not State.OPEN and len(rows_) * max(map(len, rows_)) > 300:
            raise OutOfDeviceMemory("no room", "")
        return original(self, rows_, *rest)

    monkeypatch.setattr(OpenModel, "run_batch", small)
    budgets = seen_budgets(monkeypatch)
    assert isinstance(worker.open([]), dict)
    halved = worker._model.budget.tokens
    assert halved < 300
    for name in ("a", "b"):
        done = worker.score(next(parts.glob(f"{name}.*")), tmp_path / f"{name}.csv", False)
        assert not isinstance(done, EngineError), done
        assert any(f"to {halved}" in note for note in done.notes)
    assert set(budgets) == {halved}


def test_a_file_that_memory_does_not_hold_fails_alone(
    worker: Worker, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(worker.open([]), dict)

    def too_large(*_: Any, **__: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(abonyx.run.request.RunRequest, "read", too_large)
        found = worker.score(parts / "a.csv", tmp_path / "a.csv", False)
    assert isinstance(found, EngineError)
    assert f"{parts / 'a.csv'}: not enough memory to score it" in found.what
    assert not isinstance(worker.score(parts / "b.fasta", tmp_path / "b.csv", False), EngineError)


def seen_budgets(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The token budget of every batch of an open session."""
    budgets: list[int] = []
    planned = scoring.plan_batches
    monkeypatch.setattr(
        scoring,
        "plan_batches",
        lambda n, most, grid: (budgets.append(most), planned(n, most, grid))[1],
    )
    return budgets


def test_a_driver_that_died_behind_a_result_has_that_file_done_again(parts: Path, tmp_path: Path) -> None:
    """The driver dies between the worker's rename and its own line in the journal; or the line is cut."""
    files = [File(parts / name, tmp_path / f"{name[0]}.csv") for name in ("a.csv", "d.csv")]
    with open_run_file(tmp_path, restart=False) as run_file:
        run_file.settle({"threshold": 0.5})
        assert run_file.lines == [], "nothing is noted before a worker has said its engine"
        run_file.settle({"threshold": 0.5, "engine": "one"})
        run_file.begin(files[0])
    with (tmp_path / SIDE / "run.journal").open("ab") as file:
        file.write(b'{"type":"done","inp')
    files[0].target.write_text("whole")
    with open_run_file(tmp_path, restart=False) as run_file:
        assert isinstance(run_file.lines[0], RunHeader)
        run_file.settle({"threshold": 0.5})
        assert run_file.left(files, False) == files
        with pytest.raises(ResumeRefused, match="engine: 'one' then, 'two' now"):
            run_file.settle({"threshold": 0.5, "engine": "two"})


def test_a_restart_that_reaches_no_worker_forgets_nothing(
    one_worker: None, run: Call, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (parts / "d.csv").unlink()
    output = tmp_path / "out"
    command = ["score", parts, "-o", output, "--format", "csv"]
    assert run(*command, "--ray").code == 0
    kept = contents(output)

    def nobody(_: str) -> None:
        raise ConfigError("no answer")

    with monkeypatch.context() as patch:
        patch.setattr("abonyx.ray.files.connected", nobody)
        assert run(*command, "--restart", "--ray=nowhere").code == 2
    assert contents(output) == kept
    with monkeypatch.context() as patch:
        patch.setattr("abonyx.ray.files.Worker", NeverOpens)
        done = run(*command, "--restart", "--ray")
        assert (done.code, "a model that nothing opens" in done.err) == (4, True), done.err
    assert contents(output) == kept
    done = run(*command, "--ray")
    assert "3 of 3 files are already done" in done.err


class NeverOpens:
    def __init__(self, _: DirectoryRequest) -> None:
        pass

    def open(self, _: list[Path], _workers: int) -> BundleError:
        return BundleError("a model that nothing opens")


class Defective(Worker):
    """The second file raises an error that is not an EngineError."""

    def score(self, source: Path, target: Path, restart: bool) -> Any:
        if source.name == "b.fasta":
            raise ZeroDivisionError("a defect")
        return super().score(source, target, restart)


def test_a_defect_in_a_worker_ends_the_run_with_its_traceback_and_keeps_what_is_done(
    one_worker: None, run: Call, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("c.csv.gz", "d.csv"):
        (parts / name).unlink()
    output = tmp_path / "out"
    command = ["score", parts, "-o", output, "--format", "csv", "--ray"]
    (parts / "b.fasta").rename(tmp_path / "b.fasta")
    assert run(*command).code == 0
    kept = results(output)
    (tmp_path / "b.fasta").rename(parts / "b.fasta")
    with monkeypatch.context() as patch:
        patch.setattr(files_module, "Worker", Defective)
        with pytest.raises(ray.exceptions.RayTaskError, match="a defect"):
            run(*command)
    assert results(output) == kept
    done = run(*command)
    assert "1 of 2 files are already done" in done.err
    assert sorted(results(output)) == ["a.csv", "b.csv"]


def test_a_run_file_that_cannot_be_read_stays_until_a_restart_has_a_worker(tmp_path: Path) -> None:
    journal = tmp_path / SIDE / "run.journal"
    journal.parent.mkdir()
    journal.write_text("somebody's\n")
    with pytest.raises(ResumeRefused, match="line 1 cannot be read"), open_run_file(tmp_path, restart=False):
        pass
    with open_run_file(tmp_path, restart=True) as run_file:
        run_file.settle({"threshold": 0.5})
    assert journal.read_text() == "somebody's\n"
    with open_run_file(tmp_path, restart=True) as run_file:
        for _ in range(2):  # workers
            run_file.settle({"threshold": 0.5, "engine": "one"})
    assert [line["type"] for line in lines(journal)] == ["run", "started"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray", "ignore::FutureWarning:ray")
def test_a_dataset_gets_a_score_or_a_reason_for_each_row(two_workers: None, sequences: list[str]) -> None:
    given: list[Any] = [*sequences, "EVQLB", None, "", "evql vesggg"]
    dataset = ray.data.from_items([{"id": at, "sequence": each} for at, each in enumerate(given)])
    found = sorted(score(dataset, threshold=0.5).take_all(), key=lambda row: row["id"])
    assert list(found[0]) == [
        "id",
        "sequence",
        "p_nonspecific",
        "nonspecific",
        "call",
        "percentile",
        "flag",
        "rejected",
    ]
    assert [row["sequence"] for row in found] == given
    with abonyx.open_session() as session:
        expected = session.score([*sequences, given[-1]])
    good = [*found[:12], found[-1]]
    p = np.array([row["p_nonspecific"] for row in good])
    assert np.abs(p - expected).max() <= BATCH_NEIGHBOURS
    assert [row["nonspecific"] for row in good] == [*(int(value > 0.5) for value in p[:12]), None]
    assert [row["flag"] for row in good] == [""] * 12 + ["no antibody domain"]
    assert [row["rejected"] for row in good] == [None] * 13
    for row, part in zip(found[12:15], ("character 'B' at position 5", "is null, not text", "empty"), strict=True):
        assert (row["p_nonspecific"], row["nonspecific"], row["flag"]) == (None, None, None)
        assert part in row["rejected"]
    with pytest.raises(ConfigError, match="upstream-batch"):
        score(dataset, abonyx.RuntimeConfig(pooling="upstream-batch", batch_size=8))
    with pytest.raises(ConfigError, match="threshold is 2"):
        score(dataset, threshold=2)
    with pytest.raises(ConfigError, match="workers is 0"):
        score(dataset, workers=0)
    with pytest.raises(ConfigError, match="domain is 'on'"):
        score(dataset, domain="on")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="trim is True"):
        score(dataset, trim=True)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="trim domain with domain off"):
        score(dataset, domain="off", trim="domain")
    with pytest.raises(ConfigError, match="with_columns: no column 'x'"):
        score(dataset, with_columns=["x"])


@pytest.mark.parametrize(
    "rule", [DomainRule(), DomainRule("require"), DomainRule("off"), DomainRule(trim=True), DomainRule("require", True)]
)
def test_a_datasets_rows_are_judged_as_records_of_a_file(rule: DomainRule, sequences: list[str]) -> None:
    whole = sequences[0]
    given = [*sequences, f"{whole}HHHHHH", whole[20:], "ACGT" * 10, "XXXX", "EVQLB", "", f"m {whole.lower()}", "A" * 40]
    given += [f"{whole}GGGGSGGGGSGGGGS{sequences[1]}", f"{whole}{sequences[5][:90]}{whole[40:]}" * 6, whole]
    limit = abonyx.alphabet.SequenceLimit(160)
    records = [Record(str(at), sequence, at) for at, sequence in enumerate(given)]
    checked = check_records(records, "file", limit, skip_invalid=True, rule=rule)
    found = judged(list(given), rule, limit)
    refused = {int(each.id): each.reason for each in checked.rejected}
    assert {at: row.rejected for at, row in enumerate(found) if row.rejected} == refused
    assert len(refused) >= 6
    parts = [row.part for row in found if row.rejected is None]
    assert [part.sequence for part in parts] == checked.sequences
    assert [part.judgement for part in parts] == checked.judgements
    assert [part.place for part in parts] == (checked.places or [""] * len(parts))
    assert any(checked.places) == rule.trim


def test_a_trimmed_dataset_names_the_residues_that_were_scored(sequences: list[str]) -> None:
    import pyarrow as pa

    bundle = abonyx.bundle.open_bundle(None)
    whole = sequences[0]
    scorer = Scorer(
        abonyx.RuntimeConfig(),
        bundle.sha256,
        choose_heads(bundle, None, threshold=0.5),
        ("vh",),
        DomainRule("require", True),
        ("length", "cdr3"),
    )
    try:
        table = scorer(pa.table({"vh": [f"M{whole}HHHHHH", whole, whole[30:]]}))
        assert str(table.schema.field("length").type) == "int32"
        found = table.to_pydict()
    finally:
        scorer._model.close()
    assert found["domain"] == [f"2-{len(whole) + 1}", f"1-{len(whole)}", None]
    assert found["flag"] == ["", "", None]
    assert found["rejected"] == [None, None, "fragment"]
    assert (found["length"], found["cdr3"]) == ([len(whole)] * 2 + [None], ["AKVSYLSTASSLDY"] * 2 + [None])
    assert found["vh"][0] == f"M{whole}HHHHHH"
    assert found["p_nonspecific"][0] == pytest.approx(found["p_nonspecific"][1], abs=BATCH_NEIGHBOURS)
    assert found["nonspecific"][0] in (0, 1) and found["nonspecific"][2] is None


def test_a_dataset_without_a_threshold_and_one_that_does_not_fit() -> None:
    import pyarrow as pa

    bundle = abonyx.bundle.open_bundle(None)
    scorer = Scorer(abonyx.RuntimeConfig(), bundle.sha256, USUAL.without_numbers(), ("vh",), DomainRule())
    try:
        found = scorer(pa.table({"vh": ["EVQLVESGGG", "1"]}))
        assert found.column_names == ["vh", "p_nonspecific", "call", "percentile", "flag", "rejected"]
        assert found.column("p_nonspecific").null_count == 1
        with pytest.raises(InputError, match=r"no column 'vh'; columns: \['sequence'\]"):
            scorer(pa.table({"sequence": ["EVQL"]}))
        with pytest.raises(
            InputError, match=r"columns \['call', 'flag', 'p_nonspecific', 'percentile', 'rejected'\] already"
        ):
            scorer(found)
    finally:
        scorer._model.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray", "ignore::FutureWarning:ray")
def test_pairs_in_files_and_in_a_dataset(two_workers: None, run: Call, tmp_path: Path) -> None:
    """Parquet with two columns gives the bytes of the single-file command. A dataset has a reason for each bad row."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    bundle = make_paired(tmp_path / "paired", {"psr": ("H", "L"), "nonspecificity": ("H",)})
    pairs = [(heavy, LIGHT if at % 2 else LIGHT[:-1] + "R") for at, heavy in enumerate(heavy_chains())]
    columns = {"id": [f"m{at}" for at in range(len(pairs))], "VH": [a for a, _ in pairs], "VL": [b for _, b in pairs]}
    folder = tmp_path / "parts"
    folder.mkdir()
    for name, part in (("a", slice(0, 6)), ("b", slice(6, None))):
        pq.write_table(pa.table({key: cells[part] for key, cells in columns.items()}), folder / f"{name}.parquet")
    options = ["--bundle", str(bundle), "--heads", "all"]
    expected = without_ray(run, folder, tmp_path / "single", *options, suffix="parquet")
    done = run("score", folder, "-o", tmp_path / "out", *options, "--ray")
    assert done.code == 0, done.err
    assert results(tmp_path / "out") == expected
    assert pq.read_table(tmp_path / "out" / "a.parquet").column_names[:4] == ["id", "heavy", "light", "p_nonspecific"]

    given = [*({"n": at, "heavy": a, "light": b} for at, (a, b) in enumerate(pairs)), {"n": 99, "heavy": LIGHT}]
    given += [{"n": 100, "heavy": pairs[0][0], "light": pairs[0][0]}]
    dataset = ray.data.from_items([{"light": None} | row for row in given])
    found = sorted(score(dataset, abonyx.RuntimeConfig(bundle=str(bundle))).take_all(), key=lambda row: row["n"])
    with abonyx.open_session(bundle) as session:
        p = session.score(pairs)
    assert np.abs(np.array([row["p_nonspecific"] for row in found[:12]]) - p).max() <= BATCH_NEIGHBOURS
    assert found[12]["rejected"] == "no light chain: the heads need both chains of a record"
    assert found[13]["flag"] == "light: heavy chain" and found[13]["rejected"] is None


def test_pairs_are_judged_as_records_of_a_file() -> None:
    heavy, limit = heavy_chains()[0], abonyx.alphabet.SequenceLimit(130)
    given = [(heavy, LIGHT), (LIGHT, heavy), (heavy, ""), ("", LIGHT), ("M" + heavy, LIGHT + "GG"), (heavy, LIGHT * 2)]
    given += [(heavy + "1", LIGHT), (heavy, "na"), (heavy[30:], LIGHT[:60])]
    for rule in (DomainRule(), DomainRule("require"), DomainRule(trim=True), DomainRule("off")):
        both = rule._replace(chains=("H", "K", "L"))
        records = [Record(str(at), a, at, light=b) for at, (a, b) in enumerate(given)]
        checked = check_records(records, "file", limit, skip_invalid=True, rule=both, chains=("H", "L"))
        found = judged_pairs([[a for a, _ in given], [b for _, b in given]], both, limit)
        refused = {int(each.id): each.reason for each in checked.rejected}
        assert {at: row.rejected for at, row in enumerate(found) if row.rejected} == refused
        kept = [row for row in found if row.rejected is None]
        assert [(row.part.sequence, row.light) for row in kept] == list(zip(*checked.chains, strict=True))
        assert [row.part.judgement for row in kept] == checked.judgements
        assert [row.part.place for row in kept] == (checked.places or [""] * len(kept))
