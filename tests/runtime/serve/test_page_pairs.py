"""The page in Chromium with the real service, for a bundle whose first head expects both chains."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

for _name in ("fastapi", "uvicorn", "prometheus_client"):
    pytest.importorskip(_name, reason="the serve extra is not installed")

from abonyx.bundle.tolerances import BATCH_NEIGHBOURS  # noqa: E402
from abonyx.config import RuntimeConfig  # noqa: E402

from ..input.test_pairs import LIGHT, heavy_chains  # noqa: E402
from ..paired import make_paired  # noqa: E402
from .serving import Running, service  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Page

PAIRS = [(heavy, LIGHT if at % 2 else LIGHT[:-1] + "R") for at, heavy in enumerate(heavy_chains()[:4])]
Rows = list[dict[str, str]]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A bundle whose first head expects both chains, and whose second head expects the heavy chain."""
    folder: Path = tmp_path_factory.mktemp("bundles")
    bundle = make_paired(folder / "paired", {"psr": ("H", "L"), "nonspecificity": ("H",)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ABONYX_CACHE_DIR", str(folder / "cache"))
        with service(RuntimeConfig(bundle=str(bundle))) as running:
            yield running


@pytest.fixture(autouse=True)
def isolated() -> None:
    """Replaces conftest's fixture: the module's service keeps its session open."""


@pytest.fixture
def page(new_page: Callable[[], Page], served: Running) -> Page:
    page = new_page()
    page.goto(f"http://{served.host}:{served.port}/")
    page.wait_for_selector("#model-state.ready")
    return page


def scores(page: Page) -> Rows:
    """The file that the page offers for download when the results are complete."""
    page.wait_for_selector("#results:not([hidden])")
    with page.expect_download() as waited:
        page.click("#download")
    return list(csv.DictReader(io.StringIO(waited.value.path().read_text(encoding="utf-8"))))


def same(rows: Rows, served: Running) -> None:
    assert [(row["heavy"], row["light"]) for row in rows] == PAIRS
    p = served.session.score(PAIRS, ("psr",))[:, 0]
    assert [float(row["p_nonspecific"]) for row in rows] == pytest.approx(p.tolist(), abs=BATCH_NEIGHBOURS, rel=0)


def test_a_table_with_both_chains(page: Page, served: Running) -> None:
    assert "Both chains of a record" in page.inner_text("#text-note")
    table = "id,VH,VL\n" + "".join(f"m{at},{heavy},{light}\n" for at, (heavy, light) in enumerate(PAIRS))
    page.fill("#text", f"{table}alone,{PAIRS[0][0]},\n")
    page.check("#head-nonspecificity")
    page.click("#score")
    rows = scores(page)
    same(rows, served)
    assert list(rows[0])[:4] == ["id", "heavy", "light", "p_nonspecific"] and "nonspecificity_p" in rows[0]
    assert "4 pairs scored" in page.inner_text("#results-title")
    titles = page.locator("#scores thead th").all_inner_texts()
    assert titles[-2:] == ["Heavy chain", "Light chain"]
    assert "no light chain" in page.inner_text("#rejects tbody")
    assert "the heavy chains are column 'VH'" in page.inner_text("#reading")
    page.fill("#find", LIGHT[-12:])
    assert page.locator("#scores tbody tr").count() == 2


def test_columns_that_are_picked_or_named(page: Page, served: Running) -> None:
    rows = "".join(f"m{at},{light},{heavy}\n" for at, (heavy, light) in enumerate(PAIRS))
    for text, heavy, light in (
        (f"id,one,two\n{rows}", "two", "one"),
        (rows.replace(",", "\t"), "column 3", "column 2"),
    ):
        page.fill("#text", text)
        page.click("#score")
        page.wait_for_selector("#picker:not([hidden])")
        assert page.inner_text("#picker-title") == "Which columns hold the chains?"
        page.select_option("#picked-sequence", heavy)
        page.select_option("#picked-light", light)
        if heavy == "column 3":
            page.select_option("#picked-id", "column 1")
        page.click("#picker button")
        page.wait_for_selector("#results-title:focus")
        same(scores(page), served)
        assert page.input_value("#heavy-column") == heavy and page.is_hidden("#sequence-column")
        page.fill("#text", "")


def test_the_example_has_both_chains(page: Page) -> None:
    page.click("#example")
    page.click("#score")
    rows = scores(page)
    assert [row["id"] for row in rows] == ["trastuzumab", "adalimumab", "bevacizumab"]
    assert [row["flag"] for row in rows] == ["", "", ""]


def test_one_sequence_a_record_is_refused_in_words(page: Page) -> None:
    page.fill("#text", f"{PAIRS[0][0]}\n{PAIRS[1][0]}\n")
    page.click("#score")
    page.wait_for_selector("#problem:not([hidden])")
    assert "the heads need both chains of a record" in page.inner_text("#problem-detail")
