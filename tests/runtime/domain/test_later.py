"""Judgements that are made while records are scored: the same, in the same place, whoever makes them."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import Future

import psutil
import pytest

from abonyx.domain import Judgement, LaterJudgements, beside, judge, later, pool
from abonyx.errors import EngineError

from . import proteins

KINDS = [proteins.VH, proteins.KAPPA, proteins.NANOBODY, proteins.VH[9:], proteins.GFP, "X" + proteins.VH]
# Each kind with insertions, some more than once.
TEXTS = [kind[:at] + "A" + kind[at:] for at, kind in itertools.product(range(30), KINDS)] + KINDS * 20
EXPECTED = judge(TEXTS)


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(later, "children_beside", lambda distinct: 2 if distinct else 0)


@pytest.mark.parametrize("inside", [True, False])
def test_the_judgements_of_judge(two: None, inside: bool) -> None:
    found = LaterJudgements(TEXTS, ("H",))
    assert len(found) == len(TEXTS) and found.left == len(set(TEXTS))
    if inside:
        with beside([[Judgement()], found]):
            assert found[:50] == EXPECTED[:50]
            assert psutil.Process().children()
            assert found[100:170] == EXPECTED[100:170]
            assert found[-1] == EXPECTED[-1] and found[3] == EXPECTED[3] and found[5:5] == []
        assert not psutil.Process().children()
    assert list(found) == EXPECTED and found.left == 0
    with beside([found]):
        assert not psutil.Process().children()


def test_other_chains(two: None) -> None:
    found = LaterJudgements(TEXTS, ("K", "L"))
    with beside([found]):
        assert found[:] == judge(TEXTS, ("K", "L"))


def test_what_was_not_read_in_time_is_judged_afterwards(two: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("abonyx.domain.pool.PIECE", 20)
    found = LaterJudgements(TEXTS, ("H",))
    with beside([found]):
        assert found[:30] == EXPECTED[:30]
    assert found.left > 0
    assert list(found) == EXPECTED


def test_a_failure_moves_no_judgement(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        """Fails at its second piece, as judges do whose children ended twice."""

        processes, asked = 1, 0

        def submit(self, sequences: list[str], chains: tuple[str, ...]) -> Future[list[Judgement]]:
            self.asked += 1
            future: Future[list[Judgement]] = Future()
            if self.asked == 2:
                future.set_exception(EngineError("ended", "Again."))
            else:
                future.set_result(judge(sequences, chains))
            return future

    monkeypatch.setattr("abonyx.domain.pool.PIECE", 20)
    found = LaterJudgements(TEXTS, ("H",))
    found.begin(Failing())  # type: ignore[arg-type]
    assert found[:20] == EXPECTED[:20]
    for _ in range(2):
        with pytest.raises(EngineError, match="ended"):
            found[:]
        assert found[:20] == EXPECTED[:20]
    found.end()
    assert list(found) == EXPECTED


def test_two_threads_read_the_same(two: None) -> None:
    found = LaterJudgements(TEXTS, ("H",))
    read: list[list[Judgement]] = []
    with beside([found]):
        threads = [threading.Thread(target=lambda: read.append(found[:])) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert read == [EXPECTED] * 4


def test_children_by_the_work_and_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    for processors, expected in ((1, 0), (2, 1), (3, 1), (16, 8), (64, 8)):
        monkeypatch.setattr(pool, "usable_processors", lambda count=processors: count)
        assert later.children_beside(141_021) == expected
        assert later.children_beside(7_999) == 0
