"""`--summary FILE`: the printed figures as JSON, complete or not written."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from abonyx.explain import scan_files
from abonyx.first_open import MINI_SHA256
from abonyx.output.resumable import ResumableOutput
from abonyx.run import resumed

from ...conftest import EXAMPLES
from ..domain.proteins import VH

KEYS = {
    *("schema", "command", "abonyx", "records", "scored", "earlier", "rejected", "rejected_reasons", "domain"),
    *("flagged", "without_call", "flags", "seconds", "open_seconds", "bundle", "variant", "provider", "heads"),
    *("outputs", "notes"),
}
MIXED = f"id,sequence\na,{VH}\nb,{VH[:60]}\nc,EV*QL\nd,EVQ*L\ne,{VH}HHHHHH\nf,\n"


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    path = tmp_path / "mixed.csv"
    path.write_text(MIXED, encoding="utf-8")
    return path


def read(path: Path, *more: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    assert set(found) == KEYS | set(more)
    assert found["scored"] + found["rejected"] == found["records"]
    assert sum(found["rejected_reasons"].values()) == found["rejected"]
    assert found["bundle"] == {"name": "abonyx-mini", "sha256": MINI_SHA256}
    assert (found["schema"], found["variant"], found["provider"]) == (1, "fp16-weights", "cpu")
    for output in found["outputs"]:
        assert Path(output).is_absolute() and Path(output).exists()
    return found


def test_score(run: Any, tmp_path: Path, mixed: Path) -> None:
    out, summary = tmp_path / "out.csv", tmp_path / "s.json"
    done = run("score", mixed, "-o", out, "--on-invalid", "skip", "--summary", summary)
    assert (done.code, done.out) == (0, "")
    found = read(summary)
    assert (found["command"], found["records"], found["scored"], found["earlier"]) == ("score", 6, 3, 0)
    assert f"{found['scored']} sequences scored, {found['rejected']} rejected, in {found['seconds']:.2f} s" in done.err
    reasons = list(found["rejected_reasons"].items())
    assert reasons[0] == ("character '*' at position N is not a residue (ACDEFGHIKLMNPQRSTVWYX)", 2)
    flagged = re.search(r"flagged: (\d) of 3 records \((.*)\); (\d) without a call", done.err)
    assert flagged and (str(found["flagged"]), str(found["without_call"])) == (flagged[1], flagged[3])
    assert ", ".join(f"{name} {count}" for name, count in found["flags"].items()) == flagged[2]
    assert found["outputs"] == [str(out), str(tmp_path / "out.csv.rejected.csv")]
    assert found["heads"] == ["nonspecificity"] and found["open_seconds"] > 0
    assert VH not in summary.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("mixed.csv", "out.csv", "out.csv.rejected.csv", "s.json")
    ]


def test_embed_and_explain(run: Any, tmp_path: Path) -> None:
    summary = tmp_path / "s.json"
    assert run("embed", EXAMPLES, "-o", tmp_path / "e.npy", "--summary", summary).code == 0
    found = read(summary)
    assert (found["command"], found["scored"], found["heads"], found["without_call"]) == ("embed", 12, [], 0)
    assert found["outputs"] == [str(tmp_path / "e.npy"), str(tmp_path / "e.ids.csv")]
    assert run("explain", EXAMPLES, "-o", tmp_path / "x", "--no-pictures", "--summary", summary).code == 0
    found = read(summary)
    assert (found["command"], found["scored"], found["heads"]) == ("explain", 12, ["nonspecificity"])
    assert found["outputs"] == [str(tmp_path / "x")] and found["open_seconds"] is None and found["seconds"] > 0
    assert any("small model that ships" in note for note in found["notes"])  # the printed lines
    rule = ("--pooling", "upstream-batch", "--batch-size", "8")
    done = run("explain", EXAMPLES, "-o", tmp_path / "y", "--no-pictures", "--summary", summary, *rule)
    assert done.code == 0 and any("these scores use upstream-batch" in note for note in read(summary)["notes"])


def test_scan(run: Any, tmp_path: Path) -> None:
    source, summary = tmp_path / "in.csv", tmp_path / "s.json"
    source.write_text(f"id,sequence\na,{VH}\nb,EV*QL\n", encoding="utf-8")
    command = ("scan", source, "--positions", "107", "--no-pictures", "--summary", summary)
    done = run(*command, "-o", tmp_path / "all", "--on-invalid", "skip")
    assert done.code == 0, done.err
    found = read(summary, "mutants")
    assert (found["command"], found["records"], found["scored"], found["rejected"]) == ("scan", 2, 1, 1)
    assert (found["mutants"], found["earlier"], found["heads"]) == (19, 0, ["nonspecificity"])
    assert f"1 parent scanned, 19 mutants, in {found['seconds']:.2f} s" in done.err and found["open_seconds"] > 0
    assert found["outputs"] == [str(tmp_path / "all")]
    printed = done.err.splitlines()
    assert printed[2:-1] == found["notes"] and found["notes"][-1].startswith("Ranking of mutants at equal charge")
    assert run(*command, "-o", tmp_path / "one", "--id", "a").code == 0
    assert (read(summary, "mutants")["records"], read(summary, "mutants")["rejected"]) == (1, 0)


def test_a_resumed_scan_counts_what_was_there(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary, out = tmp_path / "s.json", tmp_path / "out"
    command = ("scan", EXAMPLES, "--positions", "107", "--no-pictures", "--summary", summary, "-o", out)
    scanned, usual = list[int](), scan_files.run_scan

    def run_scan(*arguments: Any) -> Any:
        scanned.append(1)
        if len(scanned) == 3:
            raise KeyboardInterrupt
        return usual(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(scan_files, "run_scan", run_scan)
        assert run(*command).code == 130
    assert not summary.exists()

    assert run(*command[:-4], "--summary", out / "s.json", "-o", out).code == 2

    def ended(_output: ResumableOutput) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # stopped behind the last parent
        patch.setattr(ResumableOutput, "finish", ended)
        assert run(*command).code == 130
    assert not summary.exists()
    assert run(*command).code == 0
    found = read(summary, "mutants")
    assert (found["scored"], found["earlier"], found["mutants"]) == (12, 12, 12 * 19)
    assert (found["seconds"], found["open_seconds"]) == (None, None)


def test_results_on_standard_output_are_no_file(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(EXAMPLES.read_bytes()))
    monkeypatch.setattr("sys.stdin", stdin)
    done = run("score", "-", "-o", "-", "--domain", "off", "--summary", tmp_path / "s.json")
    assert done.code == 0 and done.out.startswith("id,")
    found = read(tmp_path / "s.json")
    assert (found["outputs"], found["domain"], found["flagged"]) == ([], "off", 0)


def test_a_resumed_run_counts_what_was_there(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABONYX_WINDOW_SIZE", "5")
    begin, out, summary = resumed._FileSink.begin, tmp_path / "out.csv", tmp_path / "s.json"

    def ended(sink: Any, start: int) -> None:
        if start == 10:
            raise KeyboardInterrupt
        begin(sink, start)

    with monkeypatch.context() as patch:
        patch.setattr(resumed._FileSink, "begin", ended)
        assert run("score", EXAMPLES, "-o", out, "--summary", summary).code == 130
    assert not summary.exists()
    assert run("score", EXAMPLES, "-o", out, "--summary", summary).code == 0
    found = read(summary)
    assert (found["scored"], found["earlier"]) == (12, 10)


def test_every_row_scored_by_an_earlier_process(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("abonyx.run.resumed.run_file", lambda _run, restart: (tmp_path / "out.csv").touch())
    assert run("score", EXAMPLES, "-o", tmp_path / "out.csv", "--summary", tmp_path / "s.json").code == 0
    found = read(tmp_path / "s.json")
    assert (found["scored"], found["earlier"], found["seconds"], found["open_seconds"]) == (12, 12, None, None)


def test_a_run_that_fails_writes_none_and_leaves_the_old_one(run: Any, tmp_path: Path, mixed: Path) -> None:
    summary = tmp_path / "s.json"
    summary.write_text("old")
    assert run("score", mixed, "-o", tmp_path / "out.csv", "--summary", summary).code == 3
    assert summary.read_text() == "old"


def test_a_summary_that_cannot_be_written(run: Any, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    source = tmp_path / "in.csv"
    source.write_bytes(EXAMPLES.read_bytes())
    (tmp_path / "link.json").symlink_to(out)
    (tmp_path / "link2.json").symlink_to(tmp_path / "out.csv.journal")
    for summary, part in (
        ("-", "standard output is for results"),
        (out, "is the output"),
        (tmp_path / "link.json", "is the output"),
        (tmp_path / "link2.json", "is the output"),
        (tmp_path / "out.csv.journal", "is the output"),
        (tmp_path / "out.csv.partial", "is the output"),
        (tmp_path / "out.csv.rejected.csv", "is the output"),
        (source, "is the input"),
        (tmp_path, "is a directory"),
        (tmp_path / "none" / "s.json", "there is no directory"),
        ("/dev/null", "is a device"),
    ):
        done = run("score", source, "-o", out, "--summary", summary)
        assert (done.code, done.out) == (2, "") and part in done.err, done
    assert not out.exists()
    done = run("score", source, EXAMPLES, "-o", tmp_path / "many", "--summary", tmp_path / "s.json")
    assert done.code == 2 and str(tmp_path / "many" / "_abonyx" / "summary.json") in done.err
    done = run("explain", source, "-o", tmp_path / "x", "--no-pictures", "--summary", source)
    assert done.code == 2 and "is the input" in done.err and not (tmp_path / "x").exists()
