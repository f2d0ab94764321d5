"""Readers take turns: a short reader does not wait for a long one, and a stopped reader ends."""

from __future__ import annotations

import threading
import time

import pytest

from abonyx.errors import EngineError
from abonyx.serve.turns import Turn, Turns

from .serving import PATIENCE_S


def idle() -> bool:
    return False


def test_a_short_reader_passes_a_long_one() -> None:
    turns, inside, done = Turns(idle), threading.Event(), threading.Event()

    def long() -> None:
        turn = Turn(turns)
        with turn.taken():
            inside.set()
            while not done.is_set():
                time.sleep(0.001)
                turn.step()

    thread = threading.Thread(target=long)
    thread.start()
    assert inside.wait(PATIENCE_S)
    time.sleep(0.01)  # it has used more than a newcomer
    with Turn(turns).taken():
        assert thread.is_alive()
    done.set()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def test_one_runs_at_a_time_and_all_end() -> None:
    turns, running, most = Turns(idle), [0], [0]

    def work(steps: int) -> None:
        turn = Turn(turns)
        with turn.taken():
            for _ in range(steps):
                running[0] += 1
                most[0] = max(most[0], running[0])
                time.sleep(0.0005)
                running[0] -= 1
                turn.step()

    threads = [threading.Thread(target=work, args=(5 * number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert most == [1] and not any(thread.is_alive() for thread in threads)
    with Turn(turns).taken():  # it is free again
        pass


@pytest.mark.parametrize("waits", [True, False])
def test_a_reader_that_is_stopped_ends_and_gives_the_turn_away(waits: bool) -> None:
    turns, inside, found = Turns(idle), threading.Event(), []
    turn = Turn(turns)

    def work() -> None:
        try:
            with turn.taken():
                inside.set()
                while True:
                    time.sleep(0.001)
                    turn.step()
        except EngineError as error:
            found.append(error)

    thread = threading.Thread(target=work)
    error = EngineError("it was stopped")
    if waits:
        with Turn(turns).taken():
            thread.start()
            turn.stop(error)
        thread.join(PATIENCE_S)
        assert not inside.is_set()
    else:
        thread.start()
        assert inside.wait(PATIENCE_S)
        turn.stop(error)
        thread.join(PATIENCE_S)
    assert found == [error]
    with Turn(turns).taken():
        pass


def test_a_reader_leaves_time_to_scoring() -> None:
    asked = []
    turn = Turn(Turns(lambda: bool(asked.append(None)) or True))
    with turn.taken():
        until = time.monotonic() + 0.05
        while time.monotonic() < until or not asked:
            turn.step()
    assert 1 <= len(asked) <= 20  # 2 ms of work, then 2 ms of pause
