"""Turn the sequences that a Python user gives into a list of texts. Other types are refused with suitable advice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from abonyx.errors import InputError, first_line

# Class names of tables. Iterating over most tables gives column names, which would be read as sequences.
_TABLES = ("DataFrame", "LazyFrame", "Table", "RecordBatch")
# Library -> the call that turns its column into a list.
_TO_LIST = {"polars": "to_list()", "pyarrow": "to_pylist()"}
# Class names of Biopython's sequences -> the expression that makes a str. Iterating over them gives single residues.
_TEXTS = {"Seq": "str(sequence)", "MutableSeq": "str(sequence)", "SeqRecord": "str(sequence.seq)"}
_FILE = "For a file: abonyx.score_file(PATH)."


def as_texts(sequences: Iterable[object]) -> list[str]:
    """The sequences as a list. A generator is read once.

    Raises:
        InputError: the argument is one text, a mapping, a set, a table or a two-dimensional array, or cannot be
            iterated over; or an item is missing or not text.
    """
    if refused := _refusal(sequences):
        raise InputError(*refused)
    try:
        items = iter(sequences)
    except TypeError:  # also for an array without dimensions
        what = f"sequences is one {type_name(sequences)}"
        raise InputError(what, f"Give a list of sequences: [sequence]. {_FILE}") from None
    texts = []
    for index, sequence in enumerate(items):
        if not isinstance(sequence, str):
            raise InputError(*_item_refusal(sequences, index, sequence))
        texts.append(sequence)
    return texts


def as_pairs(pairs: Iterable[object]) -> tuple[list[str], list[str]]:
    """(heavy chains, light chains) of a list of pairs.

    Raises:
        InputError: as_texts would refuse the list, or an item is not a (heavy, light) pair of texts.
    """
    fix = "Give (heavy, light) for each record: the heads need both chains."
    if refused := _refusal(pairs):
        raise InputError(refused[0], fix)
    try:
        items = list(pairs)
    except TypeError:
        raise InputError(f"sequences is one {type_name(pairs)}", fix) from None
    for index, item in enumerate(items):
        if isinstance(item, str):
            raise InputError(f"sequences[{index}] is one sequence, {first_line(repr(item), 60)}", fix)
        if not (isinstance(item, tuple | list) and len(item) == 2):
            what = f"sequences[{index}] is {first_line(repr(item), 60)} ({type(item).__name__}), not a pair"
            raise InputError(what, fix)
        for chain, text in zip(("heavy", "light"), item, strict=True):
            if not isinstance(text, str):
                missing = ", a missing value" if _missing(text) else ""
                what = f"sequences[{index}]: the {chain} chain is {first_line(repr(text), 60)}{missing}, not text"
                raise InputError(what, fix)
    return [item[0] for item in items], [item[1] for item in items]  # type: ignore[index]


def _refusal(sequences: object) -> tuple[str, str] | None:
    """(what is wrong, what to write instead) if the argument cannot be a list of sequences; else None."""
    what = f"sequences is {type_name(sequences)}"
    classes = {one.__name__ for one in type(sequences).__mro__}
    if isinstance(sequences, str | bytes | bytearray) or classes & _TEXTS.keys():
        text = next((_TEXTS[name] for name in classes & _TEXTS.keys()), "sequence")
        text = "sequence.decode()" if isinstance(sequences, bytes | bytearray) else text
        return f"sequences is one {type_name(sequences)}", f"Give a list of sequences: [{text}]. {_FILE}"
    if isinstance(sequences, Mapping):
        return f"{what}: its keys would be scored", "Give its values as a list: list(sequences.values())."
    if isinstance(sequences, set | frozenset):
        return (
            f"{what}, which has no order: a score could not be matched to its sequence",
            "Give a list: sorted(sequences).",
        )
    if classes & {*_TABLES}:
        to_list = _TO_LIST.get(type(sequences).__module__.partition(".")[0], "tolist()")
        collected = "df.collect()" if "LazyFrame" in classes else "df"
        column = f'Give one column as a list: {collected}["sequence"].{to_list}.'
        return (
            f"{what}: its column names would be scored",
            f"{column} Or keep the rows: abonyx.score_frame({collected}).",
        )
    shape = getattr(sequences, "shape", (0,))
    if isinstance(shape, tuple) and len(shape) > 1:
        return f"{what} of {len(shape)} dimensions, {shape}", "Give one column of it: sequences[:, 0]."
    return None


def _item_refusal(sequences: object, index: int, item: object) -> tuple[str, str]:
    what = f"sequences[{index}] is {first_line(repr(item), 60)} ({type(item).__name__})"
    if hasattr(sequences, "dtype"):
        what = f"sequences is {type_name(sequences)} of {sequences.dtype}; {what}"
    if _missing(item):
        fix = "Leave missing values out. abonyx.score_frame(df) keeps their rows, without a score."
        return f"{what}, a missing value, not text", fix
    if hasattr(item, "decode"):
        return f"{what}, not text", "Give str: item.decode()."
    if isinstance(item, tuple) and len(item) == 2:
        return f"{what}, a pair of chains", "The heads expect one chain: give only that chain of each record, as str."
    return f"{what}, not text", "Give sequences.to_pylist()." if hasattr(sequences, "to_pylist") else "Give str."


def _missing(item: object) -> bool:
    """Whether an item is None, NaN, or pandas' NA or NaT. NaN is not equal to itself."""
    nan = isinstance(item, float) and item != item
    return item is None or nan or type(item).__name__ in ("NAType", "NaTType")


def type_name(value: object) -> str:
    """The type of a value, with its library: "dict", "pandas DataFrame"."""
    module = type(value).__module__.partition(".")[0]
    own = module in ("builtins", "collections", "abonyx", "__main__", "_io")
    return type(value).__name__ if own else f"{module} {type(value).__name__}"
