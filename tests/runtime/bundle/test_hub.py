"""Bundles by name, with a server that has the hub's endpoints: requests, cache, refusals and messages."""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import abonyx
from abonyx.bundle import open_bundle, open_pinned
from abonyx.bundle.hub import fetch as fetching
from abonyx.bundle.hub.fetch import fetch
from abonyx.errors import BundleError, ChecksumMismatch, ConfigError, HubUnreachable
from abonyx.extras import install_command
from abonyx.hub_name import HubName
from abonyx.run.verification import verify

from ...conftest import EXAMPLES, MINI
from .hub_server import WRITE_TOKEN, HubServer, Repository
from .hubs import REPO, start

DATA = "fp16-weights/model.onnx.data"
SHA256 = open_bundle(None).sha256
ADMIN = "admin-token-of-the-tests-0123456789"


class Kept(NamedTuple):
    """Names of REPO's files in the cache."""

    whole: list[str]
    partial: list[str]


def kept(tmp_path: Path) -> Kept:
    folder = tmp_path / "cache" / "hub" / REPO.replace("/", "--")
    names = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    partial = [name for name in names if name.endswith(".partial")]
    return Kept([name for name in names if name not in partial], partial)


def name_of(text: str) -> HubName:
    return HubName.parse(f"hf:{REPO}{text}")


def test_the_files_are_real_and_the_library_keeps_none_of_its_own(hub: HubServer, tmp_path: Path) -> None:
    commit = hub.add(REPO, MINI)
    path, name = fetch(name_of("@main"))
    assert str(name) == f"hf:{REPO}@{commit}#sha256={SHA256}"
    wanted = {file.relative_to(MINI): file.read_bytes() for file in MINI.rglob("*") if file.is_file()}
    found = {file.relative_to(path): file for file in path.rglob("*") if not file.is_dir() or file.is_symlink()}
    assert not any(file.is_symlink() for file in found.values())
    assert {place: file.read_bytes() for place, file in found.items()} == wanted
    assert not (tmp_path / "hf_home").exists()
    assert kept(tmp_path) == ([commit], [])
    assert verify(abonyx.RuntimeConfig(bundle=str(name))).hub == str(name)


def test_what_is_asked_is_what_privacy_names(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = hub.add(REPO, MINI)
    fetch(name_of("@main"))
    files = [file.relative_to(MINI).as_posix() for file in MINI.rglob("*") if file.is_file()]
    heads = {f"/{REPO}/resolve/{commit}/{file}" for file in files}
    assert {path.lower() for path in hub.paths("GET") if "/api/" in path} == {
        f"/api/models/{REPO}/revision/main?blobs=true"
    }
    assert set(hub.paths("HEAD")) == heads
    assert {path.removeprefix("/storage").replace("/resolve/", "/") for path in hub.paths("GET")[1:]} == {
        f"/{REPO}/{commit}/{file}" for file in files
    }
    assert {method for method, _, _ in hub.asked} == {"GET", "HEAD"}
    for _, _, headers in hub.asked:
        given = {name.lower(): value for name, value in headers.items()}
        library = __import__("huggingface_hub").__version__
        assert given["user-agent"].startswith(f"unknown/None; hf_hub/{library}; python/")
        assert "torch" not in given["user-agent"]
        assert given.keys() <= {
            *(
                "host",
                "user-agent",
                "accept",
                "accept-encoding",
                "connection",
                "x-amzn-trace-id",
                "x-hf-download-counter",
            )
        }


@pytest.mark.parametrize(
    "form", ["@{commit}", "@{commit}#sha256={sha256}", "#sha256={sha256}", "@main#sha256={sha256}"]
)
def test_a_pinned_name_in_the_cache_asks_nothing(form: str, hub: HubServer) -> None:
    commit = hub.add(REPO, MINI)
    first = fetch(name_of("@main"))
    hub.asked.clear()
    hub.status = 500
    assert fetch(name_of(form.format(commit=commit, sha256=SHA256))) == first
    assert hub.asked == []


def test_a_pinned_name_is_downloaded_by_its_commit(hub: HubServer, tmp_path: Path) -> None:
    old = hub.add(REPO, MINI)
    hub.add(REPO, MINI, **{"README.md": b"# new"})
    assert (fetch(name_of(f"@{old}")).path / "README.md").read_bytes() == (MINI / "README.md").read_bytes()
    assert kept(tmp_path).whole == [old]


def test_a_name_without_revision_is_main_and_says_so(hub: HubServer, caplog: pytest.LogCaptureFixture) -> None:
    commit = hub.add(REPO, MINI)
    _, name = fetch(name_of(""))
    (warning,) = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert "no revision" in warning and str(name) in warning and name.commit == commit
    caplog.clear()
    fetch(name_of("@main"))
    assert not [one for one in caplog.records if one.levelno == logging.WARNING]


def test_a_branch_that_moved_is_fetched_and_said(
    hub: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = hub.add(REPO, MINI)
    fetch(name_of("@main"))
    new = hub.add(REPO, MINI, **{"README.md": b"# new"})
    path, name = fetch(name_of("@main"))
    assert (path / "README.md").read_bytes() == b"# new" and name.commit == new
    assert f"it was commit {old}, and is now {new}" in caplog.text
    assert kept(tmp_path).whole == sorted([old, new])


def test_another_hash_than_the_names_is_refused_before_the_weights_come(hub: HubServer, tmp_path: Path) -> None:
    commit = hub.add(REPO, MINI)
    with pytest.raises(ChecksumMismatch, match=f"sha256 is {SHA256}, the name says {'0' * 64}"):
        fetch(name_of("#sha256=" + "0" * 64))
    assert not [path for path in hub.paths("GET") if DATA in path]
    assert kept(tmp_path) == ([], [])
    fetch(name_of(f"@{commit}"))
    with pytest.raises(ChecksumMismatch, match="the name says 000"):  # of what is in the cache, too
        fetch(name_of(f"@{commit}#sha256={'0' * 64}"))


def test_a_tampered_file_is_named_and_nothing_of_it_stays(hub: HubServer, tmp_path: Path) -> None:
    data = bytearray((MINI / DATA).read_bytes())
    data[1000] ^= 1
    hub.add(REPO, MINI, **{DATA: bytes(data)})
    with pytest.raises(ChecksumMismatch, match=rf"hf:{REPO}@\w+: {DATA}: sha256 is \w+, the manifest says"):
        fetch(name_of("@main"))
    assert kept(tmp_path) == ([], [])
    hub.add(REPO, MINI)
    assert fetch(name_of("@main")).name.sha256 == SHA256


def test_a_file_of_another_size_is_refused_before_it_is_downloaded(hub: HubServer, tmp_path: Path) -> None:
    hub.add(REPO, MINI, **{DATA: b"short"})
    with pytest.raises(ChecksumMismatch, match=f"{DATA}: 5 bytes in the repository, the manifest says"):
        fetch(name_of("@main"))
    assert not [path for path in hub.paths("GET") if DATA in path]
    assert kept(tmp_path) == ([], [])


def test_what_is_not_a_bundle_is_refused(hub: HubServer, tmp_path: Path) -> None:
    hub.repositories[REPO] = Repository()
    hub.repositories[REPO].add({"model.safetensors": b"weights"})
    with pytest.raises(BundleError, match=r"has no manifest\.json, so it is not a bundle"):
        fetch(name_of("@main"))
    hub.add(REPO, MINI, **{"manifest.json": b'{"schema_version": 99}'})
    with pytest.raises(BundleError, match="schema version is 99"):
        fetch(name_of("@main"))
    files = hub.repositories[REPO].commits[hub.add(REPO, MINI)]
    hub.repositories[REPO].add({path: data for path, data in files.items() if path != DATA})
    with pytest.raises(BundleError, match=f"the repository does not have {DATA}, which the manifest lists"):
        fetch(name_of("@main"))
    assert kept(tmp_path) == ([], [])


def test_a_manifest_changed_in_the_cache_is_refused(hub: HubServer) -> None:
    hub.add(REPO, MINI)
    path, name = fetch(name_of("@main"))
    manifest = path / "manifest.json"
    manifest.write_text(manifest.read_text().replace("abonyx-mini", "abonyx-maxi"))
    with pytest.raises(ChecksumMismatch, match=f"it was {SHA256} when it was downloaded") as caught:
        open_bundle(str(name))
    assert f"Remove {path}" in caught.value.fix
    shutil.rmtree(path)
    assert open_bundle(str(name)).sha256 == SHA256


def test_weights_changed_in_the_cache_are_refused(hub: HubServer) -> None:
    hub.add(REPO, MINI)
    path, name = fetch(name_of("@main"))
    data = bytearray((path / DATA).read_bytes())
    data[1000] ^= 1
    (path / DATA).write_bytes(data)
    with pytest.raises(ChecksumMismatch, match=f"{DATA}: sha256") as caught:
        abonyx.open_session(str(name))
    assert caught.value.fix == f"Remove {path}. The next run downloads the bundle again."


def test_a_broken_download_is_resumed_where_it_broke(hub: HubServer, tmp_path: Path) -> None:
    commit = hub.add(REPO, MINI)
    hub.cut_after[DATA] = 12_000_000  # the library writes 10 MiB at a time
    try:
        fetch(name_of("@main"))
    except HubUnreachable as error:
        assert "the same command resumes" in error.fix
        assert kept(tmp_path) == ([], [f"{commit}.partial"])
        with pytest.raises(BundleError):  # a partial bundle is none
            fetching._last_meant(fetching.HubStore(REPO), name_of(f"@{commit}"))
        before = len(hub.asked)
        fetch(name_of("@main"))
        asked = hub.asked[before:]
    else:  # the library resumed by itself
        asked = hub.asked
    ranges = [headers.get("Range", headers.get("range")) for _, path, headers in asked if DATA in path]
    assert any(one and one != "bytes=0-" for one in ranges), ranges
    assert kept(tmp_path) == ([commit], [])
    assert (tmp_path / "cache/hub/acme--mini" / commit / DATA).read_bytes() == (MINI / DATA).read_bytes()


def test_a_killed_download_is_taken_up_by_the_next_process(hub: HubServer, tmp_path: Path) -> None:
    commit = hub.add(REPO, MINI)
    hub.slow_s = 0.4
    first = start("inspect", f"hf:{REPO}@{commit}")
    deadline = time.monotonic() + 30
    while not [path for path in hub.paths("GET") if DATA in path] and time.monotonic() < deadline:
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert kept(tmp_path) == ([], [f"{commit}.partial"])
    hub.slow_s = 0
    done = start("inspect", f"hf:{REPO}@{commit}")
    out, error = done.communicate(timeout=60)
    assert done.returncode == 0, error
    assert SHA256[:12] in out
    assert kept(tmp_path) == ([commit], [])


def test_a_second_process_waits_and_downloads_nothing(hub: HubServer) -> None:
    commit = hub.add(REPO, MINI)
    hub.slow_s = 0.3
    first = start("inspect", f"hf:{REPO}@{commit}")
    while not hub.paths("HEAD"):
        time.sleep(0.02)
    second = start("inspect", f"hf:{REPO}@{commit}")
    said = [one.communicate(timeout=60)[1] for one in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), said
    assert "another process is downloading from this repository" in said[1]
    assert len([path for path in hub.paths("GET") if path.endswith(DATA)]) == 1


def test_a_hub_that_is_down_is_said_with_what_is_in_the_cache(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = hub.add(REPO, MINI)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubUnreachable, match=r"the hub at http://127\.0\.0\.1:9 gives no answer: Connection refused"):
        fetch(name_of("@main"))
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    fetch(name_of("@main"))
    hub.status = 503
    with pytest.raises(HubUnreachable, match="answers 503") as caught:
        fetch(name_of("@main"))
    assert f"Last time it was hf:{REPO}@{commit}" in caught.value.fix


def test_offline_a_branch_is_what_it_was_and_says_so(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    commit = hub.add(REPO, MINI)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for text in ("@main", f"@{commit}", "#sha256=" + SHA256):
        with pytest.raises(BundleError, match="is not in the cache, and HF_HUB_OFFLINE"):
            fetch(name_of(text))
    assert hub.asked == []
    monkeypatch.delenv("HF_HUB_OFFLINE")
    first = fetch(name_of("@main"))
    hub.add(REPO, MINI, **{"README.md": b"# new"})
    hub.asked.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch(name_of("@main")) == first == fetch(name_of(""))
    assert f"hf:{REPO}@main was commit {commit} when the hub was last asked" in caplog.text
    with pytest.raises(BundleError, match="is not in the cache"):
        fetch(name_of("@v2"))
    assert hub.asked == []


def test_a_private_repository_needs_the_token_which_is_never_shown(
    hub: HubServer, run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub.add(REPO, MINI)
    hub.repositories[REPO].private = True
    # The token of a login on the disk is not used.
    (tmp_path / "hf_home").mkdir()
    (tmp_path / "hf_home" / "token").write_text(WRITE_TOKEN)
    said = run("inspect", f"hf:{REPO}@main")
    assert said.code == 4
    assert "no such repository, or it is private" in said.err and "set HF_TOKEN" in said.err
    assert not [one for _, _, headers in hub.asked for one in headers if one.lower() == "authorization"]
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody_else")
    said = run("--debug", "inspect", f"hf:{REPO}@main", "-v")
    assert "that the token in HF_TOKEN may read it" in said.err
    monkeypatch.setenv("HF_TOKEN", WRITE_TOKEN)
    done = run("--debug", "inspect", f"hf:{REPO}@main", "-v")
    assert done.code == 0, done.err
    sent = {path.split("/")[1]: headers for _, path, headers in hub.asked[-60:]}
    assert "Authorization" in sent["acme"].keys() | {name.title() for name in sent["acme"]}
    assert "authorization" not in {name.lower() for name in sent["storage"]}
    for text in (*said[1:], *done[1:]):
        assert WRITE_TOKEN not in text and "hf_of_somebody_else" not in text


def test_no_such_revision(hub: HubServer) -> None:
    hub.add(REPO, MINI)
    with pytest.raises(BundleError, match=f"hf:{REPO}@v2: the repository has no such revision"):
        fetch(name_of("@v2"))


def test_without_the_extra_one_line_names_it(hub: HubServer, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for arguments in (["inspect", f"hf:{REPO}"], ["push", MINI, f"hf:{REPO}"]):
        said = run(*arguments)
        assert said.code == 2
        assert "needs huggingface_hub" in said.err and install_command("hub") in said.err
        assert len(said.err.splitlines()) == 2
    assert run("inspect", MINI).code == 0


def test_a_disk_without_room_is_refused_before_the_weights_come(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPO, MINI)
    usage = shutil.disk_usage(MINI)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
    with pytest.raises(ConfigError, match=r"the bundle needs 15\.\d MB more, but only 1\.0 MB are free"):
        fetch(name_of("@main"))
    assert not [path for path in hub.paths("GET") if DATA in path]


def test_a_disk_that_fills_up_gives_one_error_and_the_rest_is_resumed(hub: HubServer, tmp_path: Path) -> None:
    commit = hub.add(REPO, MINI)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, hard))  # a write behind it fails, as on a full disk
    try:
        with pytest.raises(ConfigError, match=r"\.partial: cannot be written: File too large") as caught:
            fetch(name_of("@main"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "ABONYX_CACHE_DIR" in caught.value.fix
    assert kept(tmp_path) == ([], [f"{commit}.partial"])
    assert fetch(name_of("@main")).name.sha256 == SHA256


def test_a_cache_that_cannot_be_written(hub: HubServer, tmp_path: Path) -> None:
    hub.add(REPO, MINI)
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(ConfigError, match=r"cannot be written: Not a directory"):
        fetch(name_of("@main"))


def test_scores_by_name_are_those_of_the_directory_and_say_where_from(hub: HubServer, run: Any, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    commit = hub.add(REPO, MINI)
    for place, suffix in ((f"hf:{REPO}@main", "hub"), (MINI, "directory")):
        done = run("score", EXAMPLES, "-o", tmp_path / f"{suffix}.csv", "--bundle", place)
        assert done.code == 0, done.err
        assert (f"({SHA256[:12]}) from hf:{REPO}@{commit}" in done.err) == (suffix == "hub")
    assert (tmp_path / "hub.csv").read_bytes() == (tmp_path / "directory.csv").read_bytes()
    asked = len([path for path in hub.paths("GET") if "/api/" in path])
    assert asked == 1  # one run asks once what main is
    assert run("score", EXAMPLES, "-o", tmp_path / "out.parquet", "--bundle", f"hf:{REPO}@{commit}").code == 0
    metadata = parquet.read_schema(tmp_path / "out.parquet").metadata
    stated = {key: value.decode() for key, value in metadata.items() if b"bundle" in key}
    assert f"hf:{REPO}@{commit}#sha256={SHA256}" in stated.values(), stated


def test_a_session_is_opened_by_name(hub: HubServer, sequences: list[str]) -> None:
    commit = hub.add(REPO, MINI)
    pinned = f"hf:{REPO}@{commit}#sha256={SHA256}"
    with abonyx.open_session(f"hf:{REPO}") as session:
        assert session.source == pinned
        assert f"from hf:{REPO}@{commit}" in repr(session)
        assert session.score(sequences[:1]).shape == (1,)
        hub.status = 500  # nothing more is asked
        session.reload(pinned)
    with abonyx.open_session(MINI) as session:
        assert session.source == str(MINI)


def test_the_config_of_a_service_is_pinned_and_a_reload_asks_again(hub: HubServer) -> None:
    first = hub.add(REPO, MINI)
    config = abonyx.RuntimeConfig(bundle=f"hf:{REPO}@main")
    assert open_pinned(config)[0].bundle == f"hf:{REPO}@{first}#sha256={SHA256}"
    second = hub.add(REPO, MINI, **{"README.md": b"# new"})
    assert open_pinned(config)[0].bundle == f"hf:{REPO}@{second}#sha256={SHA256}"


def test_a_service_with_a_bundle_by_name_scores_and_reloads_a_new_revision(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fastapi", reason="the serve extra is not installed")
    first = hub.add(REPO, MINI)
    monkeypatch.setenv("ABONYX_SERVE_ADMIN_TOKEN", ADMIN)
    running = start("serve", "--port", "0", "--bundle", f"hf:{REPO}@main")
    try:
        assert running.stderr
        log: list[str] = []
        port = next(found[1] for line in running.stderr if (found := _listening(line, log)))

        def ask(path: str, body: dict[str, Any]) -> Any:
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {ADMIN}"}
            address = f"http://127.0.0.1:{port}{path}"
            request = urllib.request.Request(address, json.dumps(body).encode(), headers)
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)

        asked = {"sequences": [EXAMPLES.read_text().splitlines()[1].split(",")[1]]}
        before = ask("/v1/score", asked)
        assert first in "".join(log)
        second = hub.add(REPO, MINI, **{"README.md": b"# new"})
        assert second in json.dumps(ask("/v1/reload", {}))
        assert ask("/v1/score", asked)["results"][0]["p_nonspecific"] == before["results"][0]["p_nonspecific"]
    finally:
        running.kill()
        running.communicate()


def _listening(line: str, log: list[str]) -> re.Match[str] | None:
    log.append(line)
    return re.search(r"listening at http://[\d.]+:(\d+)$", line.strip())


@pytest.mark.parametrize("command", ["inspect", "doctor", "verify"])
def test_the_commands_that_look(command: str, hub: HubServer, run: Any) -> None:
    commit = hub.add(REPO, MINI)
    done = run(command, "--bundle", f"hf:{REPO}@{commit}")
    assert done.code == 0, done.err
    assert commit in done.out


def test_workers_of_a_ray_node_download_it_once(hub: HubServer, run: Any, tmp_path: Path) -> None:
    pytest.importorskip("ray.data", reason="the ray extra is not installed")
    commit = hub.add(REPO, MINI)
    (tmp_path / "in").mkdir()
    for number in range(3):
        shutil.copy(EXAMPLES, tmp_path / "in" / f"{number}.csv")
    name = f"hf:{REPO}@main"
    done = run("score", tmp_path / "in", "-o", tmp_path / "out", "--ray", "--format", "csv", "--bundle", name)
    assert done.code == 0, done.err
    assert f"from hf:{REPO}@{commit}" in done.err
    assert len(list((tmp_path / "out").glob("*.csv"))) == 3
    assert len([path for path in hub.paths("GET") if path.endswith(DATA)]) == 1
    assert len([path for path in hub.paths("GET") if "/api/" in path]) == 1


def test_a_worker_on_another_node_fetches_the_pinned_bundle(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from abonyx.ray.worker import open_checked

    pytest.importorskip("ray", reason="the ray extra is not installed")
    hub.add(REPO, MINI)
    config, bundle = open_pinned(abonyx.RuntimeConfig(bundle=f"hf:{REPO}@main"))
    hub.add(REPO, MINI, **{"README.md": b"# new"})  # main moves meanwhile
    monkeypatch.setenv("ABONYX_CACHE_DIR", str(tmp_path / "another_node"))
    with open_checked(config, bundle.sha256) as model:
        assert model.bundle.hub == bundle.hub
        assert model.bundle.path.is_relative_to(tmp_path / "another_node")


def test_a_directory_needs_no_huggingface_hub() -> None:
    code = "import sys, abonyx.bundle\nabonyx.bundle.open_bundle(None)\nassert 'huggingface_hub' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ))
