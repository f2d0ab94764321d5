"""Read a pickle as data: nothing in the file is imported, called or constructed.

`pickletools.genops` (standard library) only decodes opcodes. The small stack machine here understands the few forms of
a fitted logistic head. A global is looked up in the tables below and never imported. An instance becomes a `Bag` of its
state, and its class never runs: the old head's __setstate__ loaded a 650M-parameter encoder. joblib's format is a
pickle with the bytes of arrays between its opcodes.

The file has over 300 lines on purpose: an audit of hostile heads needs to read only this file.
"""

from __future__ import annotations

import bz2
import io
import lzma
import math
import pickletools
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from abonyx.errors import HeadRefused, first_line
from abonyx_export.head.advice import SAVE_AGAIN, SAVE_ALONE, advice

# A logistic head of 2 x 1280 features has 20 kB; 64 MiB also allows a head that is saved with training embeddings.
MAX_FILE_BYTES = 64 * 2**20
# zlib packs zeros 1000:1, so the unpacked size has a limit too. It holds for all arrays of a file together. In memory,
# a text with one character above U+FFFF takes four times its bytes.
MAX_UNPACKED_BYTES = 64 * 2**20
# The old heads have 300 opcodes, 10,000 feature names have 20,000. The limit keeps the time and memory of a bomb small.
MAX_OPCODES = 1_000_000
# Limit of open MARKs. pickle.dump opens one for each nested list or dict, and a Pipeline needs fewer than ten.
MAX_DEPTH = 100
# Memory for xz's dictionary; preset 9, the largest that joblib writes, needs 65 MiB.
_LZMA_MEMORY_BYTES = 128 * 2**20

_CLASSES = frozenset(
    {
        "sklearn.linear_model._logistic LogisticRegression",
        "sklearn.linear_model.logistic LogisticRegression",
        "sklearn.linear_model._logistic LogisticRegressionCV",
        "sklearn.linear_model.logistic LogisticRegressionCV",
        "sklearn.discriminant_analysis LinearDiscriminantAnalysis",
        # A LogisticRegressionCV keeps the splitter of its fit, which is ignored here.
        *(f"sklearn.model_selection._split {name}" for name in ("KFold", "StratifiedKFold", "GroupKFold")),
        *(f"sklearn.model_selection._split {name}" for name in ("ShuffleSplit", "StratifiedShuffleSplit")),
        *(f"sklearn.model_selection._split {name}" for name in ("RepeatedKFold", "RepeatedStratifiedKFold")),
        "sklearn.pipeline Pipeline",
        "sklearn.preprocessing._data StandardScaler",
        "sklearn.preprocessing.data StandardScaler",
        "antibody_training_esm.core.classifier BinaryClassifier",
        "classifier BinaryClassifier",
        "antibody_training_esm.core.strategies.logistic_regression LogisticRegressionStrategy",
    }
)
_WRAPPER = "joblib.numpy_pickle NumpyArrayWrapper"
_NDARRAY = "numpy ndarray"
_OBJECTS = ("builtins object", "__builtin__ object")
_DTYPE_CODE = re.compile(r"f[248]|[iu][1248]|b1|O8?|U[0-9]{1,4}")


class _StreamError(Exception):
    """The stream cannot be read; parse_pickle adds the file's name.

    Args:
        why: the reason, as the end of a sentence that starts with the file's name.
        fix: what the user can do.
    """

    def __init__(self, why: str, fix: str = SAVE_AGAIN) -> None:
        super().__init__(why)
        self.fix = fix


class _Global(str):
    """A known "module name" from the file; represents the class or function."""


@dataclass(eq=False, repr=False)  # a generated __eq__ or __repr__ would recurse into nested values
class Bag:
    """An instance in the file: the name of its class, and the state it was saved with."""

    class_name: str
    state: dict[str, object] = field(default_factory=dict)


@dataclass(eq=False, repr=False)
class _DType:
    code: str
    order: str = "|"

    def numpy(self) -> np.dtype[np.generic]:
        return np.dtype(self.code if self.order == "|" else self.order + self.code)


@dataclass(eq=False, repr=False)
class _Pending:
    """An array whose shape and bytes come with the next BUILD. Then its keys in the memo are set, too."""

    from_joblib: bool
    memo_keys: list[int] = field(default_factory=list)


def read_file(path: Path) -> bytes:
    """Read a regular file of at most MAX_FILE_BYTES.

    Raises:
        HeadRefused: the file does not exist, is too large, or cannot be read.
    """
    try:
        if not path.is_file():
            kind = "is not a file" if path.exists() else "does not exist"
            raise HeadRefused(f"{path} {kind}", "Give the head's .npz, .pkl, .pickle or .joblib file.")
        if (size := path.stat().st_size) > MAX_FILE_BYTES:
            raise HeadRefused(f"{path} has {size} bytes; a head has at most {MAX_FILE_BYTES}", SAVE_ALONE)
        with path.open("rb") as stream:
            return stream.read(size)
    except OSError as error:
        raise HeadRefused(
            f"{path} cannot be read: {first_line(error.strerror or error)}", "Check the path and its permissions."
        ) from error


def read_pickle(path: Path) -> object:
    """The content of a pickle or joblib file, as plain values, numpy arrays and `Bag`s.

    Args:
        path: pickle of protocol 0 to 5 or joblib file, raw or packed with zlib, gzip, bz2, lzma or xz.

    Raises:
        HeadRefused: the file is damaged, or has a class or function that is not part of a plain logistic head.
    """
    return parse_pickle(read_file(path), path)


def parse_pickle(data: bytes, path: Path) -> object:
    """Like `read_pickle`, for bytes that are already read; only messages use `path`."""
    try:
        return _Machine(_unpack(data)).run()
    except _StreamError as error:
        why, fix = str(error), error.fix
    except (ValueError, LookupError, OverflowError, MemoryError, Warning) as error:
        # genops and the stack raise these on damaged bytes. Their text may quote the file at any length, so omit it.
        why, fix = f"is cut short, damaged or not a pickle ({type(error).__name__})", SAVE_AGAIN
    raise HeadRefused(f"{path} {why}; the file was not loaded and nothing in it was executed", fix)


def _unpack(data: bytes) -> bytes:
    unpacker: zlib._Decompress | bz2.BZ2Decompressor | lzma.LZMADecompressor
    if data.startswith((b"\x1f\x8b", b"\x78")):
        unpacker = zlib.decompressobj(wbits=47)  # gzip or zlib, detected from the header
    elif data.startswith(b"BZh"):
        unpacker = bz2.BZ2Decompressor()
    elif data.startswith((b"\xfd7zXZ", b"\x5d\x00")):
        unpacker = lzma.LZMADecompressor(memlimit=_LZMA_MEMORY_BYTES)
    elif data.startswith((b"\x04\x22\x4d\x18", b"ZF")):
        raise _StreamError("is packed with lz4 or by joblib before 0.10, which is not supported")
    else:
        return data
    try:
        unpacked = unpacker.decompress(data, MAX_UNPACKED_BYTES + 1)
    except (zlib.error, lzma.LZMAError, OSError) as error:
        raise _StreamError(f"is packed but damaged ({first_line(error)})") from None
    if len(unpacked) > MAX_UNPACKED_BYTES:
        raise _StreamError(f"unpacks to more than {MAX_UNPACKED_BYTES} bytes")
    if not unpacker.eof:
        raise _StreamError("is packed but cut short")
    return unpacked


class _Machine:
    """Pickle's stack machine. It only holds plain values, which cannot run code."""

    def __init__(self, data: bytes) -> None:
        self.stream = io.BytesIO(data)
        self.stack: list[object] = []
        self.marked: list[list[object]] = []
        self.memo: dict[int, object] = {}
        self.made_bytes = 0
        self.built_keys = 0
        self.opcodes = 0
        self.inside = False

    def run(self) -> object:
        for opcode, argument, _ in pickletools.genops(self.stream):
            self.opcodes += 1
            if self.opcodes > MAX_OPCODES:
                raise _StreamError(f"has more than {MAX_OPCODES} pickle opcodes")
            if opcode.name in _LITERALS:
                if isinstance(argument, int) and argument.bit_length() > 64:
                    raise _StreamError(f"holds an integer of {argument.bit_length()} bits, the limit is 64")
                self.stack.append(argument)
            elif opcode.name in _OPCODES:
                _OPCODES[opcode.name](self, argument)
            else:
                raise _StreamError(f"uses the pickle opcode {opcode.name}, which a logistic head does not need")
        return self.stack.pop()

    def push(self, value: object) -> None:
        self.stack.append(value)

    def mark(self) -> None:
        if len(self.marked) >= MAX_DEPTH:
            raise _StreamError(f"nests values more than {MAX_DEPTH} levels deep")
        self.marked.append(self.stack)
        self.stack = []

    def items(self) -> list[object]:
        """Pop the values that were pushed since the last MARK."""
        items, self.stack = self.stack, self.marked.pop()
        return items

    def last(self, count: int) -> list[object]:
        """Pop the topmost `count` values."""
        return [self.stack.pop() for _ in range(count)][::-1]

    def find(self, argument: object) -> _Global:
        if argument in _CLASSES or argument in _FUNCTIONS or argument in (_WRAPPER, _NDARRAY, *_OBJECTS):
            return _Global(argument)
        shown = str(argument).replace(" ", ".")[:200] if isinstance(argument, str) else "something without a name"
        why = f"refers to {shown!a}, which is not part of a plain logistic head"
        raise _StreamError(why, advice(shown, self.outermost()))

    def outermost(self) -> str | None:
        """The class of the file's outermost instance while its state is being read; None = there is no such instance.

        An instance that already has its state is complete. Later values, for example of a tuple, are not inside it.
        """
        stack = self.marked[0] if self.marked else self.stack
        whole = stack[0] if stack else None
        return whole.class_name if isinstance(whole, Bag) and not whole.state and not self.inside else None

    def stack_global(self) -> None:
        module, name = self.last(2)
        self.stack.append(self.find(f"{module} {name}" if type(module) is type(name) is str else None))

    def put(self, key: object) -> None:
        value = self.stack[-1]
        if isinstance(value, _Pending):
            value.memo_keys.append(_integer(key))
        self.memo[_integer(key)] = value

    def extend(self, items: list[object]) -> None:
        if type(target := self.stack[-1]) is not list:
            raise _StreamError(f"appends to a {type(target).__name__}")
        target.extend(items)

    def update(self, items: list[object]) -> None:
        if type(target := self.stack[-1]) is not dict:
            raise _StreamError(f"sets items of a {type(target).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Tuples are not allowed as keys. With the memo, a file can nest tuples so that their hash never ends.
            if not (key is None or isinstance(key, str | int | float | bytes)):
                raise _StreamError(f"has a {type(key).__name__} as a key of a dictionary")
            target[key] = value

    def new_dict(self) -> None:
        items = self.items()
        self.stack.append({})
        self.update(items)

    def new(self, what: object, arguments: Sequence[object]) -> object:
        """The value that replaces the result of what(*arguments), with which the file creates an instance."""
        name = what.replace(" ", ".") if isinstance(what, _Global) else type(what).__name__
        if not isinstance(what, _Global) or arguments or (what not in _CLASSES and what != _WRAPPER):
            raise _StreamError(f"calls {name} with {len(arguments)} arguments, which a logistic head does not need")
        return Bag(name) if what in _CLASSES else _Pending(from_joblib=True)

    def call(self) -> None:
        """Handle REDUCE and NEWOBJ. The replacement of a function checks all arguments."""
        what, arguments = self.last(2)
        if type(arguments) is not tuple:
            raise _StreamError(f"calls a function with a {type(arguments).__name__} instead of arguments")
        make = _FUNCTIONS.get(what) if isinstance(what, _Global) else None
        self.stack.append(make(self, *arguments[:9]) if make else self.new(what, arguments))

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Bag):  # state, or (state, slots)
            for part in state if type(state) is tuple and len(state) == 2 else (state,):
                target.state.update({} if part is None else self.attributes(part))
        elif isinstance(target, _DType):
            target.order = _byte_order(state)
        elif isinstance(target, _Pending):
            array = self.joblib_array(self.attributes(state)) if target.from_joblib else self.numpy_array(state)
            self.stack[-1] = array
            self.memo.update(dict.fromkeys(target.memo_keys, array))
            target.memo_keys.clear()  # another BUILD of the same array must not set the memo again
        else:
            raise _StreamError(f"sets the state of a {type(target).__name__}")

    def attributes(self, state: object) -> dict[str, object]:
        """Check and return an instance's state."""
        if type(state) is not dict:
            raise _StreamError(f"has a {type(state).__name__} where an instance's state should be")
        # Without this limit, a file that sets one large dict as the state many times would take hours.
        self.built_keys += len(state)
        if self.built_keys > MAX_OPCODES:
            raise _StreamError(f"sets more than {MAX_OPCODES} attributes")
        if not all(isinstance(key, str) for key in state):
            raise _StreamError("has an instance's state with keys that are not text")
        return state

    def numpy_array(self, state: object) -> object:
        if type(state) is not tuple or len(state) != 5:
            raise _StreamError("has an array without shape, type and bytes")
        _, shape, dtype, fortran, data = state
        return self.array(data, dtype, shape, "F" if fortran is True else "C")

    def joblib_array(self, state: dict[str, object]) -> object:
        """Read the padding and the array's bytes, which follow directly after the BUILD."""
        dtype, shape = state.get("dtype"), _shape(state.get("shape"))
        if state.get("subclass") != _NDARRAY or not isinstance(dtype, _DType):
            raise _StreamError("holds a joblib array of a subclass of numpy.ndarray, which is not supported")
        if dtype.code.startswith("O"):
            return self.objects_inside(shape)
        if state.get("numpy_array_alignment_bytes") is not None:  # since joblib 1.2
            self.stream.read(ord(self.stream.read(1) or b"\0"))
        data = self.stream.read(math.prod(shape) * dtype.numpy().itemsize)
        return self.array(data, dtype, shape, state.get("order"))

    def objects_inside(self, shape: tuple[int, ...]) -> list[object]:
        """Read an array of Python objects, which joblib writes as a separate pickle after the BUILD."""
        if self.inside:
            raise _StreamError("holds a joblib array of Python objects inside another one")
        outer = self.stack, self.marked, self.memo
        self.stack, self.marked, self.memo, self.inside = [], [], {}, True
        value = self.run()
        (self.stack, self.marked, self.memo), self.inside = outer, False
        if type(value) is not list or shape != (len(value),):
            raise _StreamError("holds a joblib array of Python objects that is not one plain row")
        return value

    def array(self, data: object, dtype: object, shape: object, order: object) -> object:
        """The array's numbers in native byte order, or its text or objects as a list. The bytes must fit the shape."""
        dims = _shape(shape)
        if not isinstance(dtype, _DType) or (order != "C" and order != "F"):
            raise _StreamError("has an array of unknown type or order")
        if dtype.code.startswith("O"):
            if type(data) is not list or dims != (len(data),):
                raise _StreamError("has an array of Python objects that is not one plain row")
            return data
        kind = dtype.numpy()
        if not isinstance(data, bytes | bytearray) or len(data) != math.prod(dims) * kind.itemsize:
            found = len(data) if isinstance(data, bytes | bytearray) else type(data).__name__
            raise _StreamError(f"has an array of shape {dims} and type {kind} with {found} as its bytes")
        self.spend(len(data))
        flat = np.frombuffer(bytes(data), kind)
        if kind.kind == "U":
            self.spend(64 * flat.size)  # a str needs more memory than its characters
            return flat.tolist()
        return flat.astype(kind.newbyteorder("="), copy=False).reshape(dims, order="F" if order == "F" else "C")

    def spend(self, count: int) -> None:
        self.made_bytes += count
        if self.made_bytes > MAX_UNPACKED_BYTES:
            raise _StreamError(f"has arrays of more than {MAX_UNPACKED_BYTES} bytes")


def _integer(value: object) -> int:
    if not isinstance(value, int):
        raise _StreamError(f"has a {type(value).__name__} where a number should be")
    return value


def _shape(value: object) -> tuple[int, ...]:
    dims = tuple(_integer(size) for size in value) if type(value) is tuple and len(value) <= 4 else (-1,)
    if min(dims, default=0) < 0 or math.prod(dims) > MAX_UNPACKED_BYTES:
        raise _StreamError("has an array whose shape is too large or is not a tuple of at most four sizes")
    return dims


def _byte_order(state: object) -> str:
    """Check a dtype's state: version, byte order, subarray, names, fields, item size, alignment, flags."""
    if type(state) is not tuple or len(state) != 8 or any(state[2:5]) or state[1] not in ("<", ">", "|"):
        raise _StreamError("has an array type with fields or metadata")
    return str(state[1])


# Replacements of the functions that a file may call. Each takes the machine and the file's unchecked arguments.


def _dtype(_: _Machine, code: object = None, *_flags: object) -> object:
    if not isinstance(code, str) or not _DTYPE_CODE.fullmatch(code):
        shown = ascii(code[:40]) if isinstance(code, str) else type(code).__name__
        raise _StreamError(f"has an array of type {shown}; only integers, floats, booleans and text are supported")
    return _DType(code)


def _reconstruct(_: _Machine, what: object = None, *_initial: object) -> object:
    if not isinstance(what, _Global) or what != _NDARRAY:
        raise _StreamError("has an array of a subclass of numpy.ndarray")
    return _Pending(from_joblib=False)


def _frombuffer(machine: _Machine, *arguments: object) -> object:
    data, dtype, shape, order = arguments
    return machine.array(data, dtype, shape, order)


def _scalar(machine: _Machine, *arguments: object) -> object:
    dtype, data = arguments
    value = machine.array(data, dtype, (), "C")
    return value.item() if isinstance(value, np.ndarray) else value


def _encode(machine: _Machine, *arguments: object) -> object:
    text, encoding = arguments
    if not isinstance(text, str) or not isinstance(encoding, str) or encoding != "latin1":
        raise _StreamError("encodes text in a way that pickle does not use")
    machine.spend(len(text))
    return text.encode("latin-1")


def _reconstructor(machine: _Machine, *arguments: object) -> object:
    what, base, state = arguments
    if not isinstance(base, _Global) or base not in _OBJECTS or state is not None:
        raise _StreamError("creates an instance of a subclass of a built-in type")
    return machine.new(what, ())


def _ordered_dict(_: _Machine, *arguments: object) -> object:
    if arguments:
        raise _StreamError("creates an OrderedDict with arguments")
    return {}


_FUNCTIONS: dict[str, Callable[..., object]] = {
    "numpy dtype": _dtype,
    "_codecs encode": _encode,
    "copyreg _reconstructor": _reconstructor,
    "copy_reg _reconstructor": _reconstructor,
    "collections OrderedDict": _ordered_dict,
}
for _numpy in ("numpy.core", "numpy._core"):  # before and since numpy 2
    _FUNCTIONS[f"{_numpy}.multiarray _reconstruct"] = _reconstruct
    _FUNCTIONS[f"{_numpy}.multiarray scalar"] = _scalar
    _FUNCTIONS[f"{_numpy}.numeric _frombuffer"] = _frombuffer

# Opcodes whose argument is the value. Opcodes in neither table are refused: Python 2 strings, sets, extensions,
# persistent ids, out-of-band buffers and old-style instances.
_LITERALS = frozenset(
    {
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    }
)
_OPCODES: dict[str, Callable[[_Machine, object], None]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda _m, _a: None),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda m, a: m.push(m.memo[_integer(a)])),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), lambda m, _: m.call()),
    "MEMOIZE": lambda m, _: m.put(len(m.memo)),
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "MARK": lambda m, _: m.mark(),
    "TUPLE": lambda m, _: m.push(tuple(m.items())),
    "TUPLE1": lambda m, _: m.push(tuple(m.last(1))),
    "TUPLE2": lambda m, _: m.push(tuple(m.last(2))),
    "TUPLE3": lambda m, _: m.push(tuple(m.last(3))),
    "LIST": lambda m, _: m.push(m.items()),
    "DICT": lambda m, _: m.new_dict(),
    "APPEND": lambda m, _: m.extend(m.last(1)),
    "APPENDS": lambda m, _: m.extend(m.items()),
    "SETITEM": lambda m, _: m.update(m.last(2)),
    "SETITEMS": lambda m, _: m.update(m.items()),
    "GLOBAL": lambda m, a: m.push(m.find(a)),
    "STACK_GLOBAL": lambda m, _: m.stack_global(),
    "BUILD": lambda m, _: m.build(),
}
