"""The command line, as `abonyx` starts it, in this process."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import pytest

from abonyx import cli


class Done(NamedTuple):
    """Exit code, stdout and stderr of one command."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["abonyx", *map(str, arguments)])
        capfd.readouterr()
        code: Any = 0
        try:
            cli.main()
        except SystemExit as exit_:
            code = exit_.code or 0
        return Done(code, *capfd.readouterr())

    return call
