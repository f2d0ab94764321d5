"""The column `call`, from the head's stored quantiles or from the threshold, in every interface."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import abonyx
from abonyx.alphabet import SequenceLimit
from abonyx.bundle import open_bundle
from abonyx.bundle.band import CallBand
from abonyx.bundle.chosen import choose_heads
from abonyx.bundle.threshold import CallRule, choose_calls
from abonyx.domain import DomainRule
from abonyx.input.judged import judged
from abonyx.output.columns import result_columns

from ...conftest import EXAMPLES, MINI
from ..cli.test_domain_options import NANOBODY
from ..input.test_judged import HEAVY, LIGHT

BAND = {"confidence": 0.8, "low": 0.4, "high": 0.6}


@pytest.fixture(scope="module")
def banded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped bundle, with a band."""
    bundle = Path(shutil.copytree(MINI, tmp_path_factory.mktemp("banded") / "bundle"))
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["heads"][0]["training"]["band"] = BAND
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    return bundle


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """The examples with all three calls, one flagged row, and one row that is only nanobody-like."""
    path = tmp_path / "mixed.csv"
    path.write_text(EXAMPLES.read_text() + f"light,{LIGHT}\nvhh,{NANOBODY}\n", encoding="utf-8")
    return path


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))


def expected(row: dict[str, str], low: float = 0.4, high: float = 0.6) -> str:
    p = float(row["p_nonspecific"])
    if row["flag"] not in ("", "nanobody-like"):
        return ""
    return "specific" if p < low else "non-specific" if p > high else "uncertain"


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_every_format_has_the_call_behind_nonspecific(
    run: Any, banded: Path, mixed: Path, tmp_path: Path, kind: str
) -> None:
    if kind == "parquet":
        pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    output = tmp_path / f"out.{kind}"
    done = run("score", mixed, "-o", output, "--bundle", banded)
    assert done.code == 0
    assert "threshold 0.5; uncertain from 0.4 to 0.6" in done.err
    if kind == "jsonl":
        found = [json.loads(line) for line in output.read_text().splitlines()]
    elif kind == "parquet":
        found = pytest.importorskip("pyarrow.parquet").read_table(output).to_pylist()
    else:
        found = rows(output)
    assert list(found[0]) == ["id", "sequence", "p_nonspecific", "nonspecific", "call", "percentile", "flag"]
    assert [row["call"] or "" for row in found] == [expected(row) for row in found]
    assert {row["call"] or "" for row in found} == {"specific", "uncertain", "non-specific", ""}
    light, vhh = found[-2:]
    assert light["nonspecific"] in ("", None) and light["call"] in ("", None)
    assert vhh["flag"] == "nanobody-like" and vhh["call"], "nanobody-like alone is a note"
    assert {str(row["nonspecific"]) for row in found if row["call"] == "uncertain"} == {"0", "1"}, "by the threshold"


def test_a_threshold_or_no_quantiles_give_two_values_and_say_so(
    run: Any, banded: Path, bare: Path, mixed: Path, tmp_path: Path
) -> None:
    given = run("score", mixed, "-o", tmp_path / "given.csv", "--bundle", banded, "--threshold", 0.5)
    assert "threshold 0.5; call is never uncertain: --threshold was given" in given.err
    without = run("score", mixed, "-o", tmp_path / "without.csv", "--bundle", bare)
    assert "threshold 0.5; call is never uncertain: the head has no stored quantiles" in without.err
    for name in ("given.csv", "without.csv"):
        found = rows(tmp_path / name)
        words = {"1": "non-specific", "0": "specific", "": ""}
        assert [row["call"] for row in found] == [words[row["nonspecific"]] for row in found]


def test_the_quantiles_are_of_the_default_threshold_alone(banded: Path) -> None:
    bundle = open_bundle(str(banded))
    head = msgspec.structs.replace(bundle.manifest.head, thresholds={"psr": 0.97, "elisa": 0.5})
    manifest = msgspec.structs.replace(bundle.manifest, heads=[head, *bundle.manifest.heads[1:]])
    bundle = dataclasses.replace(bundle, manifest=manifest)
    other, same = choose_calls(bundle, "psr", None), choose_calls(bundle, "elisa", None)
    assert (other.threshold, other.band) == (0.97, None)
    assert other.given == "assay" and other.text.endswith(" was given")
    # otherwise p = 0.7 would have nonspecific 0 and the call non-specific
    assert other.words(np.array([0.7, 0.98], np.float32), [True, True]) == ["specific", "non-specific"]
    assert same.band is not None


@pytest.mark.parametrize(("threshold", "apart"), [(0.5, False), (0.4, False), (0.7, True), (0.3, True)])
def test_a_threshold_outside_the_quantiles_is_named(threshold: float, apart: bool) -> None:
    rule = CallRule(threshold, CallBand(**BAND))
    assert ("may disagree" in rule.summary()) is apart
    p = np.linspace(0, 1, 101, dtype=np.float32)
    trusted = [True] * 101
    pairs = set(zip(rule.numbers(p, trusted), rule.words(p, trusted), strict=True))
    assert bool(pairs & {(0, "non-specific"), (1, "specific")}) is apart


def test_a_directory_of_results(run: Any, banded: Path, mixed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    done = run("score", mixed, "-o", folder, "--bundle", banded)
    assert done.code == 0 and "threshold 0.5; uncertain from 0.4 to 0.6" in done.err
    (output,) = folder.glob("*.csv")
    assert {row["call"] for row in rows(output)} == {"specific", "uncertain", "non-specific", ""}


def test_results_by_the_band_are_not_resumed_with_a_threshold(run: Any, banded: Path, tmp_path: Path) -> None:
    facts = [choose_heads(open_bundle(str(banded)), None, threshold=threshold).facts() for threshold in (None, 0.5)]
    assert facts[0] != facts[1] and facts[0]["threshold"] == facts[1]["threshold"]


def test_python_says_it_too(banded: Path, mixed: Path) -> None:
    config = abonyx.RuntimeConfig(bundle=str(banded))
    summary = abonyx.score_file(mixed, config=config)
    assert summary.band == CallBand(**BAND)
    assert {row.call for row in summary.rows} == {"specific", "uncertain", "non-specific", None}
    assert [row.call is None for row in summary.rows] == [row.nonspecific is None for row in summary.rows]
    assert abonyx.score_file(mixed, config=config, threshold=0.5).band is None


def test_a_frame_has_it(banded: Path) -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"sequence": [HEAVY, LIGHT, "!"]})
    scored = abonyx.score_frame(frame, config=abonyx.RuntimeConfig(bundle=str(banded)))
    assert list(scored.columns) == [
        "sequence",
        "p_nonspecific",
        "nonspecific",
        "call",
        "percentile",
        "flag",
        "rejected",
    ]
    low, high = BAND["low"], BAND["high"]
    p = scored["p_nonspecific"][0]
    assert scored["call"][0] == ("specific" if p < low else "non-specific" if p > high else "uncertain")
    assert scored["call"].isna().tolist() == [False, True, True]


def test_without_a_threshold_ray_gives_the_call_of_a_head_with_quantiles_alone(banded: Path, bare: Path) -> None:
    """abonyx.ray.score has no column `nonspecific` by default."""
    rows, p = judged([HEAVY], DomainRule("off", False, ("H",)), SequenceLimit(148)), np.full((1, 1), 0.5, np.float32)
    of_band, of_bare = (choose_heads(open_bundle(str(bundle)), None) for bundle in (banded, bare))
    found = result_columns(rows, p, of_band.without_numbers(), False)
    assert (list(found)[:2], found["call"]) == (["p_nonspecific", "call"], ["uncertain"])
    assert "call" not in result_columns(rows, p, of_bare.without_numbers(), False)
    assert list(result_columns(rows, p, of_bare, False))[:3] == ["p_nonspecific", "nonspecific", "call"]


def test_a_bound_is_not_outside_as_every_output_shows_it() -> None:
    """Both sides are float32, so a p that is printed as 0.4 is not below 0.4."""
    p = np.array([0.4, np.nextafter(np.float32(0.4), np.float32(0)), 0.6, 0.60001], np.float32)
    words = CallRule(0.5, CallBand(**BAND)).words(p, [True] * 4)
    assert words == ["uncertain", "specific", "uncertain", "non-specific"]


def test_http_has_it(banded: Path) -> None:
    pytest.importorskip("fastapi", reason="the extra serve is not installed")
    from ..serve.serving import service

    sequences = [row["sequence"] for row in rows(EXAMPLES)] + [LIGHT]
    with service(abonyx.RuntimeConfig(bundle=str(banded))) as running:
        found = running.score(sequences).json
        assert found["band"] == BAND
        assert list(found["results"][0])[2:7] == ["p_nonspecific", "nonspecific", "call", "percentile", "flag"]
        assert [row["call"] or "" for row in found["results"]] == [expected(row) for row in found["results"]]
        given = running.score(sequences, threshold=0.5).json
        assert given["band"] is None
        assert {row["call"] for row in given["results"]} == {"specific", "non-specific", None}
