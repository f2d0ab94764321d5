"""The pictures of page.md: the page of `abonyx serve` with the shipped model and the examples, in Chromium.

    python docs/screenshots.py

Needs the extras cpu, serve and test, and a chromium on PATH.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Browser, ColorScheme, sync_playwright

FOLDER = Path(__file__).resolve().parent
EXAMPLES = FOLDER.parent / "examples" / "therapeutic_vh.csv"
# One record that cannot be scored, so that the list of those is seen too.
GAPPED = "with-a-gap,EVQLVE--GGLVQPGGSLRLSCAAS\n"
# name, colours, width and height in CSS pixels
PICTURES: tuple[tuple[str, ColorScheme, int, int], ...] = (
    ("page-light", "light", 1100, 1900),
    ("page-dark", "dark", 1100, 1900),
    ("page-phone", "light", 360, 1900),
)


def take(browser: Browser, address: str, name: str, scheme: ColorScheme, width: int, height: int) -> None:
    """One picture, from the top of the page."""
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    page.goto(address)
    page.fill("#text", EXAMPLES.read_text(encoding="utf-8") + GAPPED)
    page.click("#score:enabled")
    page.wait_for_selector("#results:not([hidden])")
    page.click("#scores th.score button")
    page.evaluate("document.activeElement.blur()")
    page.screenshot(path=FOLDER / f"{name}.png")
    page.close()


def main() -> None:
    """Start the service, take the pictures, end it."""
    chromium = shutil.which("chromium") or sys.exit("no chromium on PATH")
    command = [sys.executable, "-m", "abonyx", "serve", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as service, sync_playwright() as driver:
        assert service.stderr is not None
        found = (re.search(r"listening at (http://\S+)", line) for line in service.stderr)
        address = next(match[1] for match in found if match)
        browser = driver.chromium.launch(executable_path=chromium)
        for picture in PICTURES:
            take(browser, address, *picture)
        browser.close()
        service.terminate()


if __name__ == "__main__":
    main()
