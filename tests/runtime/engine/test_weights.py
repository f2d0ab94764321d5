"""An open model computes with the hashed bytes, even if the bundle changes later."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import abonyx
from abonyx import cache
from abonyx.bundle import check_files, check_graph, open_bundle, refuse_changed
from abonyx.bundle import files as bundle_files
from abonyx.config import RuntimeConfig
from abonyx.engine import onnx, private_copy, weights
from abonyx.errors import BundleError

from ...conftest import MINI
from ..hostile import FOLDER, WEIGHTS

SEQUENCES = ["EVQLVESGGGLVQPGGSLRLSCAASGFTFSSYAMSWVRQAPGKGLEWVSAISGSGGSTYYADSVKGRFTISRDNSKNTLYLQMNSLRAEDTAVYYCAK"]
linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/maps is Linux's")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(MINI, tmp_path / "bundle"))


def overwrite(path: Path) -> None:
    """Write other weights of the same length in place."""
    values = np.fromfile(path, np.float16)
    with path.open("r+b") as file:
        file.write(np.roll(values, len(values) // 2).tobytes())


def cut(path: Path) -> None:
    os.truncate(path, 0)


@linux
@pytest.mark.parametrize("way", ["handed over", "private copy"])
@pytest.mark.parametrize("change", [overwrite, cut])
def test_a_change_after_the_open_changes_nothing(
    copy: Path, tmp_path: Path, change: Callable[[Path], None], way: str
) -> None:
    no_maps = "from abonyx.engine import onnx; onnx.mapped = lambda paths: None" if way == "private copy" else ""
    code = f"""
import sys, abonyx
{no_maps}
with abonyx.open_session(abonyx.RuntimeConfig(bundle=sys.argv[1])) as session:
    print(session.score(sys.argv[2:])[0], flush=True)
    input()
    print(session.score(sys.argv[2:])[0], session.score([sys.argv[2] + "AAA"])[0], flush=True)
"""
    environment = os.environ | {"ABONYX_CACHE_DIR": str(tmp_path / "cache")}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(copy), *SEQUENCES],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        before = child.stdout.readline().strip()
        change(copy / FOLDER / WEIGHTS)
        child.stdin.write("\n")
        child.stdin.flush()
        after = child.stdout.read().split()
    assert child.returncode == 0  # SIGBUS kills a process that reads a mapped file which was cut
    assert before and after[0] == before and len(after) == 2


@linux
def test_nothing_of_the_file_stays_mapped(copy: Path) -> None:
    path = copy / FOLDER / WEIGHTS
    with abonyx.open_session(RuntimeConfig(bundle=str(copy))):
        assert weights.mapped([path]) is False
    assert not (cache.cache_dir() / "weights").exists()  # no copy was needed


@linux
def test_mapped_sees_a_mapping_by_its_number_and_by_its_name(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = copy / FOLDER / WEIGHTS
    values = np.memmap(path, np.uint8, "r")
    assert weights.mapped([path]) is True
    assert weights.mapped([copy / "manifest.json"]) is False
    listing = copy / "maps"
    # On an overlay file system, the list has another device and inode.
    listing.write_text(
        f"7f00-7f01 r--s 00000000 00:01 1                          {os.path.realpath(path)}\n7f-80 r 0 00:00 0\n"
    )
    monkeypatch.setattr(weights, "_MAPS", listing)
    assert weights.mapped([path]) is True
    listing.write_text("7f00-7f01 r--s 00000000 00:01 1 /elsewhere\n")
    assert weights.mapped([path]) is False
    monkeypatch.setattr(weights, "_MAPS", copy / "missing")
    assert weights.mapped([path]) is None
    del values


@pytest.fixture
def make_private(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Path]:
    """Make or find the bundle's private copy in the cache; returns the copied file of the weights."""
    monkeypatch.setenv("ABONYX_CACHE_DIR", str(tmp_path / "cache"))
    bundle = open_bundle(copy)
    return lambda: private_copy.private_copy(bundle, bundle.manifest.variants[FOLDER])[0].path / FOLDER / WEIGHTS


def test_a_model_that_stays_mapped_is_loaded_from_a_private_copy(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ABONYX_CACHE_DIR", str(tmp_path / "cache"))
    with abonyx.open_session(RuntimeConfig(bundle=str(copy))) as session:
        expected = session.score(SEQUENCES)
    loaded: list[Path] = []
    create: Any = onnx._create

    def recorded(ort: Any, bundle: Any, *others: Any) -> Any:
        loaded.append(bundle.path)
        return create(ort, bundle, *others)

    monkeypatch.setattr(onnx, "_create", recorded)
    monkeypatch.setattr(onnx, "mapped", lambda paths: True)
    with abonyx.open_session(RuntimeConfig(bundle=str(copy))) as session:
        assert np.array_equal(session.score(SEQUENCES), expected)
    assert loaded[0] == copy and loaded[1].parent == tmp_path / "cache" / "weights"
    file = loaded[1] / FOLDER / WEIGHTS
    assert file.read_bytes() == (copy / FOLDER / WEIGHTS).read_bytes()
    if os.name == "posix":
        assert stat.S_IMODE(file.stat().st_mode) == 0o400
        assert stat.S_IMODE(loaded[1].parent.stat().st_mode) == 0o700
    assert sorted(path.name for path in loaded[1].iterdir()) == [FOLDER]


def test_a_private_copy_is_made_once_and_again_if_it_is_damaged(make_private: Callable[[], Path], copy: Path) -> None:
    path = make_private()
    first = path.stat().st_ino
    assert make_private() == path
    assert path.stat().st_ino == first
    path.chmod(0o600)
    path.write_bytes(b"x" + path.read_bytes()[1:])
    path.chmod(0o400)
    assert make_private() == path
    assert path.read_bytes() == (copy / FOLDER / WEIGHTS).read_bytes()


def test_old_copies_go(make_private: Callable[[], Path], tmp_path: Path) -> None:
    root = tmp_path / "cache" / "weights"
    for age, name in enumerate(["newest", "new", "old", "older"]):
        (root / name).mkdir(parents=True)
        os.utime(root / name, (1_000_000 - age,) * 2)
    (root / "unfinished-now").mkdir()
    (root / "unfinished-old").mkdir()
    os.utime(root / "unfinished-old", (time.time() - 100_000,) * 2)
    used = make_private().parents[1]
    assert {path.name for path in root.iterdir()} == {used.name, "newest", "new", "unfinished-now"}


def test_no_room_for_a_private_copy(
    make_private: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ABONYX_CACHE_DIR", str(tmp_path / "file"))
    what = r"a private copy of the weights \(15,223,581 bytes\) cannot be made there"
    with pytest.raises(BundleError, match=what) as caught:
        make_private()
    assert "ABONYX_CACHE_DIR" in caught.value.fix


def test_a_copy_of_a_bundle_that_changes_meanwhile_is_refused(make_private: Callable[[], Path], copy: Path) -> None:
    overwrite(copy / FOLDER / WEIGHTS)
    with pytest.raises(BundleError, match="sha256"):
        make_private()


@pytest.mark.parametrize("undone", [False, True])
def test_a_write_during_the_load_is_noticed_even_if_it_is_undone(
    copy: Path, monkeypatch: pytest.MonkeyPatch, undone: bool
) -> None:
    path = copy / FOLDER / WEIGHTS
    load: Any = onnx.load

    def disturbed(*arguments: Any) -> Any:
        data, status = path.read_bytes(), path.stat()
        overwrite(path)
        native = load(*arguments)
        if undone:
            path.write_bytes(data)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        return native

    monkeypatch.setattr(onnx, "load", disturbed)
    with pytest.raises(BundleError, match="changed while the model was loaded" if undone else "sha256"):
        abonyx.open_session(RuntimeConfig(bundle=str(copy)))


def test_a_file_that_is_replaced_or_gone_is_noticed(copy: Path) -> None:
    bundle = open_bundle(copy)
    stamps = check_files(bundle, bundle.manifest.files)
    refuse_changed(bundle, stamps)
    shutil.copy2(copy / "golden.npz", copy / "other")
    (copy / "other").replace(copy / "golden.npz")
    with pytest.raises(BundleError, match=r"changed while"):
        refuse_changed(bundle, stamps)
    stamps = check_files(bundle, bundle.manifest.files)
    (copy / "golden.npz").unlink()
    with pytest.raises(BundleError, match=r"changed while"):
        refuse_changed(bundle, stamps)


def test_a_hard_link_made_during_the_load_is_no_change(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load: Any = onnx.load

    def disturbed(*arguments: Any) -> Any:
        if not (tmp_path / "linked").exists():
            os.link(copy / FOLDER / WEIGHTS, tmp_path / "linked")  # as fit does, once
        return load(*arguments)

    monkeypatch.setattr(onnx, "load", disturbed)
    abonyx.open_session(RuntimeConfig(bundle=str(copy))).close()


@pytest.mark.parametrize("part", ["bundle", "folder", "link"])
def test_a_swap_during_the_load_is_noticed_even_if_it_is_undone(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """Or the swap has no effect: for a link, its first target is used."""
    other = Path(shutil.copytree(copy, tmp_path / "other"))
    overwrite(other / FOLDER / WEIGHTS)
    link = tmp_path / "link"
    link.symlink_to(copy)
    load: Any = onnx.load

    def disturbed(*arguments: Any) -> Any:
        first, second = (copy / FOLDER, other / FOLDER) if part == "folder" else (copy, other)
        if part == "link":
            link.unlink()
            link.symlink_to(other)
            native = load(*arguments)
            link.unlink()
            link.symlink_to(copy)
            return native
        first.rename(tmp_path / "away")
        second.rename(first)
        native = load(*arguments)
        first.rename(second)
        (tmp_path / "away").rename(first)
        return native

    with abonyx.open_session(RuntimeConfig(bundle=str(copy))) as session:
        expected = session.score(SEQUENCES)
    monkeypatch.setattr(onnx, "load", disturbed)
    if part == "link":
        with abonyx.open_session(RuntimeConfig(bundle=str(link))) as session:
            assert np.array_equal(session.score(SEQUENCES), expected)
        return
    with pytest.raises(BundleError, match="changed while the model was loaded"):
        abonyx.open_session(RuntimeConfig(bundle=str(copy)))


@pytest.mark.skipif(os.name != "posix", reason="modes and links of POSIX")
def test_a_private_copy_that_others_can_reach_is_made_again(make_private: Callable[[], Path], tmp_path: Path) -> None:
    path = make_private()
    for open_up in (lambda: path.chmod(0o666), lambda: os.link(path, tmp_path / "linked")):
        open_up()
        assert make_private() == path
        status = path.stat()
        assert (status.st_nlink, stat.S_IMODE(status.st_mode)) == (1, 0o400)


def test_a_remembered_hash_is_not_trusted_after_a_write_that_keeps_size_and_time(copy: Path) -> None:
    bundle, path = open_bundle(copy), copy / FOLDER / WEIGHTS
    check_files(bundle, bundle.manifest.files)
    status = path.stat()
    overwrite(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(BundleError, match="sha256"):
        check_files(bundle, bundle.manifest.files)


def test_a_file_written_just_now_is_read_once_another_write_would_show(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(bundle_files.time, "sleep", waits.append)
    path = copy / "golden.npz"
    now = path.stat().st_ctime_ns
    monkeypatch.setattr(bundle_files.time, "time_ns", lambda: now + 1_000_000)
    bundle_files._settled(path)
    assert waits == [0.02]
    monkeypatch.setattr(bundle_files.time, "time_ns", lambda: now + 30_000_000)
    bundle_files._settled(path)
    assert waits == [0.02]


def test_a_file_that_is_cut_before_it_is_read(copy: Path) -> None:
    bundle = open_bundle(copy)
    graph = check_graph(bundle, bundle.manifest.variants[FOLDER])
    cut(copy / FOLDER / WEIGHTS)
    with pytest.raises(BundleError, match="shorter than when it was hashed"):
        weights.read_tensors(copy / FOLDER, weights.handed_over(graph))
