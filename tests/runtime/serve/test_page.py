"""The page of `abonyx serve` in a real Chromium, used as by a user. These tests give the server's answers."""

from __future__ import annotations

import gzip
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from abonyx import __version__
from abonyx.bundle import open_bundle
from abonyx.domain import NANOBODY_LIKE, reason
from abonyx.explain.places import REGIONS, places
from abonyx.output.formats import rejected_bytes, results_format, score_columns, value_columns

from ...conftest import MINI, REPOSITORY

if TYPE_CHECKING:
    from playwright.sync_api import Page, Request, Route

FILES = REPOSITORY / "runtime" / "abonyx" / "serve" / "page"
PAGE = {f"/page/{path.name}": path.name for path in FILES.iterdir()} | {"/": "index.html"}
ADDRESS = "http://page.test"
# As the server sends it.
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
VH = "EVQLVESGGGLVQPGGSLRLSCAASGFTFSSYAMSWVRQAPGKGLEWVSAISGSGGSTYYADSVKGRFTISRDNSKNTLYLQMNSLRAEDTAVYYCAKWGQGTLVTVSS"
ROWS_A_PAGE = 50
Answer = dict[str, Any]


def model(**changes: Any) -> Answer:
    """The answer of /v1/model for the shipped bundle."""
    bundle = open_bundle(MINI)
    manifest, variant = bundle.manifest, bundle.manifest.variants["fp16-weights"]
    return {
        "abonyx": __version__,
        "ready": True,
        "name": manifest.name,
        "label": bundle.label(),
        "notice": manifest.notice,
        "licence": manifest.licence,
        "sha256": bundle.sha256,
        "variant": "fp16-weights",
        "precision": variant.precision,
        "provider": "cpu",
        "placement": {"CPUExecutionProvider": 1},
        "parity": msgspec.to_builtins(variant.parity),
        "max_residues": manifest.max_residues,
        "chains": manifest.head.chains,
        "heads": [
            {"name": head.name, "kind": head.kind, "unit": head.unit, "higher_is_worse": True}
            | {"threshold": 0.5, "band": None, "chains": head.chains}
            for head in manifest.heads
        ],
        "default_threshold": 0.5,
        "thresholds": {},
        "training": msgspec.to_builtins(manifest.head.training),
        "card": None,
        "model_card": (MINI / "README.md").read_text(encoding="utf-8"),
        "limits": {"max_body_bytes": 1_000_000, "max_sequences": 10_000, "max_residues_per_request": 2_000_000},
    } | changes


def scored(
    ids: list[str],
    p: Any = None,
    rejected: list[tuple[str, int, str]] | None = None,
    flags: list[str] | None = None,
    places: list[str] | None = None,
) -> Answer:
    """An answer of /v1/score. p is float32, as the server writes it; `places` are for a trimmed request."""
    values = np.linspace(0.05, 0.95, len(ids)).astype(np.float32) if p is None else p
    flags = flags or [""] * len(ids)
    rows: list[Answer] = [
        {
            "id": id_,
            "sequence": VH,
            "p_nonspecific": float(str(value)),
            "nonspecific": int(value > 0.5) if flag in ("", NANOBODY_LIKE) else None,
            "call": ("non-specific" if value > 0.5 else "specific") if flag in ("", NANOBODY_LIKE) else None,
            "percentile": None,
            "flag": flag,
        }
        for id_, value, flag in zip(ids, values, flags, strict=True)
    ]
    for row, place in zip(rows, places or [], strict=bool(places)):
        row["domain"] = place
    counts = Counter(reason(each) for flag in flags if flag for each in flag.split("; "))
    return {
        "model": {"name": "abonyx-mini", "sha256": model()["sha256"], "variant": "fp16-weights", "provider": "cpu"},
        "threshold": 0.5,
        "band": None,
        "assay": None,
        "panel": None,
        "heads": model()["heads"],
        "chains": ["H"],
        "labels": None,
        "notes": [],
        "domain": "check",
        "trim": "domain" if places else None,
        "flags": dict(counts.most_common()),
        "results": rows,
        "rejected": [dict(zip(("id", "line", "reason"), each, strict=True)) for each in rejected or []],
    }


def explained(ids: list[str], heads: list[Answer] | None = None, chains: str = "H") -> Answer:
    """/v1/explain for the first id: residue i of n adds (i - n / 2) / 100 to the first head, 1 to others."""
    heads = heads or model()["heads"]
    found = []
    for chain in chains:
        residues: list[Answer] = [
            {"position": place.index + 1, "imgt": place.imgt, "region": place.region, "residue": place.residue}
            | {"contributions": [(place.index - len(VH) / 2) / 100, *[1.0] * (len(heads) - 1)]}
            for place in places(VH)
        ]
        sums = {
            region: np.sum([each["contributions"] for each in residues if each["region"] == region], axis=0).tolist()
            for region in REGIONS
        }
        found.append({"chain": chain, "net_charge": 2.96, "pI": 8.94, "residues": residues, "regions": sums})
        found[-1]["end"] = [0.0] * len(heads)
    contributed = np.sum([list(each["regions"].values()) for each in found], axis=(0, 1))
    record = {"id": ids[0], "flag": "", "heads": [head["name"] for head in heads], "chains": found}
    record |= {"baseline": [0.25] * len(heads), "total": (0.25 + contributed).tolist()}
    answer = {name: scored(ids[:1])[name] for name in ("model", "domain", "trim", "flags", "rejected")}
    return answer | {"heads": heads, "results": [record]}


def problem(status: int, title: str, detail: str, fix: str) -> Answer:
    return {"type": "urn:abonyx:Any", "title": title, "status": status, "detail": detail, "fix": fix}


@dataclass
class Site:
    """Answers of the server, and the received requests for scores.

    Attributes:
        models: answers of /v1/model in order (a problem with its status, or the model). The last one repeats.
        answer: answer of /v1/score as lines of a stream, or a problem if it has a status.
        explained: answer of /v1/explain, or a problem if it has a status.
        scanned: answer of /v1/scan, like `answer`.
    """

    models: list[Answer] = field(default_factory=lambda: [model()])
    answer: list[Answer] = field(default_factory=list)
    explained: Answer = field(default_factory=dict)
    scanned: list[Answer] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    asked: list[Request] = field(default_factory=list)

    def handle(self, route: Route) -> None:
        path = route.request.url.removeprefix(ADDRESS).partition("?")[0]
        name = PAGE.get(path)
        if name is not None:
            kind = {"html": "text/html", "js": "text/javascript", "css": "text/css"}[name.rpartition(".")[2]]
            headers = {"Content-Type": kind, "Content-Security-Policy": CSP}
            route.fulfill(body=(FILES / name).read_bytes(), headers=headers)
        elif path == "/v1/model":
            self._send(route, [self.models.pop(0) if len(self.models) > 1 else self.models[0]])
        elif path == "/v1/score":
            self.asked.append(route.request)
            self._send(route, self.answer)
        elif path == "/v1/explain":
            self.asked.append(route.request)
            self._send(route, [self.explained])
        elif path == "/v1/scan":
            self.asked.append(route.request)
            self._send(route, self.scanned)
        else:
            route.abort()
            pytest.fail(f"the page asked for {route.request.url}")

    def _send(self, route: Route, lines: list[Answer]) -> None:
        refused = "status" in lines[0]
        kind = "application/problem+json" if refused else "application/x-ndjson"
        body = "\n".join(map(json.dumps, lines)) + "\n"
        status = lines[0]["status"] if refused else 200
        route.fulfill(body=body, status=status, headers={"Content-Type": kind, **self.headers})


@pytest.fixture
def site() -> Site:
    return Site()


Opener = Callable[..., "Page"]


@pytest.fixture
def visit(new_page: Opener, site: Site) -> Opener:
    """Open the page of the site."""

    def call(**options: Any) -> Page:
        page = new_page(**options)
        page.route("**/*", site.handle)
        page.goto(f"{ADDRESS}/")
        return page

    return call


def score(page: Page, text: str = f">a\n{VH}\n") -> None:
    page.fill("#text", text)
    page.click("#score")


def texts(page: Page, selector: str) -> list[str]:
    return page.locator(selector).all_inner_texts()


def downloaded(page: Page, button: str) -> bytes:
    with page.expect_download() as waited:
        page.click(button)
    path: Path = waited.value.path()
    return path.read_bytes()


def test_paste_scores_bars_and_the_command_lines_csv(visit: Opener, site: Site) -> None:
    ids = ["plain", 'a,"b"', "=SUM(A1)", "two\nlines", "cr\rcr", "Ω≈ç ", "tiny", "zero", "one", "<b>bold</b>"]
    p = np.array([0.25, 0.5, 0.50000006, 0.1, 0.75, 0.3, 1.234e-5, 0, 1, 0.8], np.float32)
    rejected = [("gap", 7, "position 3: '-'"), ("=1+1", 9, "a, b")]
    site.answer = [{"done": 4, "total": 10}, {"done": 10, "total": 10}, scored(ids, p, rejected)]
    page = visit()
    pasted = f">plain\n{VH}\n"
    score(page, pasted)
    page.wait_for_selector("#results:not([hidden])")

    (request,) = site.asked
    assert request.post_data_buffer == pasted.encode()
    assert request.url.endswith("/v1/score?on_invalid=skip&with=charge&labels=find")
    assert request.headers["content-type"] == "application/octet-stream"
    assert request.headers["accept"] == "application/x-ndjson"
    assert page.inner_text("#results-title") == "10 sequences scored, 4 called non-specific, 2 left out"
    assert "2 ids begin with =, +, - or @" in page.inner_text("#formulas")
    assert texts(page, "#scores td.id")[:3] == ["one", "<b>bold</b>", "cr cr"]  # the highest score first
    page.click("#scores th.number button")
    assert texts(page, "#scores td.call")[:3] == ["specific", "specific", "non-specific"]
    assert texts(page, "#scores td.id")[-1] == "<b>bold</b>"
    fill, tick, track = (page.locator(f"#scores .{part}").first.bounding_box() for part in ("fill", "tick", "track"))
    assert fill and tick and track
    assert fill["width"] == pytest.approx(track["width"] / 4, abs=1)
    assert tick["x"] + 1 == pytest.approx(track["x"] + track["width"] / 2, abs=1)

    form = results_format("csv", {})
    calls, words = ([row[name] for row in site.answer[-1]["results"]] for name in ("nonspecific", "call"))
    (rows,) = form.encode(0, score_columns(ids, [VH] * len(ids), p, calls, words, [""] * len(ids)))
    assert downloaded(page, "#download") == form.head[0] + rows
    from abonyx.input.records import RejectedRecord

    assert downloaded(page, "#download-rejected") == rejected_bytes([RejectedRecord(*each) for each in rejected])


FLAGS = [
    *("", "light chain (kappa)", NANOBODY_LIKE, "two domains; 15 residues outside the domain"),
    *("longer than 1,000 residues: chain not judged", "fragment; 1 unknown residue (X)"),
]


def test_flagged_rows_are_grey_and_have_no_call(visit: Opener, site: Site) -> None:
    ids = [f"m{number}" for number in range(len(FLAGS))]
    p = np.array([0.9, 0.99, 0.2, 0.7, 0.1, 0.6], np.float32)
    site.answer = [scored(ids, p, flags=FLAGS)]
    page = visit()
    score(page)
    page.wait_for_selector("#results:not([hidden])")
    assert page.inner_text("#results-title") == "6 sequences scored, 1 called non-specific, 5 flagged, 4 without a call"
    assert page.inner_text("#flagged").startswith("Flagged: 5 of 6 records (light chain (kappa) 1, nanobody-like 1, ")
    assert "4 of them have a score but no call" in page.inner_text("#flagged")
    assert texts(page, "#scores td.id") == ["m1", "m0", "m3", "m5", "m2", "m4"]
    page.click("#scores th.number button")
    assert texts(page, "#scores td.flag") == FLAGS
    called = ["non-specific", "no call", "specific", "no call", "no call", "no call"]
    assert page.locator("#scores td.call").evaluate_all(HEARD) == called
    assert page.locator("#scores tr.no-call td.call [title]").count() == 4
    colours = page.locator("#scores tbody tr").evaluate_all(
        "rows => rows.map((row) => getComputedStyle(row.cells[1]).color)"
    )
    assert [colour == colours[0] for colour in colours] == [not call.startswith("no ") for call in called]
    words = page.inner_text("#histogram-words")
    assert words.startswith("1 sequence of 2 with a call (50 %) above the threshold 0.5; their median is 0.550.")
    assert "4 more sequences have no call and no bar." in words and texts(page, "#legend li")[-1] == "this set (2)"

    for choice, kept in (("flagged", ids[1:]), ("clear", ids[:1]), ("", ids)):
        page.select_option("#flag", choice)
        assert texts(page, "#scores td.id") == kept
    for choice, kept in (("-", ["m1", "m3", "m4", "m5"]), ("specific", ["m2"]), ("non-specific", ["m0"])):
        page.select_option("#call", choice)
        assert texts(page, "#scores td.id") == kept

    form = results_format("csv", {})
    calls, words = ([row[name] for row in site.answer[-1]["results"]] for name in ("nonspecific", "call"))
    (rows,) = form.encode(0, score_columns(ids, [VH] * len(ids), p, calls, words, FLAGS))
    assert downloaded(page, "#download") == form.head[0] + rows


def test_calls_by_a_band(visit: Opener, site: Site) -> None:
    ids, p = ["a", "b", "c", "d"], np.array([0.1, 0.45, 0.55, 0.9], np.float32)
    found = scored(ids, p)
    found["band"] = {"confidence": 0.8, "low": 0.4, "high": 0.6}
    for row in found["results"][1:3]:
        row["call"] = "uncertain"
    site.answer = [found]
    page = visit()
    score(page)
    page.wait_for_selector("#results:not([hidden])")
    assert page.inner_text("#results-title") == "4 sequences scored, 1 called non-specific, 2 uncertain"
    said = "Called specific below 0.400, non-specific above 0.600, and uncertain from one to the other."
    assert page.inner_text("#results-model").startswith(said)
    assert texts(page, "#scores td.call") == ["non-specific", "uncertain", "uncertain", "specific"]
    page.select_option("#call", "uncertain")
    assert texts(page, "#scores td.id") == ["c", "b"]


def test_calls_of_two_values_say_why(visit: Opener, site: Site) -> None:
    band = {"confidence": 0.8, "low": 0.4, "high": 0.6}
    for training, why in (
        ({"band": band}, "a threshold was chosen"),
        ({"band": None}, "the model has no stored quantiles"),
    ):
        site.models = [model(training=model()["training"] | training)]
        site.answer = [scored(["a"])]
        page = visit()
        score(page)
        page.wait_for_selector("#results:not([hidden])")
        assert f"Called non-specific above 0.5, and never uncertain: {why}." in page.inner_text("#results-model")


def test_the_card_of_the_head(visit: Opener, site: Site) -> None:
    """A card from `fit` is shown with its escapes decoded; a card from a stranger is shown as text."""
    card = "No signal: AUC 0.5 &lt;b&gt; \\_x\\_.\n\n# Title\n\n## Folds\n\n|  | a\\|b |\n| --- | --- |\n| head | 1 |\n"
    site.models = [model(card=card)]
    page = visit()
    assert "No signal: AUC 0.5 <b> _x_." in page.inner_text("#facts")
    page.click("#trust summary")
    assert texts(page, "#trust-text th") == ["", "a|b"]
    assert texts(page, "#trust-text > *")[0] == "No signal: AUC 0.5 <b> _x_."
    assert page.locator("#trust-text :is(b, script, a)").count() == 0
    site.models = [model()]
    page = visit()
    assert page.is_hidden("#trust") and "How far" not in page.inner_text("#facts")


# The cells as a screen reader reads them, without hidden parts.
HEARD = """cells => cells.map((cell) => {
  const heard = cell.cloneNode(true);
  for (const silent of heard.querySelectorAll("[aria-hidden=true]")) silent.remove();
  return heard.textContent;
})"""


def test_a_nanobody_alone_keeps_its_call_and_no_call_at_all_has_no_histogram(visit: Opener, site: Site) -> None:
    for flag, title, words, histogram in (
        (
            NANOBODY_LIKE,
            "1 called non-specific, 1 flagged, none without a call",
            "All of them keep their call.",
            "1 with a call (100 %)",
        ),
        ("fragment", "0 called non-specific, 1 flagged, 1 without a call", "1 of them has a score but no call", None),
    ):
        site.answer = [scored(["a"], np.array([0.9], np.float32), flags=[flag])]
        page = visit()
        score(page)
        page.wait_for_selector("#results:not([hidden])")
        assert page.inner_text("#results-title") == f"1 sequence scored, {title}"
        assert words in page.inner_text("#flagged")
        assert page.is_visible("#histogram") == bool(histogram)
        assert not histogram or histogram in page.inner_text("#histogram-words")


def test_trimmed_records_name_their_residues(visit: Opener, site: Site) -> None:
    ids, flags, places = ["a", "b", "c"], ["", "", "no antibody domain"], ["1-120", "", ""]
    site.answer = [scored(ids, flags=flags, places=places)]
    page = visit()
    page.check("#trim")
    score(page)
    page.wait_for_selector("#results:not([hidden])")
    assert site.asked[0].url.endswith("/v1/score?on_invalid=skip&trim=domain&with=charge&labels=find")
    assert texts(page, "#scores td.flag") == ["no antibody domain", "", "residues 1-120 scored"]
    form = results_format("csv", {}, ("domain",))
    p = np.linspace(0.05, 0.95, 3).astype(np.float32)
    (rows,) = form.encode(
        0, score_columns(ids, [VH] * 3, p, [0, 0, None], ["specific", "specific", None], flags, [places])
    )
    assert downloaded(page, "#download") == form.head[0] + rows
    page.fill("#text", f"a\t{VH}")  # a table without a header goes as JSON
    page.check("#gaps")
    page.click("#score")
    page.wait_for_selector("#results-title:focus")
    sent = json.loads(site.asked[1].post_data or "")
    assert (sent["trim"], sent["gaps"], sent["with"]) == ("domain", "strip", ["charge"])


def test_any_float32_is_written_as_the_command_line_writes_it(visit: Opener, site: Site) -> None:
    rng = np.random.default_rng(5)
    p = np.concatenate([rng.random(1500), 10 ** rng.uniform(-30, 0, 500)]).astype(np.float32)
    ids = [str(number) for number in range(p.size)]
    site.answer = [scored(ids, p)]
    page = visit()
    score(page)
    lines = downloaded(page, "#download").decode().splitlines()[1:]
    assert [line.split(",")[2] for line in lines] == [str(value) for value in p]


def test_upload_drop_and_remove(visit: Opener, site: Site, tmp_path: Path) -> None:
    packed = gzip.compress(f"id,heavy\na,{VH}\n".encode(), mtime=0)
    (tmp_path / "rows.csv.gz").write_bytes(packed)
    site.answer = [scored(["a"])]
    page = visit()
    with page.expect_file_chooser() as chooser:
        page.click("#choose")
    chooser.value.set_files(tmp_path / "rows.csv.gz")
    assert page.inner_text("#chosen-name") == f"rows.csv.gz, {len(packed)} bytes"
    page.click("summary:has-text('Other column names')")
    page.fill("#sequence-column", "heavy & light")
    page.uncheck("#skip")
    page.click("#score")
    page.wait_for_selector("#results:not([hidden])")
    assert site.asked[0].post_data_buffer == packed
    assert site.asked[0].url.endswith("?on_invalid=fail&with=charge&sequence_column=heavy+%26+light&labels=find")
    page.click("#remove")
    assert page.is_visible("#text")

    drop = """files => {
      const data = new DataTransfer();
      for (const [name, text] of files) data.items.add(new File([text], name));
      for (const kind of ["dragover", "drop"])
        document.body.dispatchEvent(new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true}));
    }"""
    page.evaluate(drop, [["one.fasta", f">b\n{VH}"], ["two.fasta", ""]])
    assert page.inner_text("#problem") == "One file at a time\n\n2 files were dropped."
    page.evaluate(drop, [["one.fasta", f">b\n{VH}"]])
    assert page.inner_text("#chosen-name").startswith("one.fasta, ")
    page.click("#score")
    page.wait_for_selector("#results-title:focus")
    assert site.asked[1].post_data_buffer == f">b\n{VH}".encode()


def test_one_sequence_a_line(visit: Opener, site: Site) -> None:
    site.answer = [scored(["1"], rejected=[("2", 4, "position 1: 'J'")])]
    page = visit()
    text = f"\n{VH}\n\nJ{VH}\nQVQL\n"
    page.fill("#text", text)
    assert "each line is read as a whole sequence, 3 sequences" in page.inner_text("#text-note")
    page.click("#score")
    page.wait_for_selector("#rejected:not([hidden])")
    assert (site.asked[0].post_data, site.asked[0].headers["content-type"]) == (text, "text/plain")
    assert site.asked[0].url.endswith("/v1/score?on_invalid=skip&with=charge")
    assert texts(page, "#rejects td.number") == ["4"]
    for table in (f"sequence\n{VH}", f"id,sequence\na,{VH}", f">a\n{VH}", f"HeavyChainVariableDomainSequence\n{VH}"):
        page.fill("#text", table)
        assert "each line" not in page.inner_text("#text-note")


VL = "DIQMTQSPSSLSASVGDRVTITCRASQDVNTAVAWYQQKPGKAPKLLIYSASFLYSGVPSRFSGSRSGTDFTLTISSLQPEDFATYYCQQHYTTPPTFGQGTKVEIK"


@pytest.mark.parametrize(
    ("text", "items", "lines"),
    [
        (f"mab 1\t{VH}\r\nmab 2\t{VL}\r\n", [("mab 1", VH), ("mab 2", VL)], [1, 2]),
        (f"{VH}\tmab 1\n{VL}\t\n{VL}\tNA\n", [("mab 1", VH), ("2", VL), ("3", VL)], [1, 2, 3]),
        (f"\t\n7\t{VH}\n\t\n8\t\n9", [("7", VH), ("8", ""), ("9", "")], [2, 4, 5]),
        (f'"two\nlines"\t{VH}\n"a ""b"""\t{VL}\n', [("two\nlines", VH), ('a "b"', VL)], [1, 3]),
        (f'"{VH[:50]}\n{VH[50:]}"\n{VL}\n', [("1", f"{VH[:50]}\n{VH[50:]}"), ("2", VL)], [1, 3]),
        (f"mab,{VH}\n", [("mab", VH)], [1]),
        (f'"m;ab";{VH}\n', [("m;ab", VH)], [1]),
    ],
)
def test_cells_of_a_spreadsheet_without_a_header(
    visit: Opener, site: Site, text: str, items: list[tuple[str, str]], lines: list[int]
) -> None:
    last = len(items)
    site.answer = [scored(["a"], rejected=[("x", last, "the sequence is missing")])]
    page = visit()
    page.fill("#text", text)
    page.click("#score")
    page.wait_for_selector("#rejected:not([hidden])")
    sent = json.loads(site.asked[0].post_data or "")["sequences"]
    assert [(item["id"], item["sequence"]) for item in sent] == items
    assert texts(page, "#rejects td.number") == [str(lines[-1])]  # the text's line, for the number of the item
    detail = "request: 1 record cannot be scored\n  request:{}: x: no"
    site.answer = [problem(422, "Unprocessable Entity", detail.format(last), "Correct it.")]
    page.click("#score")
    page.wait_for_selector("#problem:not([hidden])")
    assert page.inner_text("#problem-detail") == detail.format(lines[-1])


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        (f"id\tVH\tnote\r\na\t{VH}\tx\r\n", f"id\tVH\tnote\na\t{VH}\tx\n"),
        (f'id\tVH\n"a"\t{VH}\n', f'id\tVH\n"a"\t{VH}\n'),
        # A cell with two lines is sent as CSV with the same lines.
        (f'id\tVH\tnote\n\na\t{VH}\t"x, y\n""z"""\n', f'id,VH,note\n\na,{VH},"x, y\n""z"""\n'),
        # Quotes that a spreadsheet would not write are sent unchanged.
        (f'id\tVH\n"a\t{VH}\nb\t{VH}\n', f'id\tVH\n"a\t{VH}\nb\t{VH}\n'),
        (f'id\tVH\n"a\t{VH}\nb"\t{VH}\n', f'id,VH\n"a\t{VH}\nb",{VH}\n'),
        (f'id\tVH\tx\n"a\t{VH}\n"\t{VH}\n', f'id\tVH\tx\n"a\t{VH}\n"\t{VH}\n'),
    ],
)
def test_cells_of_a_spreadsheet_with_a_header(visit: Opener, site: Site, text: str, sent: str) -> None:
    site.answer = [scored(["a"])]
    page = visit()
    score(page, text)
    page.wait_for_selector("#results:not([hidden])")
    assert site.asked[0].post_data == sent


def test_the_columns_are_picked_if_they_are_not_clear(visit: Opener, site: Site) -> None:
    detail = "request:1: several columns could hold the sequences: 'vh', 'heavy & light'"
    unclear = problem(422, "Unprocessable Entity", detail, "Name one of them with sequence_column.")
    site.answer = [unclear | {"columns": ["mab", "vh", "heavy & light"]}]
    page = visit()
    table = f"mab,vh,heavy & light\na,{VH},{VL}\n"
    score(page, table)
    page.wait_for_selector("#picker:not([hidden])")
    assert page.evaluate("document.activeElement.id") == "picked-sequence"
    assert page.inner_text("#picker-detail") == detail and page.is_hidden("#problem")
    assert texts(page, "#picked-sequence option") == ["choose a column", "mab", "vh", "heavy & light"]
    assert page.evaluate(NAMELESS) == []
    page.keyboard.press("Enter")  # the browser asks for a choice
    page.click("#picker button")
    assert len(site.asked) == 1 and page.is_visible("#picker")
    site.answer = [scored(["a"])]
    page.select_option("#picked-sequence", "heavy & light")
    page.select_option("#picked-id", "mab")
    page.click("#picker button")
    page.wait_for_selector("#results-title:focus")
    assert site.asked[1].url.endswith(
        "?on_invalid=skip&with=charge&sequence_column=heavy+%26+light&id_column=mab&labels=find"
    )
    assert site.asked[1].post_data == table
    assert page.is_hidden("#picker") and page.input_value("#sequence-column") == "heavy & light"
    page.fill("#text", f">a\n{VH}")  # another input has other columns
    assert page.input_value("#sequence-column") == page.input_value("#id-column") == ""

    # A file's first record is not offered as a name, because picking it would leave the record out.
    site.answer = [unclear | {"columns": ["mab", VH]}]
    page.click("#score")
    page.wait_for_selector("#problem:not([hidden])")
    assert page.is_hidden("#picker")
    assert "no header" in page.inner_text("#problem-fix")


def test_columns_without_names_are_picked_by_their_first_cells(visit: Opener, site: Site) -> None:
    site.answer = [scored(["a"])]
    page = visit()
    for text, chosen, first in (
        (f"{VH}\t{VL}\n{VL}\t{VH}\n", "", f"column 1: {VH[:24]}..."),
        (f"x\tmab\t{VH}\ny\tmcd\t{VL}\n", "column 3", "column 1: x"),
    ):
        score(page, text)
        page.wait_for_selector("#picker:not([hidden])")
        assert "has no header" in page.inner_text("#picker-detail")
        assert texts(page, "#picked-sequence option")[1] == first
        assert page.input_value("#picked-sequence") == chosen
    assert not site.asked
    page.select_option("#picked-id", "column 2")
    page.focus("#picked-id")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("#results-title:focus")
    sent = json.loads(site.asked[0].post_data or "")["sequences"]
    assert sent == [{"id": "mab", "sequence": VH}, {"id": "mcd", "sequence": VL}]


def test_thresholds(visit: Opener, site: Site) -> None:
    site.models = [model(thresholds={"elisa": 0.5, "psr": 0.5495})]
    site.answer = [scored(["a"])]
    page = visit()
    assert texts(page, "#assay option") == ["the model's own (0.5)", "elisa (0.5)", "psr (0.5495)", "my own value"]
    for choice, value, expected in (("psr", None, "assay=psr"), ("own", "0.61", "threshold=0.61")):
        page.select_option("#assay", choice)
        if value:
            page.fill("#threshold", value)
        with page.expect_response("**/v1/score*"):
            score(page)
        page.wait_for_selector("#results-title:focus")
        assert site.asked[-1].url.endswith(f"?on_invalid=skip&{expected}&with=charge&labels=find")
    page.fill("#threshold", "1.5")  # the browser's own word, and nothing is sent
    page.click("#score")
    assert len(site.asked) == 2


def test_pasting_five_thousand_records(visit: Opener) -> None:
    page = visit()
    given = "".join(f">s{number}\n{VH}\n" for number in range(5000))
    page.locator("#text").evaluate("(area, text) => { area.value = text; area.select(); }", given)
    page.keyboard.press("Control+C")
    page.locator("#text").evaluate("area => { area.value = '>first\\nEVQL\\n'; area.setSelectionRange(0, 0); }")
    page.keyboard.press("Control+V")
    assert page.input_value("#text") == f"{given}>first\nEVQL\n"


def test_five_thousand_rows(visit: Opener, site: Site) -> None:
    p = np.random.default_rng(1).random(5000).astype(np.float32)
    ids = [f"m{number}" for number in range(1, 5001)]
    site.answer = [{"done": 5000, "total": 5000}, scored(ids, p)]
    page = visit()
    score(page)
    page.wait_for_selector("#results:not([hidden])")
    assert page.locator("#scores tbody tr").count() == ROWS_A_PAGE
    assert page.inner_text("#scores [role=status]") == "Rows 1 to 50 of 5,000"
    page.click("#scores th.number button")
    page.click("#scores button:has-text('Next')")
    assert texts(page, "#scores td.id")[0] == "m51"

    page.click("#scores th.score button")
    assert page.get_attribute("#scores th.score", "aria-sort") == "descending"
    assert page.get_attribute("#scores th.number", "aria-sort") is None
    assert texts(page, "#scores td.id") == [ids[at] for at in np.argsort(-p, kind="stable")[:ROWS_A_PAGE]]
    page.click("#scores th.score button")
    assert texts(page, "#scores td.id")[0] == ids[int(p.argmin())]
    page.click("#scores th.id button")
    assert texts(page, "#scores td.id")[:3] == ["m1", "m2", "m3"]

    page.fill("#find", "M499")
    assert page.inner_text("#scores [role=status]") == "Rows 1 to 11 of 11 that match, of 5,000"
    page.select_option("#call", "non-specific")
    kept = [id_ for id_, value in zip(ids, p, strict=True) if "m499" in id_ and value > 0.5]
    assert texts(page, "#scores td.id") == kept
    page.fill("#find", "nothing has this")
    assert page.inner_text("#scores [role=status]") == "No row of 5,000 matches"
    assert len(downloaded(page, "#download").splitlines()) == 5001  # all of them, whatever is shown


def test_histogram_counts_and_words(visit: Opener, site: Site) -> None:
    site.answer = [scored(["a", "b", "c", "d"], np.array([0, 0.05, 0.52, 1], np.float32))]
    page = visit()
    score(page)
    page.wait_for_selector("#results:not([hidden])")
    counts = model()["training"]["scores"]
    assert texts(page, "#legend li") == ["training: specific (442)", "training: non-specific (466)", "this set (4)"]
    page.click("#histogram summary")
    rows = [row.split("\t") for row in texts(page, "#histogram-table tbody tr")]
    assert [[int(cell) for cell in row[2:4]] for row in rows] == [
        list(pair) for pair in zip(counts["specific"], counts["nonspecific"], strict=True)
    ]
    heads = page.locator("#histogram-table thead th")
    assert heads.evaluate_all("cells => cells.map((cell) => cell.scope)") == ["col"] * 5
    assert page.text_content("#histogram-table caption") == "Rows of each group by p non-specific"
    assert {at: row[4] for at, row in enumerate(rows) if row[4] != "0"} == {0: "1", 1: "1", 10: "1", 19: "1"}
    words = page.inner_text("#histogram-words")
    assert "2 sequences of 4 with a call (50 %) above the threshold 0.5; their median is 0.285." in words
    assert "specific between 0.35 and 0.4, non-specific between 0.6 and 0.65" in words
    picture = page.locator("#plot svg")
    assert picture.get_attribute("aria-describedby") == "histogram-words"
    assert picture.get_attribute("role") == "img"
    assert picture.locator("path.threshold").count() == 1


def test_medians_between_bins_and_repeated_rows(visit: Opener, site: Site) -> None:
    split = {"bin_edges": [0, 0.25, 0.5, 0.75, 1], "specific": [2, 0, 0, 2], "nonspecific": [1, 1, 1, 0]}
    for repeated, said, row in (
        (0, "without that row (cross-validation). Heights", ""),
        (1, "1 row repeats an earlier row's sequence: a model may", ", 1 row repeats an earlier row's sequence"),
        (17, "17 rows repeat an earlier row's sequence: a model may", ", 17 rows repeat an earlier row's sequence"),
    ):
        training = model()["training"] | {"rows": 7, "positives": 3, "repeated_sequences": repeated, "scores": split}
        site.models = [model(training=training)]
        site.answer = [scored(["a", "b", "c"], np.array([0.9, 0.1, 0.3], np.float32))]
        page = visit()
        score(page)
        page.wait_for_selector("#results:not([hidden])")
        words = page.inner_text("#histogram-words")
        assert "their median is 0.300. " in words
        assert "specific between 0 and 1, non-specific between 0.25 and 0.5;" in words
        assert said in words
        assert f"7 rows, 3 of them non-specific{row}" in texts(page, "#facts dd")


def test_a_model_without_its_training_scores_says_so(visit: Opener, site: Site) -> None:
    training = {key: value for key, value in model()["training"].items() if key != "scores"}
    for site.models in ([model(training=training)], [model(training=None, parity=None, model_card=None)]):
        site.answer = [scored(["a"])]
        page = visit()
        score(page)
        page.wait_for_selector("#results:not([hidden])")
        assert texts(page, "#legend li") == ["this set (1)"]
        assert "has no scores of its training set: only this set is shown" in page.inner_text("#histogram-words")


def test_refusals_are_the_servers_own_words(visit: Opener, site: Site) -> None:
    detail = "request: 2 of 3 records cannot be scored\n  line 2, <img src=x onerror=alert(1)>: position 3: '-'"
    refused = problem(422, "Unprocessable Entity", detail, "Correct them.")
    late = problem(503, "Service Unavailable", "the bundle is being replaced", "Send it again.")
    page = visit()
    for site.answer, heading in (
        ([refused], "Nothing was scored (422 Unprocessable Entity)"),
        ([{"done": 1, "total": 2}, {"problem": late}], "Nothing was scored (503 Service Unavailable)"),
        ([{"done": 1, "total": 2}], "The server's answer is incomplete"),
    ):
        score(page)
        page.get_by_role("heading", name=heading, exact=True).wait_for()
        assert page.evaluate("document.activeElement.id") == "problem"
        assert page.is_hidden("#results") and page.is_enabled("#score")
        sent = site.answer[-1].get("problem", site.answer[-1])
        assert page.text_content("#problem-detail") == sent.get("detail", "")
        assert sent.get("fix", "Try again") in (page.text_content("#problem-fix") or "")
    assert page.locator("#problem img").count() == 0
    strange = "The answer is not from abonyx"
    for status, body, heading in (
        (200, "<p>Sign in</p>\n", strange),
        (502, "null", "The server answered 502 Bad Gateway"),
        (200, "null\n", strange),
        (502, '{"message": "no"}', "The server answered 502 Bad Gateway"),
    ):
        page.route("**/v1/score*", lambda route, _, status=status, body=body: route.fulfill(status=status, body=body))
        score(page)
        page.get_by_role("heading", name=heading, exact=True).wait_for()
        assert page.inner_text("#problem-detail") == body.strip()
    page.fill("#text", "  \n")
    page.click("#score")
    assert page.inner_text("#problem-title") == "There is nothing to score"
    page.fill("#text", ">a\n" + "A" * 1_000_000)
    page.click("#score")
    assert "977 KiB, 3 bytes more than the 977 KiB that this server takes" in page.inner_text("#problem-detail")
    assert len(site.asked) == 3


def test_a_failure_keeps_the_earlier_answer(visit: Opener, site: Site) -> None:
    site.answer = [scored(["a"])]
    page = visit()
    score(page)
    page.wait_for_selector("#results:not([hidden])")
    site.answer, site.headers = [problem(429, "Too Many Requests", "the queue is full", "Wait.")], {"Retry-After": "7"}
    page.click("#score")
    page.wait_for_selector("#problem:not([hidden])")
    assert page.inner_text("#problem-fix") == "Wait. Try again in 7 s."
    assert page.inner_text("#results-title") == "Earlier: 1 sequence scored, 0 called non-specific"
    assert len(downloaded(page, "#download").splitlines()) == 2


def test_model_not_ready_is_said_and_asked_for_again(visit: Opener, site: Site) -> None:
    refused = problem(503, "Service Unavailable", "abonyx-mini: sha256 is not the manifest's", "Copy the bundle again.")
    site.models, site.headers = [refused], {"Retry-After": "1"}
    page = visit()
    page.wait_for_selector("#waiting:not([hidden])")
    said = page.inner_text("#waiting")
    assert said.splitlines() == [
        "The model is not ready, so nothing can be scored yet.",
        "abonyx-mini: sha256 is not the manifest's",
        "Copy the bundle again.",
        "This page asks again every 1 s.",
    ]
    assert page.is_disabled("#score")
    site.models = [model()]
    page.wait_for_selector("#waiting", state="hidden")
    assert page.is_enabled("#score")
    assert page.inner_text("#model") == "abonyx-mini: ready"
    assert page.text_content("#status") == "The model is ready."


def test_a_token_is_asked_for_and_sent(visit: Opener, site: Site) -> None:
    site.models = [problem(401, "Unauthorized", "no token was given", "Give the server's."), model()]
    site.answer = [scored(["a"])]
    page = visit()
    page.wait_for_selector("#token-form:not([hidden])")
    assert page.inner_text("#token-words") == "no token was given\nGive the server's."
    assert page.evaluate("document.activeElement.id") == "token"
    page.keyboard.type("sécret")  # no header can hold it
    page.keyboard.press("Enter")
    assert page.evaluate("document.querySelector('#token').validity.patternMismatch")
    page.fill("#token", "secret")
    page.keyboard.press("Enter")
    page.wait_for_selector("#token-form", state="hidden")
    score(page)
    page.wait_for_selector("#results:not([hidden])")
    assert site.asked[0].headers["authorization"] == "Bearer secret"


def test_cancel(visit: Opener, site: Site) -> None:
    page = visit()
    page.route("**/v1/score*", lambda route: None)  # never answered
    score(page)
    page.wait_for_selector("#cancel:not([hidden])")
    assert page.evaluate("document.activeElement.id") == "cancel"
    page.keyboard.press("Enter")
    page.wait_for_selector("#cancel", state="hidden")
    assert page.text_content("#status") == "Cancelled: nothing was scored."
    assert page.evaluate("document.activeElement.id") == "score"


def test_keyboard_alone(visit: Opener, site: Site) -> None:
    site.answer = [scored([f"m{number}" for number in range(120)], rejected=[("bad", 3, "a gap")])]
    site.answer[0] |= {"labels": "label"}
    for at, row in enumerate(site.answer[0]["results"]):
        row["label"] = at % 2
    page = visit()
    page.wait_for_selector("#model-state.ready")

    def tab_to(selector: str) -> None:
        for _ in range(80):  # each row has a button
            page.keyboard.press("Tab")
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                style = "getComputedStyle(document.activeElement).outlineStyle"
                assert page.evaluate(style) == "solid"  # and one sees where one is
                return
        pytest.fail(f"Tab does not come to {selector}")

    tab_to("#text")
    page.keyboard.type(f">a\n{VH}")
    tab_to("#score")
    page.keyboard.press("Enter")
    page.wait_for_selector("#results-title:focus")
    assert "Done: 120 sequences scored" in (page.text_content("#status") or "")
    tab_to("#slider")
    page.keyboard.press("ArrowRight")
    assert page.is_enabled("#back")
    tab_to("#back")
    tab_to("#find")
    tab_to(".pager button:last-of-type")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert page.inner_text("#scores [role=status]") == "Rows 101 to 120 of 120"
    assert page.evaluate("document.activeElement.textContent") == "Previous"  # Next has nothing left to do
    assert page.get_attribute("#scores th.score", "aria-sort") == "descending"
    assert texts(page, "#scores td.id")[-1] == "m0"
    tab_to("#scores th.score button")
    page.keyboard.press("Space")
    assert page.get_attribute("#scores th.score", "aria-sort") == "ascending"
    assert texts(page, "#scores td.id")[0] == "m0"
    site.explained = explained(["m0"])
    tab_to("#scores button.why")
    page.keyboard.press("Enter")
    page.wait_for_selector(".explained h3")
    tab_to(".explained summary")
    page.keyboard.press("Enter")
    tab_to(".explained .scroll")
    tab_to("#download-rejected")


CONTRASTS = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, at) => sum + c * [0.2126, 0.7152, 0.0722][at], 0);
  const ground = (element) => {
    const [r, g, b, a = 1] = rgb(getComputedStyle(element).backgroundColor);
    return a ? [r, g, b] : ground(element.parentElement);
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !element.checkVisibility() || element.disabled || element.closest("noscript")) continue;
    const svg = element.namespaceURI.endsWith("svg");
    const colour = getComputedStyle(element)[svg ? "fill" : "color"];
    const [a, b] = [luminance(rgb(colour)), luminance(ground(element))].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), element.textContent.trim().slice(0, 30)]);
  }
  return found;
}"""

NAMELESS = """() => [...document.querySelectorAll("input, select, textarea, button, summary, table, svg[role=img]")]
  .filter((element) => element.checkVisibility() && !(element.labels?.length || element.textContent.trim()
    || element.ariaLabel || element.getAttribute("aria-labelledby")))
  .map((element) => element.outerHTML)"""


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (360, "dark"), (1200, "light"), (1200, "dark")])
def test_any_width_and_scheme_is_readable(visit: Opener, site: Site, width: int, scheme: str) -> None:
    rejected = [("bad", 3, "a gap"), ("x" * 200, 4, "y" * 300)]
    flags = [["", NANOBODY_LIKE, "light chain (kappa); 2 unknown residues (X)"][number % 3] for number in range(61)]
    ids = [*(f"m{number}" for number in range(60)), "=" + "i" * 150]
    answer = scored(ids, rejected=rejected, flags=flags) | {"labels": "label"}
    for at, row in enumerate(answer["results"]):
        row |= {"label": at % 2, "added": {"charge": at / 10}}
    site.answer = [answer]
    page = visit(viewport={"width": width, "height": 740}, color_scheme=scheme)
    score(page)
    page.wait_for_selector("#results:not([hidden])")
    page.click("#card summary")
    page.click("#histogram summary")
    page.check("#whole")
    site.explained = explained([*ids, "m59"])
    page.locator("#scores button.why").first.click()
    page.click(".explained summary")
    site.answer = [problem(422, "Unprocessable Entity", "z" * 300, "Correct it.")]
    page.click("#score")
    page.wait_for_selector("#problem:not([hidden])")
    assert page.evaluate("document.documentElement.scrollWidth") == width  # nothing to scroll sideways
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(244, 246, 248)") == (scheme == "light")
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 300
    assert [each for each in contrasts if each[0] < 4.5] == []  # WCAG 2 AA
    assert page.evaluate(NAMELESS) == []


@pytest.mark.parametrize(
    "card",
    [
        "[" * 100_000,
        "a " + "[" * 99_000,
        "[a](" * 25_000,
        "[a]" + "](x" * 33_000,
        "[" + "a]" * 49_000,
        "*a" * 50_000,
        "**" + "a" * 99_000,
        "`" * 99_999,
        "#" * 100_000,
        "# " + "[" * 1_000_000,
        "|\n" * 50_000,
        "- \n" * 33_000,
        "\n" * 100_000 + "a",
        "a\n" + " " * 99_000,
    ],
    ids=lambda card: ascii(card[:8]),
)
def test_no_card_holds_the_page(visit: Opener, site: Site, card: str) -> None:
    site.models = [model(model_card=f"# Start\n\n{card}")]
    page = visit()
    page.click("#card summary")
    started = time.monotonic()
    assert page.inner_text("#card-text h3") == "Start"
    assert time.monotonic() - started < 5
    assert ("more characters: see the bundle's README.md" in page.inner_text("#card-text")) == (len(card) > 99_991)


def test_the_card_is_text(visit: Opener, site: Site) -> None:
    hostile = "# A *card*\n\n<script>alert(1)</script> [a link](javascript:alert(1)) **bold** 3 * 4 * 5\n\n"
    hostile += "- one\n  more\n- two"
    site.models = [model(model_card=hostile)]
    page = visit()
    page.click("#card summary")
    assert texts(page, "#card-text > *") == [
        "A card",
        "<script>alert(1)</script> a link (javascript:alert(1)) bold 3 * 4 * 5",
        "one more\ntwo",
    ]
    assert page.locator("#card-text :is(script, a)").count() == 0
    site.models = [model()]
    page.reload()
    page.click("#card summary")
    assert page.locator("#card-text table").count() == 3
    card = (MINI / "README.md").read_text(encoding="utf-8")
    for word in ("cross-validation", "What it is not for", "Architecture: Meier et al. 2021"):
        assert word in card and word in page.inner_text("#card-text")


def test_the_page_names_nothing_outside() -> None:
    for name in PAGE.values():
        text = (FILES / name).read_text(encoding="utf-8")
        assert "//" not in text.replace("http://www.w3.org/2000/svg", "").replace("// ", "").replace("\n//", "")
        assert "innerHTML" not in text and " style=" not in text and "onclick" not in text


HIC = {"name": "hic", "kind": "linear", "unit": "min", "higher_is_worse": False, "threshold": None, "band": None}


def test_a_first_head_that_gives_values_has_no_calls(visit: Opener, site: Site) -> None:
    site.models = [model(heads=[HIC], default_threshold=None)]
    values = [-1.5e-7, 1e20, 9.25]
    answer = scored(["a", "b", "c"], flags=["", "light chain (kappa)", ""]) | {"heads": [HIC], "threshold": None}
    for row, value in zip(answer["results"], values, strict=True):
        row.update(p_nonspecific=None, nonspecific=None, call=None, heads={"hic_value": value, "hic_percentile": None})
    answer["labels"] = "y"
    site.answer = [answer]
    page = visit()
    score(page)
    page.wait_for_selector("#results:not([hidden])")
    for hidden in ("#threshold-choice", "#call-choice", "#histogram", "#heads"):
        assert not page.is_visible(hidden)
    assert page.inner_text("#results-title") == "3 sequences scored, 1 flagged"
    assert "the first head gives values: it makes no calls" in page.inner_text("#assessment")
    assert page.is_hidden("#assessment-body") and page.is_hidden("#roc-missing")
    assert page.inner_text("#results-model").startswith("hic is in min; lower is worse. Scored by abonyx-mini")
    assert texts(page, "#scores thead th") == ["No.", "Id", "hic (min)", "Flag", "Why", "Sequence"]
    assert texts(page, "#scores td.id") == ["b", "c", "a"]
    assert not page.locator("#scores tr.no-call").count()
    kinds: Any = {"hic_value": "float", "hic_percentile": "word"}
    form = results_format("csv", {}, leading=kinds)
    column = np.array(values, np.float32)
    flags = [row["flag"] for row in answer["results"]]
    cells: Any = {"hic_value": column, "hic_percentile": [None] * 3}
    (rows,) = form.encode(0, value_columns(["a", "b", "c"], [VH] * 3, cells, flags, {}))
    assert downloaded(page, "#download") == form.head[0] + rows


PANEL = {"name": "clinical", "rows": 137, "source": "Jain et al. 2017"}


def test_the_table_leads_with_percentile_and_call(visit: Opener, site: Site) -> None:
    answer = scored(["a", "b", "c"], flags=["", "light chain (kappa)", ""]) | {"panel": PANEL}
    for row, band in zip(answer["results"], ["2-9", None, "90-98 (in panel)"], strict=True):
        row["percentile"] = band
    site.answer = [answer]
    page = visit()
    score(page)
    page.wait_for_selector("#results:not([hidden])")
    titles = ["No.", "Id", "Percentile", "Called", "p non-specific", "Flag", "Why", "Sequence"]
    assert texts(page, "#scores thead th") == titles
    assert texts(page, "#scores td.id") == ["c", "b", "a"], "the highest score first"
    assert texts(page, "#scores td.percentile") == ["90-98 (in panel)", "-", "2-9"]
    words = page.inner_text("#results-model")
    assert "the panel clinical" in words and "the panel has 137 rows (Jain et al. 2017)" in words
    p = np.linspace(0.05, 0.95, 3).astype(np.float32)
    calls: list[Any] = [[row[name] for row in answer["results"]] for name in ("nonspecific", "call")]
    flags = [row["flag"] for row in answer["results"]]
    bands = [row["percentile"] for row in answer["results"]]
    form = results_format("csv", {})
    (rows,) = form.encode(0, score_columns(["a", "b", "c"], [VH] * 3, p, *calls, flags, percentile=bands))
    assert downloaded(page, "#download") == form.head[0] + rows


def test_net_charge_in_the_table_and_the_csv_and_engine_facts_are_folded(visit: Opener, site: Site) -> None:
    answer = scored(["a", "b", "c"])
    charges = [3.0, -0.96, None]
    for row, charge in zip(answer["results"], charges, strict=True):
        row["added"] = {"charge": charge}
    site.models = [model(limits=model()["limits"] | {"max_body_bytes": 16 * 2**20})]
    site.answer = [answer]
    page = visit()
    score(page)
    page.wait_for_selector("#results:not([hidden])")
    assert texts(page, "#scores td.charge") == ["-", "-1.0", "+3.0"]
    page.click("#scores th.charge button")
    assert texts(page, "#scores td.id") == ["a", "b", "c"]
    assert "at pH 7.4" in page.inner_text("#results-model")
    assert "2,000,000 residues and 16 MiB;" in page.inner_text("#limits")
    for hidden in ("#engine-facts", "#results-engine-text"):
        assert not page.is_visible(hidden) and model()["sha256"] in (page.text_content(hidden) or "")
    assert model()["sha256"][:12] not in page.inner_text("#results") + page.inner_text("#about")
    p = np.linspace(0.05, 0.95, 3).astype(np.float32)
    calls: list[Any] = [[row[name] for row in answer["results"]] for name in ("nonspecific", "call")]
    form = results_format("csv", {}, following={"charge": "number"})
    columns = score_columns(["a", "b", "c"], [VH] * 3, p, *calls, [""] * 3)
    (rows,) = form.encode(0, [*columns, charges])
    assert downloaded(page, "#download") == form.head[0] + rows


def labelled(p: list[float], labels: list[int | None], flags: list[str] | None = None) -> Answer:
    """An answer of a file with a column `label`."""
    answer = scored([f"m{at}" for at in range(len(p))], np.array(p, np.float32), flags=flags) | {"labels": "label"}
    for row, label in zip(answer["results"], labels, strict=True):
        row["label"] = label
    return answer


def auc(p: list[float], labels: list[int]) -> float:
    """The share of pairs in which the non-specific row scores higher than the specific one; equal scores count half."""
    pairs = [(a, b) for a, y in zip(p, labels, strict=True) for b, z in zip(p, labels, strict=True) if y and not z]
    return float(np.mean([(a > b) + (a == b) / 2 for a, b in pairs]))


def test_labels_give_a_roc_and_calls_at_a_threshold_that_moves(visit: Opener, site: Site) -> None:
    rng = np.random.default_rng(3)
    labels = [int(each) for each in rng.random(40) < 0.4]
    p = [round(float(each), 1) for each in np.clip(rng.normal(0.4 + 0.25 * np.array(labels), 0.2), 0, 1)]  # with ties
    answer = labelled([*p, 0.9, 0.9, 0.1], [*labels, 1, None, None], [""] * 40 + ["light chain (kappa)", "", ""])
    answer["rejected"] = [{"id": "gap", "line": 9, "reason": "a gap"}]
    site.answer = [answer]
    page = visit()
    score(page)
    page.wait_for_selector("#assessment:not([hidden])")
    assert page.inner_text("#roc-title") == f"ROC AUC {auc(p, labels):.3f} (n = 40)"
    words = page.inner_text("#assessment-words")
    assert f'column "label" (1 non-specific, 0 specific). 40 rows are used: {sum(labels)} non-specific' in words
    assert "1 labelled row has no call, because it is flagged; 2 rows have no label; 1 record could not" in words
    cells = ("found", "missed", "alarms", "clear")

    def counts(threshold: float) -> list[int]:
        above = np.array(p, np.float32) > np.float32(threshold)
        ones = np.array(labels) == 1
        return [int(each.sum()) for each in (above & ones, ~above & ones, above & ~ones, ~above & ~ones)]

    def shown() -> list[int]:
        return [int(page.inner_text(f"#cell-{cell} strong")) for cell in cells]

    assert shown() == counts(0.5) and page.is_disabled("#back")
    page.fill("#moved", "0.6")  # strictly above, as a float32
    assert shown() == counts(0.6)
    assert float(page.input_value("#slider")) == pytest.approx(0.6)
    page.fill("#moved", "7")
    assert shown() == counts(0.6)
    page.focus("#slider")
    page.keyboard.press("Home")
    assert shown() == counts(0) and page.input_value("#moved") == "0"
    assert len(site.asked) == 1
    page.click("#back")
    assert shown() == counts(0.5) and page.evaluate("document.activeElement.id") == "slider"
    point = page.locator("#roc-point")
    found, missed, alarms, clear = counts(0.5)
    box, places = (
        page.locator("#roc-plot svg").get_attribute("width"),
        [float(point.get_attribute(c) or 0) for c in ("cx", "cy")],
    )
    side = float(box or 0)
    assert places[0] == pytest.approx(60 + alarms / (alarms + clear) * (side - 70))
    assert places[1] == pytest.approx(side - 40 - found / (found + missed) * (side - 50))


def test_what_is_no_threshold_moves_nothing(visit: Opener, site: Site) -> None:
    site.answer = [labelled([0.1, 0.35, 0.4, 0.8], [0, 1, 0, 1])]
    page = visit(viewport={"width": 1000, "height": 700})
    score(page)
    page.wait_for_selector("#assessment:not([hidden])")

    def place() -> list[str | None]:
        return [page.locator("#roc-point").get_attribute(name) for name in ("cx", "cy")]

    page.fill("#moved", "0.3")
    words, at = page.inner_text("#rates"), place()
    assert words.startswith("At 0.3:") and page.is_hidden("#moved-problem")
    for wrong in ("1.5", ""):
        page.fill("#moved", wrong)
        assert "a number from 0 to 1. The threshold that is shown is 0.3." in page.inner_text("#moved-problem")
        assert page.get_attribute("#moved", "aria-invalid") == "true"
        before = page.locator("#roc-point").element_handle()
        page.set_viewport_size({"width": 700 + 10 * len(wrong), "height": 700})
        page.wait_for_function("point => !point.isConnected", arg=before)  # it was drawn again
        assert (page.inner_text("#rates"), place()) == (words, at)
    page.fill("#moved", "0.05")
    assert page.input_value("#moved") == "0.05" and page.is_hidden("#moved-problem")
    assert page.inner_text("#rates").startswith("At 0.05:") and place() != at


def test_rows_that_the_model_was_trained_on_are_counted(visit: Opener, site: Site) -> None:
    """Only rows that the curve uses are counted. If the bundle records no training rows, the page says so."""
    tag = "a training row with a tag is not recognised."
    for trained, domain, said in (
        ([True, True, False, True], "check", "The model was trained on 2 of these 3 rows, so the curve"),
        ([False, False, False, True], "check", ""),
        ([None] * 4, "check", "Whether the model was trained on these rows is not recorded"),
        ([True, None, None, True], "off", "The model was trained on at least 1 of these 3 rows, so the curve"),
        ([None] * 4, "off", "It is not known whether the model was trained on these rows."),
    ):
        answer = labelled([0.1, 0.35, 0.4, 0.8], [0, 1, 0, None]) | {"domain": domain}
        for row, each in zip(answer["results"], trained, strict=True):
            row["training_row"] = each
        site.answer = [answer]
        page = visit()
        score(page)
        page.wait_for_selector("#assessment:not([hidden])")
        words = page.inner_text("#trained")
        assert page.is_visible("#trained") == bool(said) and words.startswith(said)
        assert (tag in words) == (domain == "off")


OTHER_HEADS = [
    HIC,
    *(
        {"name": name, "kind": "logistic", "unit": None, "higher_is_worse": True, "threshold": 0.5}
        for name in ("psr", "bvp")
    ),
    HIC | {"name": "ac-sins"},
]


def several_heads(count: int) -> tuple[Answer, Answer]:
    """The model and an answer with more heads beside the first. psr's calls are the opposite of the first head's."""
    heads = [*model()["heads"], *({"band": None, "chains": ["H"]} | head for head in OTHER_HEADS[:count])]
    answer = scored(["trastuzumab", "b", "light"], flags=["", "", "light chain (kappa)"]) | {"heads": heads}
    for row in answer["results"]:
        turned = None if row["call"] is None else {"specific": "non-specific"}.get(row["call"], "specific")
        row["heads"] = {}
        for head in heads[1:]:
            name = head["name"]
            if head["unit"]:
                row["heads"] |= {f"{name}_value": 11.4741, f"{name}_percentile": None}
            else:
                row["heads"] |= {f"{name}_p": 0.732, f"{name}_nonspecific": None, f"{name}_call": turned}
                row["heads"][f"{name}_percentile"] = None
        row["added"] = {"charge": 1.0}
    return model(heads=heads), answer


@pytest.mark.parametrize("count", [0, 2, 4])
@pytest.mark.parametrize("width", [1280, 900, 380])
def test_the_columns_of_several_heads_have_room(visit: Opener, site: Site, width: int, count: int) -> None:
    served, answer = several_heads(count)
    site.models, site.answer, site.explained = [served], [answer], explained(["trastuzumab"], answer["heads"])
    page = visit(viewport={"width": width, "height": 740})
    page.wait_for_selector("#model-state.ready")
    score(page)
    page.wait_for_selector("#results:not([hidden])")
    page.locator("#scores button.why").first.click()
    page.wait_for_selector(".explained svg")
    assert page.evaluate("document.documentElement.scrollWidth") == width  # the table scrolls, not the page
    explanation = page.locator(".explained").bounding_box()
    assert explanation and explanation["x"] >= 0 and explanation["x"] + explanation["width"] <= width
    if width == 380:
        assert page.locator("#scores > .scroll").get_attribute("tabindex") is None, "there is nothing to scroll"
        assert page.get_by_text("The table is wider than this page").first.is_hidden()
        shown = page.locator("#scores tbody tr:not(.detail)").first.locator("td")
        named = shown.evaluate_all("cells => cells.map((cell) => getComputedStyle(cell, '::before').content)")
        expected = [f'"{title} "' for title in ("Net charge", *others(answer["heads"][1:]))]
        assert [each for each in named if each != "none"] == expected
        return
    titles = page.locator("#scores > .scroll > table > thead th")
    assert min(titles.evaluate_all("cells => cells.map((cell) => cell.getBoundingClientRect().width)")) >= 60
    over = "cells => cells.filter((cell) => cell.scrollWidth > cell.clientWidth).map((cell) => cell.textContent)"
    assert titles.evaluate_all(over) == []
    ids = page.locator("#scores td.id bdi").evaluate_all("cells => cells.map((cell) => cell.getClientRects().length)")
    assert ids == [1, 1, 1], "an id of eleven letters has one line"
    scrolls = page.locator("#scores > .scroll").get_attribute("tabindex") == "0"
    assert scrolls == (count > 0 and (count, width) != (0, 1280))
    assert page.get_by_text("The table is wider than this page").first.is_visible() == scrolls
    if scrolls:
        page.locator("#scores > .scroll").evaluate("table => { table.scrollLeft = table.scrollWidth; }")
        held = page.locator("#scores td.id").first.bounding_box()
        frame = page.locator("#scores > .scroll").bounding_box()
        assert held and frame and held["x"] == pytest.approx(frame["x"], abs=1), "the id stays in sight"


def others(heads: list[Answer]) -> list[str]:
    """The titles of the other heads' columns."""
    return [
        title
        for head in heads
        for title in ([f"{head['name']} (min)"] if head["unit"] else [f"{head['name']}: called", f"p {head['name']}"])
    ]


def test_a_call_has_the_colour_of_its_own_word(visit: Opener, site: Site) -> None:
    served, answer = several_heads(2)
    site.models, site.answer = [served], [answer]
    page = visit()
    page.wait_for_selector("#model-state.ready")
    score(page)
    page.wait_for_selector("#results:not([hidden])")
    found: dict[str, set[str]] = {}
    for cell in page.locator("#scores td.call").all():
        colour = cell.evaluate("cell => getComputedStyle(cell).color")
        found.setdefault(cell.inner_text().split()[-1], set()).add(colour)
    assert all(len(colours) == 1 for colours in found.values()), found
    assert len(set.union(*found.values())) == 3 == len(found), found


def test_labels_of_one_class_have_no_roc_and_say_why(visit: Opener, site: Site) -> None:
    for labels, flags, why in (
        ([1, 1, None], None, "No ROC: all 2 used rows are labelled non-specific"),
        ([0, 0, 0], None, "No ROC: all 3 used rows are labelled specific"),
        ([1, 0, None], ["fragment", "fragment", ""], "No ROC: no row has a label and a call."),
    ):
        site.answer = [labelled([0.2, 0.6, 0.9], labels, flags)]
        page = visit()
        score(page)
        page.wait_for_selector("#assessment:not([hidden])")
        assert why in page.inner_text("#roc-missing") and page.is_hidden("#roc")
        assert page.is_visible("#cell-found") == (flags is None)


def test_a_row_opens_what_its_residues_add(visit: Opener, site: Site) -> None:
    site.answer = [scored(["a", "b"], flags=["", "fragment"])]
    site.explained = explained(["a"])
    page = visit()
    score(page)
    page.wait_for_selector("#results:not([hidden])")
    button = page.get_by_role("button", name="Explain a", exact=True)
    assert button.get_attribute("aria-expanded") == "false"
    button.click()
    page.wait_for_selector(".explained svg")
    sent = json.loads(site.asked[-1].post_data or "")
    assert sent == {
        "sequences": [{"id": "a", "sequence": VH}],
        "heads": ["nonspecificity"],
        "domain": "check",
        "trim": None,
    }
    section = page.get_by_role("region", name="Why a has its score")
    assert button.get_attribute("aria-controls") == section.get_attribute("id")
    total = site.explained["results"][0]["total"][0]
    words = section.inner_text()
    p = 1 / (1 + np.exp(-total))
    adds = f"{total - 0.25:+.3f}"
    assert (
        f"p {p:.3f}, a logit of {total:+.3f} = +0.250, the baseline at the bundle's mean embedding, and {adds}" in words
    )
    assert f"{VH[-1]}{len(VH)} (FR4) {(len(VH) / 2 - 1) / 100:+.3f}" in words
    assert "It is not the effect of a mutation, and not advice to change a residue." in words
    assert "Net charge +3.0 at pH 7.4, pI 8.9" in words
    named = page.locator(".strip text").all_text_contents()
    assert {each for each in named if each.startswith("CDR")} == {"CDR1", "CDR2"}  # CDR3 has two residues: no room
    shaded = page.locator(".strip rect.cdr").evaluate_all("boxes => boxes.map((box) => box.getBBox().width)")
    bar = page.locator(".strip .raises").first.evaluate("bar => bar.getBBox().width")
    assert sum(shaded) * 0.7 == pytest.approx(
        bar * sum(place.region.startswith("CDR") for place in places(VH)), rel=0.01
    )
    assert page.locator(".strip rect.raises").count() == sum(2 * at > len(VH) for at in range(len(VH)))
    assert page.locator(".strip .raises, .strip .lowers").count() == len(VH)
    places_of = "bars => bars.map((bar) => bar.getBBox()).map((box) => [box.y, box.y + box.height])"
    raised, lowered = (page.locator(f".strip .{kind}").evaluate_all(places_of) for kind in ("raises", "lowers"))
    axes = {round(bottom) for _, bottom in raised} | {round(top) for top, _ in lowered}
    assert len(axes) < 4, "bars stand on their line's axis, or hang from it"
    tip = page.locator(".strip title").nth(30)
    assert tip.text_content() == f"{VH[30]}31, IMGT {places(VH)[30].imgt}, CDR1: {(30 - len(VH) / 2) / 100:+.3f}"
    page.click(".explained summary")
    by_region, by_residue = section.locator("table").all()
    assert by_region.locator("tbody tr").all_inner_texts()[0].split() == ["FR1", f"{regions_of(site, 'FR1'):+.3f}"]
    assert by_residue.locator("tbody tr").count() == len(VH)
    assert by_residue.locator("tbody tr").first.inner_text().split() == [
        "1",
        VH[0],
        "1",
        "FR1",
        f"{-len(VH) / 200:+.4f}",
    ]
    button.click()
    assert not page.locator(".explained").count() and button.get_attribute("aria-expanded") == "false"
    page.get_by_role("button", name="Explain b", exact=True).click()
    page.wait_for_selector(".explained svg")
    assert "This record is flagged (fragment)" in page.inner_text(".explained")
    page.click("#scores th.id button")  # what is sorted is drawn again, closed
    assert not page.locator(".explained").count()


def regions_of(site: Site, region: str) -> float:
    return float(site.explained["results"][0]["chains"][0]["regions"][region][0])


def test_a_row_of_several_heads_and_chains(visit: Opener, site: Site) -> None:
    heads = [head | {"chains": ["H", "L"]} for head in model()["heads"]] + [HIC | {"chains": ["L"]}]
    site.models = [model(heads=heads)]
    answer = scored(["a"]) | {"heads": heads, "chains": ["H", "L"]}
    (row,) = answer["results"]
    row |= {"heavy": row.pop("sequence"), "light": VL, "heads": {"hic_value": 9.25, "hic_percentile": None}}
    site.answer, site.explained = [answer], explained(["a"], heads, "HL")
    page = visit()
    page.wait_for_selector("#model-state.ready")
    score(page)
    page.click("#scores button.why")
    page.wait_for_selector(".explained svg")
    assert json.loads(site.asked[-1].post_data or "")["sequences"] == [{"id": "a", "heavy": VH, "light": VL}]
    assert [each.split(":")[0] for each in texts(page, ".explained figcaption")] == ["Heavy chain", "Light chain"]
    half = (site.explained["results"][0]["total"][0] - 0.25) / 2
    assert f"(heavy chain {half:+.3f}, light chain {half:+.3f})" in page.inner_text(".explained")
    page.get_by_label("Head", exact=True).select_option("hic")
    assert page.locator(".explained svg").count() == 1
    assert f"hic: {0.25 + 2 * len(VH):+.3f} min = +0.250 min" in page.inner_text(".explained")
    scan = page.get_by_role("region", name="What a mutation changes")
    site.scanned = [problem(422, "Unprocessable Entity", "positions 111A: a has no residue there", "Its CDR3 has 105.")]
    assert scan.get_by_role("button").all_inner_texts() == ["Scan mutants"]
    scan.get_by_role("button").click()
    page.wait_for_selector(".scan [role=alert]:not([hidden])")
    assert "a has no residue there\n\nIts CDR3 has 105." in scan.inner_text()
    assert json.loads(site.asked[-1].post_data or "") == {
        **{"id": "a", "heavy": VH, "light": VL, "positions": "cdr", "heads": ["hic"]},
        **{"domain": "check", "trim": None},
    }
    page.get_by_label("Head", exact=True).select_option("nonspecificity")
    assert scan.get_by_role("button").count() == 0
    assert "nonspecificity scores both. Choose a head of one chain" in scan.inner_text()


def test_a_row_without_contributions_says_what_to_do(visit: Opener, site: Site) -> None:
    site.answer = [scored(["a"])]
    site.explained = problem(501, "Not Implemented", "mini: its graph gives no contributions", "Export it again.")
    page = visit()
    score(page)
    page.click("#scores button.why")
    page.wait_for_selector(".explained [role=alert]")
    assert "its graph gives no contributions" in page.inner_text(".explained")
    assert "Export it again." in page.inner_text(".explained")
    assert page.get_by_role("button", name="Scan mutants").is_visible(), "which needs no contributions"
