"""score_frame: the same frame (pandas or polars) with result columns, also if values are missing."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import abonyx
from abonyx.bundle.tolerances import BATCH_NEIGHBOURS
from abonyx.errors import ConfigError, InputError, SessionClosed, SessionInUse
from abonyx.model import OpenModel

from ..conftest import MINI

pytest.importorskip("narwhals", reason="narwhals (the frames extra) is not installed")
pd = pytest.importorskip("pandas", reason="pandas (the test extra) is not installed")
pl = pytest.importorskip("polars", reason="polars (the test extra) is not installed")

ADDED = ["p_nonspecific", "nonspecific", "call", "percentile", "flag", "rejected"]
DNA = "GAGGTGCAGCTGGTGGAGTCTGGGGGAGGC"


def rows(frame: Any) -> list[dict[str, Any]]:
    """Rows as dicts; every library's null is None."""
    if isinstance(frame, pl.DataFrame):
        found: list[dict[str, Any]] = frame.to_dicts()
    else:
        found = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return found


@pytest.fixture(params=["pandas", "polars"])
def make(request: pytest.FixtureRequest) -> Any:
    return pd.DataFrame if request.param == "pandas" else pl.DataFrame


def test_every_row_stays_and_gets_a_score_or_a_reason(make: Any, sequences: list[str]) -> None:
    whole = sequences[0]
    given = [whole, None, whole[:60], "NA", "", DNA, "EV-Q", f" {whole.lower()} ", sequences[1]]
    frame = make({"clone": [f"c{at}" for at in range(len(given))], "sequence": given})
    with abonyx.open_session() as session:
        scored = abonyx.score_frame(frame, session=session)
        expected = session.score([whole, whole[:60], whole, sequences[1]])
    assert type(scored) is type(frame)
    assert list(scored.columns) == ["clone", "sequence", *ADDED]
    found = rows(scored)
    assert [row["clone"] for row in found] == [f"c{at}" for at in range(len(given))]
    assert [row["sequence"] for row in found] == given
    good = [found[at] for at in (0, 2, 7, 8)]
    assert np.abs(np.array([row["p_nonspecific"] for row in good]) - expected).max() <= BATCH_NEIGHBOURS
    calls = [int(p > 0.5) for p in expected]
    assert [row["nonspecific"] for row in good] == [calls[0], None, *calls[2:]]
    assert [row["flag"] for row in good] == ["", "fragment", "", ""]
    assert [row["rejected"] for row in good] == [None] * 4
    reasons = ("null, not text", "missing: 'NA'", "empty", "DNA", 'gaps="strip" removes gaps')
    for at, reason in zip((1, 3, 4, 5, 6), reasons, strict=True):
        assert reason in found[at]["rejected"]
        assert [found[at][name] for name in ADDED[:3]] == [None] * 3


def test_a_frame_is_scored_as_the_file_that_holds_it(make: Any, sequences: list[str], tmp_path: Path) -> None:
    given = [*sequences, f"M{sequences[0]}HHHHHH", sequences[2][:60], "EV*Q"]
    frame = make({"id": [str(at) for at in range(len(given))], "VH": given})
    source = tmp_path / "in.csv"
    frame.write_csv(source) if make is pl.DataFrame else frame.to_csv(source, index=False)
    options: dict[str, Any] = {"trim": "domain", "gaps": "strip", "threshold": 0.25}
    by_file = abonyx.score_file(source, skip_invalid=True, **options).rows
    by_frame = rows(abonyx.score_frame(frame, **options))
    assert len(by_file) == len(given) - 1
    assert "'*' at position 3" in by_frame.pop()["rejected"]
    assert [row["p_nonspecific"] for row in by_frame] == pytest.approx([row.p_nonspecific for row in by_file])
    for name in ("nonspecific", "flag", "domain"):
        assert [row[name] for row in by_frame] == [getattr(row, name) for row in by_file]
    assert by_frame[12]["domain"] == f"2-{len(sequences[0]) + 1}"


def test_a_sequence_that_comes_again_is_scored_once(
    make: Any, sequences: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    given = [sequences[0], sequences[1], "EV*Q", sequences[1], f" {sequences[0].lower()}", sequences[2][:60]] * 3
    with abonyx.open_session(abonyx.RuntimeConfig(window_size=4)) as session:
        ran: list[int] = []
        run_batch = OpenModel.run_batch

        def counted(self: OpenModel, rows: Any, *arguments: Any) -> Any:
            ran.append(len(rows))
            return run_batch(self, rows, *arguments)

        monkeypatch.setattr(OpenModel, "run_batch", counted)
        with caplog.at_level(logging.INFO, "abonyx"):
            found = rows(abonyx.score_frame(make({"sequence": given}), session=session))
        assert sum(ran) == 3
        expected = session.score([sequences[0], sequences[1], sequences[2][:60]])
    for at, row in enumerate(found):
        which = {0: 0, 1: 1, 3: 1, 4: 0, 5: 2}.get(at % 6)
        assert row["p_nonspecific"] == (None if which is None else pytest.approx(expected[which], abs=BATCH_NEIGHBOURS))
    assert "flagged: 3 of 15 records (fragment 3); 3 without a call; see docs/domain.md" in caplog.messages


def test_pooling_that_goes_by_the_place_of_a_row_scores_each(make: Any, sequences: list[str]) -> None:
    given = [sequences[0], sequences[0], sequences[1], sequences[0]]
    with abonyx.open_session(abonyx.RuntimeConfig(pooling="upstream-batch", batch_size=3)) as session:
        found = [row["p_nonspecific"] for row in rows(abonyx.score_frame(make({"sequence": given}), session=session))]
        expected = session.score(given).tolist()
    assert found == pytest.approx(expected, abs=BATCH_NEIGHBOURS)
    assert len({len(sequence) for sequence in sequences[:2]}) == 2
    assert abs(found[0] - found[3]) > 10 * BATCH_NEIGHBOURS, "the copies are not pooled alike"


def test_dtypes_and_index(sequences: list[str]) -> None:
    index = pd.Index([7, 7, 3], name="well")
    frame = pd.DataFrame({"sequence": [sequences[0], None, sequences[1]]}, index=index)
    before = frame.copy()
    scored = abonyx.score_frame(frame)
    assert scored.index.equals(index) and scored.index.name == "well"
    assert [str(scored[name].dtype) for name in ADDED[:2]] == ["float32", "Int8"]
    assert scored["nonspecific"].isna().tolist() == [False, True, False]
    pd.testing.assert_frame_equal(frame, before)
    schema = abonyx.score_frame(pl.DataFrame({"sequence": [sequences[0], None]})).schema
    assert [schema[name] for name in ADDED] == [pl.Float32, pl.Int8, *[pl.String] * 4]


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA, pd.NaT])
def test_pandas_missing_values_are_missing(missing: Any, sequences: list[str]) -> None:
    scored = rows(abonyx.score_frame(pd.DataFrame({"sequence": pd.Series([sequences[0], missing, 3], dtype=object)})))
    assert [row["rejected"] for row in scored] == [
        *(None, "the sequence is null, not text", "the sequence is int, not text")
    ]
    assert [row["p_nonspecific"] is None for row in scored] == [False, True, True]


@pytest.mark.parametrize("dtype", ["string", "category", object])
def test_pandas_kinds_of_text(dtype: Any, sequences: list[str]) -> None:
    frame = pd.DataFrame({"sequence": pd.Series([*sequences[:2], None], dtype=dtype)})
    assert [row["p_nonspecific"] is None for row in rows(abonyx.score_frame(frame))] == [False, False, True]


def test_frames_without_a_sequence(make: Any) -> None:
    for values in ([], [None, None], [float("nan")] * 2):
        found = rows(abonyx.score_frame(make({"sequence": values})))
        assert [row["rejected"] for row in found] == ["the sequence is null, not text"] * len(values)
    assert list(abonyx.score_frame(make({"sequence": []})).columns) == ["sequence", *ADDED]


def test_the_column_is_found_as_in_a_file(make: Any, sequences: list[str]) -> None:
    whole = sequences[0]
    airr = {"sequence": [DNA], "sequence_alignment_aa": [f"{whole[:30]}..{whole[30:]}"], "rev_comp": ["F"]}
    plain = {"sequence": [whole]}
    alignment = {"id": ["a"], "1": [whole[0]], "2": [None], "3": [whole[1:]], "x": ["y"]}
    with abonyx.open_session() as session:
        (p,) = session.score([whole])
        for columns, name in ((airr, None), (plain, None), ({"VH": [whole]}, None), ({"odd": [whole]}, "odd")):
            (row,) = rows(abonyx.score_frame(make(columns), session=session, sequence_column=name))
            assert row["p_nonspecific"] == pytest.approx(p, abs=BATCH_NEIGHBOURS)
        (row,) = rows(abonyx.score_frame(make(alignment), session=session, sequence_column="1:3"))
        assert row["p_nonspecific"] == pytest.approx(p, abs=BATCH_NEIGHBOURS)
    for columns, said in (
        ({"vh": [whole], "heavy": [whole]}, "the frame: several columns could hold the sequences: 'vh', 'heavy'"),
        ({"a": [whole], "b": [whole]}, "the frame: no column 'sequence'; columns: 'a', 'b'"),
        ({"sequence": [DNA], "rev_comp": ["F"]}, "is an AIRR table"),
    ):
        with pytest.raises(InputError, match=said) as caught:
            abonyx.score_frame(make(columns))
        assert "sequence_column" in caught.value.fix and "--" not in str(caught.value)


def test_pandas_columns_may_have_numbers_for_names(sequences: list[str]) -> None:
    scored = abonyx.score_frame(pd.DataFrame([["a", sequences[0]]]), sequence_column="1")
    assert list(scored.columns) == [0, 1, *ADDED]
    assert scored["p_nonspecific"].notna().all()


def test_an_arrow_table_is_taken_too(sequences: list[str]) -> None:
    pa = pytest.importorskip("pyarrow", reason="pyarrow (the parquet extra) is not installed")
    scored = abonyx.score_frame(pa.table({"sequence": [sequences[0], None]}))
    assert isinstance(scored, pa.Table)
    assert scored.column("nonspecific").null_count == 1


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (lambda: pd.DataFrame([["a", "b"]], columns=["x", "x"]), r"has columns of the same name: 'x' 2 times"),
        (lambda: pl.LazyFrame({"sequence": ["EVQ"]}), r"polars LazyFrame, which is lazy\nGive its rows: frame.coll"),
        (lambda: pd.Series(["EVQ"]), r"frame is pandas Series, not a DataFrame\n.*session.score"),
        (lambda: ["EVQ"], r"frame is list, not a DataFrame"),
        (lambda: {"sequence": ["EVQ"]}, r"frame is dict, not a DataFrame"),
        (lambda: "in.csv", r"frame is str, not a DataFrame"),
        (lambda: pd.DataFrame({"sequence": [1.5, 2]}), r"column 'sequence' is Float64, not text"),
        (lambda: pl.DataFrame({"sequence": [["EVQ"]]}), r"column 'sequence' is List\(String\), not text"),
        (lambda: pd.DataFrame({"sequence": ["EVQ"], "flag": ["x"]}), r"has columns \['flag'\] already\nRename"),
        (lambda: pl.DataFrame({"sequence": ["EVQ"], "p_nonspecific": [1]}), r"has columns \['p_nonspecific'\] already"),
    ],
)
def test_what_is_no_frame_of_sequences_is_refused(frame: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        abonyx.score_frame(frame())


def test_the_column_domain_is_in_the_way_only_of_a_trimmed_run(make: Any, sequences: list[str]) -> None:
    frame = make({"sequence": sequences[:1], "domain": ["bacteria"]})
    assert rows(abonyx.score_frame(frame))[0]["domain"] == "bacteria"
    with pytest.raises(InputError, match=r"has columns \['domain'\] already"):
        abonyx.score_frame(frame, trim="domain")


def test_options_are_those_of_the_command(make: Any, sequences: list[str]) -> None:
    frame = make({"sequence": [sequences[0], sequences[1][:60]]})
    (_, required) = rows(abonyx.score_frame(frame, domain="require"))
    assert (required["p_nonspecific"], required["rejected"]) == (None, "fragment")
    (_, off) = rows(abonyx.score_frame(frame, domain="off", threshold=1, config=MINI))
    assert (off["nonspecific"], off["flag"], off["rejected"]) == (0, "", None)
    for options, said in (
        ({"domain": "on"}, "domain is 'on'"),
        ({"trim": True}, "trim is True"),
        ({"gaps": "keep"}, "gaps is 'keep'"),
        ({"trim": "domain", "domain": "off"}, "trim domain with domain off"),
        ({"threshold": 2}, "threshold is 2"),
        ({"assay": "spr"}, "assay spr"),
        ({"session": 3}, "session is 3"),
        ({"config": 3}, "config is 3"),
    ):
        with pytest.raises(ConfigError, match=said):
            abonyx.score_frame(frame, **options)


def test_the_callers_session_is_used_and_stays_open(make: Any, sequences: list[str]) -> None:
    frame = make({"sequence": sequences[:1]})
    with abonyx.open_session() as session:
        abonyx.score_frame(frame, session=session)
        assert "open" in repr(session)
        with pytest.raises(SessionInUse, match=r"\nGive it as session="):
            abonyx.score_frame(frame)
        with pytest.raises(ConfigError, match="session and config were both given"):
            abonyx.score_frame(frame, session=session, config=MINI)
    with pytest.raises(SessionClosed):
        abonyx.score_frame(frame, session=session)
    abonyx.score_frame(frame)
    abonyx.open_session().close()


def test_the_log_is_in_pythons_words(caplog: pytest.LogCaptureFixture, sequences: list[str]) -> None:
    with caplog.at_level(logging.DEBUG, "abonyx"):
        abonyx.score_frame(pl.DataFrame({"sequence": [sequences[0][:60]]}))
    assert "flagged: 1 of 1 records (fragment 1); 1 without a call; see docs/domain.md" in caplog.messages
    assert all(message.isprintable() for message in caplog.messages)


def test_without_the_extra_the_message_names_it() -> None:
    code = (
        "import sys; sys.modules['narwhals'] = None\n"
        "import abonyx\n"
        "try:\n    abonyx.score_frame(3)\nexcept abonyx.errors.ConfigError as error:\n    print(error.fix)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Install the extra frames: pip install " in done.stdout


def test_scores_of_a_list_need_no_library_of_frames(sequences: list[str]) -> None:
    code = (
        "import sys\n"
        "for name in ('narwhals', 'pandas', 'polars', 'pyarrow'):\n    sys.modules[name] = None\n"
        "import abonyx\n"
        f"with abonyx.open_session() as session:\n    print(session.score([{sequences[0]!r}]).shape)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "(1,)\n"
