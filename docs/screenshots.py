"""The pictures of page.md: the page of `abonyx serve` with the shipped model and the examples, in Chromium.

    python docs/screenshots.py

Needs the extras cpu, serve, evaluate (its Pillow: 128 colours take a third of the bytes) and test, and a chromium.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

Scheme = Literal["light", "dark"]

FOLDER = Path(__file__).resolve().parent
EXAMPLES = FOLDER.parent / "examples" / "therapeutic_vh.csv"
# Trastuzumab's light chain and ubiquitin, which are flagged, and one record that cannot be scored.
OTHERS = (
    "trastuzumab-light,DIQMTQSPSSLSASVGDRVTITCRASQDVNTAVAWYQQKPGKAPKLLIYSASFLYSGVPSRF"
    "SGSRSGTDFTLTISSLQPEDFATYYCQQHYTTPPTFGQGTKVEIK\n"
    "ubiquitin,MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEGIPPDQQRLIFAGKQLEDGRTLSDYNIQKESTLHLVLRLRGG\n"
    "with-a-gap,EVQLVE--GGLVQPGGSLRLSCAAS\n"
)
# The row that is opened.
OPENED = "bevacizumab"
# name, colours, width and height in CSS pixels
PICTURES: tuple[tuple[str, Scheme, int, int], ...] = (
    ("page-light", "light", 1100, 3050),
    ("page-dark", "dark", 1100, 3050),
    ("page-phone", "light", 360, 5000),
)
# The results alone, from their title to the end of the opened row's explanation, for the README.
RESULTS_PICTURE = "page-results"
# A row and what is scanned of it, in a picture of its own.
SCANNED, SCAN_PICTURE = "trastuzumab", "page-scan"
SCAN_MS = 300_000


def take(browser: Browser, address: str, name: str, scheme: Scheme, width: int, height: int) -> None:
    """One picture, from the top of the page."""
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    page.goto(address)
    page.fill("#text", EXAMPLES.read_text(encoding="utf-8") + OTHERS)
    page.click("#score:enabled")
    page.wait_for_selector("#results:not([hidden])")
    page.get_by_role("button", name=f"Explain {OPENED}", exact=True).click()
    page.wait_for_selector(".explained svg")
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    page.mouse.move(0, 0)
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.quantize(128, dither=Image.Dither.NONE).save(FOLDER / f"{name}.png", optimize=True)
    page.close()


def take_results(browser: Browser, address: str) -> None:
    """The picture of the results, but for the histogram, of the examples without the others: the first row is open."""
    page = browser.new_page(viewport={"width": 1100, "height": 3000}, color_scheme="light")
    page.goto(address)
    page.fill("#text", EXAMPLES.read_text(encoding="utf-8"))
    page.click("#score:enabled")
    page.wait_for_selector("#results:not([hidden])")
    page.locator("#scores button.why").first.click()
    page.wait_for_selector(".explained svg")
    page.evaluate("document.activeElement.blur(); document.getElementById('histogram').hidden = true")
    page.mouse.move(0, 0)
    top = page.locator("#results").bounding_box()
    end = page.locator(".explained > .inner").bounding_box()
    assert top and end
    clip = {"x": 0.0, "y": top["y"], "width": 1100.0, "height": end["y"] + end["height"] + 12 - top["y"]}
    picture = Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")
    picture.quantize(128, dither=Image.Dither.NONE).save(FOLDER / f"{RESULTS_PICTURE}.png", optimize=True)
    page.close()


def take_scan(browser: Browser, address: str) -> None:
    """The picture of a scan alone."""
    page = browser.new_page(viewport={"width": 1100, "height": 1000})
    page.goto(address)
    page.fill("#text", EXAMPLES.read_text(encoding="utf-8"))
    page.click("#score:enabled")
    page.get_by_role("button", name=f"Explain {SCANNED}", exact=True).click()
    page.get_by_role("button", name="Scan mutants").click()
    page.wait_for_selector(".map svg", timeout=SCAN_MS)
    page.evaluate("document.activeElement.blur()")
    picture = Image.open(io.BytesIO(page.locator(".scan").screenshot())).convert("RGB")
    picture = picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)  # colours are what it shows
    picture.save(FOLDER / f"{SCAN_PICTURE}.png", optimize=True)
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
        take_results(browser, address)
        take_scan(browser, address)
        browser.close()
        service.terminate()


if __name__ == "__main__":
    main()
