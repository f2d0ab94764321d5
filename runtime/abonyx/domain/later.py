"""Judgements that are made while their records are scored, for a rule that rejects none of them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import overload

from abonyx.alphabet import SequenceLimit
from abonyx.domain.flags import Judgement
from abonyx.domain.pool import MAX_CHILDREN, MIN_POOLED, Judges, judge_in_children, judging_processors, pieces
from abonyx.domain.rule import DomainRule, Judge
from abonyx.engine.process import can_start_python

_LATER = Judgement()


class LaterJudgements(Sequence[Judgement]):
    """One judgement for each sequence, in order. Each is made before it is read; equal sequences are judged once.

    Inside beside(), child processes make the judgements in the background, in order. Outside it, the first read waits
    until all are made. A read raises EngineError if they cannot be made.

    Args:
        sequences: cleaned sequences that contain only letters of the alphabet.
        chains: as in flags.judge.
    """

    def __init__(self, sequences: Iterable[str], chains: tuple[str, ...]) -> None:
        numbers: dict[str, int] = {}
        self._place = [numbers.setdefault(sequence, len(numbers)) for sequence in sequences]
        self._distinct, self._chains = list(numbers), chains
        self._made: list[Judgement] = []  # for the first sequences of _distinct
        self._coming: deque[Future[list[Judgement]]] = deque()  # for the sequences after them
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._place)

    @overload
    def __getitem__(self, index: int) -> Judgement: ...
    @overload
    def __getitem__(self, index: slice) -> list[Judgement]: ...
    def __getitem__(self, index: int | slice) -> Judgement | list[Judgement]:
        """Wait until the requested judgements are made, and return them."""
        places = self._place[index] if isinstance(index, slice) else [self._place[index]]
        self._make(max(places, default=-1) + 1)
        found = [self._made[place] for place in places]
        return found if isinstance(index, slice) else found[0]

    def __iter__(self) -> Iterator[Judgement]:
        return iter(self[:])

    @property
    def left(self) -> int:
        """Number of different sequences that are not judged yet."""
        return len(self._distinct) - len(self._made)

    def begin(self, judges: Judges) -> None:
        """Give the remaining sequences to `judges`."""
        with self._lock:
            left = self._distinct[len(self._made) :]
            self._coming.extend(judges.submit(piece, self._chains) for piece in pieces(left, judges.processes))

    def end(self) -> None:
        """Drop the judgements that begin() requested and that were not read."""
        with self._lock:
            self._coming.clear()

    def _make(self, count: int) -> None:
        """Wait until the first `count` of the different sequences are judged."""
        with self._lock:
            while len(self._made) < count:
                if self._coming:
                    self._made.extend(self._coming[0].result())
                    self._coming.popleft()  # not before result(), which may raise
                else:
                    self._made.extend(judge_in_children(self._distinct[len(self._made) :], self._chains))


@contextmanager
def beside(judgements: Iterable[Sequence[Judgement]]) -> Iterator[None]:
    """Make all LaterJudgements in child processes while the block runs. All processes have ended after the block."""
    later = [each for each in judgements if isinstance(each, LaterJudgements) and each.left]
    children = children_beside(sum(each.left for each in later))
    if not children:
        yield
        return
    with Judges(children) as judges:
        try:
            for each in later:
                each.begin(judges)
            yield
        finally:
            for each in later:
                each.end()


def children_beside(distinct: int) -> int:
    """Number of processes that judge the records while they are scored; 0 = judge them before they are scored."""
    processors = judging_processors()
    if distinct < MIN_POOLED or processors < 2 or not can_start_python():
        return 0
    return min(MAX_CHILDREN, processors // 2, distinct // (MIN_POOLED // 4))


def can_wait(rule: DomainRule, records: int) -> bool:
    """Whether records can be judged while they are scored: there are enough, and the rule rejects and trims none."""
    return rule.check == "check" and not rule.trim and children_beside(records) > 0


def judge_long(judge_by: Judge, limit: SequenceLimit) -> Judge:
    """Judge only sequences that cannot be scored: the text of their rejection names the flags. Others get no flags."""

    def judged(sequences: list[str], chains: tuple[str, ...]) -> Iterator[Judgement]:
        long = [sequence for sequence in sequences if limit.problem(sequence)]
        known = dict(zip(long, judge_by(long, chains), strict=True))
        return (known.get(sequence, _LATER) for sequence in sequences)

    return judged
