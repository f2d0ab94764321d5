"""The scoring thread: fair rounds, values that do not depend on other requests, and no endless waiting."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

for _name in ("fastapi", "uvicorn", "prometheus_client"):
    pytest.importorskip(_name, reason="the serve extra is not installed")

from abonyx.bundle.tolerances import BATCH_NEIGHBOURS  # noqa: E402
from abonyx.config import RuntimeConfig  # noqa: E402
from abonyx.errors import ConfigError, EngineError, RequestRefused, ScoreNotFinite  # noqa: E402
from abonyx.serve.jobs import QueuedJob, Share  # noqa: E402
from abonyx.serve.metrics import Metrics  # noqa: E402
from abonyx.serve.model import refuse_upstream_pooling  # noqa: E402
from abonyx.serve.scheduler import ROUND_BATCHES, Scheduler  # noqa: E402
from abonyx.serve.server import running  # noqa: E402
from abonyx.session import State, open_session  # noqa: E402

from ...conftest import MINI  # noqa: E402
from ..hostile import shift_head  # noqa: E402
from .serving import PATIENCE_S, Held, at_once, held_session, made_up, until  # noqa: E402

MOST = 2_000


@contextlib.contextmanager
def scheduling() -> Iterator[tuple[Scheduler, Held]]:
    with held_session() as (session, engine), running(Scheduler(session, MOST, Metrics())) as scheduler:
        try:
            yield scheduler, engine
        finally:
            engine.go_on.set()


def submit(
    scheduler: Scheduler, sequences: list[str], heads: tuple[str, ...] | None = ("nonspecificity",)
) -> QueuedJob:
    ids = [f"s{number}" for number in range(len(sequences))]
    return scheduler.submit(scheduler.model(), ids, sequences, heads, lambda: None)


def values(job: QueuedJob) -> Any:
    until(lambda: job.settled)
    if job.error:
        raise job.error
    return job.values[:, 0] if job.heads else job.values


def recorded(scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch) -> list[list[Share]]:
    rounds: list[list[Share]] = []
    score = scheduler._score

    def record(shares: list[Share]) -> None:
        rounds.append(shares)
        score(shares)

    monkeypatch.setattr(scheduler, "_score", record)
    return rounds


def test_a_score_is_the_same_alone_and_in_any_company() -> None:
    requests = [made_up(count, seed) for seed, count in enumerate((1, 25, 3, 1, 9, 40, 2, 5))]
    with open_session() as session:
        alone = [np.array([session.score([one])[0] for one in sequences]) for sequences in requests]
        embedding = session.embed(requests[4])
    with scheduling() as (scheduler, engine):
        with engine.held():
            jobs = [submit(scheduler, sequences) for sequences in requests]
            embedded = submit(scheduler, requests[4], None)
        for job, expected in zip(jobs, alone, strict=True):
            np.testing.assert_allclose(values(job), expected, rtol=0, atol=BATCH_NEIGHBOURS)
        np.testing.assert_allclose(values(embedded), embedding, rtol=0, atol=BATCH_NEIGHBOURS)
        assert engine.batches < sum(map(len, requests)) / 4  # they did share batches


def test_a_small_request_is_not_held_up_by_a_large_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with scheduling() as (scheduler, engine):
        rounds = recorded(scheduler, monkeypatch)
        with engine.held():
            submit(scheduler, made_up(1, 0))
            assert engine.inside.wait(PATIENCE_S)
            large, small = submit(scheduler, made_up(400, 1)), submit(scheduler, made_up(5, 2))
            also = submit(scheduler, made_up(2, 3), None)
        until(lambda: small.settled and also.settled)
        values(large)
    first, second, third = rounds[1:4]
    assert {share.job for share in first} == {large, small}
    assert len(next(share.rows for share in first if share.job is small)) == 5
    assert [share.job for share in second] == [also]  # the other output's turn came before more of the large one
    assert [share.job for share in third] == [large]
    # every round except the last is full, with any requests in it
    budget = scheduler._session.budget.tokens
    for shares in (first, third):
        tokens = sum(len(share.job.sequences[row]) + 2 for share in shares for row in share.rows)
        assert ROUND_BATCHES * budget <= tokens < ROUND_BATCHES * budget + 50


def test_the_longest_of_a_request_come_first_and_its_values_in_its_own_order() -> None:
    sequences = made_up(50, 4)
    with scheduling() as (scheduler, _):
        job = submit(scheduler, sequences)
        found = values(job)
    assert [len(sequences[row]) for row in QueuedJob(job.ids, sequences, job.heads, found, print).left] == sorted(
        map(len, sequences), reverse=True
    )
    with open_session() as session:
        np.testing.assert_allclose(found, session.score(sequences), rtol=0, atol=BATCH_NEIGHBOURS)


def test_a_request_that_cannot_be_scored_does_not_take_others_along(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bad = "W" * 9
    with scheduling() as (scheduler, engine):
        run = engine.native.run
        pad = scheduler.model().bundle.manifest.alphabet

        def poisoned(outputs: list[str], feed: Any) -> Any:
            (sums,) = run(outputs, feed)
            rows = (feed["input_ids"][:, 1:10] == pad.residues["W"]).all(axis=1)
            return [np.where(rows[:, None], np.nan, sums)]

        monkeypatch.setattr(engine, "native", type("Native", (), {"run": staticmethod(poisoned)})())
        with engine.held():
            submit(scheduler, made_up(1, 0))
            assert engine.inside.wait(PATIENCE_S)
            jobs = [submit(scheduler, [*made_up(3, seed), *([bad] if seed == 2 else [])]) for seed in range(1, 5)]
        found = []
        for job in jobs:
            try:
                found.append(len(values(job)))
            except EngineError as error:
                assert isinstance(error, ScoreNotFinite) and "s3" in str(error) and "1 of 4" in str(error)
                found.append(-1)
    assert found == [3, -1, 3, 3]
    # ids belong to the client and must not be in the log
    assert [one.getMessage() for one in caplog.records if one.levelname == "ERROR"] == [
        "a request failed in a round with 4 of its sequences: ScoreNotFinite"
    ]


def test_what_a_client_that_left_had_in_the_queue_is_not_run() -> None:
    with scheduling() as (scheduler, engine):
        with engine.held():
            submit(scheduler, made_up(1, 0))
            assert engine.inside.wait(PATIENCE_S)
            gone, stays = submit(scheduler, made_up(900, 1)), submit(scheduler, made_up(4, 2))
            scheduler.drop(gone)
            assert scheduler._queued_sequences == 4
        assert values(stays).shape == (4,)
        scheduler.drop(stays)  # settled: nothing happens
        assert stays.error is None
        assert engine.rows == 5
        assert (scheduler._queued_sequences, scheduler._queued_tokens, scheduler._unsettled) == (0, 0, set())


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    with scheduling() as (scheduler, engine), engine.held():
        submit(scheduler, made_up(1, 0))
        assert engine.inside.wait(PATIENCE_S)
        submit(scheduler, made_up(MOST - 1, 1, longest=6))
        submit(scheduler, made_up(1, 2))
        with pytest.raises(RequestRefused, match=f"{MOST} sequences wait, the request has 1") as refused:
            submit(scheduler, made_up(1, 3))
        assert (refused.value.status, refused.value.retry_after_s) == (503, 1)
        for job in list(scheduler._unsettled):
            scheduler.drop(job)


def test_what_was_checked_against_another_model_is_not_queued() -> None:
    with scheduling() as (scheduler, _):
        before = scheduler.model()
        over, done = scheduler_reload(scheduler), threading.Event()
        until(over)
        with pytest.raises(RequestRefused, match="reloaded while the request was read"):
            scheduler.submit(before, ["a"], ["EVQL"], ("nonspecificity",), done.set)


def test_a_job_queued_just_before_a_reload_is_scored_by_the_model_it_was_checked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(MINI, tmp_path / "other")
    shift_head(tmp_path / "other", 1.0)
    config = RuntimeConfig(bundle=str(tmp_path / "other"))
    queued: list[QueuedJob] = []
    over: list[Any] = []
    with scheduling() as (scheduler, _):
        before = values(submit(scheduler, ["EVQL"]))
        take_round = scheduler._take_round

        def take_none() -> list[Share]:
            if queued:
                return take_round()
            for job in list(scheduler._waiting):  # the client left while the thread waited for company
                scheduler.drop(job)
            shares = take_round()
            queued.append(submit(scheduler, ["EVQL"]))
            over.append(scheduler_reload(scheduler, config))
            return shares

        monkeypatch.setattr(scheduler, "_take_round", take_none)
        submit(scheduler, ["EVQL"])
        until(lambda: over)
        until(over[0])
        assert values(queued[0]).tolist() == before.tolist()
        assert abs(float(values(submit(scheduler, ["EVQL"]))[0] - before[0])) > 0.1


def scheduler_reload(scheduler: Scheduler, config: RuntimeConfig | None = None) -> Any:
    return scheduler.reload(config or RuntimeConfig(), lambda: None)


def test_many_threads_at_once() -> None:
    requests = [made_up(1 + seed % 7, seed) for seed in range(24)]
    with open_session() as session:
        expected = [session.score(one) for one in requests]
    with scheduling() as (scheduler, _):

        def work(number: int) -> None:
            for turn in range(number, len(requests), 6):
                found = values(submit(scheduler, requests[turn]))
                np.testing.assert_allclose(found, expected[turn], rtol=0, atol=BATCH_NEIGHBOURS)

        at_once(work, 6)


def test_stop_finishes_the_queue_and_takes_no_more() -> None:
    with scheduling() as (scheduler, engine):
        with engine.held():
            jobs = [submit(scheduler, made_up(40, seed)) for seed in range(3)]
            stopping = threading.Thread(target=scheduler.stop)
            stopping.start()
            until(lambda: scheduler._stopping)
            with pytest.raises(RequestRefused, match="the service is ending"):
                submit(scheduler, made_up(1, 9))
            with pytest.raises(RequestRefused, match="the service is ending"):
                scheduler_reload(scheduler)
        stopping.join(PATIENCE_S)
        assert all(job.settled and job.error is None for job in jobs)
        assert not scheduler.alive


def test_a_cut_off_waits_for_the_batch_in_hand_alone() -> None:
    with scheduling() as (scheduler, engine):
        with engine.held():
            jobs = [submit(scheduler, made_up(900, seed)) for seed in range(2)]
            assert engine.inside.wait(PATIENCE_S)
            scheduler_reload(scheduler)
            ending = threading.Thread(target=scheduler.cut_off)
            ending.start()
            until(lambda: scheduler._session._closing)
        ending.join(PATIENCE_S)
        assert engine.batches == 1 and not scheduler.alive
        assert all(job.error is not None for job in jobs)
        assert scheduler._session.state is State.CLOSED  # the reload that was asked for did not begin


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_fault_in_the_scoring_thread_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    with scheduling() as (scheduler, engine):
        with engine.held():
            first = submit(scheduler, made_up(1, 0))
            assert engine.inside.wait(PATIENCE_S)
            second = submit(scheduler, made_up(1, 1))
            monkeypatch.setattr(scheduler, "_hand_back", None)  # a bug
        for job in (first, second):
            with pytest.raises(RequestRefused, match="the scoring thread ended") as refused:
                values(job)
            assert refused.value.status == 500
        until(lambda: not scheduler.alive)
        monkeypatch.setattr(Scheduler, "alive", True)  # as it still is just before its end
        for asked in (scheduler.model, lambda: scheduler_reload(scheduler)):
            with pytest.raises(RequestRefused, match="the scoring thread ended"):
                asked()


def test_pooling_that_depends_on_neighbours_is_refused() -> None:
    config = RuntimeConfig(pooling="upstream-batch", batch_size=8)
    with pytest.raises(ConfigError, match="depend on the other sequences"):
        refuse_upstream_pooling(config)
    with scheduling() as (scheduler, _):
        with pytest.raises(ConfigError, match="upstream-batch"):
            scheduler_reload(scheduler, config)
        assert values(submit(scheduler, ["EVQL"])).shape == (1,)  # nothing was closed
