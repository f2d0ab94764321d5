"""A pickle is read as data: a fitted head is read, anything else is refused and never runs."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import re
import struct
import sys
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import joblib
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from abonyx.errors import HeadRefused
from abonyx_export.head import unpickle
from abonyx_export.head.head import read_head
from abonyx_export.head.unpickle import Bag, read_pickle

LOGISTIC = "sklearn.linear_model._logistic.LogisticRegression"


@pytest.fixture(scope="module")
def fitted() -> Pipeline:
    rng = np.random.default_rng(0)
    return Pipeline([("scaler", StandardScaler()), ("head", LogisticRegression())]).fit(
        rng.standard_normal((30, 7)), np.arange(30) % 2
    )


def _write(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "head.pkl"
    path.write_bytes(data)
    return path


def _refused(tmp_path: Path, data: bytes, match: str = "head") -> None:
    with pytest.raises(HeadRefused, match=match) as caught:
        read_pickle(_write(tmp_path, data))
    assert "head.pkl" in str(caught.value)
    assert len(str(caught.value)) < 2000


def _check_pipeline(value: object, fitted: Pipeline) -> None:
    assert isinstance(value, Bag) and value.class_name == "sklearn.pipeline.Pipeline"
    steps = value.state["steps"]
    assert isinstance(steps, list) and [name for name, _ in steps] == ["scaler", "head"]
    scaler, head = steps[0][1], steps[1][1]
    assert head.class_name == LOGISTIC
    np.testing.assert_array_equal(scaler.state["scale_"], fitted[0].scale_)
    np.testing.assert_array_equal(head.state["coef_"], fitted[1].coef_)
    assert head.state["coef_"].dtype == np.float64
    assert head.state["C"] == 1.0


@pytest.mark.parametrize("protocol", range(6))
def test_pickle_protocols(tmp_path: Path, fitted: Pipeline, protocol: int) -> None:
    _check_pipeline(read_pickle(_write(tmp_path, pickle.dumps(fitted, protocol))), fitted)


@pytest.mark.parametrize("protocol", range(6))
def test_joblib_protocols(tmp_path: Path, fitted: Pipeline, protocol: int) -> None:
    joblib.dump(fitted, tmp_path / "head.joblib", protocol=protocol)
    _check_pipeline(read_pickle(tmp_path / "head.joblib"), fitted)


@pytest.mark.parametrize("compress", [("zlib", 3), ("gzip", 9), ("bz2", 3), ("lzma", 3), ("xz", 3)])
def test_joblib_compressed(tmp_path: Path, fitted: Pipeline, compress: tuple[str, int]) -> None:
    joblib.dump(fitted, tmp_path / "head.joblib", compress=compress)
    _check_pipeline(read_pickle(tmp_path / "head.joblib"), fitted)
    packed = (tmp_path / "head.joblib").read_bytes()
    _refused(tmp_path, packed[:-20], "cut short|damaged")
    _refused(tmp_path, packed[:40] + bytes(40) + packed[80:], "damaged|cut short|refers|uses")


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "array",
    [
        np.arange(12.0).reshape(3, 4),
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.arange(12.0).reshape(3, 4)[:, ::2],
        np.arange(3, dtype=">f8"),
        np.array([True, False]),
        np.array(2.5),
        *(np.arange(5, dtype=kind) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")),
    ],
    ids=str,
)
def test_arrays(tmp_path: Path, array: npt.NDArray[np.generic], protocol: int) -> None:
    joblib.dump([array], tmp_path / "a.joblib", protocol=protocol)
    for value in (
        read_pickle(_write(tmp_path, pickle.dumps([array, array], protocol))),
        read_pickle(tmp_path / "a.joblib"),
    ):
        assert isinstance(value, list)
        np.testing.assert_array_equal(value[-1], array)
        assert value[-1].dtype == array.dtype.newbyteorder("=")
        assert value[-1].dtype.isnative


@pytest.mark.parametrize("protocol", range(6))
def test_text_objects_and_scalars(tmp_path: Path, protocol: int) -> None:
    held = {
        "text": np.array(["a", "bcé"]),
        "object": np.array(["x", 1, None], dtype=object),
        "scalar": np.float64(2.5),
        "ordered": OrderedDict(a=1),
        0: 1.5,
    }
    value = read_pickle(_write(tmp_path, pickle.dumps(held, protocol)))
    expected = {"text": ["a", "bcé"], "object": ["x", 1, None], "scalar": 2.5, "ordered": {"a": 1}, 0: 1.5}
    assert value == expected


def test_state_forms(tmp_path: Path) -> None:
    """REDUCE of the class, a state with slots, and the older module names can be read."""
    for module, name in (("classifier", "BinaryClassifier"), ("sklearn.linear_model.logistic", "LogisticRegression")):
        data = f"c{module}\n{name}\n(tR((Vcoef_\nI1\nd(Vslot\nI2\ndtb.".encode()
        value = read_pickle(_write(tmp_path, data))
        assert isinstance(value, Bag)
        assert (value.class_name, value.state) == (f"{module}.{name}", {"coef_": 1, "slot": 2})


class _Calls:
    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def _exploit(module: str, name: str, argument: str) -> bytes:
    return f"c{module}\n{name}\n(V{argument}\ntR.".encode()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("posix", "system"),
        ("subprocess", "Popen"),
        ("subprocess", "check_output"),
        ("builtins", "eval"),
        ("builtins", "exec"),
        ("__builtin__", "eval"),
        ("builtins", "getattr"),
        ("builtins", "__import__"),
        ("functools", "partial"),
        ("operator", "attrgetter"),
        ("operator", "methodcaller"),
        ("numpy", "load"),
        ("numpy", "memmap"),
        ("numpy.testing._private.utils", "runstring"),
        ("joblib.numpy_pickle", "load"),
        ("torch", "load"),
        ("sklearn.linear_model._logistic", "LogisticRegressionCV"),
        ("sklearn.linear_model._logistic", "LogisticRegression.__init__.__globals__"),
        ("antibody_training_esm.core.embeddings", "ESMEmbeddingExtractor"),
        ("pickle", "loads"),
        ("copyreg", "__newobj__"),
        # names that lists of forbidden names missed in the past
        ("runpy", "_run_code"),
        ("importlib", "import_module"),
        ("cProfile", "runctx"),
        ("timeit", "timeit"),
        ("pydoc", "pipepager"),
        ("ctypes", "CDLL"),
        ("bdb", "Bdb.run"),
        ("urllib.request", "urlopen"),
        ("numpy.f2py.crackfortran", "getlincoef"),
    ],
)
@pytest.mark.parametrize("form", ["global", "stack", "inst", "obj", "nested"])
def test_exploits_do_not_run(tmp_path: Path, module: str, name: str, form: str) -> None:
    trace = tmp_path / "ran"
    command = f"open({str(trace)!r}, 'w').close()" if name in ("eval", "exec") else f"touch {trace}"
    text = command.encode()
    forms = {
        "global": _exploit(module, name, command),
        "stack": b"\x80\x04"
        + b"".join(b"\x8c" + bytes([len(part)]) + part.encode() for part in (module, name))
        + b"\x93X"
        + struct.pack("<I", len(text))
        + text
        + b"\x85R.",
        "inst": f"(V{command}\ni{module}\n{name}\n.".encode(),
        "obj": f"(c{module}\n{name}\nV{command}\no.".encode(),
        "nested": b"csklearn.pipeline\nPipeline\n)\x81}Vsteps\n" + _exploit(module, name, command)[:-1] + b"sb.",
    }
    before = set(sys.modules)
    _refused(tmp_path, forms[form], "nothing in it was executed")
    if form not in ("inst", "obj"):  # these opcodes are refused for any class
        _refused(tmp_path, forms[form], f"{module}.{name}".replace(".", r"\."))
    assert not trace.exists()
    # pickletools decodes text, and the first use of a codec imports it
    assert {name for name in sys.modules.keys() - before if not name.startswith("encodings.")} == set()


def test_reduce_of_a_class_does_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    for protocol in range(6):
        opener = pickle.dumps(_Calls(open, str(trace), "w"), protocol)
        _refused(tmp_path, opener, r"open', which is not part")
        _refused(tmp_path, pickle.dumps(_Calls(LogisticRegression, "l2"), protocol), "LogisticRegression")
    assert not trace.exists()


def test_joblib_objects_are_refused(tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    path = tmp_path / "head.joblib"
    joblib.dump({"a": np.array([_Calls(open, str(trace), "w")], dtype=object)}, path)
    with pytest.raises(HeadRefused, match=r"refers to 'io\.open'"):
        read_pickle(path)
    assert not trace.exists()


@pytest.mark.parametrize("protocol", range(6))
def test_a_joblib_array_of_objects_is_one_row_of_plain_values(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "head.joblib"
    names = np.array(["a", None, 1.5], dtype=object)
    joblib.dump([names, np.arange(3.0), names], path, protocol=protocol)
    value = read_pickle(path)
    assert isinstance(value, list) and value[0] == value[2] == ["a", None, 1.5]
    np.testing.assert_array_equal(value[1], np.arange(3.0))
    joblib.dump(names[:, None], path, protocol=protocol)
    with pytest.raises(HeadRefused, match="not one plain row"):
        read_pickle(path)


def test_joblib_arrays_of_objects_do_not_nest(tmp_path: Path) -> None:
    """joblib never writes nested arrays, and reading them would recurse as deep as the file."""
    joblib.dump(np.array([None], dtype=object), tmp_path / "a.joblib", protocol=3)
    data = (tmp_path / "a.joblib").read_bytes()
    inner = re.search(rb"\x80[\x02\x04\x05]", data[2:])  # joblib chooses the protocol of the array's pickle
    assert inner
    _refused(tmp_path, data[: 2 + inner.start()] * 2_000 + data, "inside another one")


def test_opcodes_of_a_joblib_array_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    joblib.dump([np.array([None] * 50, dtype=object)], tmp_path / "head.joblib")
    read_pickle(tmp_path / "head.joblib")
    monkeypatch.setattr(unpickle, "MAX_OPCODES", 80)
    with pytest.raises(HeadRefused, match="more than 80 pickle opcodes"):
        read_pickle(tmp_path / "head.joblib")


def test_other_estimators_are_named(tmp_path: Path) -> None:
    _refused(tmp_path, pickle.dumps(SGDClassifier()), r"sklearn\.linear_model\._stochastic_gradient\.SGDClassifier")


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "cut short"),
        (b"not a pickle", "damaged"),
        (b"<!DOCTYPE html>", "damaged"),
        (b".", "damaged"),
        (b"\x80\x04\x8c\x05abc", "cut short"),
        (b"\x82\x01.", "EXT1"),
        (b"\x83\x01\x00.", "EXT2"),
        (b"\x84\x01\x00\x00\x00.", "EXT4"),
        (b"Pid\n.", "PERSID"),
        (b"I1\nQ.", "BINPERSID"),
        (b"\x97.", "NEXT_BUFFER"),
        (b"C\x01a\x98.", "READONLY_BUFFER"),
        (b"\x8b\xff\xff\xff\x7f\x01.", "damaged"),  # LONG4
        (b"\x8a\x10" + b"\x7f" * 16 + b".", "integer of 127 bits"),
        (b"L" + b"9" * 5000 + b"L\n.", "damaged"),
        (b"\x8e" + b"\xff" * 7 + b"\x7f" + b"x.", "damaged"),  # BINBYTES8
        (b"\x96" + b"\xff" * 7 + b"\x0f" + b"x.", "damaged"),  # BYTEARRAY8
        (b"\x8d" + b"\xff" * 8 + b"x.", "damaged"),  # BINUNICODE8
        (b"B\xff\xff\xff\xffx.", "damaged"),
        (b"\x95" + b"\xff" * 8 + b"N", "cut short"),  # FRAME
        (b"h\x07.", "damaged"),
        (b"t.", "damaged"),
        (b"}I1\na.", "appends to a dict"),
        (b"]I1\nI2\ns.", "sets items of a list"),
        (b"}(I1\nu.", "damaged"),
        (b"}(I1\ntI2\ns.", "tuple as a key of a dictionary"),
        (b"I1\n}b.", "sets the state of a int"),
        (b"I1\n(tR.", "calls int"),
        (b"csklearn.pipeline\nPipeline\nI1\nR.", "calls a function with a int"),
        (b"csklearn.pipeline\nPipeline\n(tRI1\nb.", "instance's state"),
        (b"csklearn.pipeline\nPipeline\n(tR}I1\nI1\nsb.", "instance's state"),
        (b"cnumpy\nndarray\n(tR.", "calls numpy.ndarray"),
        (b"cnumpy\ndtype\n(VV8\ntR.", "type 'V8'"),
        (b"cnumpy\ndtype\n(Vf8\ntR(I3\nV<\nN(Va\ntNI1\nI1\nI1\ntb.", "fields or metadata"),
        (b"ccollections\nOrderedDict\n(]tR.", "OrderedDict with arguments"),
        (b"c_codecs\nencode\n(Vx\nVrot13\ntR.", "encodes text"),
        (b"ccopy_reg\n_reconstructor\n(csklearn.pipeline\nPipeline\nc__builtin__\nint\nI1\ntR.", "int"),
        (b"\x04\x22\x4d\x18" + bytes(20), "lz4"),
        (b"ZF0x1", "lz4 or by joblib before"),
    ],
)
def test_damaged_and_hostile_streams(tmp_path: Path, data: bytes, match: str) -> None:
    _refused(tmp_path, data, match)


def test_every_truncation_is_refused(tmp_path: Path, fitted: Pipeline) -> None:
    for data in (pickle.dumps(fitted, 2), pickle.dumps(fitted, 5)):
        for end in range(0, len(data), 7):
            _refused(tmp_path, data[:end])


def test_flipped_bytes_give_a_value_or_a_refusal(tmp_path: Path, fitted: Pipeline) -> None:
    buffer = io.BytesIO()
    joblib.dump(fitted, buffer)
    for data in (pickle.dumps(fitted, 0), pickle.dumps(fitted, 5), buffer.getvalue()):
        for at in range(0, len(data), 3):
            path = _write(tmp_path, data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :])
            try:
                read_pickle(path)
            except HeadRefused:
                continue


def _array_of(shape: str, data: bytes = b"Vab\n") -> bytes:
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntVb\ntR"
    dtype = b"cnumpy\ndtype\n(Vf8\nI0\nI1\ntR(I3\nV<\nNNNI-1\nI-1\nI0\ntb"
    return array + f"(I1\n({shape}t".encode() + dtype + b"I00\n" + data + b"tb."


@pytest.mark.parametrize("shape", ["I9999999999999\n", "I99999\nI99999\n", "I-1\n", "I1\nI1\nI1\nI1\nI1\n", "VA\n", ""])
def test_array_shapes_are_checked_against_the_bytes(tmp_path: Path, shape: str) -> None:
    _refused(tmp_path, _array_of(shape, b"C\x04abcd"), "shape|number should be")


def test_joblib_shape_is_checked_against_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.joblib"
    joblib.dump(np.arange(100.0), path, protocol=2)
    data = path.read_bytes()
    assert data.count(b"Kd\x85") == 1
    _refused(tmp_path, data.replace(b"Kd\x85", b"J\xff\xff\xff\x0f\x85"), "shape")
    _refused(tmp_path, data.replace(b"Kd\x85", b"Ke\x85"), "bytes")


def test_bombs_end_in_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _refused(tmp_path, b"(" * 100_000 + b"." * 2, "levels deep")
    _refused(tmp_path, b"N0" * 10 + b"N" * (unpickle.MAX_OPCODES + 10) + b".", "opcode")
    _refused(tmp_path, b"N" * (unpickle.MAX_OPCODES + 10) + b".", "more than")
    billion_laughs = b"]\x94" + b"](h\x00h\x00e\x94" * 2000 + b"."
    assert isinstance(read_pickle(_write(tmp_path, billion_laughs)), list)  # small, because the lists are shared
    assert isinstance(read_pickle(_write(tmp_path, b"N" + b"\x85" * 500_000 + b".")), tuple)
    monkeypatch.setattr(unpickle, "MAX_UNPACKED_BYTES", 2**20)
    encode = b"Vlatin1\n\x94V" + b"x" * 1000 + b"\n\x94" + b"(" + b"c_codecs\nencode\nh\x01h\x00\x86R" * 2000 + b"t."
    _refused(tmp_path, encode, "has arrays of more than")


def test_compressed_bombs_end_in_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpickle, "MAX_UNPACKED_BYTES", 2**20)
    bomb = b"N" * 2**21 + b"."
    for pack in (zlib.compress, gzip.compress, bz2.compress, lzma.compress):
        _refused(tmp_path, pack(bomb), "unpacks to more than 1048576")
    _refused(tmp_path, b"\x5d\x00\x00\xff\xff" + b"\xff" * 8 + bytes(100), "damaged|cut short")


def test_paths_that_are_not_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HeadRefused, match="does not exist"):
        read_pickle(tmp_path / "none.pkl")
    with pytest.raises(HeadRefused, match="is not a file"):
        read_pickle(tmp_path)
    monkeypatch.setattr(unpickle, "MAX_FILE_BYTES", 10)
    _refused(tmp_path, pickle.dumps([1.0] * 10), "at most 10")


def test_a_large_state_that_is_set_many_times_is_refused(tmp_path: Path) -> None:
    """This includes joblib's arrays. Without the limit, time would grow with states times names."""
    names = b"".join(b"Va%d\nN" % number for number in range(5_000))
    state = b"(" + names + b"d\x94"
    wrapper = b"cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81h\x00b"
    bag = b"csklearn.pipeline\nPipeline\n)\x81h\x00b"
    _refused(tmp_path, state + bag * 300 + b".", "sets more than")
    shape = b"Vshape\nI0\n\x85Vsubclass\ncnumpy\nndarray\nVorder\nVC\nVdtype\ncnumpy\ndtype\n(Vf8\ntR"
    _refused(tmp_path, b"(" + names + shape + b"d\x94" + wrapper * 300 + b".", "sets more than")


def test_an_array_fills_its_places_in_the_memo_once() -> None:
    """Without this, each reference to an unfinished array would set the whole memo again when it is built."""

    class Counting(dict[int, object]):
        set_at_once = 0

        def update(self, more: dict[int, object]) -> None:  # type: ignore[override]
            self.set_at_once += len(more)
            super().update(more)

    dtype = b"cnumpy\ndtype\n(Vf8\ntR"
    state = b"(Vshape\nI0\n\x85Vsubclass\ncnumpy\nndarray\nVorder\nVC\nVdtype\n" + dtype + b"d\x94"
    pending = b"cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81"
    puts = b"".join(b"r" + struct.pack("<I", 10 + number) for number in range(1000))
    # The stack has array, dictionary, key, array, dictionary, key ...; then BUILD and SETITEM run from the top.
    data = state + pending + puts + b"h\x00VZ\nh\x0a" * 1000 + b"h\x00b" + b"sb" * 1000 + b"."
    machine = unpickle._Machine(data)
    machine.memo = memo = Counting()
    assert isinstance(machine.run(), np.ndarray)
    assert memo.set_at_once == 1000


def test_deep_nesting_without_marks(tmp_path: Path) -> None:
    depth = 100_000
    one = b"csklearn.pipeline\nPipeline\n\x94"
    bags = one + b"h\x00)\x81}Va\n" * depth + b"N" + b"sb" * depth + b"."
    assert isinstance(read_pickle(_write(tmp_path, bags)), Bag)
    lists = b"]" * depth + b"a" * (depth - 1) + b"."
    assert isinstance(read_pickle(_write(tmp_path, lists)), list)
    dicts = b"}Va\n" * depth + b"N" + b"s" * depth + b"."
    assert isinstance(read_pickle(_write(tmp_path, dicts)), dict)
    with pytest.raises(HeadRefused, match="list"):
        read_head(_write(tmp_path, lists))


_plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(min_size=1, max_size=20),  # before protocol 3, empty bytes are a call of bytes()
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=5) | st.integers(-9, 9), inner, max_size=4)
    ),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(_plain, st.integers(0, 5))
def test_plain_values_come_back_as_pickle_wrote_them(value: object, protocol: int) -> None:
    assert unpickle.parse_pickle(pickle.dumps(value, protocol), Path("head.pkl")) == value


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 5))
def test_bytes_at_random_give_a_value_or_a_refusal(data: bytes, protocol: int) -> None:
    for whole in (data, pickle.dumps([1.0, "a"], protocol)[:-1] + data):
        try:
            unpickle.parse_pickle(whole, Path("head.pkl"))
        except HeadRefused as error:
            assert len(str(error)) < 2000
