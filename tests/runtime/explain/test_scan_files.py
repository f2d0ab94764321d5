"""`abonyx scan`: tables and pictures in a directory, complete or resumable; and refusals."""

from __future__ import annotations

import csv
import json
import os
import signal
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

import abonyx
from abonyx.bundle import open_bundle
from abonyx.config import RuntimeConfig
from abonyx.domain import judge
from abonyx.explain import scan_files
from abonyx.explain.scan import scan_options
from abonyx.explain.scan_mutants import AMINO_ACIDS
from abonyx.explain.scan_parents import plan_parents
from abonyx.explain.scan_result import NOT_VALIDATED
from abonyx.explain.validated import read_validated
from abonyx.input.checked import Input

from ...conftest import MINI
from ..domain.proteins import GFP, KAPPA, VH
from .measured import metrics_json

OTHER = VH[:25] + "S" + VH[26:]
NAMES = {"scan.csv", "parents.csv", "scan.json"}
# Five residues are left, so that each position has four or five mutants.
FEW = ("--exclude", "A,F,G,H,I,L,M,N,P,Q,S,T,V,W,Y")


@pytest.fixture
def parents(tmp_path: Path) -> Path:
    return write(tmp_path, [("first", VH), ("second/one", OTHER)])


def write(tmp_path: Path, rows: list[tuple[str, str]]) -> Path:
    path = tmp_path / "parents.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("id", "sequence"), *rows])
    return path


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_tables_and_pictures_of_every_parent(run: Any, parents: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the explain extra is not installed")
    done = run("scan", parents, "-o", tmp_path / "out", "--positions", "28,57", *FEW, "--rank")
    assert done.code == 0, done.err
    assert done.out == ""
    assert "2 parents scanned, 20 mutants" in done.err and NOT_VALIDATED in done.err
    assert "first: nonspecificity: over 10 mutants, change = " in done.err
    assert "2 pictures, each as SVG and PNG" in done.err
    pictures = {f"{stem}.scan.{suffix}" for stem in ("first", "second_one") for suffix in ("svg", "png")}
    assert set(files(tmp_path / "out")) == NAMES | pictures
    rows = read(tmp_path / "out" / "scan.csv")
    assert [row["id"] for row in rows] == ["first"] * 10 + ["second/one"] * 10
    assert {row["imgt"] for row in rows} == {"28", "57"} and "A" not in {row["mutant"] for row in rows}
    assert {row["nonspecificity_rank"] for row in rows if row["seen_in_repertoire"] == "0"} == {""}
    assert "1" in {row["nonspecificity_rank"] for row in rows}
    (first, second) = read(tmp_path / "out" / "parents.csv")
    assert (first["id"], first["chain"], first["sequence"], first["mutants"]) == ("first", "H", VH, "10")
    assert second["id"] == "second/one" and float(second["charge_slope"]) > 0
    assert first["statement"] == second["statement"] == NOT_VALIDATED
    assert ET.fromstring((tmp_path / "out" / "first.scan.svg").read_bytes()).tag.endswith("svg")
    # A second scan into the same directory would mix two scans.
    again = run("scan", parents, "-o", tmp_path / "out")
    assert again.code == 2 and "is not empty" in again.err


def test_one_record_of_a_file_by_its_id(run: Any, parents: Path, tmp_path: Path) -> None:
    done = run(
        "scan", parents, "--id", "second/one", "-o", tmp_path / "out", "--positions", "28", "--no-pictures", *FEW
    )
    assert done.code == 0, done.err
    assert set(files(tmp_path / "out")) == NAMES
    assert {row["id"] for row in read(tmp_path / "out" / "scan.csv")} == {"second/one"}


def test_a_longer_record_is_scanned_in_its_domain(run: Any, tmp_path: Path) -> None:
    source = write(tmp_path, [("tagged", "M" + VH + "HHHHHH")])
    refused = run("scan", source, "-o", tmp_path / "out")
    assert refused.code == 3 and "tagged: is flagged: 7 residues outside the domain" in refused.err
    options = ["--trim", "domain", "--positions", "28", "--no-pictures", *FEW]
    assert run("scan", source, "-o", tmp_path / "out", *options).code == 0
    assert {row["position"] for row in read(tmp_path / "out" / "scan.csv")} == {str(VH.index("FN") + 1)}
    assert [row["sequence"] for row in read(tmp_path / "out" / "parents.csv")] == [VH]


@pytest.mark.parametrize(
    ("rows", "options", "code", "message"),
    [
        ([("a", VH)], ["--id", "b"], 3, "--id 'b': no record has this id\nThe input has the ids a; --id-column names"),
        ([("a", VH), ("a", OTHER)], ["--id", "a"], 3, "--id 'a': 2 records have this id"),
        ([("a", VH), ("a", OTHER)], [], 3, "1 id appears more than once: 'a' 2 times"),
        ([("a", VH), ("b", KAPPA)], [], 3, "b: is flagged: light chain (kappa)"),
        ([("a", GFP[:100])], ["--domain", "off"], 2, "a: no antibody domain was found"),
        ([("a", GFP[:100])], ["--domain", "require"], 3, "no antibody domain"),
        ([("a", VH)], ["--positions", "33"], 2, "--positions 33: a has no residue there"),
        ([("a", VH)], ["--positions", "129"], 2, "--positions: 129 lies outside a domain"),
        ([("a", VH)], ["--positions", "loops"], 2, "--positions: 'LOOPS' is not an IMGT position"),
        ([("a", VH)], ["--exclude", "c,X"], 2, "--exclude: 'X' is not one of the 20 residues"),
        ([("a", VH)], ["--heads", "hic"], 2, "--heads: abonyx-mini has no head 'hic'"),
        ([("a", VH)], ["--rank", "--positions", "104"], 2, "--rank: no mutant of a is in a CDR"),
        (
            [("a", VH)],
            ["--pooling", "upstream-batch", "--batch-size", "8"],
            2,
            "--pooling upstream-batch: a score then depends",
        ),
    ],
)
def test_what_cannot_be_scanned_is_refused_and_leaves_nothing(
    run: Any, tmp_path: Path, rows: list[tuple[str, str]], options: list[str], code: int, message: str
) -> None:
    done = run("scan", write(tmp_path, rows), "-o", tmp_path / "out", *options)
    assert (done.code, done.out) == (code, "") and message in done.err
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_something_else_is_refused(run: Any, parents: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    done = run("scan", parents, "-o", tmp_path / "file")
    assert done.code == 2 and "file: is not a directory" in done.err
    done = run("scan", parents, "-o", tmp_path / "missing" / "out", "--positions", "28")
    assert done.code == 2 and "cannot be created" in done.err
    assert (tmp_path / "file").read_text() == "mine"


def test_records_that_are_skipped_are_listed(run: Any, tmp_path: Path) -> None:
    source = write(tmp_path, [("a", VH), ("b", "EVQL*"), ("c", KAPPA)])
    options = ["--positions", "28", *FEW, "--no-pictures", "--on-invalid", "skip", "--domain", "require"]
    done = run("scan", source, "-o", tmp_path / "out", *options)
    assert done.code == 0, done.err
    assert [row["id"] for row in read(tmp_path / "out" / "rejected.csv")] == ["b", "c"]
    assert {row["id"] for row in read(tmp_path / "out" / "scan.csv")} == {"a"}


def test_a_large_scan_says_how_long_it_takes_and_wants_a_yes(
    run: Any, parents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan_files, "MOST_UNASKED", 9)
    monkeypatch.setattr(scan_files, "_TIMED", 3)
    command = ["scan", parents, "--positions", "28", "--no-pictures", *FEW, "-o"]
    done = run(*command, tmp_path / "out")
    assert done.code == 2
    assert "2 parents have 10 mutants: about " in done.err and "Give --yes to scan them all" in done.err
    assert not (tmp_path / "out").exists()
    assert run(*command, tmp_path / "out", "--yes").code == 0
    assert run(*command, tmp_path / "one", "--id", "first").code == 0


def stop_before(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C at the start of the scan of a parent (counted from 1)."""
    begun, usual = [], scan_files.run_scan

    def run_scan(*arguments: Any) -> Any:
        begun.append(1)
        if len(begun) == number:
            os.kill(os.getpid(), signal.SIGINT)
        return usual(*arguments)

    monkeypatch.setattr(scan_files, "run_scan", run_scan)


def test_an_interrupted_scan_is_resumed_to_the_same_bytes(
    run: Any, parents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["scan", parents, "--positions", "28", "--no-pictures", *FEW, "-o"]
    assert run(*command, tmp_path / "whole").code == 0
    with monkeypatch.context() as patched:
        stop_before(2, patched)
        done = run(*command, tmp_path / "out")
    assert done.code == 130
    assert "SIGINT: 1 of 2 parents are kept" in done.err and "The same command resumes" in done.err
    assert set(files(tmp_path / "out")) == {"scan.csv.partial", "parents.csv.partial", "scan.csv.journal"}
    other = run(*command, tmp_path / "out", "--positions", "29")
    assert other.code == 2 and "--positions: '28' then, '29' now" in other.err
    resumed = run(*command, tmp_path / "out")
    assert resumed.code == 0 and "resuming after 1 of 2 parents" in resumed.err
    assert "1 parent scanned, 5 mutants" in resumed.err
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_a_resumed_scan_counts_all_pictures_and_names_the_option(
    run: Any, parents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib", reason="the explain extra is not installed")
    command = ["scan", parents, "--positions", "28", *FEW, "-o", tmp_path / "out"]
    with monkeypatch.context() as patched:
        stop_before(2, patched)
        assert run(*command).code == 130
    assert "--no-pictures: False then, True now" in run(*command, "--no-pictures").err
    resumed = run(*command)
    assert resumed.code == 0 and ", 2 pictures, each as SVG and PNG" in resumed.err
    assert len(list((tmp_path / "out").glob("*.svg"))) == 2


def test_one_mutant(run: Any, parents: Path, tmp_path: Path) -> None:
    others = ",".join(residue for residue in AMINO_ACIDS if residue not in (VH[25], "K"))
    command = ("scan", parents, "--id", "first", "--positions", "27", "--exclude", others, "--no-pictures")
    done = run(*command, "-o", tmp_path / "out")
    assert done.code == 0 and "1 parent scanned, 1 mutant, in " in done.err, done.err


def test_a_scan_that_is_stopped_before_a_parent_is_done_leaves_nothing(
    run: Any, parents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_before(1, monkeypatch)
    done = run("scan", parents, "--positions", "28", "-o", tmp_path / "out")
    assert done.code == 130 and "SIGINT: no parent was finished, so nothing is kept" in done.err
    assert not (tmp_path / "out").exists()


def test_restart_drops_what_an_interrupted_scan_left(
    run: Any, parents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["scan", parents, "-o", tmp_path / "out", "--no-pictures", *FEW, "--positions"]
    with monkeypatch.context() as patched:
        stop_before(2, patched)
        assert run(*command, "28").code == 130
    done = run(*command, "29", "--restart")
    assert done.code == 0 and "2 parents scanned" in done.err
    assert {row["imgt"] for row in read(tmp_path / "out" / "scan.csv")} == {"29"}


def test_without_matplotlib_the_tables_are_written_and_the_extra_is_named(
    run: Any, parents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    done = run("scan", parents, "--id", "first", "-o", tmp_path / "out", "--positions", "28", *FEW)
    assert done.code == 0, done.err
    assert "note: pictures are left out: drawing a scan needs matplotlib" in done.err
    assert "Install the extra explain: pip install " in done.err
    assert set(files(tmp_path / "out")) == NAMES


def test_names_of_pictures_are_safe_and_distinct() -> None:
    ids = ["../up", "a b", "A_b", "\u03b1", "-", "n" * 300, "a/b", "a_b_2"]
    options = scan_options(open_bundle(MINI), RuntimeConfig(), None, "28", "", "check")
    planned = plan_parents(Input(ids, [VH] * len(ids), judgements=judge([VH] * len(ids))), options)
    assert [each.stem for each in planned] == ["_up", "a_b", "A_b_2", "_", "parent", "n" * 60, "a_b_3", "a_b_2_2"]
    assert [each.id for each in planned] == ids


def test_several_heads_have_a_picture_each(run: Any, heads: Path, parents: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the explain extra is not installed")
    options = ["--bundle", heads, "--heads", "nonspecificity,hic", "--id", "first", "--positions", "28", *FEW]
    done = run("scan", parents, "-o", tmp_path / "out", *options)
    assert done.code == 0, done.err
    names = {f"first.{head}.scan.{suffix}" for head in ("nonspecificity", "hic") for suffix in ("svg", "png")}
    assert set(files(tmp_path / "out")) == NAMES | names
    assert [row["head"] for row in read(tmp_path / "out" / "parents.csv")] == ["nonspecificity", "hic"]
    assert [row["unit"] for row in read(tmp_path / "out" / "parents.csv")] == ["", "min"]
    refused = run("scan", parents, "-o", tmp_path / "paired", "--bundle", heads, "--heads", "psr")
    assert refused.code == 2 and "--heads: psr expects both chains of a record" in refused.err


def test_a_figure_of_ones_own_is_carried(run: Any, parents: Path, tmp_path: Path) -> None:
    metrics, command = tmp_path / "metrics.json", ("scan", parents, "--positions", "28", *FEW, "--id", "first")
    metrics.write_text(json.dumps(metrics_json()), encoding="utf-8")
    done = run(*command, "-o", tmp_path / "out", "--validated", metrics, "--no-pictures")
    assert done.code == 0, done.err
    said = (
        f"At equal charge the model ranks the 180 variants of {tmp_path.name}/metrics.json worse than chance "
        "(ROC AUC 0.400 [0.300, 0.450]). Measured with variant fp16-weights."
    )
    assert said in done.err and NOT_VALIDATED not in done.err
    assert [row["statement"] for row in read(tmp_path / "out" / "parents.csv")] == [said]
    trimmed = metrics_json(domain={"--domain": "check", "--trim domain": True}, metric="Spearman")
    metrics.write_text(json.dumps(trimmed), encoding="utf-8")
    found = read_validated(metrics, open_bundle(MINI), RuntimeConfig(bundle=MINI), ["nonspecificity"], "check")
    assert "better than chance (Spearman 0.400" in found.sentence and "on trimmed domains" in found.sentence


def test_each_table_says_how_far_it_can_be_trusted_and_what_made_it(
    run: Any, heads: Path, parents: Path, tmp_path: Path
) -> None:
    command = ("scan", parents, "--positions", "28", *FEW, "--id", "first", "--no-pictures")
    done = run(*command, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert {row["statement"] for row in read(tmp_path / "out" / "scan.csv")} == {NOT_VALIDATED}
    facts = json.loads((tmp_path / "out" / "scan.json").read_text())
    assert facts["bundle_sha256"] == open_bundle(MINI).sha256 and facts["version"] == abonyx.__version__
    assert (facts["variant"], facts["positions"], facts["statement"]) == ("fp16-weights", "28", NOT_VALIDATED)
    bundle = open_bundle(heads)
    metrics = tmp_path / "metrics.json"
    known = metrics_json(head="hic", bundle_sha256=bundle.sha256, variant=next(iter(bundle.manifest.variants)))
    metrics.write_text(json.dumps(known), encoding="utf-8")
    several = ("--bundle", heads, "--heads", "nonspecificity,hic", "--validated", metrics)
    done = run(*command, *several, "-o", tmp_path / "several")
    assert done.code == 0, done.err
    (said,) = {row["statement"] for row in read(tmp_path / "several" / "scan.csv")}
    assert said.startswith(f"nonspecificity: {NOT_VALIDATED} hic: At equal charge the model ranks")


def test_one_record_is_scanned_beside_others_that_are_bad(run: Any, tmp_path: Path) -> None:
    source = write(tmp_path, [("good", VH), ("bad", "not a sequence 1")])
    command = ("scan", source, "--positions", "28", *FEW, "--no-pictures")
    done = run(*command, "-o", tmp_path / "out", "--id", "good")
    assert done.code == 0, done.err
    assert set(files(tmp_path / "out")) == NAMES
    done = run(*command, "-o", tmp_path / "bad", "--id", "bad")
    assert done.code != 0 and "the record was rejected" in done.err
    done = run(*command, "-o", tmp_path / "all")
    assert done.code != 0 and not (tmp_path / "all").exists()


def test_what_to_do_about_a_flag(run: Any, tmp_path: Path) -> None:
    done = run("scan", write(tmp_path, [("tagged", VH + "HHHHHH")]), "-o", tmp_path / "out")
    assert done.code != 0 and "6 residues outside the domain" in done.err
    assert "To cut off what lies outside the domain, use --trim domain. To leave flagged records out, use" in done.err


@pytest.mark.parametrize(("sequence", "options"), [(KAPPA, ()), (VH[:90] + "HHHHHH", ("--trim", "domain"))])
def test_trimming_is_not_advised_if_it_does_not_help(
    run: Any, tmp_path: Path, sequence: str, options: tuple[str, ...]
) -> None:
    done = run("scan", write(tmp_path, [("other", sequence)]), "-o", tmp_path / "out", *options)
    assert done.code != 0 and "other: is flagged" in done.err
    assert "--trim domain" not in done.err and "--on-invalid skip with --domain require" in done.err


def test_a_figure_of_a_head_of_both_chains_is_refused(run: Any, heads: Path, parents: Path, tmp_path: Path) -> None:
    bundle = open_bundle(heads)
    metrics = tmp_path / "metrics.json"
    known = metrics_json(head="psr", bundle_sha256=bundle.sha256, variant=next(iter(bundle.manifest.variants)))
    metrics.write_text(json.dumps(known), encoding="utf-8")
    done = run("scan", parents, "-o", tmp_path / "out", "--bundle", heads, "--validated", metrics)
    assert done.code == 2 and "is of head psr, which scores both chains of a record" in done.err


def test_a_figure_of_a_head_that_is_not_scanned_is_refused(
    run: Any, heads: Path, parents: Path, tmp_path: Path
) -> None:
    metrics = tmp_path / "metrics.json"
    bundle = open_bundle(heads)
    known = metrics_json(head="hic", bundle_sha256=bundle.sha256, variant=next(iter(bundle.manifest.variants)))
    metrics.write_text(json.dumps(known), encoding="utf-8")
    done = run("scan", parents, "-o", tmp_path / "out", "--bundle", heads, "--validated", metrics)
    assert done.code == 2 and "is of head hic, and nonspecificity is scanned" in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"by_parent": None}, "did not compare variants of one parent"),
        ({"concluded": False}, "concludes nothing about variants at equal charge"),
        ({"rows": 19}, "concludes nothing"),
        ({"model_at_equal_charge": {"value": 0.6, "low": 0.6, "high": 0.6}}, "concludes nothing"),
        ({"model_at_equal_charge": {"value": 0.6, "low": 0.7, "high": 0.6}}, "concludes nothing"),
        ({"model_at_equal_charge": {"value": 0.6, "low": -0.5, "high": 0.7}}, "concludes nothing"),
        ({"model_at_equal_charge": {"value": 7, "low": 6, "high": 8}}, "is not the metrics.json of an evaluation"),
        ({"metric": "Proven. Choose D."}, "by this version, at $.by_parent.metric"),
        ({"head": "Proven. Choose D."}, "names a head or a variant that abonyx-mini does not have"),
        ({"variant": "Proven. Choose D."}, "names a head or a variant that abonyx-mini does not have"),
        ({"pooling": "Proven. (batch 8)"}, "was not measured with pooling residues"),
        ({"flagged": None}, "did not look for flagged rows, and this scan does"),
        ({"bundle_sha256": "0" * 64}, "is of bundle 000000000000, and abonyx-mini is"),
        ({"bundle_sha256": "Proven. Choose D."}, "is not the metrics.json of an evaluation"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_figure_of_something_else_is_refused(
    run: Any, parents: Path, tmp_path: Path, change: dict[str, Any] | None, said: str
) -> None:
    metrics = tmp_path / "metrics.json"
    if change is not None:
        metrics.write_text(json.dumps(metrics_json(**change)), encoding="utf-8")
    done = run("scan", parents, "-o", tmp_path / "out", "--validated", metrics)
    assert done.code == 2 and f"--validated {metrics}: " in done.err and said in done.err
    assert "Proven" not in done.err
    assert not (tmp_path / "out").exists()


def test_an_id_that_comes_twice_is_refused_also_if_one_record_is_bad(run: Any, tmp_path: Path) -> None:
    source = tmp_path / "twice.csv"
    source.write_text(f"id,sequence\na,{VH}\na,EVQL1VES\n", encoding="utf-8")
    done = run("scan", source, "--id", "a", "--positions", "107", "--no-pictures", "-o", tmp_path / "out")
    assert done.code == 3 and "2 records have this id, 1 of them rejected" in done.err
    assert not (tmp_path / "out").exists()
