"""Several heads of one bundle: each head has its columns in every output, with its own values."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import abonyx
from abonyx.bundle import open_bundle
from abonyx.bundle.chosen import choose_heads
from abonyx.bundle.heads import sigmoid
from abonyx.errors import BundleError, ConfigError, InputError

from ...conftest import EXAMPLES, MINI
from ..several import KINDS, expected_values, make_several

# Not the order of the request.
ORDER = ("nonspecificity", "elisa", "hic", "psr", "ac-sins")
ALL_COLUMNS = [
    *("id", "sequence", "p_nonspecific", "nonspecific", "call", "percentile", "flag"),
    *("elisa_p", "elisa_nonspecific", "elisa_call", "elisa_percentile", "hic_value", "hic_percentile"),
    *("psr_p", "psr_nonspecific", "psr_call", "psr_percentile", "ac-sins_value", "ac-sins_percentile"),
]
USUAL = ALL_COLUMNS[:7]
Expected = dict[str, Any]


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_several(tmp_path_factory.mktemp("heads") / "several", ORDER)


@pytest.fixture
def expected(several: Path, sequences: list[str]) -> Expected:
    """Column -> values of the examples."""
    with abonyx.open_session(several) as session:
        values = expected_values(several, session.embed(sequences))
    columns: Expected = {}
    for name, column in values.items():
        if KINDS[name] == "linear":
            columns[f"{name}_value"] = column
        else:
            p, call = ("p_nonspecific", "nonspecific") if name == ORDER[0] else (f"{name}_p", f"{name}_nonspecific")
            columns |= {p: column, call: (column > 0.5).astype(int)}
    return columns


def read(path: Path, delimiter: str = ",") -> list[dict[str, Any]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter=delimiter))


def agree(rows: list[dict[str, Any]], expected: Expected, columns: list[str]) -> None:
    """Check that every column has the values of its own head."""
    for name in columns:
        if name in expected:
            found = np.array([float(row[name]) for row in rows])
            np.testing.assert_allclose(found, expected[name], rtol=1e-5, atol=1e-5, err_msg=name)


def test_the_heads_tell_themselves_apart(expected: Expected) -> None:
    columns = list(expected.values())
    for at, one in enumerate(columns):
        assert all(np.abs(one - other).max() > 0.05 for other in columns[:at])


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize(
    ("heads", "columns"),
    [
        ("all", ALL_COLUMNS),
        ("psr,nonspecificity,hic", [*USUAL, *ALL_COLUMNS[13:17], *ALL_COLUMNS[11:13]]),
        ("hic,elisa", ["id", "sequence", "flag", *ALL_COLUMNS[11:13], *ALL_COLUMNS[7:11]]),
    ],
)
def test_files(
    run: Any, several: Path, expected: Expected, tmp_path: Path, suffix: str, heads: str, columns: list[str]
) -> None:
    out = tmp_path / f"out.{suffix}"
    done = run("score", EXAMPLES, "-o", out, "--bundle", several, "--heads", heads)
    assert done.code == 0, done.err
    if suffix == "parquet":
        table = pytest.importorskip("pyarrow.parquet").read_table(out)
        assert table.column_names == columns
        kinds = dict(zip(table.column_names, map(str, table.schema.types), strict=True))
        assert {kinds[name] for name in columns if name.endswith(("_p", "_value"))} == {"float"}
        assert {kinds[name] for name in columns if name.endswith("nonspecific") and name != "p_nonspecific"} <= {"int8"}
        assert table.schema.metadata[b"abonyx.head.hic"] == b"min, higher is worse"
        rows = table.to_pylist()
    elif suffix == "jsonl":
        rows = [json.loads(line) for line in out.read_text().splitlines()]
    else:
        rows = read(out, "\t" if suffix == "tsv" else ",")
    assert list(rows[0]) == columns and len(rows) == 12
    agree(rows, expected, columns)
    assert f"heads {', '.join(ORDER) if heads == 'all' else heads.replace(',', ', ')}" in done.err


def test_the_first_head_alone_looks_as_one_head_does(run: Any, several: Path, bare: Path, tmp_path: Path) -> None:
    for bundle in (bare, several):
        out = tmp_path / f"{bundle.name}.csv"
        assert run("score", EXAMPLES, "-o", out, "--bundle", bundle).code == 0
    one, other = (read(tmp_path / f"{name}.csv") for name in (bare.name, several.name))
    assert list(one[0]) == list(other[0]) == USUAL
    for mine, its in zip(one, other, strict=True):
        # five columns are summed in a different order than one column
        assert float(mine.pop("p_nonspecific")) == pytest.approx(float(its.pop("p_nonspecific")), abs=1e-6)
        assert mine == its


def test_trim_and_kept_columns_come_last(run: Any, several: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    options = ("--heads", "nonspecificity,hic", "--trim", "domain", "--keep", "all", "--table")
    done = run("score", EXAMPLES, "-o", out, "--bundle", several, *options)
    assert done.code == 0, done.err
    header = out.read_text().splitlines()[0].split(",")
    assert header[:10] == [*USUAL, "hic_value", "hic_percentile", "domain"]
    assert "hic_value" in done.err and "> 0.5" in done.err
    both = run("score", EXAMPLES, "-o", out, "--bundle", several, "--heads", "nonspecificity,psr", "--table")
    assert "psr > 0.5" in both.err and both.err.count("> 0.5") == 2
    words = "heads nonspecificity, psr; nonspecificity: threshold 0.5; call is never uncertain"
    assert words in both.err and "; psr: threshold 0.5; call is never uncertain" in both.err


@pytest.mark.parametrize("threshold", [None, 0.3])
def test_each_head_calls_by_its_own_quantiles(
    run: Any, several: Path, expected: Expected, tmp_path: Path, threshold: float | None
) -> None:
    """A threshold applies to the first head only: psr keeps its quantiles, and elisa has none."""
    bundle = Path(shutil.copytree(several, tmp_path / "banded"))
    bands = {"nonspecificity": (0.4, 0.6), "psr": np.quantile(expected["psr_p"], [0.3, 0.7]).tolist()}
    manifest = json.loads((bundle / "manifest.json").read_text())
    for head in manifest["heads"]:
        if head["name"] in bands:
            low, high = bands[head["name"]]
            own = json.loads((MINI / "manifest.json").read_text())["heads"][0]["training"]
            head["training"] = own | {"band": {"confidence": 0.8, "low": low, "high": high}}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    given = () if threshold is None else ("--threshold", threshold)
    out = tmp_path / "out.csv"
    done = run("score", EXAMPLES, "-o", out, "--bundle", bundle, "--heads", "all", *given)
    assert done.code == 0, done.err
    rows = read(out)
    low, high = bands["psr"]
    psr = ["specific" if p < low else "non-specific" if p > high else "uncertain" for p in expected["psr_p"]]
    assert [row["psr_call"] for row in rows] == psr and len(set(psr)) == 3
    assert {row["call"] for row in rows} == {"specific", "non-specific", *([] if threshold else ["uncertain"])}
    assert [row["elisa_call"] for row in rows] == [
        "non-specific" if row["elisa_nonspecific"] == "1" else "specific" for row in rows
    ]


def test_a_linear_head_has_no_band(several: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(several, tmp_path / "wrong"))
    manifest = json.loads((bundle / "manifest.json").read_text())
    own = json.loads((MINI / "manifest.json").read_text())["heads"][0]["training"]
    at = ORDER.index("hic")
    manifest["heads"][at]["training"] = own | {"band": {"confidence": 0.8, "low": 0.4, "high": 0.6}}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="head training band: has values that an export never writes"):
        open_bundle(bundle)


RIDGE = {
    **{"alpha": 1.0, "alphas": [1.0], "alphas_of_folds": [3], "spearman_mean": 0.0, "spearman_seed_sd": None},
    **{"r2_mean": 0.0, "mae_mean": 1.0, "mae_of_mean": 1.0},
}
REGRESSION: dict[str, Any] = {
    **{"rows": 36, "repeated_sequences": 0, "scaled": False, "class_weight": None, "seed": 0, "folds": 3, "seeds": 1},
    **{"candidates": [], "sklearn": "1", "ridge": RIDGE},
}


@pytest.fixture
def around(several: Path, tmp_path: Path) -> Path:
    """The bundle with an interval for hic."""
    bundle = Path(shutil.copytree(several, tmp_path / "around"))
    manifest = json.loads((bundle / "manifest.json").read_text())
    interval = {"confidence": 0.8, "low": -1.5, "high": 2.25}
    manifest["heads"][ORDER.index("hic")]["training"] = REGRESSION | {"interval": interval}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    return bundle


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_an_interval_on_request(run: Any, around: Path, tmp_path: Path, suffix: str, sequences: list[str]) -> None:
    source, out = tmp_path / "in.csv", tmp_path / f"out.{suffix}"
    source.write_text(f"id,sequence\na,{sequences[0]}\nb,{sequences[1][:60]}\n")
    options = ("--bundle", around, "--heads", "all", "--with", "interval,length", "--table")
    done = run("score", source, "-o", out, *options)
    assert done.code == 0, done.err
    assert "hic: value in min, 80 % interval" in done.err
    if suffix == "parquet":
        table = pytest.importorskip("pyarrow.parquet").read_table(out)
        assert str(table.schema.field("hic_low").type) == "float"
        whole, fragment = table.to_pylist()
    elif suffix == "jsonl":
        whole, fragment = (json.loads(line) for line in out.read_text().splitlines())
    else:
        whole, fragment = read(out)
    names = list(whole)
    assert names[names.index("hic_percentile") + 1 :][:2] == ["hic_low", "hic_high"] and names[-1] == "length"
    assert "ac-sins_low" not in names, "this head stores none"
    value, low, high = (float(whole[f"hic_{name}"]) for name in ("value", "low", "high"))
    assert (low, high) == pytest.approx((value - 1.5, value + 2.25), abs=1e-5)
    assert fragment["flag"] and not fragment["hic_low"] and fragment["hic_value"]
    usual = run("score", source, "-o", tmp_path / "usual.csv", "--bundle", around, "--heads", "hic")
    assert usual.code == 0 and "hic_low" not in (tmp_path / "usual.csv").read_text()


def test_an_interval_that_no_head_stores_is_refused(run: Any, several: Path, around: Path, tmp_path: Path) -> None:
    for bundle, heads in ((several, "hic"), (around, "psr,ac-sins")):
        options = ("--bundle", bundle, "--heads", heads, "--with", "interval")
        done = run("score", EXAMPLES, "-o", tmp_path / "out.csv", *options)
        assert done.code == 2
        assert f"--with interval: no chosen head ({heads.replace(',', ', ')}) stores an interval" in done.err
    options = ("--bundle", around, "--heads", "hic", "--with", "interval", "--domain", "off")
    assert run("score", EXAMPLES, "-o", tmp_path / "out.csv", *options).code == 0, "it needs no domain"


def test_an_interval_is_of_a_linear_head(around: Path) -> None:
    manifest = json.loads((around / "manifest.json").read_text())
    manifest["heads"][ORDER.index("hic")]["training"]["interval"]["low"] = 3
    (around / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="head training band"):
        open_bundle(around)


def test_a_flagged_record_has_values_and_no_call(run: Any, several: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text(f"id,sequence\na,{'EVQLVESGGGLVQPGGSLRLSCAAS'}\n")
    assert run("score", source, "-o", out, "--bundle", several, "--heads", "all").code == 0
    (row,) = read(out)
    assert row["flag"]
    calls = {"nonspecific", "call"}
    of_heads = {f"{name}_{column}" for name in ("elisa", "psr") for column in calls}
    percentiles = {name for name in row if name.endswith("percentile")}
    assert {name for name, cell in row.items() if not cell} == calls | of_heads | percentiles


def test_python(several: Path, sequences: list[str], expected: Expected) -> None:
    with abonyx.open_session(several) as session:
        assert session.heads == ORDER
        found = session.score(sequences, heads=["psr", "hic"])
        assert list(found) == ["psr", "hic"]
        for column, name in (("psr_p", "psr"), ("hic_value", "hic")):
            assert found[name].dtype == np.float32 and found[name].shape == (12,)
            np.testing.assert_allclose(found[name], expected[column], rtol=1e-5, atol=1e-5)
        assert list(session.score(sequences, heads="all")) == list(ORDER)
        assert list(session.score(sequences, heads="hic")) == ["hic"]
        np.testing.assert_allclose(session.score(sequences), expected["p_nonspecific"], atol=1e-5)
        for wrong in ("hicc", ["psr", "psr"], []):
            with pytest.raises(ConfigError, match="heads"):
                session.score(sequences, heads=wrong)


def test_score_file_in_memory(several: Path, expected: Expected) -> None:
    rows = abonyx.score_file(EXAMPLES, config=several, heads=["hic", "psr"]).rows
    assert {(row.p_nonspecific, row.nonspecific) for row in rows} == {(None, None)}
    agree([dict(row.heads) for row in rows], expected, ["hic_value", "psr_p", "psr_nonspecific"])
    rows = abonyx.score_file(EXAMPLES, config=several, heads="all").rows
    first = [{"p_nonspecific": row.p_nonspecific, "nonspecific": row.nonspecific} for row in rows]
    agree([one | dict(row.heads) for one, row in zip(first, rows, strict=True)], expected, list(expected))
    assert not abonyx.score_file(EXAMPLES, config=several).rows[0].heads


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames(several: Path, sequences: list[str], expected: Expected, library: str) -> None:
    pytest.importorskip("narwhals")
    frame = pytest.importorskip(library).DataFrame({"VH": sequences})
    scored = abonyx.score_frame(frame, config=several, heads=["ac-sins", "elisa"])
    assert list(scored.columns) == [
        "VH",
        "flag",
        "ac-sins_value",
        "ac-sins_percentile",
        *(f"elisa_{each}" for each in ("p", "nonspecific", "call", "percentile")),
        "rejected",
    ]
    rows = scored.to_dict("records") if library == "pandas" else scored.to_dicts()
    agree(rows, expected, list(scored.columns))
    with pytest.raises(InputError, match=r"has columns \['elisa_p'\] already"):
        abonyx.score_frame(
            frame.rename(columns={"VH": "elisa_p"}) if library == "pandas" else frame.rename({"VH": "elisa_p"}),
            config=several,
            sequence_column="elisa_p",
            heads="elisa",
        )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--heads", "hicc"), "--heads: several has no head 'hicc'\nIt has: nonspecificity, elisa, hic, psr, ac-sins"),
        (("--heads", "psr,psr"), "--heads: psr is given twice"),
        (("--heads", "psr,,hic"), "a name is empty"),
        (
            ("--heads", "psr", "--threshold", "0.3"),
            "--threshold is only for the first head of several, nonspecificity, which",
        ),
        (("--heads", "hic", "--assay", "elisa"), "--assay is only for the first head of several"),
    ],
)
def test_refused(run: Any, several: Path, tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    done = run("score", EXAMPLES, "-o", tmp_path / "out.csv", "--bundle", several, *options)
    assert done.code == 2
    assert all(part in " ".join(done.err.split()) for part in said.split("\n"))
    assert not (tmp_path / "out.csv").exists()


def test_a_kept_column_of_a_heads_name_is_refused(
    run: Any, several: Path, tmp_path: Path, sequences: list[str]
) -> None:
    source = tmp_path / "in.csv"
    source.write_text(f"id,sequence,hic_value\na,{sequences[0]},1\n")
    options = ("--bundle", several, "--keep", "hic_value")
    done = run("score", source, "-o", tmp_path / "out.csv", *options, "--heads", "hic")
    assert done.code == 2 and "hic_value: the output already has a column with this name" in done.err
    assert run("score", source, "-o", tmp_path / "out.csv", *options).code == 0


def test_a_linear_first_head(tmp_path: Path, sequences: list[str]) -> None:
    bundle = make_several(tmp_path / "several", ("hic", "psr"))
    summary = abonyx.score_file(EXAMPLES, tmp_path / "out.csv", config=bundle)
    assert summary.threshold is None
    header, first, *_ = (tmp_path / "out.csv").read_text().splitlines()
    assert header == "id,sequence,hic_value,hic_percentile,flag"
    with abonyx.open_session(bundle) as session:
        value = session.score(sequences)
        assert session.thresholds == {}
        assert first.split(",")[2] == str(value[0])
    with pytest.raises(ConfigError, match="gives a value in min"):
        choose_heads(open_bundle(bundle), None, threshold=0.5)


def test_another_choice_of_heads_does_not_resume_a_run(several: Path) -> None:
    bundle = open_bundle(several)
    facts = [choose_heads(bundle, names).facts() for names in (None, ["nonspecificity"], "all", ["hic"], ["psr"])]
    usual = {"threshold": 0.5, "band of uncertain calls": None, "--heads": None, "--panel": None}
    assert facts[0] == facts[1] == usual
    assert len({tuple(each.items()) for each in facts}) == 4


def test_values_are_the_weights_sums(several: Path) -> None:
    """The expected values are right: they are the weights of the golden rows applied to a row's embedding."""
    golden = open_bundle(several).golden()
    at = golden.head_names.index("psr")
    logit = golden.embedding[0].astype(float) @ golden.head_coef[at] + golden.head_intercept[at]
    assert expected_values(several, golden.embedding[:1])["psr"][0] == pytest.approx(sigmoid(np.array(logit)))
