"""The scan of a row in Chromium with the real service: maps, numbers, CSV, and cancelling."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest

for _name in ("fastapi", "uvicorn", "prometheus_client"):
    pytest.importorskip(_name, reason="the serve extra is not installed")

import abonyx  # noqa: E402
from abonyx.bundle.tolerances import BATCH_NEIGHBOURS  # noqa: E402
from abonyx.domain import NANOBODY_LIKE  # noqa: E402
from abonyx.explain.scan_mutants import AMINO_ACIDS  # noqa: E402
from abonyx.explain.scan_result import NOT_VALIDATED, Scan  # noqa: E402
from abonyx.explain.validated import Validated  # noqa: E402
from abonyx.session import Session  # noqa: E402

from ..domain.proteins import NANOBODY, VH  # noqa: E402
from .serving import JSON, Running, service, until  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page, Route

# Acidic, basic and other residues: charge can be taken out.
POSITIONS = "106,107"
WAIT_MS = 60_000


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ABONYX_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))
        with service() as running:
            yield running


@pytest.fixture(scope="module")
def expected(served: Running) -> Scan:
    return abonyx.scan(Session(served.session), VH, positions=POSITIONS)


@pytest.fixture(autouse=True)
def isolated() -> None:
    """Replaces conftest's fixture: the module's service keeps its session open."""


@pytest.fixture
def page(new_page: Callable[[], Page], served: Running) -> Page:
    """The page with one opened row."""
    page = new_page()
    page.goto(f"http://{served.host}:{served.port}/")
    page.fill("#text", f">mab\n{VH}\n")
    page.click("#score:enabled")
    page.click("#scores button.why", timeout=WAIT_MS)
    page.wait_for_selector(".explained svg", timeout=WAIT_MS)
    return page


def start(page: Page) -> Locator:
    """Start a scan of POSITIONS with the keyboard only, from the choice of positions."""
    page.get_by_label("Positions to mutate").focus()
    page.keyboard.press("End")
    page.keyboard.press("Tab")
    page.keyboard.type(POSITIONS)
    page.keyboard.press("Enter")
    return page.get_by_role("region", name="What a mutation changes")


def test_maps_numbers_and_the_csv_are_the_sessions(page: Page, expected: Scan) -> None:
    section = start(page)
    page.wait_for_selector(".map svg", timeout=WAIT_MS)
    count = len(expected.mutants)
    p = f"p {float(f'{expected.head().parent:.3g}'):g}"
    assert page.locator(":focus").inner_text() == f"{count} single mutants of mab: nonspecificity, parent {p}"
    words = section.inner_text()
    assert f"{NOT_VALIDATED} A scan recommends no mutant" in words
    assert words.index(NOT_VALIDATED) < words.index("Change of the score, mutant minus parent")
    assert f"over {count} mutants, change = " in words and "-1.00, lower" in words

    change, rest = page.locator(".map").all()
    for plot, values in ((change, expected.head().change), (rest, expected.without_charge())):
        grid = expected.grid(values)
        assert plot.locator(".raises").count() == int((grid > 0).sum())
        assert plot.locator(".lowers").count() == int((grid < 0).sum())
        assert plot.locator(".dot-own").count() == len(expected.scanned) == 2
        shown = plot.locator(".raises, .lowers").evaluate_all(
            "all => all.map((one) => one.getAttribute('fill-opacity'))"
        )
        wanted = [abs(each) for each in grid.flatten() if not np.isnan(each)]
        assert list(map(float, shown)) == pytest.approx(np.minimum(wanted, 1).tolist(), abs=1e-3)
    first = expected.mutants[0]
    tip = f"{first.label} (CDR3): change {expected.head().change[0]:+.3f}, without charge "
    assert any(text.startswith(tip) for text in change.locator("title").all_text_contents())
    labelled = change.locator("svg").get_attribute("aria-labelledby")
    assert page.inner_text(f"#{labelled}") == "Change of the score, mutant minus parent (logits)"

    assert section.locator("table").count() == 0  # made for who opens them
    section.get_by_text("The same in numbers").click()
    table = section.get_by_role("region", name="What the change of charge does not explain (logits)")
    table.locator("thead th").first.wait_for()  # made by an event of the page
    assert table.locator("thead th").all_inner_texts() == ["Position", *AMINO_ACIDS]
    rows = [row.split("\t") for row in table.locator("tbody tr").all_inner_texts()]
    assert [row[0] for row in rows] == [f"{place.residue}{place.imgt} CDR3" for place in expected.scanned]
    grid = expected.grid(expected.without_charge()).T
    for row, values in zip(rows, grid, strict=True):
        for cell, value in zip(row[1:], values, strict=True):
            assert cell == "own" if np.isnan(value) else float(cell) == pytest.approx(value, abs=6e-3)

    with page.expect_download() as waited:
        section.get_by_role("button", name="Download the scan as CSV").click()
    assert waited.value.suggested_filename == "scan.csv"
    found = list(csv.DictReader(io.StringIO(waited.value.path().read_text(encoding="utf-8"))))
    columns = expected.table()
    columns.setdefault("statement", [NOT_VALIDATED] * count)
    assert list(found[0]) == ["id", *columns]
    for name, cells in columns.items():
        for row, cell in zip(found, cells, strict=True):
            if isinstance(cell, float):
                assert float(row[name]) == pytest.approx(cell, abs=50 * BATCH_NEIGHBOURS)
                assert row[name] == str(float(row[name])), "the command line's spelling, as 0.0 and 1e-06"
            else:
                assert row[name] == ("" if cell is None else str(cell))


def test_progress_cancelling_and_closing_the_row(page: Page, served: Running) -> None:
    with served.engine.held():
        section = start(page)
        page.wait_for_selector(".scan .progress span:text-is('0 of 39 sequences')", timeout=WAIT_MS)
        assert page.locator(":focus").inner_text() == "Cancel"
        assert section.get_by_role("button", name="Scan mutants").is_disabled()
        page.keyboard.press("Enter")
        page.wait_for_selector(".scan button:text-is('Scan mutants'):focus")
        until(lambda: not served.scheduler._unsettled)
        assert page.locator(".scan .progress").is_hidden() and page.locator(".map").count() == 0
    with served.engine.held():
        start(page)
        page.wait_for_selector(".scan .progress span:text-is('0 of 39 sequences')", timeout=WAIT_MS)
        page.click("#scores button.why")
        until(lambda: not served.scheduler._unsettled)


def test_an_earlier_scan_is_called_that(page: Page, served: Running) -> None:
    start(page)
    page.wait_for_selector(".map svg", timeout=WAIT_MS)
    title = page.locator(".scan .inner h4")
    words = title.inner_text()
    with served.engine.held():
        start(page)
        page.wait_for_selector(".scan .progress span:text-is('0 of 39 sequences')", timeout=WAIT_MS)
        assert title.inner_text() == f"Earlier: {words}"
        page.keyboard.press("Enter")
        page.wait_for_selector(".scan button:text-is('Scan mutants'):focus")
        assert page.text_content("#status") == "Cancelled: what is shown is the earlier scan."
        until(lambda: not served.scheduler._unsettled)
    start(page)
    page.wait_for_selector(f".scan h4:text-is('{words}')", timeout=WAIT_MS)
    page.get_by_label("Which", exact=True).fill("999")
    page.keyboard.press("Enter")
    page.wait_for_selector(".scan [role=alert]:not([hidden])")
    assert title.inner_text() == f"Earlier: {words}" and page.locator(".map").count() == 2


@pytest.mark.parametrize("changed", [{"sha256": "0" * 64, "name": "another"}, {"variant": "int8"}, {}])
def test_a_scan_by_another_model_says_so(page: Page, served: Running, changed: dict[str, str]) -> None:
    def reloaded(route: Route) -> None:
        found = served.ask("POST", "/v1/scan", route.request.post_data_buffer, JSON).json
        found["model"] |= changed
        route.fulfill(body=json.dumps(found) + "\n", content_type="application/x-ndjson")

    page.route("**/v1/scan", reloaded)
    section = start(page)
    page.wait_for_selector(".map svg", timeout=WAIT_MS)
    assert ("The server has another model by now" in section.inner_text()) == bool(changed)
    for name in {"name", "variant"} & set(changed):
        assert changed[name] in section.locator(".inner .note").first.inner_text()


def test_a_refusal_names_the_pages_own_box(page: Page) -> None:
    page.fill("#text", f">tagged\n{VH}HHHHHH\n")
    page.click("#score")
    page.get_by_role("button", name="Explain tagged").click(timeout=WAIT_MS)
    page.wait_for_selector(".explained svg", timeout=WAIT_MS)
    section = start(page)
    page.wait_for_selector(".scan [role=alert]:not([hidden])", timeout=WAIT_MS)
    label = page.inner_text("label[for=trim]")
    refusal = section.get_by_role("alert").inner_text()
    assert (
        f'To cut off what lies outside the domain, use the box "{label}".' in refusal and "trim domain" not in refusal
    )
    assert "if you change one, score again first." in refusal


def test_the_operators_figure_is_shown(page: Page, served: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    model = served.scheduler.model()
    known = dataclasses.replace(model, validated=Validated("nonspecificity", "Worse than chance."))
    monkeypatch.setattr(served.scheduler, "_model", known)
    section = start(page)
    page.wait_for_selector(".map svg", timeout=WAIT_MS)
    assert "Worse than chance. A scan recommends no mutant" in section.inner_text()
    assert NOT_VALIDATED not in section.inner_text()


def test_a_nanobodys_mutants_have_a_note_and_are_not_flagged(page: Page) -> None:
    page.fill("#text", f">nano\n{NANOBODY}\n")
    page.click("#score")
    page.get_by_role("button", name="Explain nano").click(timeout=WAIT_MS)
    page.wait_for_selector(".explained svg", timeout=WAIT_MS)
    section = start(page)
    page.wait_for_selector(".map svg", timeout=WAIT_MS)
    assert f"Of 38 mutants: 0 flagged, 38 {NANOBODY_LIKE}, which is a note, " in section.inner_text()
