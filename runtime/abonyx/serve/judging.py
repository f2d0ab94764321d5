"""Who judges the records of requests: child processes beside the service, or the readers of requests themselves.

While a reader judges, it holds the lock of Python's interpreter, so all other Python code of the service waits. On a
GPU that scores thousands of sequences a second, judging by readers would be the limit.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from types import TracebackType

from abonyx.alphabet import clean
from abonyx.config import RuntimeConfig
from abonyx.domain import Judge, Judgement, Judges, judge_in_turn
from abonyx.engine.process import can_start_python, usable_processors
from abonyx.errors import ConfigError
from abonyx.input.records import Record
from abonyx.serve.answers import EmbedRequest
from abonyx.serve.model import Model
from abonyx.serve.requests import chains_of, letters_of, record_of
from abonyx.serve.settings import Settings
from abonyx.serve.turns import Turn

# A process judges a sequence in 0.15 to 0.8 ms, so four judge more sequences than a GPU scores in the same time.
MAX_PROCESSES = 4
# Number of sequences that a child gets at a time. They take some 10 ms, so a small request waits no longer than this
# behind a large one.
_PIECE = 50
# A JSON body up to this size, some 40 records, is read by the thread that answers.
_SMALL_BYTES, _SMALL_QUOTES = 8_192, 400
# Seconds after which a reader that waits for judgements checks again whether its request is still wanted.
_LOOK_S = 0.2


def judging_processes(settings: Settings, config: RuntimeConfig) -> int:
    """Number of child processes: the setting or, by default, some with cuda and none with other providers.

    Raises:
        ConfigError: the setting asks for some, and this Python cannot start any.
    """
    if settings.domain_processes and not can_start_python():
        what = f"serve: domain_processes is {settings.domain_processes}, but this Python cannot start another"
        raise ConfigError(what, "Give 0, or start the service with the command abonyx.")
    if settings.domain_processes is not None:
        return settings.domain_processes
    if config.provider != "cuda" or not can_start_python():
        return 0
    return min(MAX_PROCESSES, usable_processors() // 2)


class Judging:
    """The judges of one service: child processes, or the readers themselves.

    Args:
        processes: number of child processes; 0 = the readers judge.
    """

    def __init__(self, processes: int = 0) -> None:
        self._judges = Judges(processes) if processes else None

    def __enter__(self) -> Judging:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._judges is not None:
            self._judges.close()

    @property
    def beside(self) -> bool:
        """Whether child processes judge."""
        return self._judges is not None

    def of_reader(self, turn: Turn) -> Judge:
        """The function that judges for a reader. While child processes judge, other readers can read.

        The function raises the error that stopped the reader's request, or EngineError if two children failed.
        """
        judges = self._judges
        if judges is None:
            return judge_in_turn

        def judged(sequences: list[str], chains: tuple[str, ...]) -> list[Judgement]:
            parts = (sequences[start : start + _PIECE] for start in range(0, len(sequences), _PIECE))
            found: list[Judgement] = []
            # Each child gets one part of a large request at a time. Others wait behind those of other requests.
            coming = deque(judges.submit(part, chains) for part in itertools.islice(parts, judges.processes))
            try:
                with turn.left():
                    while coming:
                        found += _result(coming[0], turn.refuse_stopped)
                        coming.popleft()
                        coming.extend(judges.submit(part, chains) for part in itertools.islice(parts, 1))
            finally:
                for future in coming:
                    future.cancel()
            return found

        return judged

    async def known(self, sequences: Iterable[str], chains: tuple[str, ...]) -> Judge:
        """Judge a few sequences as the request has them. Returns a function that looks up these judgements.

        Raises:
            EngineError: two children failed, one after the other.
        """
        assert self._judges is not None
        # Text that is not ASCII is rejected before it is judged.
        texts = list(dict.fromkeys(text for text in map(clean, sequences) if text.isascii()))
        judgements = await asyncio.wrap_future(self._judges.submit(texts, chains)) if texts else []
        found = dict(zip(texts, judgements, strict=True))

        def judged(asked: Sequence[str], by_chains: tuple[str, ...]) -> list[Judgement]:
            there = found if by_chains == chains else {}
            return [there.get(text) or next(iter(judge_in_turn([text], by_chains))) for text in asked]

        return judged


def _result(future: Future[list[Judgement]], look: Callable[[], None]) -> list[Judgement]:
    while True:
        look()  # also if the result is there already: a long request is many short waits
        try:
            return future.result(_LOOK_S)
        except TimeoutError:
            continue


def is_small(body: bytes) -> bool:
    """Whether a JSON body can be read in about a millisecond, not counting the judging."""
    return len(body) <= _SMALL_BYTES and body.count(b'"') <= _SMALL_QUOTES


def judged_as_sent(asked: EmbedRequest, model: Model) -> bool:
    """Whether sequences are judged exactly as the request has them: no pairs, no removal of gaps, no trimming."""
    return asked.trim is None and asked.gaps == "refuse" and len(chains_of(asked, model)) == 1


def judged_texts(asked: EmbedRequest, model: Model) -> tuple[list[str], tuple[str, ...]]:
    """The sequences to judge, and the chains to judge them by, if judged_as_sent is true for the request."""
    if asked.domain == "off":
        return [], ()
    chains = chains_of(asked, model)
    records = (record_of(item, number, chains) for number, item in enumerate(asked.sequences, 1))
    return [each.sequence for each in records if isinstance(each, Record)], letters_of(asked, model, chains)
