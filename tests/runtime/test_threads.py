"""One session, many threads: calls take turns, and close() or reload() elsewhere ends a call with a clear error."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import abonyx
from abonyx import scoring
from abonyx.errors import SessionClosed
from abonyx.session import Session, State, open_session

THREADS = 8
# Only what hangs takes so long.
PATIENCE_S = 300


class _Counting:
    """An engine that knows how many batches it was running at most, and how many it has begun."""

    def __init__(self, native: Any) -> None:
        self.native, self.inside, self.most, self.begun = native, 0, 0, 0
        self.lock = threading.Lock()

    def run(self, outputs: list[str], feed: Any) -> Any:
        with self.lock:
            self.inside += 1
            self.begun += 1
            self.most = max(self.most, self.inside)
        time.sleep(0.002)  # so that batches of two threads would meet
        values = self.native.run(outputs, feed)
        with self.lock:
            self.inside -= 1
        return values

    def __getattr__(self, name: str) -> Any:
        return getattr(self.native, name)


class _Held(_Counting):
    """An engine whose first batch waits until it may go on."""

    def __init__(self, native: Any) -> None:
        super().__init__(native)
        self.running, self.go_on = threading.Event(), threading.Event()

    def run(self, outputs: list[str], feed: Any) -> Any:
        self.running.set()
        assert self.go_on.wait(PATIENCE_S)
        return super().run(outputs, feed)


def _at_once(work: Callable[[int], Any], count: int = THREADS) -> list[Any]:
    """What `work` gives, or the error it raises, in each of so many threads that start together."""
    gate, found = threading.Barrier(count), [None] * count

    def run(number: int) -> None:
        gate.wait(PATIENCE_S)
        try:
            found[number] = work(number)
        except Exception as error:
            found[number] = error  # type: ignore[call-overload]

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    return found


def test_eight_threads_get_the_answers_of_one_a_batch_at_a_time(
    sequences: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # other lengths in each thread, and several batches a call
    own = [[sequence[number : 30 + 5 * number] for sequence in sequences[:6]] for number in range(THREADS)]
    with open_session(abonyx.RuntimeConfig(token_budget=100)) as session:
        p, embedding = [session.score(rows) for rows in own], [session.embed(rows) for rows in own]
        engine = _Counting(session._model._native)
        monkeypatch.setattr(session._model, "_native", engine)
        found = _at_once(lambda number: (session.score(own[number]), session.embed(own[number])))
        monkeypatch.undo()
    for number, (scores, embeddings) in enumerate(found):
        np.testing.assert_array_equal(scores, p[number])
        np.testing.assert_array_equal(embeddings, embedding[number])
    assert engine.begun > THREADS * 4  # several batches a call
    assert engine.most == 1


def test_streams_are_the_only_batches_at_once(sequences: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with open_session(abonyx.RuntimeConfig(token_budget=300)) as session:
        expected = session.score(sequences)
        engine = _Counting(session._model._native)
        monkeypatch.setattr(session._model, "_native", engine)
        session._model.streams = 2
        found = _at_once(lambda _: session.score(sequences))
        monkeypatch.undo()
    for scores in found:
        np.testing.assert_array_equal(scores, expected)
    assert engine.most == 2


def _second_thread(session: Session, act: Callable[[], None]) -> threading.Thread:
    """A thread that does `act`, once it has been counted as closing the session."""
    thread = threading.Thread(target=act)
    thread.start()
    while not session._model._closing:
        time.sleep(0.001)
    return thread


@pytest.mark.parametrize("streams", [1, 2])
def test_close_ends_a_call_of_another_thread_after_the_batch_in_flight(
    sequences: list[str], monkeypatch: pytest.MonkeyPatch, streams: int
) -> None:
    session = open_session(abonyx.RuntimeConfig(token_budget=1))  # a batch a sequence
    session._model.streams = streams
    engine = _Held(session._model._native)
    monkeypatch.setattr(session._model, "_native", engine)
    found: list[Any] = []

    def score() -> None:
        with pytest.raises(SessionClosed) as caught:
            session.score(sequences)
        found.append(str(caught.value))

    scorer = threading.Thread(target=score)
    scorer.start()
    assert engine.running.wait(PATIENCE_S)
    closer = _second_thread(session, session.close)
    assert session._model.state is State.OPEN  # while the batch runs
    with pytest.raises(SessionClosed, match="being closed"):
        session.score(sequences)  # refused at once: it does not wait for its turn
    engine.go_on.set()
    scorer.join(PATIENCE_S)
    closer.join(PATIENCE_S)
    assert session._model.state is State.CLOSED
    assert engine.begun <= streams
    assert "being closed" in found[0]
    open_session().close()


def test_no_call_is_scored_by_two_models(sequences: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    session = open_session(abonyx.RuntimeConfig(token_budget=1))
    engine = _Held(session._model._native)
    monkeypatch.setattr(session._model, "_native", engine)
    caught: list[Any] = []

    def score() -> None:
        with pytest.raises(SessionClosed) as error:
            session.score(sequences)
        caught.append(error.value)

    scorer = threading.Thread(target=score)
    scorer.start()
    assert engine.running.wait(PATIENCE_S)
    reloading = _second_thread(session, lambda: session.reload(abonyx.RuntimeConfig(token_budget=1_000)))
    engine.go_on.set()
    scorer.join(PATIENCE_S)
    reloading.join(PATIENCE_S)
    assert len(caught) == 1
    assert engine.begun == 1
    assert session._model.state is State.OPEN
    assert session._model.budget.tokens == 1_000
    session.score(sequences)
    session.close()


class _Turns:
    """A session's lock that tells when another thread begins to wait for it."""

    def __init__(self, lock: Any) -> None:
        self.lock, self.owner, self.waiting = lock, threading.current_thread(), threading.Event()

    def __enter__(self) -> None:
        if threading.current_thread() is not self.owner:
            self.waiting.set()
        self.lock.acquire()

    def __exit__(self, *_: Any) -> None:
        self.lock.release()


@pytest.mark.parametrize("call", ["score", "embed"])
def test_a_call_that_waited_through_a_reload_is_not_scored_by_the_new_model(
    call: str, sequences: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_session() as session:
        turns: Any = _Turns(session._model._life)
        monkeypatch.setattr(session._model, "_life", turns)
        caught: list[Any] = []

        def work() -> None:
            with pytest.raises(SessionClosed, match="reloaded after this call began") as error:
                getattr(session, call)(sequences)
            caught.append(error.value)

        waiting = threading.Thread(target=work)
        with session._model.turn():
            waiting.start()
            assert turns.waiting.wait(PATIENCE_S)
            session.reload(abonyx.RuntimeConfig(token_budget=1_000))  # in the turn of this thread, before the other's
        waiting.join(PATIENCE_S)
        assert len(caught) == 1
        assert session.score(sequences).shape == (12,)


@pytest.mark.parametrize("times", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_calls_through_reloads_are_right_or_refused(sequences: list[str], times: int) -> None:
    session = open_session()
    expected = session.score(sequences)
    over = threading.Event()

    def work(number: int) -> int:
        if number == 0:
            try:
                for _ in range(times):
                    session.reload(session._model.config)
            finally:
                over.set()
            return 0
        right = 0
        while not over.is_set():
            try:
                np.testing.assert_array_equal(session.score(sequences), expected)
                right += 1
            except SessionClosed:
                pass
        return right

    found = _at_once(work)
    assert all(isinstance(count, int) for count in found), found
    session.score(sequences)
    session.close()


def test_a_close_in_the_scoring_thread_itself_does_not_wait_for_itself(sequences: list[str]) -> None:
    # what a signal handler does
    session = open_session(abonyx.RuntimeConfig(token_budget=1))
    with pytest.raises(SessionClosed, match="session is closed"):
        tokens = scoring.tokenize(session._model.manifest, sequences)
        scoring.run_sequences(
            session._model, tokens, ["nonspecificity"], session._model.budget, on_batch=lambda _: session.close()
        )
    assert session._model.state is State.CLOSED
    open_session().close()


def test_a_reload_in_the_scoring_thread_itself_ends_its_call(sequences: list[str]) -> None:
    config = abonyx.RuntimeConfig(token_budget=1)
    with open_session(config) as session:
        tokens = scoring.tokenize(session._model.manifest, sequences)
        done: list[int] = []

        def reload(count: int) -> None:
            done.append(count)
            session.reload(config)

        with pytest.raises(SessionClosed, match="reloaded after this call began"):
            scoring.run_sequences(session._model, tokens, ["nonspecificity"], session._model.budget, on_batch=reload)
        assert done == [1]
        assert session.score(sequences).shape == (12,)
