"""What looks like a list of sequences and is not one is refused by its name, with what to write instead."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import abonyx
from abonyx.errors import InputError
from abonyx.texts import as_texts

VH = "EVQLVESGGG"


def pandas() -> Any:
    return pytest.importorskip("pandas", reason="pandas (the test extra) is not installed")


def polars() -> Any:
    return pytest.importorskip("polars", reason="polars (the test extra) is not installed")


def arrow() -> Any:
    return pytest.importorskip("pyarrow", reason="pyarrow (the parquet extra) is not installed")


class Seq:
    """As Biopython's: its items are residues."""

    def __iter__(self) -> Any:
        return iter(VH)


REFUSED = [
    (lambda: {"id": VH}, "sequences is dict: its keys", "list(sequences.values())"),
    (lambda: {VH}, "sequences is set, which has no order", "sorted(sequences)"),
    (lambda: frozenset([VH]), "sequences is frozenset, which has no order", "sorted(sequences)"),
    (lambda: VH, "sequences is one str", "[sequence]"),
    (lambda: VH.encode(), "sequences is one bytes", "[sequence.decode()]"),
    (lambda: 3, "sequences is one int", "[sequence]"),
    (lambda: None, "sequences is one NoneType", "[sequence]"),
    (lambda: np.array(VH), "sequences is one numpy ndarray", "[sequence]"),
    (Seq, "sequences is one", "[str(sequence)]"),
    (lambda: np.array([[VH]]), "sequences is numpy ndarray of 2 dimensions, (1, 1)", "sequences[:, 0]"),
    (lambda: np.array([1.5]), "sequences is numpy ndarray of float64; sequences[0] is np.float64(1.5)", "Give str"),
    (lambda: np.array([b"EVQ"]), "sequences is numpy ndarray of |S3", "item.decode()"),
    (lambda: [VH, None], "sequences[1] is None (NoneType), a missing value", "abonyx.score_frame(df)"),
    (lambda: [VH, float("nan")], "sequences[1] is nan (float), a missing value", "abonyx.score_frame(df)"),
    (lambda: [VH, 3], "sequences[1] is 3 (int), not text", "Give str"),
    (
        lambda: pandas().DataFrame({"heavy": [VH]}),
        "sequences is pandas DataFrame: its column names",
        'df["sequence"].tolist(). Or keep the rows: abonyx.score_frame(df)',
    ),
    (
        lambda: type("Mine", (pandas().DataFrame,), {})({"heavy": [VH]}),
        "Mine: its column names",
        'df["sequence"].tolist()',
    ),
    (lambda: polars().DataFrame({"heavy": [VH]}), "sequences is polars DataFrame", 'df["sequence"].to_list()'),
    (lambda: polars().LazyFrame({"heavy": [VH]}), "is polars LazyFrame", 'df.collect()["sequence"].to_list()'),
    (lambda: arrow().table({"heavy": [VH]}), "sequences is pyarrow Table", 'df["sequence"].to_pylist()'),
    (lambda: arrow().array([VH]), "sequences[0] is", "sequences.to_pylist()"),
    (lambda: pandas().Series([1, 2]), "sequences is pandas Series of int64; sequences[0] is 1", "Give str"),
    (lambda: pandas().Series([VH, None], dtype="string"), "of string; sequences[1] is <NA>", "score_frame(df)"),
    (lambda: pandas().Series([VH, pandas().NaT], dtype=object), "sequences[1] is NaT (NaTType), a missing", "score_fr"),
    (lambda: polars().Series([VH, None]), "sequences is polars Series of String; sequences[1] is None", "score_frame"),
    (lambda: polars().Series([0.5]), "sequences is polars Series of Float64; sequences[0] is 0.5 (float)", "Give str"),
]


@pytest.mark.parametrize(("make", "what", "fix"), REFUSED)
def test_what_is_not_a_list_of_texts_is_named(make: Any, what: str, fix: str) -> None:
    with pytest.raises(InputError) as caught:
        as_texts(make())
    assert what in caught.value.what
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    "make",
    [
        list,
        tuple,
        iter,
        lambda texts: (text for text in texts),
        lambda texts: dict(enumerate(texts)).values(),
        np.array,
        lambda texts: np.array(texts, object),
        lambda texts: pandas().Series(texts, index=[9] * len(texts)),
        lambda texts: pandas().Series(texts, dtype="category"),
        lambda texts: pandas().Index(texts),
        lambda texts: polars().Series(texts),
    ],
)
def test_every_list_of_texts_is_taken(make: Any) -> None:
    texts = [VH, "QVQL", VH]
    assert as_texts(make(texts)) == texts


def test_score_embed_and_judge_refuse_alike() -> None:
    message = re.escape("sequences is dict: its keys would be scored")
    with abonyx.open_session() as session:
        for call in (session.score, session.embed, abonyx.judge):
            with pytest.raises(InputError, match=message):
                call({"id": VH})  # type: ignore[arg-type]
            with pytest.raises(InputError, match=r"sequences\[1\] is nan \(float\), a missing value, not text"):
                call([VH, float("nan")])  # type: ignore[list-item]


def test_no_library_of_tables_is_imported_to_find_out() -> None:
    code = (
        "import sys\n"
        "from abonyx.texts import as_texts\n"
        "try:\n    as_texts({'a': 'EVQ'})\nexcept Exception:\n    pass\n"
        "print([name for name in ('pandas', 'polars', 'pyarrow', 'narwhals') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
