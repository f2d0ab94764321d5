"""`abonyx score` and score_file with heads on both chains: same values, every record scored or rejected."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import abonyx
from abonyx.bundle.tolerances import BATCH_NEIGHBOURS
from abonyx.errors import ConfigError, InputError

from ..input.test_pairs import LIGHT, heavy_chains
from ..paired import make_paired

Rows = list[dict[str, str]]


@pytest.fixture(scope="module")
def paired(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_paired(tmp_path_factory.mktemp("bundles") / "paired")


def pairs() -> list[tuple[str, str]]:
    """Records that share chains."""
    heavy = heavy_chains()[:6]
    return [(chain, LIGHT if at % 2 else LIGHT[:-1] + "R") for at, chain in enumerate([*heavy, heavy[0]])]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("id", "VH", "VL"), *((f"m{at}", *pair) for at, pair in enumerate(pairs()))])
    return path


def rows_of(path: Path) -> Rows:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_scores_are_the_sessions(run: Any, paired: Path, table: Path, tmp_path: Path) -> None:
    done = run("score", table, "-o", tmp_path / "out.csv", "--bundle", paired, "--heads", "all")
    assert done.code == 0, done.err
    assert "7 pairs scored, 0 rejected" in done.err
    assert "the heavy chains are column 'VH', the light chains are column 'VL'" in done.err
    rows = rows_of(tmp_path / "out.csv")
    usual = ["p_nonspecific", "nonspecific", "call", "percentile", "flag"]
    assert list(rows[0])[:8] == ["id", "heavy", "light", *usual]
    assert [(row["heavy"], row["light"]) for row in rows] == pairs()
    with abonyx.open_session(paired) as session:
        expected = session.score(pairs(), heads="all")
    columns = {"psr": "p_nonspecific", "hic": "hic_value", "nonspecificity": "nonspecificity_p", "light": "light_p"}
    for head, column in columns.items():
        found = np.array([float(row[column]) for row in rows], np.float32)
        np.testing.assert_allclose(found, expected[head], atol=BATCH_NEIGHBOURS)
    # The written file can be read again, because its columns are found.
    again = run("score", tmp_path / "out.csv", "-o", tmp_path / "again.csv", "--bundle", paired)
    assert again.code == 0, again.err
    assert [row["p_nonspecific"] for row in rows_of(tmp_path / "again.csv")] == [row["p_nonspecific"] for row in rows]


def test_a_panel_of_pairs_knows_the_pair_and_each_chain(run: Any, paired: Path, tmp_path: Path) -> None:
    members = [(heavy, LIGHT[:at] + "A" + LIGHT[at + 1 :]) for at, heavy in enumerate(heavy_chains() * 2, 30)]
    panel, mixed = tmp_path / "panel.csv", tmp_path / "mixed.csv"
    own, other = members[0], (heavy_chains()[0][:-1] + "A", members[1][1])
    for path, rows in ((panel, members), (mixed, [own, other, (members[1][0], members[0][1])])):
        path.write_text("id,VH,VL\n" + "".join(f"m{at},{','.join(pair)}\n" for at, pair in enumerate(rows)))
    done = run("reference", paired, panel, "--name", "known", "--domain", "off", "-o", tmp_path / "new")
    assert done.code == 0, done.err
    options = ("--bundle", tmp_path / "new", "--heads", "all", "--domain", "off")
    assert run("score", mixed, "-o", tmp_path / "out.csv", *options).code == 0
    known = {
        column: [row[column].endswith(" (in panel)") for row in rows_of(tmp_path / "out.csv")]
        for column in ("percentile", "nonspecificity_percentile", "light_percentile")
    }
    # Matches of the pair, of its heavy chain and of its light chain. The last record mixes two members of the panel.
    assert known == {
        "percentile": [True, False, False],
        "nonspecificity_percentile": [True, False, True],
        "light_percentile": [True, True, True],
    }


def test_every_format(run: Any, paired: Path, table: Path, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    for suffix in ("jsonl", "tsv", "parquet"):
        assert run("score", table, "-o", tmp_path / f"out.{suffix}", "--bundle", paired).code == 0
    objects = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(row["heavy"], row["light"]) for row in objects] == pairs()
    read = pq.read_table(tmp_path / "out.parquet")
    assert read.column_names[:3] == ["id", "heavy", "light"] and read["light"].to_pylist() == [b for _, b in pairs()]
    assert (tmp_path / "out.tsv").read_text().startswith("id\theavy\tlight\tp_nonspecific")


def test_an_interrupted_run_is_resumed_to_the_same_bytes(run: Any, paired: Path, table: Path, tmp_path: Path) -> None:
    config = abonyx.RuntimeConfig(bundle=str(paired), window_size=2)
    abonyx.score_file(table, tmp_path / "whole.csv", config=config)

    class Stop(Exception):
        pass

    def end(done: int, total: int) -> None:
        if done >= 5:
            raise Stop

    with pytest.raises(Stop):
        abonyx.score_file(table, tmp_path / "parts.csv", config=config, progress=end)
    summary = abonyx.score_file(table, tmp_path / "parts.csv", config=config)
    assert 0 < summary.earlier < summary.records == 7
    assert (tmp_path / "parts.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_record_with_one_chain_is_rejected(run: Any, paired: Path, table: Path, tmp_path: Path) -> None:
    table.write_text(table.read_text() + f"alone,{pairs()[0][0]},\n")
    refused = run("score", table, "-o", tmp_path / "out.csv", "--bundle", paired)
    assert refused.code == 3 and "alone: no light chain: the heads need both chains of a record" in refused.err
    done = run("score", table, "-o", tmp_path / "out.csv", "--bundle", paired, "--on-invalid", "skip")
    assert done.code == 0 and "7 pairs scored, 1 rejected" in done.err
    assert [row["id"] for row in rows_of(tmp_path / "out.csv.rejected.csv")] == ["alone"]


def test_a_head_of_one_chain_takes_it_of_each_pair(run: Any, paired: Path, table: Path, tmp_path: Path) -> None:
    heads = {"nonspecificity": (0, "heavy", "light"), "light": (1, "light", "heavy")}
    for head, (chain, own, other) in heads.items():
        output = tmp_path / f"{head}.csv"
        done = run("score", table, "-o", output, "--bundle", paired, "--heads", head)
        assert done.code == 0, done.err
        assert f"the {other} chains ('{'VL' if other == 'light' else 'VH'}') are not scored" in done.err
        assert f"the heads expect only the {own} chain" in done.err
        rows = rows_of(output)
        assert [row["sequence"] for row in rows] == [pair[chain] for pair in pairs()]
        assert {row["flag"] for row in rows} == {""}


def test_names_of_columns(run: Any, paired: Path, tmp_path: Path) -> None:
    path = tmp_path / "named.csv"
    path.write_text("id,one,two\n" + "".join(f"m{at},{a},{b}\n" for at, (a, b) in enumerate(pairs())))
    out, bundle = ("-o", tmp_path / "out.csv"), ("--bundle", paired)
    refused = run("score", path, *out, *bundle)
    assert refused.code == 3 and "Name the column with --heavy-column." in refused.err
    refused = run("score", path, *out, *bundle, "--sequence-column", "one")
    assert refused.code == 2 and "--heavy-column and --light-column" in refused.err
    refused = run("score", path, *out, *bundle, "--sequence-column", "one", "--light-column", "two")
    assert refused.code == 2 and "were both given" in refused.err
    assert run("score", path, *out, *bundle, "--heavy-column", "one", "--light-column", "two").code == 0
    single = ("--heads", "light", "--light-column", "two")
    assert run("score", path, "-o", tmp_path / "light.csv", *bundle, *single).code == 0


def test_a_directory_of_files(run: Any, paired: Path, table: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert run("score", table, "-o", tmp_path / "alone.csv", "--bundle", paired).code == 0
    done = run("score", table, "-o", tmp_path / "out", "--bundle", paired)
    assert done.code == 0, done.err
    assert (tmp_path / "out" / "pairs.csv").read_bytes() == (tmp_path / "alone.csv").read_bytes()


def test_rows_in_memory(paired: Path, table: Path) -> None:
    summary = abonyx.score_file(table, config=paired, trim="domain", heads=["psr", "hic"])
    assert [(row.sequence, row.light) for row in summary.rows] == pairs()
    assert summary.rows[0].domain.startswith("heavy 1-") and "; light 1-" in summary.rows[0].domain
    assert summary.rows[0].heads.keys() == {"hic_value", "hic_percentile"}
    single = abonyx.score_file(table, config=paired, heads="nonspecificity")
    assert {row.light for row in single.rows} == {""}


def test_embed_takes_one_sequence_a_record(run: Any, paired: Path, table: Path, tmp_path: Path) -> None:
    for column in ("VH", "VL"):
        output = tmp_path / f"{column}.npy"
        done = run("embed", table, "-o", output, "--bundle", paired, "--sequence-column", column)
        assert done.code == 0, done.err
        assert "flagged" not in done.err
        assert len(np.load(output)) == 7


def test_a_frame(paired: Path, table: Path) -> None:
    pd = pytest.importorskip("pandas")
    pytest.importorskip("narwhals")
    frame = pd.concat([pd.read_csv(table), pd.DataFrame({"id": ["alone"], "VH": [pairs()[0][0]], "VL": [None]})])
    found = abonyx.score_frame(frame, config=paired, heads="all")
    with abonyx.open_session(paired) as session:
        expected = session.score(pairs(), heads="all")
    for head, column in (("psr", "p_nonspecific"), ("light", "light_p")):
        np.testing.assert_allclose(found[column][:7].to_numpy(), expected[head], atol=BATCH_NEIGHBOURS)
    assert found["rejected"].tolist()[-1] == "no light chain: the heads need both chains of a record"
    assert found["rejected"][:7].isna().all() and found["p_nonspecific"].isna().tolist() == [False] * 7 + [True]
    named = frame.rename(columns={"VH": "one", "VL": "two"})
    again = abonyx.score_frame(named, config=paired, heavy_column="one", light_column="two")
    np.testing.assert_array_equal(again["p_nonspecific"][:7].to_numpy(), found["p_nonspecific"][:7].to_numpy())
    with pytest.raises(InputError, match="no column was recognised as the heavy chains"):
        abonyx.score_frame(named, config=paired)
    assert len(abonyx.score_frame(frame, config=paired, heads="nonspecificity")) == 8


def test_inspect_says_what_each_head_expects(run: Any, paired: Path) -> None:
    shown = run("inspect", paired).out
    assert "head expects" in shown and shown.count("chains H and L") == 3 and "chain L" in shown


def test_what_has_no_pairs_is_refused(paired: Path, table: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(abonyx.RuntimeConfig(bundle=str(paired)), pooling="upstream-batch", batch_size=4)
    with pytest.raises(ConfigError, match="not possible for pairs"):
        abonyx.score_file(table, config=config)
    lines = tmp_path / "one.txt"
    lines.write_text("sequence\n" + pairs()[0][0] + "\n")
    with pytest.raises(InputError, match="no column was recognised as the heavy chains"):
        abonyx.score_file(lines, config=paired)
