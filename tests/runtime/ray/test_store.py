"""`score s3://... -o s3://... --ray` with a local S3 server: same bytes as files, resumed runs, one-line refusals."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from abonyx.errors import ConfigError, InputError, OutputInUse, StoreUnavailable
from abonyx.ray import store, store_run
from abonyx.ray.store import Stored, Stores, parse_uris
from abonyx.ray.store_run import StoreRunFile
from abonyx.run.run_file import SIDE, Begun, File, RunHeader
from abonyx.run.run_file import Done as FileDone

from .test_score_ray import Call, many, parts, small_windows, without_ray

__all__ = ["parts", "small_windows"]  # fixtures
ray = pytest.importorskip("ray", reason="the ray extra is not installed")
pytest.importorskip("ray.data", reason="the ray extra is not installed")
for _name in ("moto", "flask", "flask_cors"):
    pytest.importorskip(_name, reason="moto and flask (the test extra) are not installed")

PATIENCE_S = 60


class Proxy:
    """A proxy before the store. It can be stopped, and started again at the same address."""

    def __init__(self, upstream: int) -> None:
        self._upstream, self.port = upstream, 0
        self.restore()

    def restore(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        for each in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", self._upstream))
                self._open += [client, server]
                for one, other in ((client, server), (server, client)):
                    threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    @staticmethod
    def _pump(one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(2**16):
                other.sendall(data)
        for each in (one, other):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A store with the bucket "lab", and Ray with room for two workers that know it."""
    port = free_port()
    command = [sys.executable, "-W", "ignore", "-c", "from moto.server import main; main()", "-p", str(port)]
    with contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stack.callback(server.wait)
        stack.callback(server.kill)
        wait_for(port)
        found = Proxy(port)
        stack.callback(found.cut)
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{found.port}")
        for name, value in (("ACCESS_KEY_ID", "a"), ("SECRET_ACCESS_KEY", "b"), ("REGION", "us-east-1")):
            patch.setenv(f"AWS_{name}", value)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("ABONYX_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))
        ending = signal.getsignal(signal.SIGTERM)
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        system().create_dir("lab")
        yield found
        ray.shutdown()
        signal.signal(signal.SIGTERM, ending)


def wait_for(port: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        time.sleep(0.1)
    pytest.fail("the store does not start")


def system() -> Any:
    from pyarrow.fs import S3FileSystem

    endpoint = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
    return S3FileSystem(endpoint_override=endpoint, scheme="http", region="us-east-1", allow_bucket_creation=True)


def upload(folder: Path, prefix: str) -> None:
    for path in sorted(folder.iterdir()):
        put(f"{prefix}/{path.name}", path.read_bytes())


def put(path: str, data: bytes) -> None:
    with system().open_output_stream(path, compression=None) as stream:
        stream.write(data)


def objects(prefix: str) -> dict[str, bytes]:
    """Name -> bytes of the results, without the objects in SIDE."""
    from pyarrow.fs import FileSelector

    found = system().get_file_info(FileSelector(prefix, allow_not_found=True))
    return {
        info.base_name: system().open_input_stream(info.path, compression=None).read() for info in found if info.is_file
    }


def test_the_bytes_of_files_and_nothing_twice(proxy: Proxy, run: Call, parts: Path, tmp_path: Path) -> None:
    upload(parts, "lab/first/in")
    expected = without_ray(run, parts, tmp_path / "alone", "--on-invalid", "skip")
    arguments = ("score", "s3://lab/first/in/", "-o", "s3://lab/first/out", "--format", "csv")
    options = ("--on-invalid", "skip", "--ray")
    done = run(*arguments, *options)
    assert done.code == 0, done.err
    assert "not read: notes.txt" in done.err and "wrote s3://lab/first/out;" in done.err
    assert "rejected records are listed in s3://lab/first/out/_abonyx" in done.err
    assert objects("lab/first/out") == {name: data for name, data in expected.items() if "rejected" not in name}
    side = objects(f"lab/first/out/{SIDE}")
    assert side["d.csv.rejected.csv"] == expected["d.csv.rejected.csv"]
    assert {"run.journal", "summary.json"} <= set(side)
    done = run(*arguments, *options)
    assert done.code == 0 and "4 of 4 files are already done" in done.err
    # what is missing is scored again, and that alone
    system().delete_file("lab/first/out/b.csv")
    done = run(*arguments, *options)
    assert done.code == 0 and "1 files scored now" in done.err and len(objects("lab/first/out")) == 4
    assert "--format: 'csv' then, 'jsonl' now" in run(*arguments, "--format", "jsonl", *options).err
    put("lab/first/out/c.csv", b"short")
    done = run(*arguments, *options)
    assert done.code == 2 and "c.csv: " in done.err and "bytes, and now has 5" in done.err
    assert "output s3://lab/first/out: has results" in done.err
    done = run(*arguments, "--restart", *options)
    assert done.code == 0 and "4 files scored now" in done.err
    put("lab/first/in/a.csv", (parts / "a.csv").read_bytes() + b"new,QVQLVQSGAEVKKPG\n")
    done = run(*arguments, *options)
    assert done.code == 2 and "a.csv: " in done.err and "bytes and another time stamp" in done.err
    put("lab/first/out/new.csv", b"p")
    put("lab/first/in/new.csv", (parts / "a.csv").read_bytes())
    assert "new.csv: exists, but run.journal does not list it" in run(*arguments, *options).err


def test_a_pattern_and_a_bad_file(proxy: Proxy, run: Call, parts: Path) -> None:
    upload(parts, "lab/second/in")
    done = run("score", "s3://lab/second/in/[ad]*", "-o", "s3://lab/second/out", "--ray")
    assert done.code == 3 and "s3://lab/second/in/d.csv" in done.err and "/tmp" not in done.err.replace("/tmp/p", "")
    assert set(objects("lab/second/out")) == {"a.parquet"}


def test_a_store_that_stops_in_the_middle(
    proxy: Proxy, run: Call, sequences: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_run, "SYNC_S", 0.0)
    folder = many(tmp_path / "many", sequences, 60, files=4)
    expected = without_ray(run, folder, tmp_path / "alone")
    upload(folder, "lab/third/in")
    arguments = ("score", "s3://lab/third/in", "-o", "s3://lab/third/out", "--format", "csv", "--ray")
    over = threading.Event()

    def cut() -> None:
        while not over.wait(0.02):
            if objects("lab/third/out"):
                proxy.cut()
                return

    watching = threading.Thread(target=cut)
    watching.start()
    try:
        done = run(*arguments)
    finally:
        over.set()
        watching.join()
        proxy.cut()
        proxy.restore()
    assert done.code == 2 and done.err.count("the store refuses") == 1, done.err
    assert "the same command resumes the run" in done.err and "Traceback" not in done.err
    there = objects("lab/third/out")
    assert 0 < len(there) < 4 and there.items() <= expected.items()  # whole, or not there
    done = run(*arguments)
    assert done.code == 0, done.err
    assert objects("lab/third/out") == expected


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("s3://lab/in", "-o", "s3://lab/out"), "only a run with --ray can read and write an object store"),
        (("s3://lab/in", "-o", "out", "--ray"), "s3://lab/in is in an object store and out is not"),
        (("in", "-o", "s3://lab/out", "--ray"), "s3://lab/out is in an object store and in is not"),
        (("s3://lab/in", "-o", "gs://lab/out", "--ray"), "gs://: this scheme is not supported"),
        (("s3://k:secret@lab/in", "-o", "s3://lab/out", "--ray"), "the URI has credentials"),
        (("s3://lab/a//b", "-o", "s3://lab/out", "--ray"), "s3://lab/a//b: not s3://BUCKET/KEY"),
        (("s3://lab/../b", "-o", "s3://lab/out", "--ray"), "s3://lab/../b: not s3://BUCKET/KEY"),
        (("s3://lab/in", "-o", "s3://lab/out?region=x", "--ray"), "other options in another URI"),
        (("s3://lab/in", "-o", "s3://lab/out", "--table", "--ray"), "--table cannot be used with a directory"),
    ],
)
def test_what_cannot_be_asked_for(run: Call, arguments: tuple[str, ...], said: str) -> None:
    done = run("score", *arguments)
    assert done.code == 2 and said in done.err and "secret" not in done.err, done.err


def test_a_store_that_refuses(proxy: Proxy, run: Call, parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put("lab/fourth/a.csv", (parts / "a.csv").read_bytes())
    to = ("-o", "s3://lab/fourth/out", "--ray")
    assert "s3://nobucket: no such bucket" in run("score", "s3://nobucket/in", *to).err
    done = run("score", "s3://lab/nothing", *to)
    assert done.code == 3 and "s3://lab/nothing: no object to score was found" in done.err
    done = run("score", "s3://lab/fourth", "-o", "s3://lab/fourth", "--ray")
    assert done.code == 2 and "the input a.csv is under this prefix" in done.err
    done = run("score", "s3://lab/fourth", "-o", "s3://lab/fourth/a.csv", "--ray")
    assert done.code == 2 and "is an object" in done.err
    port = free_port()
    elsewhere = f"?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
    done = run("score", f"s3://lab/in{elsewhere}", "-o", f"s3://lab/out{elsewhere}", "--ray")
    assert done.code == 2 and done.err.count("the store refuses") == 1 and "AWS_ENDPOINT_URL" in done.err


def test_a_store_that_refuses_at_the_very_end_is_an_error(
    proxy: Proxy, run: Call, parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put("lab/seventh/in/a.csv", (parts / "a.csv").read_bytes())
    put_object = Stores.put

    def refusing(self: Stores, file: Path, path: str) -> Stored:
        if file.name == "summary.json":
            raise StoreUnavailable("no more", "")
        return put_object(self, file, path)

    monkeypatch.setattr(Stores, "put", refusing)  # of this process; the workers have others
    done = run("score", "s3://lab/seventh/in", "-o", "s3://lab/seventh/out", "--ray")
    assert done.code == 2 and done.err.splitlines()[-1].endswith("no more")


def test_an_object_that_changes_while_it_is_read(proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stores, (path,) = parse_uris(["s3://lab/fifth/a.csv"])
    with pytest.raises(InputError, match="does not exist"):
        stores.fetch(path, tmp_path / "a.csv")
    put(path, b"id,sequence\n")
    there = stores.fetch(path, tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_bytes() == b"id,sequence\n" and there.size == 12
    looks = iter([there, Stored(12, there.mtime_ns + 1)])
    monkeypatch.setattr(Stores, "look", lambda *_: next(looks))
    with pytest.raises(InputError, match="changed while it was read"):
        stores.fetch(path, tmp_path / "a.csv")
    looks = iter([there])
    with pytest.raises(ConfigError, match="cannot be written: No such file"):
        stores.fetch(path, tmp_path / "nowhere" / "a.csv")


def test_an_object_that_is_not_as_it_was_put_is_no_result(
    proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores, (path,) = parse_uris(["s3://lab/sixth/a.csv"])
    (tmp_path / "a.csv").write_bytes(b"12345")
    assert stores.put(tmp_path / "a.csv", path).size == 5
    monkeypatch.setattr(Stores, "look", lambda *_: Stored(3, 0))
    with pytest.raises(StoreUnavailable, match="5 bytes were written, but the store has 3"):
        stores.put(tmp_path / "a.csv", path)


class Memory(Stores):
    """A store of this process, without a server."""

    def __init__(self) -> None:
        super().__init__({})
        self.there: dict[str, Stored] = {}

    def look(self, path: str) -> Stored | None:
        return self.there.get(path)

    def put(self, file: Path, path: str) -> Stored:
        self.there[path] = Stored(file.stat().st_size, len(self.there) + 1)
        return self.there[path]

    def objects(self, prefix: str) -> dict[str, Stored]:
        behind = {path.removeprefix(f"{prefix}/"): each for path, each in self.there.items() if path.startswith(prefix)}
        return {name: each for name, each in behind.items() if "/" not in name}


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], StoreRunFile]]:
    opened: list[StoreRunFile] = []
    files = [File(Path(f"lab/in/{name}.csv"), Path(f"lab/out/{name}.csv")) for name in "ab"]
    memory = Memory()

    def make() -> StoreRunFile:
        found = StoreRunFile(tmp_path / f"run{len(opened)}", False)
        found.bind(memory, "lab/out", files, memory.look(f"lab/out/{SIDE}/{found.path.name}"))
        opened.append(found)
        return found

    yield make
    for each in opened:
        each.close()


def test_the_journal_names_every_result_from_the_start_and_two_commands_see_each_other(
    journal: Callable[[], StoreRunFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = journal()
    one.settle({"format": "csv"})
    assert one._stores.objects(f"lab/out/{SIDE}") == {}  # nothing before a worker has opened the model
    one.settle({"format": "csv", "engine": "x"})
    assert [line.output for line in one.lines if isinstance(line, Begun)] == ["a.csv", "b.csv"]
    assert isinstance(one.lines[0], RunHeader)
    path = f"lab/out/{SIDE}/{one.path.name}"
    first = one._stores.look(path)
    one.append(done("a"))
    assert one._stores.look(path) == first  # not at each line
    monkeypatch.setattr(store_run, "SYNC_S", 0.0)
    one.append(done("b"))
    assert one._stores.look(path) != first
    one._stores.there[path] = Stored(1, 99)  # type: ignore[attr-defined]  # another command's
    with pytest.raises(OutputInUse, match="another command is writing there"):
        one.append(done("b"))


def done(name: str) -> FileDone:
    return FileDone(
        input=f"{name}.csv",
        input_bytes=5,
        input_mtime_ns=7,
        input_sha256="0" * 64,
        records=1,
        rejected=0,
        node="n",
        output=f"{name}.csv",
        output_bytes=9,
    )


def test_results_without_a_note_are_begun_again(journal: Callable[[], StoreRunFile]) -> None:
    one = journal()
    one.settle({"format": "csv", "engine": "x"})
    files = one._files
    memory: Any = one._stores
    memory.there |= {"lab/out/a.csv": Stored(9, 1), "lab/out/b.csv": Stored(4, 1), "lab/in/a.csv": Stored(5, 7)}
    one.append(done("a"))
    assert one.left(files, skip=False) == [files[1]]
    assert one.left(files, skip=True) == list(files)  # the rejected records' lists are missing
    memory.there["lab/in/a.csv"] = Stored(5, 8)
    with pytest.raises(ConfigError, match=r"a\.csv: had 5 bytes and another time stamp; now: 5 bytes"):
        one.left(files, skip=False)


def test_the_way_to_a_bucket_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stores, paths = parse_uris(["s3://lab/a?region=x", "s3://lab/b/?region=x", "s3://other"])
    assert paths == ["lab/a", "lab/b", "other"] and stores.options == {"lab": "region=x", "other": ""}
    asked: list[str] = []
    monkeypatch.setattr(store, "_system", lambda bucket, options: asked.append(f"{bucket} {options}"))
    stores._system("lab/a/b")
    assert asked == ["lab region=x"]
