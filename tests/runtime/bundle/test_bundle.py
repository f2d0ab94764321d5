from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import abonyx
from abonyx import cache
from abonyx.bundle import check_files, locate_mini, open_bundle
from abonyx.errors import BundleError, ChecksumMismatch, ConfigError
from abonyx.privacy import silence

from ...conftest import MINI


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(MINI, tmp_path / "bundle"))


def edit(directory: Path, **changes: Any) -> None:
    path = directory / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_mini_is_found_small_and_says_what_it_is() -> None:
    # Of a clone, or of the wheel that these tests are run with.
    assert locate_mini() in (MINI, Path(abonyx.__file__).parent / "mini")
    bundle = open_bundle(None)
    assert "not ESM-1v" in bundle.label()
    assert bundle.manifest.max_residues == 148  # the longest sequence trained on
    assert bundle.manifest.head.thresholds == {}
    assert sum(entry.size_bytes for entry in bundle.manifest.files.values()) < 16e6
    on_disk = {path.relative_to(MINI).as_posix() for path in MINI.rglob("*") if path.is_file()}
    assert on_disk - {"README.md"} == {*bundle.manifest.files, "manifest.json"}
    check_files(bundle, list(bundle.manifest.files), use_cache=False)


def test_label_says_what_makes_the_scores_mean_nothing(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    cases: list[tuple[str, str | None, str | None, float, str]] = [
        ("", None, None, 0.0, ""),
        ("untrained", None, None, 0.0, ", untrained"),
        ("", "some/esm", "some/esm", 0.0, ""),
        ("", "some/esm", None, 0.0, ""),
        (
            "",
            "some/esm",
            "other/esm",
            0.0,
            ", the head was trained for another encoder (other/esm): scores mean nothing",
        ),
        ("", None, None, -1.5, ", benchmark head, intercept moved by -1.5"),
        (
            *("a", None, "other/esm", 2.0),
            ", a; the head was trained for another encoder (other/esm): scores mean nothing; "
            "benchmark head, intercept moved by 2",
        ),
    ]
    for notice, encoder, trained_with, shift, expected in cases:
        encoders = {"encoder": manifest["encoder"] | {"repo_id": encoder}}
        head = manifest["heads"][0] | {"encoder": trained_with, "intercept_shift": shift}
        edit(copy, notice=notice, heads=[head], **encoders)
        bundle = open_bundle(copy)
        assert bundle.label() == f"{bundle.manifest.name} ({bundle.sha256[:12]}){expected}"


def test_one_changed_byte_is_found_even_with_its_time_stamp_kept(copy: Path) -> None:
    bundle = open_bundle(copy)
    name = "fp16-weights/model.onnx.data"
    check_files(bundle, [name])
    status = (copy / name).stat()
    data = bytearray((copy / name).read_bytes())
    data[1000] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(ChecksumMismatch, match="sha256"):
        check_files(bundle, [name])
    os.utime(copy / name, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(ChecksumMismatch, match="sha256"):
        check_files(bundle, [name], use_cache=False)


def test_size_missing_and_link(copy: Path) -> None:
    bundle = open_bundle(copy)
    head = copy / "head.onnx"
    head.write_bytes(head.read_bytes()[:-1])
    with pytest.raises(ChecksumMismatch, match="bytes, the manifest says"):
        check_files(bundle, ["head.onnx"])
    head.unlink()
    with pytest.raises(BundleError, match=r"head\.onnx: cannot be read"):
        check_files(bundle, ["head.onnx"])
    head.symlink_to(MINI / "head.onnx")
    with pytest.raises(BundleError, match="symbolic link"):
        check_files(bundle, ["head.onnx"])


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../b", "a\\b", "C:x", "./x", "a//b"])
def test_paths_stay_inside(copy: Path, name: str) -> None:
    edit(copy, files={name: {"sha256": "0", "size_bytes": 1}}, variants={}, default_variant={})
    with pytest.raises(BundleError, match="is outside the bundle"):
        open_bundle(copy)


def test_manifest_faults(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such bundle"):
        open_bundle(tmp_path / "nowhere")
    edit(copy, schema_version=99)
    with pytest.raises(BundleError, match="schema version is 99, this abonyx reads 2"):
        open_bundle(copy)
    edit(copy, schema_version=1)
    with pytest.raises(BundleError, match=r"schema version is 1, this abonyx reads 2\n.*Export the bundle again"):
        open_bundle(copy)
    edit(copy, schema_version=2, surprise=True)
    with pytest.raises(BundleError, match="surprise"):
        open_bundle(copy)
    (copy / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(BundleError, match="not a manifest"):
        open_bundle(copy)
    (copy / "manifest.json").write_bytes(b" " * (5 * 2**20))
    with pytest.raises(BundleError, match="the limit is"):
        open_bundle(copy)
    (copy / "manifest.json").unlink()
    with pytest.raises(BundleError, match="cannot be read"):
        open_bundle(copy)


def test_variant_choice(copy: Path) -> None:
    bundle = open_bundle(copy)
    assert bundle.variant("cpu", None)[0] == "fp16-weights"
    with pytest.raises(ConfigError, match=r"no variant 'int8'.*\n.*fp16-weights"):
        bundle.variant("cpu", "int8")
    edit(copy, default_variant={})
    with pytest.raises(ConfigError, match="no default variant for provider cpu"):
        open_bundle(copy).variant("cpu", None)


def test_golden_damaged(copy: Path) -> None:
    (copy / "golden.npz").write_bytes(b"PK not a zip")
    with pytest.raises(BundleError, match=r"golden\.npz"):
        open_bundle(copy).golden()


def test_cache_survives_damage_and_a_read_only_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ABONYX_CACHE_DIR", str(tmp_path / "cache"))
    cache.remember("facts", {"a": "1"})
    assert cache.remembered("facts") == {"a": "1"}
    (tmp_path / "cache" / "facts.json").write_text("{not json")
    assert cache.remembered("facts") == {}
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ABONYX_CACHE_DIR", str(tmp_path / "file" / "below"))
    cache.remember("facts", {"a": "1"})
    assert cache.remembered("facts") == {}


def test_a_user_without_a_home_has_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's user that has no entry in the list of users, HOME not set."""
    for name in ("ABONYX_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda number: {}[number])
    assert cache.cache_dir() is None
    cache.remember("facts", {"a": "1"})
    assert cache.remembered("facts") == {}
    monkeypatch.delenv("MPLCONFIGDIR", raising=False)
    silence()
    assert "MPLCONFIGDIR" not in os.environ


def test_a_cache_below_the_working_directory_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """platformdirs 4.0 answers "~/.cache" itself where a user has no home."""
    monkeypatch.delenv("ABONYX_CACHE_DIR", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_, **__: "~/.cache/abonyx")
    assert cache.cache_dir() is None


def test_a_pipe_in_the_caches_place_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ABONYX_CACHE_DIR", str(tmp_path))
    os.mkfifo(tmp_path / "facts.json")
    assert cache.remembered("facts") == {}


def test_a_fact_that_json_cannot_hold_is_not_remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ABONYX_CACHE_DIR", str(tmp_path))
    cache.remember("facts", {os.fsdecode(b"\xff"): "1"})
    assert cache.remembered("facts") == {}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"max_residues": -1}, "max_residues"),
        ({"embedding_width": 5}, "embedding_width"),
        ({"pooling": "weird"}, "pooling"),
    ],
)
def test_values_no_export_writes(copy: Path, changes: dict[str, Any], named: str) -> None:
    edit(copy, **changes)
    with pytest.raises(BundleError, match=named):
        open_bundle(copy)


def test_a_file_the_manifest_does_not_list(copy: Path) -> None:
    (copy / "fp16-weights" / "other.data").write_bytes(b"x")
    bundle = open_bundle(copy)
    with pytest.raises(BundleError, match=r"other\.data: not listed"):
        bundle.files_of(bundle.manifest.variants["fp16-weights"])


def test_a_wrong_cached_hash_is_looked_at_again(copy: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ABONYX_CACHE_DIR", str(tmp_path / "cache"))
    bundle = open_bundle(copy)
    check_files(bundle, ["head.onnx"])
    cache.remember("hashes", dict.fromkeys(cache.remembered("hashes"), "0" * 64))
    check_files(bundle, ["head.onnx"])
