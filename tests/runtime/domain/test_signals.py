"""Signals during an import that ignores exceptions of their handlers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from abonyx.domain.signals import signals_held

DROPS = """
import os, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000):
        pass
except KeyboardInterrupt:
    pass
Annotator = NumberingResult = object
"""


def test_a_signal_in_the_block_is_handled_after_it() -> None:
    reached = False
    with pytest.raises(KeyboardInterrupt), signals_held():
        signal.raise_signal(signal.SIGINT)
        reached = True
    assert reached
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_every_signal_is_handled_if_the_first_handler_raises() -> None:
    found: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: found.append(number))
    try:
        with pytest.raises(KeyboardInterrupt), signals_held():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert found == [signal.SIGTERM]


def test_nothing_changes_in_another_thread() -> None:
    found = []

    def work() -> None:
        with signals_held():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.default_int_handler]


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no SIGINT to one process")
def test_ctrl_c_while_the_numbering_is_imported(tmp_path: Path) -> None:
    (tmp_path / "immunum.py").write_text(DROPS)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    line = "import abonyx.domain; print('after')"
    done = subprocess.run([sys.executable, "-c", line], env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, "KeyboardInterrupt" in done.stderr) == ("", True), done.stderr
