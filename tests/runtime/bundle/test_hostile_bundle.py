"""Damaged and hostile bundles: refused with BundleError (exit code 4) before an engine sees a byte of them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import abonyx
from abonyx.bundle import bundle as bundle_module
from abonyx.bundle import check_files, open_bundle, unlisted_files
from abonyx.bundle import files as bundle_files
from abonyx.bundle.manifest import MAX_MANIFEST_BYTES
from abonyx.errors import BundleError, ChecksumMismatch

from ...conftest import MINI
from ..hostile import FOLDER, MODEL, WEIGHTS, edit, external, field, graph, model, node, relist

HEAD = ("heads", 0)
SCORES = (*HEAD, "training", "scores")
ROWS = len(open_bundle(MINI).golden().lengths)
LISTED = [
    path.relative_to(MINI).as_posix() for path in sorted(MINI.rglob("*")) if path.is_file() and path.suffix != ".md"
]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(MINI, tmp_path / "bundle"))


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail if an InferenceSession is created."""

    def construct(*_: Any, **__: Any) -> Any:
        raise AssertionError("the bundle reached the engine")

    monkeypatch.setattr(onnxruntime, "InferenceSession", construct)
    yield


def refused(directory: Path) -> str:
    with pytest.raises(BundleError) as caught:
        abonyx.open_session(abonyx.RuntimeConfig(bundle=str(directory)))
    assert caught.value.exit_code == 4 and caught.value.fix
    assert len(str(caught.value)) < 3000
    return str(caught.value)


def flip(path: Path, bit: int) -> None:
    """Change one bit; size and time stamps stay."""
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("bits", [5, pytest.param(500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", LISTED)
def test_one_flipped_bit_in_each_file(copy: Path, name: str, bits: int) -> None:
    bundle = open_bundle(copy)
    check_files(bundle, bundle.manifest.files)  # every hash is remembered now
    for bit in np.linspace(0, 8 * (copy / name).stat().st_size - 1, bits, dtype=int):
        flip(copy / name, int(bit))
        if name == "manifest.json":
            with contextlib.suppress(BundleError):
                assert open_bundle(copy).sha256 != bundle.sha256  # its hash names the bundle wherever it is named
        else:
            with pytest.raises(ChecksumMismatch, match="sha256"):
                check_files(bundle, bundle.manifest.files, use_cache=False)
            # Now the cache has the hash, so that open refuses it too, although the time stamp has not changed.
            with pytest.raises(ChecksumMismatch, match="sha256"):
                check_files(bundle, [name])
        flip(copy / name, int(bit))
    check_files(open_bundle(copy), bundle.manifest.files)


@pytest.mark.usefixtures("no_engine")
@pytest.mark.parametrize("name", LISTED)
def test_truncated_missing_linked_and_replaced(copy: Path, name: str) -> None:
    path = copy / name
    whole = path.read_bytes()
    others = [lambda: path.write_bytes(whole[: len(whole) // 2]), lambda: path.write_bytes(b"")]
    others += [path.unlink, lambda: path.symlink_to(MINI / name), lambda: path.symlink_to(path), path.mkdir]
    others += [lambda: os.mkfifo(path)]
    for damage in others:
        if path.is_symlink() or path.is_file():
            path.unlink()
        if damage != path.unlink:
            damage()
        with pytest.raises(BundleError):
            bundle = open_bundle(copy)
            check_files(bundle, bundle.manifest.files)
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        path.unlink(missing_ok=True)
        path.write_bytes(whole)
    check_files(open_bundle(copy), open_bundle(copy).manifest.files)


def test_a_folder_behind_a_link(copy: Path, tmp_path: Path) -> None:
    shutil.move(copy / FOLDER, tmp_path / "elsewhere")
    (copy / FOLDER).symlink_to(tmp_path / "elsewhere")
    assert "symbolic link" in refused(copy)
    assert unlisted_files(open_bundle(copy)) == [FOLDER]


def test_a_folder_of_links_as_caches_make_them(copy: Path, tmp_path: Path) -> None:
    """The advice in the message, `cp -rL`, gives a valid bundle."""
    links = tmp_path / "snapshot"
    for name in [*open_bundle(copy).manifest.files, "manifest.json", "README.md"]:
        (links / name).parent.mkdir(parents=True, exist_ok=True)
        (links / name).symlink_to(copy / name)
    message = refused(links)
    assert "manifest.json: is a symbolic link" in message
    assert "cp -rL" in message and "hf:ORG/NAME" in message
    (links / "manifest.json").unlink()
    shutil.copy(copy / "manifest.json", links)
    assert "is a symbolic link, or is in a linked folder" in (message := refused(links))
    assert "cp -rL" in message and "hf:ORG/NAME" in message
    subprocess.run(["cp", "-rL", links, tmp_path / "plain"], check=True)
    bundle = open_bundle(tmp_path / "plain")
    check_files(bundle, bundle.manifest.files)
    assert unlisted_files(bundle) == []


def test_what_a_download_from_the_hub_leaves_is_not_unlisted(copy: Path) -> None:
    (copy / ".gitattributes").touch()
    record = copy / ".cache" / "huggingface" / "download" / "manifest.json.metadata"
    record.parent.mkdir(parents=True)
    record.touch()
    assert unlisted_files(open_bundle(copy)) == []
    (copy / ".cache" / "other").touch()
    (copy / ".gitattributes.so").touch()
    assert unlisted_files(open_bundle(copy)) == [".cache/other", ".gitattributes.so"]


@pytest.mark.parametrize(
    "change",
    [
        {"name": "x" * 3_000_000},
        {"schema_version": "x" * 3_000_000},
        {"schema_version": 10**4_000},
        {"x" * 3_000_000: 1},
        {"default_variant": {"cpu": "x" * 3_000_000}},
        {"files": {"x" * 3_000_000: {"sha256": "0", "size_bytes": 1}}},
    ],
    ids=["name", "schema", "number", "key", "variant", "file"],
)
def test_a_value_of_three_megabytes_is_not_echoed(copy: Path, change: dict[str, object]) -> None:
    edit(copy, **change)
    assert len(refused(copy)) < 500 + len(str(copy))


def test_a_linked_bundle_is_a_bundle(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(copy)
    bundle = open_bundle(tmp_path / "link")
    check_files(bundle, bundle.manifest.files)


def test_a_pipe_of_no_bytes_is_not_waited_for(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(copy / "pipe")
    monkeypatch.setattr(bundle_files, "file_sha256", lambda path: pytest.fail(f"{path} was opened"))
    files = json.loads((copy / "manifest.json").read_text())["files"]
    edit(copy, files=files | {"pipe": {"sha256": "0" * 64, "size_bytes": 0}})
    with pytest.raises(BundleError, match="is not a plain file"):
        check_files(open_bundle(copy), ["pipe"])


def test_a_manifest_of_a_gigabyte_is_not_read(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = copy / "manifest.json"
    path.unlink()
    with path.open("wb") as file:
        file.truncate(2**30)
    opened: list[Path] = []
    real = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *args, **more: (opened.append(self), real(self, *args, **more))[1])
    assert f"has {2**30} bytes; the limit is {MAX_MANIFEST_BYTES}" in refused(copy)
    assert path not in opened


GRAPHS: dict[str, tuple[Callable[[], bytes], str]] = {
    "unknown operator": (lambda: model(graph(node("Loop"))), "operator 'Loop' of domain ''"),
    "unknown domain": (lambda: model(graph(node("Add", "my.ops")), "my.ops"), "operators of domain 'my.ops'"),
    "weights outside": (lambda: model(graph(tensors=[external([("location", "../../secret")])])), "'../../secret'"),
    "weights of the system": (lambda: model(graph(tensors=[external([("location", "/etc/passwd")])])), "/etc/passwd"),
    "weights of another folder": (lambda: model(graph(tensors=[external([("location", "golden.npz")])])), "golden.npz"),
    "weights past the end": (
        lambda: model(graph(tensors=[external([("location", WEIGHTS), ("length", "99999999")])])),
        "end at byte 99999999",
    ),
    "a subgraph": (lambda: model(graph(node(attribute=field(6, graph())))), "a subgraph"),
    "functions": (lambda: model(more=field(25, b"")), "functions"),
    "no protobuf": (lambda: b"not protobuf at all", "damaged at byte"),
    "nothing": (lambda: b"", "has no nodes"),
}


@pytest.mark.usefixtures("no_engine")
@pytest.mark.parametrize("case", GRAPHS)
def test_a_hostile_graph_with_the_right_hash(copy: Path, case: str) -> None:
    make, named = GRAPHS[case]
    (copy / MODEL).write_bytes(make())
    relist(copy)
    message = refused(copy)
    assert named in message and str(copy / MODEL) in message


@pytest.mark.usefixtures("no_engine")
@pytest.mark.parametrize("name", ["libcustom_ops.so", "model.onnx.data2", "abonyx.dll", "sub/library.so"])
@pytest.mark.parametrize("listed", [True, False])
def test_a_library_beside_the_graph(copy: Path, name: str, listed: bool) -> None:
    path = copy / FOLDER / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"\x7fELF")
    if listed:
        relist(copy)
    assert name.partition("/")[0] in refused(copy)


@pytest.mark.usefixtures("no_engine")
def test_a_graph_that_the_engine_takes_for_its_own_format(copy: Path) -> None:
    (copy / MODEL).rename(copy / FOLDER / "model.ort")
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["variants"][FOLDER]["model"] = f"{FOLDER}/model.ort"
    edit(copy, variants=manifest["variants"])
    relist(copy)
    assert "does not end with .onnx" in refused(copy)


def nested(data: Any, *path: Any, value: Any) -> Any:
    """A copy of the manifest with one value replaced."""
    key, *rest = path
    if isinstance(key, int):
        return [nested(one, *rest, value=value) if at == key else one for at, one in enumerate(data)]
    return data | {key: nested(data[key], *rest, value=value) if rest else value}


@pytest.mark.usefixtures("no_engine")
@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("schema_version",), 3, "schema version is 3"),
        (("schema_version",), "1", "not a manifest"),
        (("schema_version",), 10**30, "schema version is 10000"),
        (("max_residues",), 10**30, "max_residues"),
        (("name",), "\x1b]0;owned\x07", "control characters"),
        (("notice",), "two\nlines", "control characters"),
        (("licence",), "x" * 5000, "is long"),
        (("alphabet", "cls_id"), 2**63, "alphabet ids"),
        (("alphabet", "residues", "A"), 2**40, "alphabet ids"),
        (("alphabet", "residues", "A"), -1, "alphabet ids"),
        (("alphabet", "residues"), {letter: ord(letter) for letter in "ACDEFGHIKLMNPQRSTVXY"}, "alphabet.residues"),
        (("heads",), [], "heads"),
        ((*HEAD, "name"), "p", "heads"),
        ((*HEAD, "name"), "a b", "heads"),
        ((*HEAD, "kind"), "forest", "head kind"),
        ((*HEAD, "kind"), "linear", "head kind"),
        ((*HEAD, "unit"), "min", "head kind, unit"),
        ((*HEAD, "higher_is_worse"), False, "head kind"),
        ((*HEAD, "intercept"), None, "not a manifest"),
        ((*HEAD, "chains"), ["L", "H"], "head chains"),
        ((*HEAD, "chains"), [], "head chains"),
        ((*HEAD, "default_threshold"), 2.0, "head thresholds"),
        ((*HEAD, "default_threshold"), None, "head thresholds"),
        (("variants", FOLDER, "parity", "heads"), {}, "heads of parity"),
        ((*SCORES, "bin_edges"), [], "head training scores"),
        ((*SCORES, "bin_edges"), [0, 1, 0.5, 1], "head training scores"),
        ((*SCORES,), {"bin_edges": [0, 0.3, 1], "specific": [443, 0], "nonspecific": [471, 0]}, "head training scores"),
        ((*SCORES,), {"bin_edges": [0], "specific": [], "nonspecific": []}, "head training scores"),
        ((*SCORES,), {"bin_edges": [0, 1, 2], "specific": [443, 0], "nonspecific": [471, 0]}, "head training scores"),
        ((*SCORES,), {"bin_edges": [0, 0.5, 1], "specific": [444, -1], "nonspecific": [471, 0]}, "training scores"),
        ((*SCORES,), {"bin_edges": [0, 0.5, 1], "specific": [443, 0], "nonspecific": [470, 0]}, "training scores"),
        ((*SCORES,), {"bin_edges": [0, 0.5, 1], "specific": [443], "nonspecific": [470, 1]}, "training scores"),
        (("variants", FOLDER, "model"), f"../{FOLDER}/model.onnx", "not a listed file"),
        (("variants", FOLDER, "model"), "model.onnx", "not a listed file"),
        (("variants", FOLDER, "precision"), "fp8", "variant precision"),
        (("variants", FOLDER, "providers"), [], "variants: has values that an export never writes"),
        (("variants", FOLDER, "limits", "p"), 1.0, "variant limits"),
        (("variants", FOLDER, "custom_op_library"), "x.so", "custom_op_library"),
        (("files", "../../.bashrc"), {"sha256": "0", "size_bytes": 1}, "is outside the bundle"),
        (("files", "a\0b"), {"sha256": "0", "size_bytes": 1}, "control characters"),
        (("files", "x" * 5000), {"sha256": "0", "size_bytes": 1}, "is long"),
        (("files", MODEL, "size_bytes"), -1, "file sizes"),
        (("files", MODEL, "size_bytes"), 10**30, "file sizes"),
        (("files", MODEL, "size_bytes"), 2**62, "the manifest says 4611686018427387904"),
        (("files", MODEL, "sha256"), "", "manifest says"),
        (("x" * 100_000,), 1, "not a manifest"),
        (("\x1b[2J",), 1, "not a manifest"),
    ],
)
def test_hostile_manifests(copy: Path, path: tuple[Any, ...], value: Any, named: str) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(nested(manifest, *path, value=value)))
    message = refused(copy)
    assert named in message
    assert message.replace("\n", "").isprintable()


@pytest.mark.parametrize("key", ["schema_version", "max_residues"])
def test_a_number_of_more_digits_than_python_prints(copy: Path, key: str) -> None:
    text, count = re.subn(rf'"{key}": ', f'"{key}": 1{"0" * 5000}', (copy / "manifest.json").read_text(), count=1)
    assert count == 1
    (copy / "manifest.json").write_text(text)
    assert "not a manifest" in refused(copy)


def npz(**arrays: Any) -> Callable[[Path], None]:
    """Rewrite golden.npz with some arrays changed."""

    def write(path: Path) -> None:
        with np.load(path) as loaded:
            values = dict(loaded) | arrays
        np.savez(path, **{name: value for name, value in values.items() if value is not None})

    return write


def bomb(path: Path) -> None:
    np.savez_compressed(path, input_ids=np.zeros((1000, 100_000), np.uint8))


def header(path: Path, text: bytes) -> None:
    import io
    import zipfile

    with zipfile.ZipFile(path, "w") as archive:
        for name in bundle_module._GOLDEN_ARRAYS:
            buffer = io.BytesIO()
            buffer.write(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)
            archive.writestr(f"{name}.npy", buffer.getvalue())


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (bomb, "unpacks to"),
        (npz(lengths=None), "lengths"),
        (npz(lengths=np.int64(3)), "expected"),
        (npz(lengths=np.zeros(0, np.int64)), "expected"),
        (npz(value=np.array(["a"] * ROWS)), "expected"),
        (npz(value=np.zeros((ROWS, 2))), "expected"),
        (npz(head_names=np.array(["other"])), "has heads"),
        (npz(head_names=np.array("nonspecificity")), "has heads"),
        (npz(head_names=np.array(["\x1b[2J"])), "has heads"),
        (npz(head_names=None), "head_names"),
        (npz(embedding=np.zeros((ROWS, 1), np.float32)), "expected"),
        (npz(head_coef=np.array([{}], dtype=object)), "cannot be read"),
        (npz(input_ids=np.zeros((ROWS, 3), np.int64)), "do not fit"),
        (npz(input_ids=np.zeros((ROWS, 3), np.float32)), "do not fit"),
        (npz(input_ids=np.full((ROWS, 150), 2**31)), "not in the manifest's alphabet"),
        (npz(input_ids=np.full((ROWS, 5000), 5), lengths=np.full(ROWS, 5000)), "rows of more than 150 tokens"),
        (lambda path: header(path, b"{'descr': '<f8', 'fortran_order': False, 'shape': (10**9,)}\n"), "cannot be read"),
        (lambda path: header(path, b"{'descr': '<f8', 'fortran_order': False, 'shape': (999999999999,)}\n"), "read"),
        (lambda path: header(path, b"(" * 500 + b"\n"), "cannot be read"),
        (lambda path: path.write_bytes(b"PK\x05\x06" + bytes(18)), "cannot be read"),
        (lambda path: path.write_bytes(b"\x93NUMPY"), "cannot be read"),
    ],
)
def test_hostile_golden_rows(copy: Path, damage: Callable[[Path], None], named: str) -> None:
    damage(copy / "golden.npz")
    relist(copy)
    with pytest.raises(BundleError, match=named) as caught:
        open_bundle(copy).golden()
    assert "golden.npz" in str(caught.value)


def test_unlisted_files_are_found_wherever_they_lie(copy: Path) -> None:
    assert unlisted_files(open_bundle(copy)) == []
    (copy / "sub" / "deep").mkdir(parents=True)
    (copy / "sub" / "deep" / "x.so").write_bytes(b"")
    (copy / "sitecustomize.py").write_bytes(b"")
    assert unlisted_files(open_bundle(copy)) == ["sitecustomize.py", "sub/deep/x.so"]


def test_a_folder_that_cannot_be_looked_into_is_not_passed_over(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (copy / "sub").mkdir()
    real = os.scandir

    def scandir(path: Any) -> Any:  # what chmod 0 does, but not to root
        if Path(path).name == "sub":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(BundleError, match="sub: cannot be read: Permission denied"):
        unlisted_files(open_bundle(copy))


def test_a_file_named_to_act_on_a_terminal(copy: Path) -> None:
    (copy / FOLDER / "x\x1b[2J").write_bytes(b"")
    assert refused(copy).replace("\n", "").isprintable()
