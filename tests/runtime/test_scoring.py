"""run_sequences with an engine that only records its inputs."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from abonyx import scoring
from abonyx.batching import EXACT
from abonyx.bundle import open_bundle
from abonyx.bundle.manifest import HeadSpec
from abonyx.errors import OutOfDeviceMemory, ProviderError, ScoreNotFinite
from abonyx.scoring import pooled_eos, tokenize

from ..conftest import MINI

HEADS = ["sum", "first"]
# Linear heads on the shipped bundle's encoder, not in the order in which they are requested.
LINEAR = {"kind": "linear", "unit": "tokens", "training_sd": 1.0, "default_threshold": None, "classes": []}


def linear_head(name: str, intercept: float) -> HeadSpec:
    spec = msgspec.to_builtins(open_bundle(MINI).manifest.head) | LINEAR
    return msgspec.convert(spec | {"name": name, "intercept": intercept}, HeadSpec)


class Recorder:
    """The heads' values: the first token; and the sum of a row's tokens, plus 0.5 if EOS is pooled."""

    manifest = msgspec.structs.replace(
        open_bundle(MINI).manifest, heads=[linear_head("first", 100.0), linear_head("sum", 0.0)]
    )
    static_shape: tuple[int, int] | None = None
    grid = EXACT

    def __init__(self, streams: int = 1, token_budget: int = 100) -> None:
        self.streams = streams
        self.rows: list[int] = []
        self.notes: list[str] = []
        self.budget = scoring.TokenBudget(token_budget, "cpu", self.notes.append)

    def turn(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def run_batch(
        self, rows: Sequence[npt.NDArray[np.int64]], eos_pooled: npt.NDArray[np.bool_] | None, outputs: Sequence[str]
    ) -> list[npt.NDArray[np.float32]]:
        self.rows.append(len(rows))
        sums = np.array([row.sum() for row in rows], np.float32)
        sums = sums if eos_pooled is None else sums + eos_pooled * np.float32(0.5)
        return [np.stack([np.array([row[1] for row in rows], np.float32), sums], axis=1)]


def run_sequences(
    engine: Recorder, sequences: Sequence[str], heads: list[str], **given: Any
) -> npt.NDArray[np.float32]:
    tokens = tokenize(engine.manifest, sequences, distinct="eos_pooled" not in given)
    return scoring.run_sequences(engine, tokens, heads, engine.budget, **given)


SEQUENCES = ["EVQLVES", "QVQ", "EVQLVES", "AAAAAAAAAAAA", "QVQ", "EVQLVES", "DIQM"]


def test_each_distinct_sequence_runs_once_and_every_row_gets_its_value() -> None:
    engine, done = Recorder(), list[int]()
    values = run_sequences(engine, SEQUENCES, HEADS, on_batch=done.append)
    assert sum(engine.rows) == 4
    assert sum(done) == len(SEQUENCES)
    alone = [run_sequences(Recorder(), [sequence], HEADS)[0].tolist() for sequence in SEQUENCES]
    assert values.tolist() == alone


def test_each_column_is_of_the_head_that_was_named() -> None:
    rows = tokenize(Recorder.manifest, SEQUENCES).rows
    place = tokenize(Recorder.manifest, SEQUENCES).place[0]
    sums, firsts = [int(rows[at].sum()) for at in place], [100 + int(rows[at][1]) for at in place]
    expected = {"sum": sums, "first": firsts}
    for names in (["sum"], ["first"], ["sum", "first"], ["first", "sum"]):
        found = run_sequences(Recorder(), SEQUENCES, names)
        assert found.dtype == np.float32 and found.T.tolist() == [expected[name] for name in names]


def test_with_eos_in_the_mean_by_place_every_row_runs() -> None:
    engine, done = Recorder(), list[int]()
    flags = pooled_eos(SEQUENCES, 2)
    assert flags is not None
    values = run_sequences(engine, SEQUENCES, HEADS, eos_pooled=flags, on_batch=done.append)
    assert (sum(engine.rows), sum(done)) == (7, 7)
    assert (values[:, 0] % 1 == 0.5).tolist() == flags.tolist()


def test_not_finite_names_every_copy() -> None:
    class NaNOfQvq(Recorder):
        def run_batch(self, rows: Any, *args: Any) -> list[npt.NDArray[np.float32]]:
            return [np.array([[1, np.nan if len(row) == 5 else 1] for row in rows], np.float32)]

    ids = [f"ab{index}" for index in range(len(SEQUENCES))]
    with pytest.raises(ScoreNotFinite, match=r"2 of 7 sequences: ab1, ab4"):
        run_sequences(NaNOfQvq(), SEQUENCES, HEADS, ids=ids)


def test_streams_keep_the_order_and_run_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=30)

    class Meeting(Recorder):
        def run_batch(self, *args: Any) -> list[npt.NDArray[np.float32]]:
            both.wait()
            return super().run_batch(*args)

    sequences = ["A" * length for length in range(3, 11)]
    engine, done = Meeting(streams=2, token_budget=1), list[int]()
    values = run_sequences(engine, sequences, HEADS, on_batch=done.append)
    assert done == [1] * 8
    assert values.tolist() == run_sequences(Recorder(), sequences, HEADS).tolist()


@pytest.mark.parametrize("error", [ProviderError("what", "fix"), KeyboardInterrupt()])
def test_an_error_in_a_stream_ends_the_run(error: BaseException) -> None:
    class Failing(Recorder):
        def run_batch(self, *args: Any) -> list[npt.NDArray[np.float32]]:
            self.rows.append(1)
            raise error

    engine = Failing(streams=2, token_budget=1)
    threads = threading.active_count()
    with pytest.raises(type(error)):
        run_sequences(engine, ["A" * length for length in range(3, 103)], HEADS)
    assert threading.active_count() == threads


def test_an_interrupt_between_batches_leaves_the_rest_unrun() -> None:
    go_on = threading.Event()

    class Waiting(Recorder):
        def run_batch(self, *args: Any) -> list[npt.NDArray[np.float32]]:
            if len(self.rows) >= 3:
                go_on.wait(5)
            return super().run_batch(*args)

    def interrupt(done: int) -> None:
        raise KeyboardInterrupt

    engine = Waiting(streams=2, token_budget=1)
    timer = threading.Timer(0.5, go_on.set)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        run_sequences(engine, ["A" * length for length in range(3, 103)], HEADS, on_batch=interrupt)
    timer.join()
    assert len(engine.rows) < 10


class Small(Recorder):
    """A device with memory for a given number of tokens."""

    tokens = 60

    def run_batch(self, rows: Any, *args: Any) -> list[npt.NDArray[np.float32]]:
        if len(rows) * max(map(len, rows)) > self.tokens:
            raise OutOfDeviceMemory("what", "fix")
        return super().run_batch(rows, *args)


def test_out_of_memory_halves_the_budget_and_loses_nothing() -> None:
    sequences = ["A" * length for length in range(3, 40)]
    engine, done = Small(token_budget=500), list[int]()
    values = run_sequences(engine, sequences, HEADS, on_batch=done.append)
    assert values.tolist() == run_sequences(Recorder(), sequences, HEADS).tolist()
    assert engine.budget.tokens < 500
    assert sum(engine.rows) == sum(done) == len(sequences)


def test_two_streams_that_run_out_of_memory_at_once_halve_once() -> None:
    both = threading.Barrier(2, timeout=30)

    class Full(Recorder):
        """An engine of two streams, whose first two batches, 490 and 390 tokens, do not fit together."""

        def run_batch(self, rows: Any, *args: Any) -> list[npt.NDArray[np.float32]]:
            if len(rows) > 8:
                both.wait()
                raise OutOfDeviceMemory("what", "fix")
            return super().run_batch(rows, *args)

    engine = Full(streams=2, token_budget=500)
    values = run_sequences(engine, ["A" * (47 - number) for number in range(20)], HEADS)  # 49 tokens and less
    assert len(values) == 20
    assert engine.budget.tokens in (490 // 2, 390 // 2)  # of the one that came first
    assert len(engine.notes) == 1


def test_one_sequence_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(OutOfDeviceMemory):
        run_sequences(Small(token_budget=500), ["A" * 10, "A" * 80], HEADS)
