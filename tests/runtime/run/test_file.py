"""score_file is `abonyx score` as a function: same bytes, same refusals, resumed runs, and progress."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import abonyx
from abonyx.errors import ConfigError, InputError, RecordsRejected, ResumeRefused, SessionInUse

from ...conftest import EXAMPLES

# Four windows of the twelve examples.
SMALL = abonyx.RuntimeConfig(window_size=3)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_the_bytes_are_the_commands(suffix: str, run: Any, tmp_path: Path) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    by_command, by_function = tmp_path / f"command.{suffix}", tmp_path / f"function.{suffix}"
    assert run("score", EXAMPLES, "-o", by_command).code == 0
    summary = abonyx.score_file(EXAMPLES, by_function)
    assert by_function.read_bytes() == by_command.read_bytes()
    assert (summary.output, summary.records, summary.rejected, summary.earlier) == (by_function, 12, 0, 0)
    assert (summary.threshold, summary.problems, summary.flags, summary.rows) == (0.5, [], {}, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == [by_command.name, by_function.name]


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    abonyx.score_file(str(EXAMPLES), str(tmp_path / "out.csv"))
    assert capfd.readouterr() == ("", "")


def test_without_an_output_the_scores_are_in_the_answer(sequences: list[str], tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text(f"id,sequence\na,{sequences[0]}\nb,{sequences[1][:60]}\nc,EV-Q\nd,M{sequences[2]}\n")
    with abonyx.open_session() as session:
        summary = abonyx.score_file(source, session=session, skip_invalid=True, trim="domain", threshold=0.25)
        p = session.score([sequences[0], sequences[1][:60], sequences[2]])
    assert list(tmp_path.iterdir()) == [source]
    assert [row.id for row in summary.rows] == ["a", "b", "d"]
    assert [row.sequence for row in summary.rows] == [sequences[0], sequences[1][:60], f"M{sequences[2]}"]
    assert np.allclose([row.p_nonspecific for row in summary.rows], p, atol=1e-5)
    assert [row.nonspecific for row in summary.rows] == [int(p[0] > 0.25), None, int(p[2] > 0.25)]
    assert [row.flag for row in summary.rows] == ["", "fragment", ""]
    assert summary.rows[2].domain == f"2-{len(sequences[2]) + 1}"
    assert (summary.records, summary.rejected, summary.flags, summary.output) == (3, 1, {"fragment": 1}, None)
    (problem,) = summary.problems
    assert (problem.id, problem.line) == ("c", 4)
    assert problem.reason.endswith('; gaps="strip" removes gaps and a final *')


def test_rejected_records_are_listed_beside_the_output(sequences: list[str], tmp_path: Path) -> None:
    source, output = tmp_path / "in.fasta", tmp_path / "out.csv"
    source.write_text(f">a\n{sequences[0]}\n>b\n!\n")
    with pytest.raises(RecordsRejected, match="score the others with skip_invalid=True") as caught:
        abonyx.score_file(source, output)
    assert "--" not in str(caught.value)
    summary = abonyx.score_file(source, output, skip_invalid=True)
    assert (summary.records, summary.rejected) == (1, 1)
    assert (tmp_path / "out.csv.rejected.csv").read_text().splitlines()[1].startswith("b,")


class Stopped(Exception):
    pass


def test_an_interrupted_run_is_resumed_to_the_same_bytes(tmp_path: Path) -> None:
    whole, output = tmp_path / "whole.csv", tmp_path / "out.csv"
    abonyx.score_file(EXAMPLES, whole, config=SMALL)
    told: list[tuple[int, int]] = []

    def stopping(done: int, total: int) -> None:
        told.append((done, total))
        if done > 6:
            raise Stopped

    with pytest.raises(Stopped):
        abonyx.score_file(EXAMPLES, output, config=SMALL, progress=stopping)
    assert told[0] == (0, 12) and told[-1][0] > 6
    assert not output.exists()
    with pytest.raises(ResumeRefused, match=r"threshold: 0\.5 then, 0\.25 now(.|\n)*restart=True"):
        abonyx.score_file(EXAMPLES, output, config=SMALL, threshold=0.25)
    told.clear()
    summary = abonyx.score_file(EXAMPLES, output, config=SMALL, progress=lambda *each: told.append(each))
    assert summary.earlier == 6 and summary.records == 12
    assert told[0] == (6, 12) and told[-1] == (12, 12)
    assert output.read_bytes() == whole.read_bytes()


def test_a_command_that_was_stopped_is_resumed_by_the_function(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.csv"

    def stopping(done: int, total: int) -> None:
        if done > 6:
            raise Stopped

    with pytest.raises(Stopped):
        abonyx.score_file(EXAMPLES, output, config=SMALL, progress=stopping)
    monkeypatch.setenv("ABONYX_WINDOW_SIZE", "3")
    done = run("score", EXAMPLES, "-o", output)
    assert done.code == 0
    assert "6 sequences scored after 6 of an interrupted run" in done.err


def test_restart_drops_what_was_left(tmp_path: Path) -> None:
    output = tmp_path / "out.csv"

    def stopping(done: int, total: int) -> None:
        if done > 6:
            raise Stopped

    with pytest.raises(Stopped):
        abonyx.score_file(EXAMPLES, output, config=SMALL, progress=stopping)
    summary = abonyx.score_file(EXAMPLES, output, config=SMALL, threshold=0.25, restart=True)
    assert (summary.earlier, summary.threshold) == (0, 0.25)


def test_the_callers_session_is_used_and_stays_open(tmp_path: Path) -> None:
    with abonyx.open_session(SMALL) as session:
        abonyx.score_file(EXAMPLES, tmp_path / "session.csv", session=session)
        assert "open" in repr(session)
        with pytest.raises(SessionInUse, match="Give it as session="):
            abonyx.score_file(EXAMPLES, tmp_path / "other.csv")
    abonyx.score_file(EXAMPLES, tmp_path / "own.csv", config=SMALL)
    assert (tmp_path / "session.csv").read_bytes() == (tmp_path / "own.csv").read_bytes()


def test_another_thread_may_score_a_file(tmp_path: Path) -> None:
    answers: list[Any] = []

    def work() -> None:
        try:
            answers.append(abonyx.score_file(EXAMPLES, tmp_path / "out.csv"))
        except BaseException as error:
            answers.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(120)
    assert answers[0].records == 12


def test_what_cannot_be_done_is_refused_in_pythons_words_before_anything_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("abonyx.model.open_model", lambda *_: pytest.fail("a model was opened"))
    output = tmp_path / "out.csv"
    for options, said in (
        ({"format": "xml"}, "format is 'xml'"),
        ({"domain": "on"}, "domain is 'on'"),
        ({"gaps": "keep"}, "gaps is 'keep'"),
        ({"trim": "domain", "domain": "off"}, "trim domain with domain off"),
        ({"threshold": 0.5, "assay": "psr"}, "assay psr and threshold 0.5 were both given"),
        ({"config": 3}, "config is 3"),
        ({"session": 3}, "session is 3"),
    ):
        with pytest.raises(ConfigError, match=said):
            abonyx.score_file(EXAMPLES, output, **options)
    with pytest.raises(
        ConfigError,
        match=r"the suffix \.txt is not a known format\nUse .csv, .tsv, .csv.gz, .tsv.gz, .jsonl, .parquet or format",
    ):
        abonyx.score_file(EXAMPLES, tmp_path / "out.txt")
    with pytest.raises(ConfigError, match="restart=True was given without output"):
        abonyx.score_file(EXAMPLES, restart=True)
    with pytest.raises(ConfigError, match="is the input"):
        abonyx.score_file(EXAMPLES, EXAMPLES)
    with pytest.raises(InputError, match="cannot be read"):
        abonyx.score_file(tmp_path / "none.csv", output)
    with pytest.raises(InputError, match="Name one of them with sequence_column"):
        abonyx.score_file(EXAMPLES, output, sequence_column="vh")
    assert list(tmp_path.iterdir()) == []
