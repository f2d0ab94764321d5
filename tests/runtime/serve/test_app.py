"""The service on a local port: right answers, and wrong, hostile or impatient clients."""

from __future__ import annotations

import asyncio
import csv
import gzip
import http.client
import io
import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

for _name in ("fastapi", "uvicorn", "prometheus_client"):
    pytest.importorskip(_name, reason="the serve extra is not installed")

from abonyx import __version__  # noqa: E402
from abonyx.bundle.manifest import RESIDUES  # noqa: E402
from abonyx.bundle.tolerances import BATCH_NEIGHBOURS  # noqa: E402
from abonyx.serve import gate  # noqa: E402
from abonyx.serve.settings import Settings  # noqa: E402
from abonyx.session import open_session  # noqa: E402

from ...conftest import EXAMPLES  # noqa: E402
from ..domain.proteins import VH  # noqa: E402
from .serving import CSV, JSON, NDJSON, PATIENCE_S, Running, at_once, made_up, refused, service, until  # noqa: E402

LIMITS: dict[str, Any] = {
    "max_body_bytes": 11 * 2**20,
    "max_sequences": 300,
    "max_residues_per_request": 20_000,
    "max_queued_sequences": 400,
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ABONYX_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))
        with service(**LIMITS) as running:
            yield running


@pytest.fixture(autouse=True)
def isolated() -> None:
    """Replaces conftest's fixture: the module's service keeps its session open."""


def test_answers_are_those_of_the_session(shared: Running, sequences: list[str]) -> None:
    expected = shared.session.score(sequences)[:, 0]
    answer = shared.score(sequences)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    found = answer.json
    manifest, bundle = shared.session.manifest, shared.session.bundle
    assert found["model"] == {
        "name": manifest.name,
        "sha256": bundle.sha256,
        "variant": shared.session.variant_name,
        "provider": "cpu",
    }
    assert (found["threshold"], found["assay"], found["rejected"]) == (0.5, None, [])
    assert [row["id"] for row in found["results"]] == [f"s{number}" for number in range(len(sequences))]
    assert [row["sequence"] for row in found["results"]] == sequences
    p = [row["p_nonspecific"] for row in found["results"]]
    np.testing.assert_allclose(p, expected, rtol=0, atol=BATCH_NEIGHBOURS)
    assert [row["nonspecific"] for row in found["results"]] == [int(value > 0.5) for value in p]
    assert all(str(np.float32(value)) == str(value) for value in p)  # the digits of the command line


def test_threshold_is_strict_and_in_the_answer(shared: Running) -> None:
    p = shared.score([VH]).json["results"][0]["p_nonspecific"]
    for threshold, called in ((p, 0), (p - 1e-4, 1), (1, 0), (0.0, 1)):
        found = shared.score([VH], threshold=threshold).json
        assert (found["threshold"], found["results"][0]["nonspecific"]) == (threshold, called)


FASTA = b">a first\nEVQLVES\nGGG\n>b\nQVQL\n"
TABLE = b"id,sequence\na,EVQLVESGGG\nb,QVQL\n"


@pytest.mark.parametrize(
    ("body", "kind", "query"),
    [
        (TABLE, "text/csv", ""),
        (TABLE, "text/csv; charset=UTF-8", ""),
        (TABLE.replace(b",", b"\t"), "text/tab-separated-values", ""),
        (FASTA, "text/x-fasta", ""),
        (FASTA, "application/octet-stream", ""),
        (gzip.compress(TABLE, mtime=0), "application/octet-stream", ""),
        (gzip.compress(FASTA, mtime=0), "text/csv", ""),
        (b"\xef\xbb\xbf" + TABLE.replace(b"\n", b"\r\n"), "text/csv", ""),
        (b"name,vh\na,EVQLVESGGG\nb,QVQL\n", "text/csv", "?id_column=name&sequence_column=vh"),
        (b"\xef\xbb\xbf" + FASTA, "text/x-fasta", ""),
        (FASTA, "text/plain", ""),
        (b"\xef\xbb\xbf\r\n" + FASTA.replace(b"\n", b"\r\n"), "text/plain; charset=utf-8", ""),
        (gzip.compress(FASTA, mtime=0), "text/plain", ""),
        (b"name,vh\na,EVQL-VESGGG*\nb,QVQL\n", "text/csv", "?gaps=strip"),
    ],
)
def test_files(shared: Running, body: bytes, kind: str, query: str) -> None:
    found = shared.ask("POST", f"/v1/score{query}", body, {"Content-Type": kind}).json
    assert [(row["id"], row["sequence"]) for row in found["results"]] == [("a", "EVQLVESGGG"), ("b", "QVQL")]


ITEMS = [{"id": "a", "sequence": "EVQL"}, "qvql", {"id": "c", "sequence": "DIQM"}]


@pytest.mark.parametrize("path", ["/v1/score", "/v1/embed"])
@pytest.mark.parametrize("body", [ITEMS, {"sequences": ITEMS}])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n "])
def test_json_takes_plain_strings_and_a_byte_order_mark(shared: Running, path: str, body: Any, mark: bytes) -> None:
    answer = shared.ask("POST", path, mark + json.dumps(body).encode(), JSON)
    assert [row["id"] for row in answer.json["results"]] == ["a", "2", "c"]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_plain_text_is_one_sequence_a_line(shared: Running, mark: bytes, end: bytes) -> None:
    body = mark + end.join([b"", b"EVQL", b"", b"  ", b"EVQB", b" qvql "])
    answer = shared.ask("POST", "/v1/score?on_invalid=skip", body, {"Content-Type": "text/plain"})
    assert [(row["id"], row["sequence"]) for row in answer.json["results"]] == [("1", "EVQL"), ("3", "QVQL")]
    assert [(row["id"], row["line"]) for row in answer.json["rejected"]] == [("2", 5)]


def test_gaps_are_refused_with_the_fields_name_or_taken_out(shared: Running) -> None:
    refused(shared.score(["EV-QL*"]), 422, "; gaps strip removes gaps and a final *")
    found = shared.score(["EV-QL*", "E.V"], gaps="strip").json
    assert [row["sequence"] for row in found["results"]] == ["EVQL", "EV"]


def test_a_table_whose_column_is_not_clear_comes_with_its_columns(shared: Running) -> None:
    for body, part, columns in (
        (
            b"name,vh,heavy\na,EV,QV\n",
            "several columns could hold the sequences: 'vh', 'heavy'",
            ["name", "vh", "heavy"],
        ),
        (b"name,chain_1,\xff\na,EV,QV\n", "no column 'sequence'", ["name", "chain_1"]),
        (b"name\tchain_1\ttwice\ttwice\na\tEV\tx\ty\n", "no column 'sequence'", ["name", "chain_1"]),
        (b"sequence_id,sequence,rev_comp\na,GAGGTG,F\n", "AIRR", ["sequence_id", "sequence", "rev_comp"]),
    ):
        answer = shared.ask("POST", "/v1/score", body, CSV)
        found = answer.json
        assert (answer.status, found["type"], found["columns"]) == (422, "urn:abonyx:ColumnUnclear", columns)
        assert part in found["detail"]
        if b"twice" not in body:
            assert shared.ask("POST", f"/v1/score?sequence_column={columns[1]}", body, CSV).status == 200
    wide = ",".join(f"c{number}" for number in range(201)).encode() + b"\n"
    refused(shared.ask("POST", "/v1/score", wide + wide, CSV), 422, "no column 'sequence'")  # too many to choose from


def test_a_whole_file_is_scored_as_the_command_line_does(shared: Running, sequences: list[str]) -> None:
    found = shared.ask("POST", "/v1/score?threshold=0.4", EXAMPLES.read_bytes(), CSV).json
    rows = list(csv.DictReader(EXAMPLES.read_text(encoding="utf-8").splitlines()))
    assert [row["id"] for row in found["results"]] == [row["id"] for row in rows]
    expected = shared.session.score(sequences)[:, 0]
    p = [row["p_nonspecific"] for row in found["results"]]
    np.testing.assert_allclose(p, expected, rtol=0, atol=BATCH_NEIGHBOURS)
    assert found["threshold"] == 0.4


def test_embeddings(shared: Running, sequences: list[str]) -> None:
    items = [{"id": f"e{at}", "sequence": sequence} for at, sequence in enumerate(sequences[:3])]
    for answer in (
        shared.ask("POST", "/v1/embed", {"sequences": items}),
        shared.ask("POST", "/v1/embed", "\n".join(f">{one['id']}\n{one['sequence']}" for one in items), CSV),
    ):
        found = answer.json
        assert [row["id"] for row in found["results"]] == ["e0", "e1", "e2"]
        assert found["width"] == shared.session.manifest.embedding_width == len(found["results"][0]["embedding"])
        embedding = np.array([row["embedding"] for row in found["results"]], np.float32)
        expected = shared.session.embed(sequences[:3])
        np.testing.assert_allclose(embedding, expected, rtol=0, atol=BATCH_NEIGHBOURS)
    refused(shared.ask("POST", "/v1/embed", {"sequences": items, "threshold": 0.5}), 422, "threshold")


def test_bad_records_are_refused_or_left_out(shared: Running) -> None:
    body = b"id,sequence\na,EVQL\nb,EVQB\nc,\nd,QVQL\n"
    answer = shared.ask("POST", "/v1/score", body, CSV)
    refused(answer, 422, "2 of 4 records cannot be scored; nothing was scored")
    assert answer.json["type"] == "urn:abonyx:RecordsRejected"
    assert "request:3: b: character 'B' at position 4 is not a residue" in answer.json["detail"]
    found = shared.ask("POST", "/v1/score?on_invalid=skip", body, CSV).json
    assert [row["id"] for row in found["results"]] == ["a", "d"]
    assert [(row["id"], row["line"]) for row in found["rejected"]] == [("b", 3), ("c", 4)]
    long = (VH * 2)[: shared.session.manifest.max_residues + 1]
    found = shared.score(["EVQL", long, "QVQL"], on_invalid="skip").json
    assert [(row["id"], row["line"]) for row in found["rejected"]] == [("s1", 2)]
    assert "nothing is truncated" in found["rejected"][0]["reason"]
    refused(shared.score(["EVQB"], on_invalid="skip"), 422, "1 of 1 records cannot be scored")


def test_unicode_and_repeated_ids_come_back_as_they_were_sent(shared: Running) -> None:
    ids = ["ä", "日本", "\U0001f9ec", "a\u0000b", "=1+1", "<script>", "two\nlines", "", "same", "same"]
    items = [{"id": id_, "sequence": "evql "} for id_ in ids]
    found = shared.ask("POST", "/v1/score", {"sequences": items}).json
    assert [row["id"] for row in found["results"]] == ids
    assert {row["sequence"] for row in found["results"]} == {"EVQL"}
    in_csv = io.StringIO()
    csv.writer(in_csv).writerows([("id", "sequence"), *((id_, "EVQL") for id_ in ids if id_)])
    found = shared.ask("POST", "/v1/score", in_csv.getvalue().encode(), CSV).json
    assert [row["id"] for row in found["results"]] == [id_ for id_ in ids if id_]


_COMMENTS = gzip.compress((b"#" + b"A" * 1022 + b"\n") * (10 * 2**10), mtime=0)
BOMB = gzip.compress(b"id,sequence\n", mtime=0) + _COMMENTS * 200  # 4 MB that unpack to 2 GB
MAYBE = "Invalid enum value 'maybe' - at `$.domain`; allowed: 'check', 'require', 'off'"
BLANK_LINES = b"sequence\n" + b"\n" * 90_000 + b"EVQL\n"


@pytest.mark.parametrize(
    ("body", "kind", "status", "part"),
    [
        ("", "json", 422, "truncated"),
        ("{", "json", 422, "truncated"),
        ('{"sequences": [}', "json", 422, "malformed"),
        ("\udcff".encode("utf-8", "surrogatepass"), "json", 422, ""),
        (b"\xff\xfe{}", "json", 422, ""),
        ("[" * 100_000, "json", 422, ""),
        ("null", "json", 422, "Expected `object`"),
        ("{}", "json", 422, "missing required field `sequences`"),
        ('{"sequences": []}', "json", 422, "no sequences"),
        ('{"sequences": "EVQL"}', "json", 422, "Expected `array`"),
        ('{"sequences": [["EVQL"]]}', "json", 422, ", got `array` - at `$.sequences[0]`"),
        ('["EVQL", 7]', "json", 422, ", got `int` - at `$[1]`"),
        ('["EVQL", "EVQB"]', "json", 422, "request:2: 2: character 'B'"),
        ("[]", "json", 422, "no sequences"),
        (b"\xef\xbb\xbf", "json", 422, "truncated"),
        ('{"sequences": [{"id": 1, "sequence": "EVQL"}]}', "json", 422, "Expected `str`, got `int`"),
        ('{"sequences": [{"id": "\\ud800", "sequence": "EVQL"}]}', "json", 422, "surrogate"),
        ('{"sequences": [{"id": "a", "sequence": null}]}', "json", 422, "Expected `str`, got `null`"),
        ('{"sequences": [{"id": "a", "sequence": "EVQL"}], "threshold": "0.5"}', "json", 422, "Expected `float"),
        ('{"sequences": [{"id": "a", "sequence": "EVQL"}], "threshold": 2}', "json", 422, "threshold is 2"),
        ('{"sequences": [{"id": "a", "sequence": "EVQL"}], "threshold": 1e999}', "json", 422, ""),
        ('{"sequences": [{"id": "a", "sequence": "EVQL"}], "domain": "maybe"}', "json", 422, MAYBE),
        ('{"sequences": ["EVQL"], "domain": "' + "y" * 300 + '"}', "json", 422, "; allowed: 'check', 'require', 'off'"),
        (
            '{"sequences": [{"id": "a", "sequence": "EVQL"}], "trim": true}',
            "json",
            422,
            "$.trim`; allowed: 'domain', null",
        ),
        ('{"sequences": ["EVQL"], "gaps": "keep"}', "json", 422, "$.gaps`; allowed: 'refuse', 'strip'"),
        ('{"sequences": ["EVQL"], "domain": null}', "json", 422, "$.domain`; allowed: 'check', 'require', 'off'"),
        (
            '{"sequences": [{"id": "a", "sequence": "EVQL"}], "trim": "domain", "domain": "off"}',
            *("json", 422, "trim is domain and domain is off"),
        ),
        ('{"sequences": [{"id": "a", "sequence": "EVQL"}], "assay": "elisa"}', "json", 422, "declares no threshold"),
        ('{"sequences": [{"id": "a", "sequence": "EVQL"}], "assay": "x", "threshold": 1}', "json", 422, "both given"),
        (
            '{"sequences": [{"id": "a", "sequence": "EVQL"}], "on_invalid": "drop"}',
            "json",
            422,
            "allowed: 'fail', 'skip'",
        ),
        ('{"sequences": [{"id": "a", "sequence": "EVQL"}], "bundle": "/etc"}', "json", 422, "unknown field `bundle`"),
        ('{"sequences": [{"id": "a", "sequence": "' + "A" * 10_000_000 + '"}]}', "json", 413, "20000 residues"),
        (
            b'{"sequences": ["EVQL"], "assay": "' + b"x" * 3_000_000 + b'"}',
            "json",
            422,
            f"assay {'x' * 60}...: the head of abonyx-mini declares no threshold",
        ),
        (b'{"' + b"k" * 3_000_000 + b'": 1}', "json", 422, "unknown field `kkk"),
        ("", "csv", 422, "is empty"),
        ("id,sequence\n", "csv", 422, "no records below it"),
        ('id,sequence\n"a,EVQL\n', "csv", 422, "is not CSV"),
        ("A" * 1_000_000, "csv", 422, "no column 'sequence'"),
        ("sequence\n" + "A" * 10_000_000, "csv", 413, "request:2: more than 1048576 characters"),
        ("sequence\n" + "A" * 1_000_000, "csv", 413, "20000 residues"),
        (">a\n" + "A" * 1_000_000, "csv", 413, "20000 residues"),
        (b"id,sequence\na,EVQL\n" + b"#\n" * 100_000, "csv", 413, "more than 100000 lines"),
        (b"id,sequence\na,EVQL\n" + b"\n" * 100_000, "csv", 413, "more than 100000 lines"),
        (b">a\nEVQL\n" + b"\r" * 100_000, "csv", 413, "more than 100000 lines"),
        (b"EVQL\n" + b" \n" * 100_000, "text/plain", 413, "more than 100000 lines"),
        (b"id,sequence" + b"," * 4_095 + b"\n", "csv", 413, "request:1: 4097 columns; max_columns is 4096"),
        (b'"sequence\n"' + b'",\n",' * 4_096, "csv", 413, "columns; max_columns is 4096"),
        (b"id,sequence\na,EVQL\n" + (b"#" + b";" * 4_000 + b"\n") * 500, "csv", 413, "max_cells is 2000000"),
        (b'{"sequence": "EVQL"}\n' * 3 + b"\n" * 100_000, "csv", 413, "more than 100000 lines"),
        (b"[" + b'"",""' * 1_000 + b"]", "json", 413, "more than 300 sequences"),
        (b"\x00\x01\x02" * 100, "csv", 422, "binary"),
        (b"PAR1" + bytes(100), "csv", 422, "Parquet, which is not accepted here"),
        (b"sequence\nEVQL\xff\n", "csv", 422, "is not a residue"),
        (BOMB, "csv", 413, "unpack to more than"),
        (gzip.compress(gzip.compress(TABLE, mtime=0), mtime=0), "csv", 422, "gzip"),
        (gzip.compress(TABLE, mtime=0)[:-10], "csv", 422, "truncated or corrupt gzip"),
        (gzip.compress(b"PAR1" + bytes(100), mtime=0), "csv", 422, "Parquet, which is not accepted here"),
        (BLANK_LINES, "csv", 413, "300 records"),
        (b">a\nEVQL\n" * 301, "csv", 413, "300 records"),
        ("EVQL\nid,EVQL\n", "text/plain", 422, "request:2: has commas"),
        ("a\tEVQL\n", "text/plain", 422, "request:1: has tabs"),
        ("a;EVQL\n", "text/plain", 422, "request:1: has semicolons"),
        ("vh\nEVQL\n", "text/plain", 422, "'vh' is the name of a column, not a sequence"),
        ("EVQL\n>a\nEVQL\n", "text/plain", 422, "request:2: '>a' begins like a FASTA header"),
        ("\n\n", "text/plain", 422, "only blank lines"),
        ("EVQL\n" * 301, "text/plain", 413, "300 records"),
        (gzip.compress(gzip.compress(FASTA, mtime=0), mtime=0), "text/plain", 422, "gzip"),
        (b"PAR1" + bytes(100), "text/plain", 422, "Parquet, which is not accepted here"),
        (TABLE, "multipart/form-data; boundary=x", 415, "multipart"),
        (TABLE, "text/csv; charset=utf-16", 415, "utf-16"),
        (TABLE, "", 415, "Content-Type is ''"),
    ],
)
def test_bad_bodies(shared: Running, body: Any, kind: str, status: int, part: str) -> None:
    kind = {"json": JSON["Content-Type"], "csv": "text/csv"}.get(kind, kind)
    body = body.encode() if isinstance(body, str) else body
    answer = shared.ask("POST", "/v1/score", body, {"Content-Type": kind})
    refused(answer, status, part)
    assert len(answer.body) < 4_000  # a value is never echoed whole


@pytest.mark.parametrize(
    ("query", "part"),
    [
        ("threshold=high", "threshold"),
        ("threshold=nan", "threshold is nan"),
        ("threshhold=0.7", "threshhold"),
        ("on_invalid=drop", "query.on_invalid: Input should be 'fail' or 'skip', not 'drop'"),
        ("domain=maybe", "query.domain: Input should be 'check', 'require' or 'off', not 'maybe'"),
        ("trim=all", "query.trim: Input should be 'domain', not 'all'"),
        ("gaps=keep", "query.gaps: Input should be 'refuse' or 'strip', not 'keep'"),
        ("domain=off&trim=domain", "trim is domain and domain is off"),
        ("assay=psr", "declares no threshold"),
        ("sequence_column=../../../etc/passwd", "no column '../../../etc/passwd'"),
    ],
)
def test_bad_queries(shared: Running, query: str, part: str) -> None:
    refused(shared.ask("POST", f"/v1/score?{query}", TABLE, CSV), 422, part)


def test_plain_text_has_no_columns(shared: Running) -> None:
    answer = shared.ask("POST", "/v1/score?sequence_column=vh", b"EVQL", {"Content-Type": "text/plain"})
    refused(answer, 422, "has one sequence on each line, and no column 'vh'")
    assert answer.json["fix"] == "Send a table as text/csv."


def test_a_query_beside_json_is_refused(shared: Running) -> None:
    body = json.dumps({"sequences": [{"id": "a", "sequence": "EVQL"}]})
    refused(shared.ask("POST", "/v1/score?threshold=0.7", body, JSON), 422, "threshold in the query of a JSON request")


opened: list[str] | None = None


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and opened is not None:
        opened.append(str(arguments[0]))


sys.addaudithook(_watch)


def test_no_path_of_a_client_is_opened(shared: Running, tmp_path: Path) -> None:
    global opened
    named = tmp_path / "named.csv"
    named.write_bytes(TABLE)
    opened = []
    try:
        shared.score([str(named)])
        shared.ask("POST", f"/v1/score?id_column={named}", str(named), CSV)
        shared.ask("POST", "/v1/score", f"id,sequence\n{named},file://{named}\n", CSV)
        shared.ask("POST", "/v1/score", {"sequences": [], "bundle": str(tmp_path)})
        for path in (f"/page/{named}", f"/page/..%2f..{named}", "/page/../__init__.py", f"/{named}", "/page/app.js/.."):
            assert shared.ask("GET", path).status == 404
    finally:
        found, opened = opened, None
    assert not [path for path in found if str(tmp_path) in path or "__init__.py" in path]


def test_progress_comes_in_lines_and_the_answer_last(shared: Running) -> None:
    body = json.dumps({"sequences": [{"id": "a", "sequence": one} for one in made_up(100, 1)]})
    with shared.engine.held():
        connection = http.client.HTTPConnection(shared.host, shared.port, timeout=PATIENCE_S)
        connection.request("POST", "/v1/score", body, JSON | NDJSON)
        answer = connection.getresponse()
        assert (answer.status, answer.getheader("content-type")) == (200, "application/x-ndjson")
        assert json.loads(answer.readline()) == {"done": 0, "total": 100}  # while nothing is done yet
    *lines, last = [json.loads(line) for line in answer.read().splitlines()]
    connection.close()
    done = [line["done"] for line in lines]
    assert done == sorted(done) and all(line["total"] == 100 for line in lines)
    assert len(last["results"]) == 100
    refused(shared.ask("POST", "/v1/score", "{", JSON | NDJSON), 422, "truncated")  # before it began


def test_the_model_and_what_it_takes(shared: Running) -> None:
    found = shared.ask("GET", "/v1/model").json
    assert set(found) == {
        *("abonyx", "ready", "name", "label", "notice", "licence", "sha256", "variant", "precision", "provider"),
        *(
            "placement",
            "parity",
            "max_residues",
            "chains",
            "heads",
            "default_threshold",
            "thresholds",
            "training",
            "model_card",
            "card",
            "panels",
            "limits",
        ),
    }
    assert (found["abonyx"], found["ready"], found["name"]) == (__version__, True, "abonyx-mini")
    assert found["chains"] == shared.session.manifest.head.chains == ["H"]
    assert found["placement"] == shared.session.placement
    assert found["training"]["rows"] == 908 and found["parity"]["rows"] == 44
    assert found["model_card"].startswith("# abonyx-mini: model card")
    assert found["limits"] == {key: getattr(Settings(**LIMITS), key) for key in found["limits"]}
    assert len(found["limits"]) == 12
    for path in ("/healthz", "/readyz", "/", "/v1/model"):
        answer = shared.ask("HEAD", path)
        assert (answer.status, answer.body) == (200, b"") and int(answer.headers["content-length"]) > 0
    assert shared.ask("GET", "/healthz").json == shared.ask("GET", "/readyz").json == {"status": "ok"}


def test_routes_and_methods_that_are_not_there(shared: Running) -> None:
    refused(shared.ask("GET", "/v2/score"), 404, "GET /v2/score")
    refused(shared.ask("POST", "/v1/score/", b"", CSV), 404, "")
    refused(shared.ask("GET", "/docs"), 404, "")
    answer = shared.ask("GET", "/v1/score")
    refused(answer, 405, "Method Not Allowed")
    assert answer.headers["allow"] == "POST"


def test_every_answer_says_what_a_page_may_load(shared: Running) -> None:
    for path in ("/", "/v1/model", "/nowhere"):
        headers = shared.ask("GET", path).headers
        assert headers["content-security-policy"] == gate.CONTENT_SECURITY_POLICY
        assert (headers["x-content-type-options"], headers["cache-control"]) == ("nosniff", "no-store")
        assert "access-control-allow-origin" not in headers and "server" not in headers
    assert "unsafe" not in gate.CONTENT_SECURITY_POLICY and "default-src 'none'" in gate.CONTENT_SECURITY_POLICY


def test_another_sites_page_gets_no_leave(shared: Running) -> None:
    asked = {"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "POST"}
    answer = shared.ask("OPTIONS", "/v1/score", headers=asked)
    assert answer.status == 405 and not [name for name in answer.headers if name.startswith("access-control")]


def test_a_website_that_has_its_name_point_here_is_refused(shared: Running) -> None:
    for host in ("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example:80", "x:y", ""):
        for path in ("/", "/v1/model", "/metrics", "/nowhere"):
            refused(shared.ask("GET", path, headers={"Host": host}), 421, host)
    for host in ("localhost", "LOCALHOST:9", "127.0.0.1:8000", "[::1]", "[::1]:8000"):
        assert shared.ask("GET", "/v1/model", headers={"Host": host}).status == 200


def test_metrics_count_and_name_their_units(shared: Running) -> None:
    sequences = shared.value("abonyx_sequences_total", output="p_nonspecific")
    tokens = shared.value("abonyx_tokens_total")
    assert shared.score(["EVQL", "QVQLV", "EVQL"]).status == 200  # the copy is not run
    assert shared.value("abonyx_sequences_total", output="p_nonspecific") == sequences + 2
    assert shared.value("abonyx_tokens_total") == tokens + 6 + 7
    answer = shared.ask("GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    text = answer.body.decode()
    names = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE abonyx_")}
    assert {name for name in names if not name.endswith("_created")} == {
        "abonyx_requests_total",
        "abonyx_request_seconds",
        "abonyx_rejected_requests_total",
        "abonyx_rejected_records_total",
        "abonyx_sequences_total",
        "abonyx_tokens_total",
        "abonyx_queue_sequences",
        "abonyx_queue_requests",
        "abonyx_queue_wait_seconds",
        "abonyx_batch_sequences",
        "abonyx_inference_seconds",
        "abonyx_session_opens_total",
        "abonyx_ready",
    }
    assert shared.value("abonyx_session_opens_total", outcome="opened") == 1
    assert shared.value("abonyx_ready") == 1 and shared.value("abonyx_queue_sequences") == 0
    if sys.platform == "linux":
        assert shared.value("process_resident_memory_bytes") > 0
    shared.ask("BREW", "/v1/score")
    until(lambda: shared.value("abonyx_requests_total", path="/v1/score", method="other", status="405") == 1)


# Limits, and clients that are slow, broken, oversized or gone.


def test_a_body_over_the_limit(shared: Running) -> None:
    most = LIMITS["max_body_bytes"]
    refused(shared.ask("POST", "/v1/score", bytes(most + 1), CSV), 413, f"max_body_bytes is {most}")
    chunks = (bytes(2**20) for _ in range(12))  # no Content-Length
    refused(shared.ask("POST", "/v1/score", chunks, CSV), 413, f"more than {most} bytes")
    assert shared.score(["EVQL"]).status == 200


def test_sequences_and_residues_over_the_limits(shared: Running) -> None:
    refused(shared.score(["EVQL"] * 301), 413, "max_sequences is 300")
    refused(shared.score(["EVQLV" * 20] * 201), 413, "max_residues_per_request is 20000")
    assert shared.score(["EV"] * 300).status == 200


def test_a_client_cannot_claim_another_address(shared: Running) -> None:
    with shared.engine.held():
        headers = CSV | {"X-Forwarded-For": "10.0.0.1", "Forwarded": "for=10.0.0.1"}
        connection = http.client.HTTPConnection(shared.host, shared.port, timeout=PATIENCE_S)
        connection.request("POST", "/v1/score", b">a\nEVQL\n", headers)
        until(lambda: shared.gate._in_hand.total())
        assert list(shared.gate._in_hand) == ["127.0.0.1"]
    assert connection.getresponse().status == 200
    connection.close()


def test_a_full_queue(shared: Running) -> None:
    with shared.engine.held():
        connection = http.client.HTTPConnection(shared.host, shared.port, timeout=PATIENCE_S)
        connection.request("POST", "/v1/score", b"sequence\n" + b"EV\n" * 300, CSV)
        until(lambda: shared.scheduler._unsettled)
        shared.engine.inside.wait(PATIENCE_S)
        connections = [http.client.HTTPConnection(shared.host, shared.port, timeout=PATIENCE_S) for _ in range(2)]
        for number, waiting in enumerate(connections, 2):
            waiting.request("POST", "/v1/score", b"sequence\n" + b"EVA\n" * 200, CSV)
            until(lambda number=number: len(shared.scheduler._unsettled) == number)
        answer = shared.score(["EVQL"] * 300)
        refused(answer, 503, "the queue is full")
        assert answer.headers["retry-after"] == "1"
    for waiting in (connection, *connections):
        assert waiting.getresponse().status == 200
        waiting.close()


def test_clients_that_leave_take_their_sequences_with_them(shared: Running) -> None:
    rows = shared.engine.rows
    left = shared.value("abonyx_requests_total", path="/v1/score", method="POST", status="499")
    with shared.engine.held():
        for headers in (CSV, CSV | NDJSON):
            connection = http.client.HTTPConnection(shared.host, shared.port, timeout=PATIENCE_S)
            connection.request("POST", "/v1/score", b"sequence\n" + b"EVQLV\n" * 299 + b"Q\n", headers)
            until(lambda: shared.scheduler._unsettled and shared.engine.inside.is_set())
            connection.close()
            until(lambda: not shared.scheduler._unsettled)
        # in the middle of its body
        with socket.create_connection((shared.host, shared.port)) as gone:
            gone.sendall(
                b"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\nContent-Length: 99\r\n\r\nid"
            )
            until(lambda: shared.gate._in_hand.total())
        until(lambda: not shared.gate._in_hand.total())
    assert shared.score(["EVQL"]).status == 200
    assert shared.engine.rows - rows < 300  # a round was under way; the rest was never run
    counted = shared.value("abonyx_requests_total", path="/v1/score", method="POST", status="499")
    assert counted >= left + 2


def test_a_client_that_leaves_before_the_first_line_takes_its_sequences_with_it(shared: Running) -> None:
    body = json.dumps({"sequences": [{"id": "a", "sequence": one} for one in made_up(100, 3)]}).encode()
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json"), (b"accept", NDJSON["Accept"].encode())]
    scope = {
        **{"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "POST"},
        **{"path": "/v1/score", "raw_path": b"/v1/score", "query_string": b"", "headers": headers, "scheme": "http"},
        **{"client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2)},
    }

    async def receive() -> Any:
        return next(messages, {"type": "http.disconnect"})

    async def send(_message: Any) -> None:
        pass

    with shared.engine.held():
        asyncio.run(shared.gate(scope, receive, send))
        assert not shared.scheduler._unsettled


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"GET /v1/model\r\n\r\n\r\n\r\n",
        b"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /v1/score HTT",
    ],
)
def test_broken_clients_hurt_nobody(shared: Running, sent: bytes) -> None:
    with socket.create_connection((shared.host, shared.port), timeout=PATIENCE_S) as broken:
        broken.sendall(sent)
        broken.shutdown(socket.SHUT_WR)
        answer = b""
        while more := broken.recv(65536):
            answer += more
    assert not answer or answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 404 "))
    assert shared.score(["EVQL"]).status == 200


def test_many_clients_at_once_get_each_their_own(shared: Running) -> None:
    requests = [made_up(1 + seed % 5, seed) for seed in range(30)]
    expected = [shared.session.score(one)[:, 0] for one in requests]

    def client(number: int) -> None:
        for turn in range(number, len(requests), 10):
            answer = shared.score(requests[turn])
            assert answer.status == 200
            rows = answer.json["results"]
            assert [row["sequence"] for row in rows] == requests[turn]
            p = [row["p_nonspecific"] for row in rows]
            np.testing.assert_allclose(p, expected[turn], rtol=0, atol=BATCH_NEIGHBOURS)

    at_once(client, 10)


def test_open_session_in_this_process_is_the_services(shared: Running) -> None:
    """A process has one session: a second session is refused, as everywhere."""
    from abonyx.errors import SessionInUse

    with pytest.raises(SessionInUse):
        open_session()
    assert set(RESIDUES) >= set("EVQL")
