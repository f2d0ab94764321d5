"""One request's sequences on their way through the queue, and the errors that end a job."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from abonyx.arrays import Float32Array, Float64Array
from abonyx.contributions import Contributions
from abonyx.errors import EngineError, ScoreNotFinite, first_line
from abonyx.logs import LOGGER
from abonyx.wording import Interface


@dataclass(eq=False)
class QueuedJob:
    """One request's sequences on their way through the queue.

    Attributes:
        light: for pairs, the light chains, and `sequences` are the heavy chains; else empty.
        heads: names of the heads whose values are wanted; None = the embedding.
        chains: the chains that these heads need; () for embeddings.
        explained: row -> its contributions; None = the job wants values.
        changed: called by the scoring thread after each round with sequences of this job, and at the end.
        totals: (n, heads) float64, logits, or values of linear heads; None = the job does not want them.
        values: (n, heads) or (n, D) float32, in the order of `sequences`; complete once `settled` and without an error.
    """

    ids: list[str]
    sequences: list[str]
    heads: tuple[str, ...] | None
    values: Float32Array
    changed: Callable[[], object]
    light: list[str] = field(default_factory=list)
    chains: tuple[str, ...] = ()
    explained: dict[int, Contributions] | None = None
    totals: Float64Array | None = None
    done: int = 0
    error: EngineError | None = None
    queued_at: float = field(default_factory=time.monotonic)
    # Numbers of the waiting sequences, longest first: rounds then pad as little as one call for the whole request.
    left: deque[int] = field(init=False)

    def __post_init__(self) -> None:
        rows = range(len(self.sequences))
        self.left = deque(sorted(rows, key=lambda row: max(map(len, self.of_row(row))), reverse=True))

    def of_row(self, row: int) -> tuple[str, ...]:
        """The chains of one record."""
        return (self.sequences[row], self.light[row]) if self.light else (self.sequences[row],)

    @property
    def company(self) -> tuple[object, ...]:
        """What must be equal for jobs of one round: chains, kind of result and, for contributions, the heads."""
        return (self.chains, self.totals is None, None if self.explained is None else self.heads)

    @property
    def settled(self) -> bool:
        """Whether nothing more will come."""
        return self.error is not None or self.done == len(self.sequences)


class Share(NamedTuple):
    """Some of a job's sequences, by number, in one round."""

    job: QueuedJob
    rows: list[int]


def heads_of(shares: list[Share]) -> list[str] | None:
    """The heads that any job of a round wants, each once; None if the jobs want embeddings."""
    wanted = [job.heads for job, _ in shares if job.heads is not None]
    return list(dict.fromkeys(name for heads in wanted for name in heads)) if wanted else None


def log_failure(error: EngineError, count: int) -> None:
    """Log an error of a round with `count` sequences of a job."""
    # ScoreNotFinite names records by their ids, which belong to the client.
    said = type(error).__name__ if isinstance(error, ScoreNotFinite) else error.text(Interface.COMMAND_LINE)
    LOGGER.error(f"a request failed in a round with {count} of its sequences: {said}")


def known_error(error: Exception) -> EngineError:
    """The error as an EngineError. Any other error is logged with its traceback."""
    if isinstance(error, EngineError):
        return error
    LOGGER.error(f"unexpected {type(error).__name__}", exc_info=error)
    what = f"unexpected {type(error).__name__}: {first_line(error, 500)}"
    return EngineError(what, "The log of the service has the traceback. Please report it.")
