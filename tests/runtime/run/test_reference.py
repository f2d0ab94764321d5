"""`abonyx reference`: a panel in a new bundle, and its percentiles in every interface."""

from __future__ import annotations

import csv
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import abonyx
from abonyx.bundle import open_bundle
from abonyx.bundle.chosen import choose_heads
from abonyx.bundle.panel import panel_file
from abonyx.errors import BundleError, ConfigError

from ...conftest import EXAMPLES
from ..domain.proteins import KAPPA, VH
from ..input.test_judged import HEAVY

VARIANT = "fp16-weights"


def changed(sequences: list[str]) -> list[str]:
    """24 different complete domains: the examples, and each example with another residue in framework 1."""
    return [*sequences, *(sequence[:9] + "T" + sequence[10:] for sequence in sequences)]


def write(path: Path, sequences: list[str]) -> Path:
    path.write_text("id,sequence\n" + "".join(f"r{at},{each}\n" for at, each in enumerate(sequences)))
    return path


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with EXAMPLES.open(newline="") as file:
        sequences = [row["sequence"] for row in csv.DictReader(file)]
    return write(tmp_path_factory.mktemp("panel") / "known.csv", [*changed(sequences), KAPPA])


@pytest.fixture(scope="module")
def with_panel(tmp_path_factory: pytest.TempPathFactory, rows_file: Path, bare: Path) -> Path:
    """The shipped bundle with a panel of 24 rows; the light chain in the file is left out."""
    from click.testing import CliRunner

    from abonyx.cli.commands import cli

    bundle = tmp_path_factory.mktemp("with_panel") / "bundle"
    done = CliRunner().invoke(cli, ["reference", str(bare), str(rows_file), "--name", "known", "-o", str(bundle)])
    assert done.exit_code == 0, done.output
    return bundle


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_what_the_bundle_holds(with_panel: Path, rows_file: Path, bare: Path) -> None:
    bundle = open_bundle(with_panel)
    (panel,) = bundle.manifest.panels
    assert (panel.name, panel.rows, panel.source) == ("known", 24, "known.csv")
    assert [(each.head, each.variant, each.pooling) for each in panel.scores] == [
        (bundle.manifest.head.name, VARIANT, "residues")
    ]
    scored = abonyx.score_file(rows_file, config=bare).rows[:24]
    expected = sorted(float(np.float32(row.p_nonspecific)) for row in scored if row.p_nonspecific is not None)
    assert panel.scores[0].quantiles == pytest.approx(expected, abs=1e-6)
    hashes = (with_panel / panel_file("known")).read_bytes()
    assert len(hashes.splitlines()) == 24 and HEAVY.encode() not in hashes
    model = f"{VARIANT}/model.onnx"
    assert (with_panel / model).samefile(bare / model), "linked"
    assert (with_panel / "README.md").read_bytes() == (bare / "README.md").read_bytes()


def test_training_rows_in_a_panel_are_noted(run: Any, mini: Path, tmp_path: Path) -> None:
    known = (mini / "training_sequences.txt").read_text().split()[:30]
    done = run("reference", mini, write(tmp_path / "known.csv", known), "--name", "known", "-o", tmp_path / "new")
    assert done.code == 0, done.err
    assert "note: 30 of 30 records are training rows of head nonspecificity" in done.err
    done = run("reference", mini, EXAMPLES.parent / "labelled.csv", "--name", "other", "-o", tmp_path / "other")
    assert done.code == 0 and "training rows" not in done.err, done.err


def test_scores_are_the_same_and_have_percentiles(run: Any, with_panel: Path, tmp_path: Path, bare: Path) -> None:
    source = write(tmp_path / "in.csv", [HEAVY, VH[:60] + "S" + VH[61:], KAPPA])
    done = run("score", source, "-o", tmp_path / "out.csv", "--bundle", with_panel, "--table")
    assert done.code == 0, done.err
    assert "percentile in panel known (24 rows: known.csv)" in done.err
    plain = run("score", source, "-o", tmp_path / "plain.csv", "--bundle", bare)
    assert "no percentile: the bundle has no panel" in plain.err
    found, without = read(tmp_path / "out.csv"), read(tmp_path / "plain.csv")
    assert [row.pop("percentile") for row in without] == [""] * 3
    own, other, flagged = (row.pop("percentile") for row in found)
    assert found == without
    assert own.endswith(" (in panel)") and "-" in other and "panel" not in other and flagged == ""
    header = next(line for line in done.err.splitlines() if "flag" in line)
    titles = ["id", "% of known", "> 0.5", "p_nonspecific", "flag"]
    assert sorted(titles, key=header.index) == titles, "percentile and call lead"


def test_the_share_is_counted(with_panel: Path, rows_file: Path) -> None:
    rows = abonyx.score_file(rows_file, config=with_panel).rows[:24]
    by_p = sorted(rows, key=lambda row: row.p_nonspecific or 0)
    lows = [int((row.percentile or "").split("-")[0]) for row in by_p]
    assert lows == sorted(lows) and lows[0] == 0
    assert by_p[-1].percentile == "86-100 (in panel)"  # Wilson's interval of 24 of 24


def test_python_frames_ray_and_http_give_the_same(with_panel: Path, tmp_path: Path, sequences: list[str]) -> None:
    source = write(tmp_path / "in.csv", sequences)
    summary = abonyx.score_file(source, config=with_panel, panel="known")
    expected = [row.percentile for row in summary.rows]
    assert summary.panel == "known" and all(expected)
    chosen = choose_heads(open_bundle(with_panel), None, config=abonyx.RuntimeConfig(bundle=str(with_panel)))
    values = np.array([[row.p_nonspecific] for row in summary.rows], np.float32)
    sent = pickle.loads(pickle.dumps(chosen)).without_numbers()
    assert sent.cells(values, [True] * 12, sequences)["percentile"] == expected
    pd = pytest.importorskip("pandas")
    scored = abonyx.score_frame(pd.DataFrame({"VH": sequences}), config=with_panel)
    assert scored["percentile"].tolist() == expected
    pytest.importorskip("fastapi", reason="the extra serve is not installed")
    from ..serve.serving import service

    with service(abonyx.RuntimeConfig(bundle=str(with_panel))) as running:
        found = running.score(sequences).json
        assert found["panel"] == {"name": "known", "rows": 24, "source": "known.csv"}
        assert [row["percentile"] for row in found["results"]] == expected
        assert running.ask("GET", "/v1/model").json["panels"] == [found["panel"]]
        refused = running.score(sequences, panel="other")
        assert refused.status == 422 and "panel: " in refused.json["detail"]


def test_another_pooling_has_no_percentiles_and_says_why(with_panel: Path) -> None:
    bundle = open_bundle(with_panel)
    config = abonyx.RuntimeConfig(bundle=str(with_panel), pooling="upstream-batch", batch_size=8)
    chosen = choose_heads(bundle, None, config=config)
    assert chosen.heads[0].panel is None
    assert chosen.summary().endswith(
        "no percentile: panel known has no scores of head nonspecificity by variant fp16-weights with pooling "
        "upstream-batch (batch 8)"
    )
    with pytest.raises(ConfigError, match=r"panel known has no scores .*\nIt has: .*with pooling residues"):
        choose_heads(bundle, None, config=config, panel="known")
    with pytest.raises(ConfigError, match="has no panel 'knwon'\nIt has: known"):
        choose_heads(bundle, None, config=abonyx.RuntimeConfig(), panel="knwon")


def test_the_same_rows_by_another_rule_extend_a_panel(
    run: Any, with_panel: Path, rows_file: Path, tmp_path: Path, bare: Path
) -> None:
    options = ("--name", "known", "--pooling", "upstream-batch", "--batch-size", 8, "-o", tmp_path / "new")
    done = run("reference", with_panel, rows_file, *options)
    assert done.code == 0, done.err
    (panel,) = open_bundle(tmp_path / "new").manifest.panels
    assert [(each.pooling, each.pooling_batch_size) for each in panel.scores] == [
        ("residues", None),
        ("upstream-batch", 8),
    ]
    assert "% of" not in run("score", EXAMPLES, "-o", tmp_path / "a.csv", "--bundle", bare, "--table").err


def test_a_record_that_repeats_another_counts_once(
    run: Any, with_panel: Path, tmp_path: Path, sequences: list[str], bare: Path
) -> None:
    """This also holds if the repeated record is the first one, and for any id."""
    rows = changed(sequences)
    source = write(tmp_path / "known.csv", [rows[0], rows[0], *rows[1:], rows[3], KAPPA, KAPPA])
    done = run("reference", bare, source, "--name", "known", "-o", tmp_path / "new")
    assert done.code == 0, done.err
    assert "2 records are left out, because they repeat an earlier one" in done.err
    assert "2 of 28 records are left out, because they are flagged" in done.err
    assert "panel known: 24 rows of known.csv" in done.err
    (panel,), (once,) = (open_bundle(each).manifest.panels for each in (tmp_path / "new", with_panel))
    assert (panel.rows, panel.rows_sha256) == (once.rows, once.rows_sha256)
    assert panel.scores[0].quantiles == pytest.approx(once.scores[0].quantiles, abs=1e-6)
    assert (tmp_path / "new" / panel_file("known")).read_bytes() == (with_panel / panel_file("known")).read_bytes()


def test_a_second_panel_is_chosen_by_its_name(run: Any, with_panel: Path, rows_file: Path, tmp_path: Path) -> None:
    options = ("--name", "second", "--origin", "two words", "-o", tmp_path / "new")
    assert run("reference", with_panel, rows_file, *options).code == 0
    done = run("score", EXAMPLES, "-o", tmp_path / "out.csv", "--bundle", tmp_path / "new", "--panel", "second")
    assert "percentile in panel second (24 rows: two words)" in done.err
    inspected = run("inspect", tmp_path / "new").out
    assert "known: 24 rows of known.csv; scores of fp16-weights with residues" in inspected
    assert "second: 24 rows of two words" in inspected


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "known",
            "--name: abonyx-mini has a panel known with these rows, scored by variant fp16-weights with pooling",
        ),
        ("KNOWN", "--name: abonyx-mini has a panel known, and KNOWN differs from it only in case"),
        ("a/b", "--name is 'a/b'\nA name has 1 to 40 letters"),
    ],
)
def test_names_that_are_refused(
    run: Any, with_panel: Path, rows_file: Path, tmp_path: Path, name: str, said: str
) -> None:
    done = run("reference", with_panel, rows_file, "--name", name, "-o", tmp_path / "new")
    assert done.code == 2 and said in done.err
    assert not (tmp_path / "new").exists()


def test_other_rows_and_too_few_are_refused(
    run: Any, with_panel: Path, tmp_path: Path, sequences: list[str], bare: Path
) -> None:
    other = write(tmp_path / "other.csv", [*changed(sequences)[::-1]])
    done = run("reference", with_panel, other, "--name", "known", "-o", tmp_path / "new")
    assert done.code == 2 and "with other rows (24 from known.csv)\nGive another name." in done.err
    few = write(tmp_path / "few.csv", [*sequences, *[KAPPA] * 10])
    done = run("reference", bare, few, "--name", "few", "-o", tmp_path / "new")
    assert done.code == 3
    assert "few.csv: has 12 distinct records without a flag; a panel needs at least 20" in done.err
    assert not (tmp_path / "new").exists()


def test_a_panel_of_another_encoder_or_a_damaged_one_is_refused(with_panel: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(with_panel, tmp_path / "copy"))
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["panels"][0]["encoder_sha256"] = "0" * 64
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="panel known was scored with another encoder: its sha256 is 0000"):
        open_bundle(bundle)
    bundle = Path(shutil.copytree(with_panel, tmp_path / "damaged"))
    (bundle / panel_file("known")).write_bytes(b"0" * 17 * 24)
    with pytest.raises(BundleError, match=r"panel.known.hashes: sha256"):
        choose_heads(open_bundle(bundle), None, config=abonyx.RuntimeConfig(bundle=str(bundle)))


def test_every_head_has_percentiles_of_its_own(run: Any, rows_file: Path, tmp_path: Path) -> None:
    from ..several import make_several

    several = make_several(tmp_path / "several", ("nonspecificity", "hic", "psr"))
    assert run("reference", several, rows_file, "--name", "known", "-o", tmp_path / "new").code == 0
    options = ("--bundle", tmp_path / "new", "--heads", "all", "--table")
    done = run("score", rows_file, "-o", tmp_path / "out.csv", *options)
    assert done.code == 0, done.err
    rows = read(tmp_path / "out.csv")[:24]
    for value, band in (("p_nonspecific", "percentile"), ("hic_value", "hic_percentile"), ("psr_p", "psr_percentile")):
        lows = [int(row[band].split("-")[0]) for row in sorted(rows, key=lambda row: float(row[value]))]
        assert lows == sorted(lows), band
    assert "hic: value in min" in done.err and "psr: threshold 0.5" in done.err


@pytest.mark.parametrize("command", ["reference", "calibrate"])
def test_a_bundle_is_not_given_twice(command: str, run: Any, rows_file: Path, bare: Path, tmp_path: Path) -> None:
    if command == "calibrate":
        pytest.importorskip("abonyx_export", reason="the export package is not installed")
        pytest.importorskip("sklearn", reason="the export extra is not installed")
    name = ("--name", "known")
    done = run(command, bare, rows_file, *name, "--bundle", bare, "-o", tmp_path / "new")
    assert done.code == 2 and f"--bundle {bare}: BUNDLE {bare} is given too" in done.err
    assert not (tmp_path / "new").exists()
