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
from abonyx.domain.pool import MAX_CHILDREN, MIN_POOLED, Judges, can_start, judge_in_children, pieces
from abonyx.domain.rule import DomainRule, Judge
from abonyx.engine.process import usable_processors

_LATER = Judgement()


class LaterJudgements(Sequence[Judgement]):
    """One judgement a sequence, in order, each made before somebody reads it; identical sequences are judged once.

    Inside beside() child processes make them in the background, in order. Elsewhere the first reader waits for all.
    Reading raises EngineError if they cannot be made.

    Args:
        sequences: cleaned, of the alphabet's letters.
        chains: as flags.judge.
    """

    def __init__(self, sequences: Iterable[str], chains: tuple[str, ...]) -> None:
        numbers: dict[str, int] = {}
        self._place = [numbers.setdefault(sequence, len(numbers)) for sequence in sequences]
        self._distinct, self._chains = list(numbers), chains
        self._made: list[Judgement] = []  # of the first of _distinct
        self._coming: deque[Future[list[Judgement]]] = deque()  # of those that follow
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._place)

    @overload
    def __getitem__(self, index: int) -> Judgement: ...
    @overload
    def __getitem__(self, index: slice) -> list[Judgement]: ...
    def __getitem__(self, index: int | slice) -> Judgement | list[Judgement]:
        """Waits until they are made."""
        places = self._place[index] if isinstance(index, slice) else [self._place[index]]
        self._make(max(places, default=-1) + 1)
        found = [self._made[place] for place in places]
        return found if isinstance(index, slice) else found[0]

    def __iter__(self) -> Iterator[Judgement]:
        return iter(self[:])

    @property
    def left(self) -> int:
        """How many different sequences are not judged."""
        return len(self._distinct) - len(self._made)

    def begin(self, judges: Judges) -> None:
        """Have these make what is left."""
        with self._lock:
            left = self._distinct[len(self._made) :]
            self._coming.extend(judges.submit(piece, self._chains) for piece in pieces(left, judges.processes))

    def end(self) -> None:
        """Forget what begin() has asked for and nobody has read."""
        with self._lock:
            self._coming.clear()

    def _make(self, count: int) -> None:
        """Have the first so many of the different sequences judged."""
        with self._lock:
            while len(self._made) < count:
                if self._coming:
                    self._made.extend(self._coming[0].result())
                    self._coming.popleft()  # now: if result() raises, what follows keeps its place
                else:
                    self._made.extend(judge_in_children(self._distinct[len(self._made) :], self._chains))


@contextmanager
def beside(judgements: Iterable[Sequence[Judgement]]) -> Iterator[None]:
    """Have those that are made later made in child processes meanwhile; no process is left at the end."""
    later = [each for each in judgements if isinstance(each, LaterJudgements) and each.left]
    children = children_beside(sum(each.left for each in later))
    if not children:
        yield
        return
    with Judges(children) as judges:
        for each in later:
            each.begin(judges)
        try:
            yield
        finally:
            for each in later:
                each.end()


def children_beside(distinct: int) -> int:
    """Processes that judge so many different records while something else scores them; 0 = judge them before."""
    processors = usable_processors()
    if distinct < MIN_POOLED or processors < 2 or not can_start():
        return 0
    return min(MAX_CHILDREN, processors // 2, distinct // (MIN_POOLED // 4))


def can_wait(rule: DomainRule, records: int) -> bool:
    """Whether so many records are judged while they are scored: the rule rejects and trims none, and there are many."""
    return rule.check == "check" and not rule.trim and children_beside(records) > 0


def judge_long(judge_by: Judge, limit: SequenceLimit) -> Judge:
    """Judge what is too long to be scored, whose rejection says what it is. The others get an empty judgement."""

    def judged(sequences: list[str], chains: tuple[str, ...]) -> Iterator[Judgement]:
        long = [sequence for sequence in sequences if limit.problem(sequence)]
        known = dict(zip(long, judge_by(long, chains), strict=True))
        return (known.get(sequence, _LATER) for sequence in sequences)

    return judged
