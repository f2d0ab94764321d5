"""The page in Chromium with the real service and the shipped model."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

for _name in ("fastapi", "uvicorn", "prometheus_client"):
    pytest.importorskip(_name, reason="the serve extra is not installed")

from abonyx import judge  # noqa: E402
from abonyx.bundle.tolerances import BATCH_NEIGHBOURS  # noqa: E402
from abonyx.config import RuntimeConfig  # noqa: E402

from ...conftest import EXAMPLES, MINI  # noqa: E402
from ..domain.proteins import KAPPA, NANOBODY  # noqa: E402
from ..several import make_several  # noqa: E402
from .serving import ADMIN, CSV, TOKEN, Running, made_up, service  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Page


OTHERS = {"kappa": KAPPA, "nanobody": NANOBODY}


def visit(new_page: Callable[[], Page], running: Running) -> Page:
    page = new_page()
    page.goto(f"http://{running.host}:{running.port}/")
    return page


def test_scores_and_refusals_are_the_services(new_page: Callable[[], Page]) -> None:
    text = EXAMPLES.read_text(encoding="utf-8")
    given = list(csv.DictReader(io.StringIO(text)))
    with service(token=TOKEN) as running:
        page = visit(new_page, running)
        page.fill("#token", TOKEN)
        page.keyboard.press("Enter")
        page.wait_for_selector("#model-state.ready")
        page.fill("#text", f"{text}gap,EV-QL\n" + "".join(f"{id_},{sequence}\n" for id_, sequence in OTHERS.items()))
        page.click("#score")
        page.wait_for_selector("#results:not([hidden])")
        with page.expect_download() as waited:
            page.click("#download")
        found = list(csv.DictReader(io.StringIO(waited.value.path().read_text(encoding="utf-8"))))
        given.extend({"id": id_, "sequence": sequence} for id_, sequence in OTHERS.items())
        assert [(row["id"], row["sequence"]) for row in found] == [(row["id"], row["sequence"]) for row in given]
        judgements = judge([row["sequence"] for row in given])
        assert [row["flag"] for row in found] == [judgement.text for judgement in judgements]
        assert [judgement.trusted for judgement in judgements] == [row["id"] != "kappa" for row in given]
        assert page.locator("#scores tr.no-call").count() == 1
        p = running.session.score([row["sequence"] for row in given])[:, 0]
        assert [float(row["p_nonspecific"]) for row in found] == pytest.approx(p.tolist(), abs=BATCH_NEIGHBOURS, rel=0)
        calls = ["" if row["id"] == "kappa" else str(int(value > 0.5)) for row, value in zip(given, p, strict=True)]
        assert [row["nonspecific"] for row in found] == calls
        page.get_by_role("button", name=f"Explain {given[0]['id']}", exact=True).click()
        page.wait_for_selector(".explained svg")
        bars = page.locator(".strip .raises, .strip .lowers")
        assert bars.count() == len(given[0]["sequence"])
        assert f"p {p[0]:.3f}, a logit of" in page.inner_text(".explained")
        assert page.locator("#rejects tbody tr").count() == 1
        assert page.inner_text("#rejects td.number") == str(len(given) + 2 - len(OTHERS))
        assert page.locator("#legend li").count() == 3  # the shipped model has its training scores
        assert running.session.bundle.sha256 in (page.text_content("#engine-facts") or "")

        page.uncheck("#skip")
        page.click("#score")
        page.wait_for_selector("#problem:not([hidden])")
        assert page.inner_text("#problem-title") == "Nothing was scored (422 Unprocessable Entity)"
        assert "gap" in page.inner_text("#problem-detail")


def test_columns_for_each_head(new_page: Callable[[], Page], tmp_path: Path) -> None:
    given = list(csv.DictReader(io.StringIO(EXAMPLES.read_text(encoding="utf-8"))))
    bundle = make_several(tmp_path / "several", ("nonspecificity", "hic", "psr"))
    with service(RuntimeConfig(bundle=str(bundle))) as running:
        page = visit(new_page, running)
        page.wait_for_selector("#model-state.ready")
        assert page.locator("#heads label").all_inner_texts() == ["hic (min)", "psr"]
        page.check("#head-hic")
        page.check("#head-psr")
        page.set_input_files("#file", EXAMPLES)
        page.click("#score")
        page.wait_for_selector("#results:not([hidden])")
        assert page.locator("#scores thead th").all_inner_texts() == [
            *(
                "No.",
                "Id",
                "Called",
                "p non-specific",
                "Flag",
                "Net charge",
                "Why",
                "hic (min)",
                "psr: called",
                "p psr",
            ),
            "Sequence",
        ]
        with page.expect_download() as waited:
            page.click("#download")
        found = list(csv.DictReader(io.StringIO(waited.value.path().read_text(encoding="utf-8"))))
        assert list(found[0]) == [
            *("id", "sequence", "p_nonspecific", "nonspecific", "call", "percentile", "flag", "hic_value"),
            *("hic_percentile", "psr_p", "psr_nonspecific", "psr_call", "psr_percentile", "charge"),
        ]
        values = running.session.score([row["sequence"] for row in given], ("nonspecificity", "hic", "psr"))
        for at, column in enumerate(("p_nonspecific", "hic_value", "psr_p")):
            shown = [float(row[column]) for row in found]
            assert shown == pytest.approx(values[:, at].tolist(), abs=50 * BATCH_NEIGHBOURS, rel=0)
        assert [row["psr_nonspecific"] for row in found] == [str(int(float(row["psr_p"]) > 0.5)) for row in found]
        labelled = f"id,sequence,label\na,{KAPPA},1\n".encode()
        (row,) = running.ask("POST", "/v1/score?labels=find", labelled, CSV).json["results"]
        assert row["training_row"] is None, "this bundle records no training rows"
        page.uncheck("#head-hic")
        page.uncheck("#head-psr")
        page.click("#score")
        page.wait_for_selector("#scores thead th:nth-child(9)", state="detached")


def test_progress_as_it_comes_and_cancelling(new_page: Callable[[], Page]) -> None:
    with service() as running:
        page = visit(new_page, running)
        page.fill("#text", "\n".join(f">s{number}\n{each}" for number, each in enumerate(made_up(150, 3))))
        with running.engine.held():
            page.click("#score")
            page.wait_for_selector("#counted:text-is('0 of 150 sequences')")
            assert page.locator("#bar").evaluate("bar => [bar.value, bar.max]") == [0, 150]
        page.wait_for_selector("#results-title:focus")
        assert page.inner_text("#scores [role=status]") == "Rows 1 to 50 of 150"
        with running.engine.held():
            page.click("#score")
            page.wait_for_selector("#counted:text-is('0 of 150 sequences')")
            page.click("#cancel")
            page.wait_for_selector("#score:focus")
        assert page.inner_text("#results-title").startswith("Earlier: 150 sequences scored")


def test_a_broken_model_is_said_and_the_next_one_found(new_page: Callable[[], Page], tmp_path: Path) -> None:
    bundles = {name: Path(shutil.copytree(MINI, tmp_path / name)) for name in ("broken", "other")}
    with (bundles["broken"] / "fp16-weights" / "model.onnx.data").open("r+b") as weights:
        weights.write(b"\0" * 64)
    manifest = json.loads((MINI / "manifest.json").read_text())
    (bundles["other"] / "manifest.json").write_text(json.dumps(manifest | {"name": "another"}))
    configs = iter(RuntimeConfig(bundle=str(bundles[name])) for name in ("other", "broken", "other"))
    with service(admin_token=ADMIN, load=lambda: next(configs)) as running:

        def reload() -> int:
            return running.ask("POST", "/v1/reload", headers={"Authorization": f"Bearer {ADMIN}"}).status

        page = visit(new_page, running)
        page.wait_for_selector("#model-state.ready")
        page.click("#example")
        assert reload() == 200  # the page still has the model before it
        assert page.inner_text("#model") == "abonyx-mini: ready"
        page.click("#score")
        page.wait_for_selector("#results-title:focus")
        page.wait_for_selector("#model-name:text-is('another: ready')")
        assert page.locator("#legend li").count() == 3

        assert reload() >= 500
        page.click("#score")
        page.wait_for_selector("#waiting:not([hidden])")
        assert "sha256" in page.inner_text("#waiting") and page.is_disabled("#score")
        assert reload() == 200
        page.wait_for_selector("#waiting", state="hidden")
        page.click("#score")
        page.wait_for_selector("#results-title:focus")


def test_columns_are_picked_and_cells_without_a_header_scored(new_page: Callable[[], Page]) -> None:
    given = list(csv.DictReader(io.StringIO(EXAMPLES.read_text(encoding="utf-8"))))[:3]
    rows = [(f"mab {row['id']}", row["sequence"]) for row in given]
    with service() as running:
        page = visit(new_page, running)
        page.wait_for_selector("#model-state.ready")
        page.fill("#text", "mab\tvh\theavy\n" + "".join(f"{id_}\t{vh}\t{KAPPA}\n" for id_, vh in rows))
        page.click("#score")
        page.wait_for_selector("#picker:not([hidden])")
        assert "'vh', 'heavy'" in page.inner_text("#picker-detail")
        page.select_option("#picked-sequence", "vh")
        page.select_option("#picked-id", "mab")
        page.click("#picker button")
        page.wait_for_selector("#results-title:focus")
        assert scored_rows(page) == rows

        for text, expected in (
            ("".join(f"{id_}\t{vh}\n" for id_, vh in rows), rows),
            ("".join(f"{vh}\n" for _, vh in rows), [(str(at), vh) for at, (_, vh) in enumerate(rows, 1)]),
        ):
            page.fill("#text", text)
            page.click("#score")
            page.wait_for_selector("#results-title:focus")
            assert scored_rows(page) == expected


def scored_rows(page: Page) -> list[tuple[str, str]]:
    """The rows of the CSV, as ids and sequences."""
    with page.expect_download() as waited:
        page.click("#download")
    found = csv.DictReader(io.StringIO(waited.value.path().read_text(encoding="utf-8")))
    return [(row["id"], row["sequence"]) for row in found]
