"""The command line, as `abonyx` starts it, in this process; and a Chromium for the page of `abonyx serve`."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from abonyx import cli

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


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


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The system's own Chromium: playwright's is never downloaded."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright (the test extra) is not installed")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("no chromium on PATH (Debian: apt install chromium)")
    with api.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=path)
        yield chromium
        chromium.close()


@pytest.fixture
def new_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open pages with separate storage. At the end, no page may have logged an error or a blocked request (CSP)."""
    contexts, said = [], list[str]()

    def call(**options: Any) -> Page:
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: said.append(str(error)))
        # Chromium also logs each 4xx and 5xx.
        page.on("console", lambda message: "status of" in message.text or said.append(message.text))
        return page

    yield call
    for context in contexts:
        context.close()
    assert said == []
