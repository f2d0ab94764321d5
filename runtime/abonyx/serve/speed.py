"""How fast the model scores, from the work of the last minutes."""

from __future__ import annotations

import time
from collections import deque
from typing import NamedTuple

# Scoring must have taken this share of the window: first batches are slow, and a machine can be busy for a moment.
_LEAST_MEASURED = 0.1


class _Round(NamedTuple):
    ended: float
    tokens: int
    seconds: float


class Speed:
    """Tokens a second over the full rounds that ended in the last `window_s` seconds.

    Older rounds are forgotten: the machine can be faster again.
    """

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._rounds: deque[_Round] = deque()

    def add(self, tokens: int, seconds: float) -> None:
        """Count a round that has just ended."""
        self._rounds.append(_Round(time.monotonic(), tokens, seconds))

    def seconds_for(self, tokens: int) -> float | None:
        """Seconds for these tokens, if nothing else is scored; None = too little was measured."""
        oldest = time.monotonic() - self._window_s
        while self._rounds and self._rounds[0].ended < oldest:
            self._rounds.popleft()
        measured = sum(each.seconds for each in self._rounds)
        if measured < _LEAST_MEASURED * self._window_s:
            return None
        return tokens * measured / sum(each.tokens for each in self._rounds)
