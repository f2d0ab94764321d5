"""Records that are judged while they are scored: same bytes, same refusals, resumed, and no row without its flag."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

import abonyx
from abonyx.config import RuntimeConfig
from abonyx.domain import LaterJudgements, child, judge, later
from abonyx.errors import EngineError, RecordsRejected
from abonyx.run.request import prepare
from abonyx.run.run_file import SIDE
from abonyx.run.windows import run_windows

from ..domain.proteins import KAPPA, NANOBODY, VH
from ..domain.test_pool import POISONED

KINDS = [VH, KAPPA, NANOBODY, VH[10:], VH + "HHHHHH", VH.replace("GFN", "GXN")]
SMALL = RuntimeConfig(window_size=7)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    texts = [kind[:at] + "A" + kind[at + 1 :] for at, kind in itertools.product(range(1, 9), KINDS)]
    path = tmp_path / "in.csv"
    path.write_text("id,sequence\n" + "".join(f"r{number},{text}\n" for number, text in enumerate(texts + KINDS)))
    return path


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Two children for any number of records, some of them for each."""
    monkeypatch.setattr(later, "children_beside", lambda records: 2 if records else 0)
    monkeypatch.setattr("abonyx.domain.pool.PIECE", 10)
    return monkeypatch


@pytest.mark.parametrize("more", [{}, {"domain": "require", "skip_invalid": True}, {"trim": "domain"}])
def test_the_same_bytes_and_summary(table: Path, beside: pytest.MonkeyPatch, more: dict[str, Any]) -> None:
    outputs = [table.with_name(name) for name in ("beside.csv", "before.csv")]
    judged_beside = abonyx.score_file(table, outputs[0], config=SMALL, **more)
    assert not psutil.Process().children()
    beside.setattr(later, "children_beside", lambda _records: 0)
    judged_before = abonyx.score_file(table, outputs[1], config=SMALL, **more)
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    assert judged_beside.flags == judged_before.flags != {}
    assert (judged_beside.records, judged_beside.problems) == (judged_before.records, judged_before.problems)
    assert "light chain (kappa)" in outputs[0].read_text() or "domain" in more


def test_a_directory_counts_the_flags_after_its_files_are_scored(
    run: Any, table: Path, beside: pytest.MonkeyPatch
) -> None:
    """A file's records are not judged before the model scores them, and its counts are complete."""
    inputs, left = table.with_name("in"), []
    inputs.mkdir()
    table.rename(inputs / "a.csv")
    (inputs / "b.csv").write_text(f"id,sequence\nx,{VH}\ny,{KAPPA}\n")
    scored = run_windows

    def watched(bundle: Any, jobs: Any, *more: Any) -> Any:
        left.extend(job.checked.judgements.left for job in jobs)
        return scored(bundle, jobs, *more)

    beside.setattr("abonyx.run.resumed.run_windows", watched)
    outputs = [table.with_name(name) for name in ("beside", "before")]
    command = ["score", inputs, "-o"]
    assert run(*command, outputs[0]).code == 0
    assert left == [54, 2] and not psutil.Process().children()
    beside.setattr(later, "children_beside", lambda _records: 0)
    beside.setattr("abonyx.run.resumed.run_windows", scored)
    assert run(*command, outputs[1]).code == 0
    for name in ("a.csv", "b.csv"):
        assert (outputs[0] / name).read_bytes() == (outputs[1] / name).read_bytes()
    summaries = [json.loads((output / SIDE / "summary.json").read_bytes()) for output in outputs]
    for key in ("records", "rejected", "flagged", "uncalled", "flags"):
        assert summaries[0][key] == summaries[1][key], key
    assert summaries[0]["records"] == 56 and summaries[0]["flags"]["light chain (kappa)"] > 1


def test_a_resumed_file_of_a_directory_counts_all_its_rows(run: Any, table: Path, beside: pytest.MonkeyPatch) -> None:
    inputs, output, whole = (table.with_name(name) for name in ("in", "out", "whole"))
    inputs.mkdir()
    table.rename(inputs / "a.csv")
    beside.setenv("ABONYX_WINDOW_SIZE", "7")
    assert run("score", inputs, "-o", whole).code == 0
    poison = (whole / "a.csv").read_text().splitlines()[30].split(",")[1]
    with beside.context() as patch:
        patch.setattr(child, "_CHILD", POISONED.format(poison=poison, does="import os; os._exit(9)"))
        done = run("score", inputs, "-o", output)
    assert done.code == 1 and "two processes ended while they judged the same records" in done.err, done.err
    assert not (output / "a.csv").exists()
    done = run("score", inputs, "-o", output)
    assert done.code == 0 and "resuming after row" in done.err, done.err
    assert (output / "a.csv").read_bytes() == (whole / "a.csv").read_bytes()
    summaries = [json.loads((folder / SIDE / "summary.json").read_bytes()) for folder in (output, whole)]
    for key in ("records", "rejected", "flagged", "uncalled", "flags"):
        assert summaries[0][key] == summaries[1][key], key


def test_only_a_rule_that_rejects_none_can_wait(table: Path, beside: pytest.MonkeyPatch) -> None:
    for check, trim, waits in (("check", False, True), ("require", False, False), ("check", True, False)):
        checked = prepare(skip=True, check=check, trim=trim).read(table)  # type: ignore[arg-type]
        assert isinstance(checked.judgements, LaterJudgements) == waits
        assert list(checked.judgements) == judge(checked.sequences)
    assert not isinstance(prepare(check="off").read(table).judgements, LaterJudgements)


def test_what_is_too_long_says_what_it_is(table: Path, beside: pytest.MonkeyPatch) -> None:
    long = VH + "GGGGSGGGGSGGGGS" + KAPPA
    table.write_text(table.read_text() + f"long,{long}\nalso,{long}\n")
    with pytest.raises(RecordsRejected, match="what was found: two domains; 15 residues outside the domain"):
        abonyx.score_file(table)
    summary = abonyx.score_file(table, skip_invalid=True)
    assert [problem.id for problem in summary.problems] == ["long", "also"]
    assert [row.flag for row in summary.rows] == [each.text for each in judge([row.sequence for row in summary.rows])]


def test_children_that_end_keep_whole_windows_and_the_run_is_resumed(table: Path, beside: pytest.MonkeyPatch) -> None:
    output, whole = table.with_name("out.csv"), table.with_name("whole.csv")
    abonyx.score_file(table, whole, config=SMALL)
    rows = whole.read_text().splitlines()
    poison = rows[30].split(",")[1]
    with beside.context() as patch:
        patch.setattr(child, "_CHILD", POISONED.format(poison=poison, does="import os; os._exit(9)"))
        with pytest.raises(EngineError, match="two processes ended while they judged the same records: code 9"):
            abonyx.score_file(table, output, config=SMALL)
    assert not output.exists() and not psutil.Process().children()
    summary = abonyx.score_file(table, output, config=SMALL)
    assert 0 < summary.earlier <= 28 and summary.earlier % 7 == 0
    assert output.read_bytes() == whole.read_bytes()
    assert sum(summary.flags.values()) > 0


def test_a_model_that_cannot_be_opened_leaves_no_process(table: Path, beside: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        end = time.monotonic() + 60
        while not psutil.Process().children():  # their start begins before the model is opened
            assert time.monotonic() < end
            time.sleep(0.01)
        raise EngineError("not opened", "Again.")

    beside.setattr("abonyx.model.open_model", broken)
    with pytest.raises(EngineError, match="not opened"):
        abonyx.score_file(table, table.with_name("out.csv"))
    assert not psutil.Process().children()
