"""The service follows its own OpenAPI document: schemathesis makes requests that fit it and requests that do not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

for _name in ("fastapi", "uvicorn", "prometheus_client", "schemathesis"):
    pytest.importorskip(_name, reason="the serve or the test extra is not installed")

import schemathesis  # noqa: E402
from hypothesis import HealthCheck, given, seed, settings  # noqa: E402
from schemathesis.config import SchemathesisConfig  # noqa: E402
from schemathesis.generation import GenerationMode  # noqa: E402

from abonyx.serve.gate import SCORING  # noqa: E402
from abonyx.serve.requests import FILES, JSON  # noqa: E402

from .serving import ADMIN, TOKEN, Running, service  # noqa: E402

SCAN = "/v1/scan"  # takes no file
CONFIG = {
    "seed": 7,
    # A schema cannot say whether text is a sequence, or what a head declares, so 422 is allowed.
    "checks": {"positive_data_acceptance": {"expected-statuses": [200, 422]}},
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ABONYX_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))
        with service(token=TOKEN, admin_token=ADMIN, max_body_bytes=1 << 20) as running:
            yield running


@pytest.fixture(autouse=True)
def isolated() -> None:
    """Replaces conftest's fixture: the module's service keeps its session open."""


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_every_answer_is_one_that_the_document_says(served: Running, mode: GenerationMode) -> None:
    url = f"http://{served.host}:{served.port}/openapi.json"
    document = schemathesis.openapi.from_url(url, config=SchemathesisConfig.from_dict(CONFIG))
    tried = []

    def ask(case: Any) -> None:
        token = ADMIN if case.operation.path == "/v1/reload" else TOKEN
        answer = case.call_and_validate(headers={"Authorization": f"Bearer {token}"})
        tried.append((case.operation.path, case.media_type, answer.status_code))

    for found in document.get_all_operations():
        operation = found.ok()
        takes_a_body = operation.path in SCORING
        if mode.is_negative and not takes_a_body:
            continue  # nothing is sent that could be wrong
        limits = settings(
            max_examples=60 if takes_a_body else 1,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        )
        strategy = operation.as_strategy(generation_mode=mode)
        seed(7)(limits(given(strategy)(ask)))()
    kinds = (JSON,) if mode.is_negative else (JSON, *FILES)  # what bytes are no file is not for a schema to say
    wanted = {(path, kind) for path in SCORING for kind in kinds if kind == JSON or path != SCAN}
    assert {(path, kind) for path, kind, _ in tried} >= wanted
    assert mode.is_negative or {path for path, _, status in tried if status == 200} >= {"/v1/model", "/v1/reload"}


def test_the_document_names_every_route_body_answer_and_error(served: Running) -> None:
    answer = served.ask("GET", "/openapi.json")
    document = answer.json
    operations = {
        f"{method.upper()} {path}": operation
        for path, item in document["paths"].items()
        for method, operation in item.items()
    }
    assert set(operations) == {
        *("POST /v1/score", "POST /v1/embed", "POST /v1/explain", "POST /v1/scan"),
        *("GET /v1/model", "POST /v1/reload"),
        *("GET /healthz", "GET /readyz", "GET /metrics"),
    }
    score = operations["POST /v1/score"]
    assert set(score["requestBody"]["content"]) == {
        *("application/json", "text/csv", "text/tab-separated-values", "text/x-fasta", "text/plain"),
        "application/octet-stream",
    }
    assert list(operations[f"POST {SCAN}"]["requestBody"]["content"]) == [JSON]
    assert set(operations[f"POST {SCAN}"]["responses"]["200"]["content"]) == {JSON, "application/x-ndjson"}
    either = score["requestBody"]["content"]["application/json"]["schema"]["anyOf"]
    assert either[0] == {"$ref": "#/components/schemas/ScoreRequest"} and either[1]["type"] == "array"
    assert "columns" not in document["components"]["schemas"]["Problem"]["required"]
    assert {one["name"] for one in score["parameters"]} == {
        *("assay", "threshold", "heads", "panel", "with", "on_invalid", "domain", "trim", "gaps"),
        "labels",
        *("id_column", "sequence_column", "heavy_column", "light_column"),
    }
    fields = document["components"]["schemas"]["Score"]
    assert {"nonspecific", "flag"} <= set(fields["required"]) and "domain" not in fields["required"]
    assert fields["properties"]["nonspecific"] == {"anyOf": [{"enum": [0, 1]}, {"type": "null"}]}
    assert set(score["responses"]) == {"200", "401", "408", "413", "415", "421", "422", "429", "500", "501", "503"}
    for operation in operations.values():
        for status, described in operation["responses"].items():
            assert status == "200" or list(described["content"]) == ["application/problem+json"]
    secured = {name for name, operation in operations.items() if operation.get("security")}
    assert secured == {name for name in operations if "/v1/" in name or "/metrics" in name}
    text = json.dumps(document)
    assert all(name in document["components"]["schemas"] for name in ("Problem", "ScoreAnswer", "HeadTraining"))
    assert "HTTPValidationError" not in text
