"""Who judges the records of requests: child processes beside the service, or the readers of requests themselves.

A reader holds the interpreter while it judges, and with it everything that the service does in Python. On a card that
scores some thousand sequences a second, judging would be the limit.
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
from abonyx.domain import Judge, Judgement, Judges, can_start, judge_in_turn
from abonyx.engine.process import usable_processors
from abonyx.errors import ConfigError
from abonyx.input.records import Record
from abonyx.serve.answers import EmbedRequest
from abonyx.serve.requests import chains_of, letters_of, record_of
from abonyx.serve.scheduler import Model
from abonyx.serve.settings import Settings
from abonyx.serve.turns import Turn

# At 0.15 to 0.8 ms a sequence, four judge more than a card scores.
MAX_PROCESSES = 4
# Sequences that go to a child at a time, some 10 ms: a small request waits no longer behind a large one.
_PIECE = 50
# A JSON body up to this is read by the thread that answers: some 40 records.
_SMALL_BYTES, _SMALL_QUOTES = 8_192, 400
# How often a reader that waits for judgements looks whether its request is still wanted.
_LOOK_S = 0.2


def judging_processes(settings: Settings, config: RuntimeConfig) -> int:
    """Child processes of a service: those of the setting, else some on a card, and none where processors score.

    Raises:
        ConfigError: the setting asks for some, and this Python cannot start any.
    """
    if settings.domain_processes and not can_start():
        what = f"serve: domain_processes is {settings.domain_processes}, and this Python does not know its own program"
        raise ConfigError(what, "Give 0, or start the service with the command abonyx.")
    if settings.domain_processes is not None:
        return settings.domain_processes
    return 0 if not can_start() else min(MAX_PROCESSES, usable_processors() // 2) if config.provider == "cuda" else 0


class Judging:
    """What judges for one service.

    Args:
        processes: how many child processes; 0 = none, the readers judge.
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
        """What judges for a reader, which lets others read meanwhile.

        The judging raises what the reader's request was stopped with, or EngineError if two children failed.
        """
        judges = self._judges
        if judges is None:
            return judge_in_turn

        def judged(sequences: list[str], chains: tuple[str, ...]) -> list[Judgement]:
            parts = (sequences[start : start + _PIECE] for start in range(0, len(sequences), _PIECE))
            found: list[Judgement] = []
            # A large request has a part with each child, and the others wait their turn behind those of other requests.
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
        """Judge a few sequences of a request, as it has them; gives what judges the same ones at once.

        Raises:
            EngineError: two children failed, one after the other.
        """
        assert self._judges is not None
        # Other text is rejected before it is judged.
        texts = list(dict.fromkeys(text for text in map(clean, sequences) if text.isascii()))
        judgements = await asyncio.wrap_future(self._judges.submit(texts, chains)) if texts else []
        found = dict(zip(texts, judgements, strict=True))

        def judged(asked: Sequence[str], by_chains: tuple[str, ...]) -> list[Judgement]:
            there = found if by_chains == chains else {}
            return [there.get(text) or next(iter(judge_in_turn([text], by_chains))) for text in asked]

        return judged


def _result(future: Future[list[Judgement]], look: Callable[[], None]) -> list[Judgement]:
    while True:
        try:
            return future.result(_LOOK_S)
        except TimeoutError:
            look()


def is_small(body: bytes) -> bool:
    """Whether a JSON body is read in about a millisecond, but for the judging."""
    return len(body) <= _SMALL_BYTES and body.count(b'"') <= _SMALL_QUOTES


def judged_as_sent(asked: EmbedRequest, model: Model) -> bool:
    """Whether the sequences of a request are judged as it has them: not pairs, no gaps or domain cut out."""
    return asked.trim is None and asked.gaps == "refuse" and len(chains_of(asked, model)) == 1


def judged_texts(asked: EmbedRequest, model: Model) -> tuple[list[str], tuple[str, ...]]:
    """The sequences that are judged of a request that judged_as_sent, and the chains they are judged by."""
    if asked.domain == "off":
        return [], ()
    chains = chains_of(asked, model)
    records = (record_of(item, number, chains) for number, item in enumerate(asked.sequences, 1))
    return [each.sequence for each in records if isinstance(each, Record)], letters_of(asked, model, chains)
