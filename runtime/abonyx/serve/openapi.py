"""What FastAPI cannot find out by itself: the bodies, answers and errors of each route, made from our types."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from prometheus_client import CONTENT_TYPE_LATEST

from abonyx import __version__
from abonyx.serve import answers, explain_answers, problems, scan_answers
from abonyx.serve.requests import FILES, JSON, PLAIN

_TYPES = (
    *(answers.ScoreRequest, answers.EmbedRequest, answers.ScoreAnswer, answers.EmbedAnswer),
    *(explain_answers.ExplainRequest, explain_answers.ExplainAnswer),
    *(scan_answers.ScanRequest, scan_answers.ScanAnswer),
    *(answers.ModelAnswer, answers.Health, problems.Problem),
)
_REASONS = {
    401: "No token, or a wrong one",
    403: "No admin token was set: reload is off",
    408: "The body came too slowly",
    413: "The request is over a limit",
    415: "A Content-Type that is not accepted",
    421: "No token is set, and the Host of a request to the loopback address is not a name of this machine",
    422: "A body or a query that cannot be used",
    429: "Too many requests of one client are in progress",
    500: "The service failed",
    501: "The bundle has no head to score with, or its graph gives no contributions",
    503: "Not ready, full, or out of time",
}
_REFERENCE = "#/components/schemas/{name}"
_RETRY = {"Retry-After": {"description": "Seconds", "schema": {"type": "integer"}}}


def _schema(kind: type) -> dict[str, Any]:
    return {"schema": {"$ref": _REFERENCE.format(name=kind.__name__)}}


def _answers(content: dict[str, Any], *statuses: int) -> dict[str, Any]:
    """Keyword arguments of a route that describe its answer 200 and its problems."""
    responses: dict[int | str, Any] = {200: {"description": "Done", "content": content}}
    for status in (*statuses, 421):
        described = {"description": _REASONS[status], "content": {problems.MEDIA_TYPE: _schema(problems.Problem)}}
        responses[status] = described | ({"headers": _RETRY} if status in (429, 503) else {})
    return {"responses": responses, "response_model": None}


def _body(kind: type) -> dict[str, Any]:
    files = {name: {"schema": {"type": "string", "format": "binary"}} for name in FILES}
    files[PLAIN]["schema"]["description"] = "FASTA, or one sequence a line; a table is refused."
    (items,), _ = msgspec.json.schema_components([answers.Items], ref_template=_REFERENCE)
    either = {"schema": {"anyOf": [_schema(kind)["schema"], items | {"description": "The sequences alone."}]}}
    return {"requestBody": {"required": True, "content": {JSON: either, **files}}}


_TAKEN = (401, 408, 413, 415, 422, 429, 500, 503)


def _lines(answer: type) -> dict[str, Any]:
    last = f'a {answer.__name__} or {{"problem": Problem}}'
    described = f'With this Accept: lines {{"done", "total"}}, then {last} as the last line.'
    return {"application/x-ndjson": {"schema": {"type": "string", "description": described}}}


SCORE = _answers({JSON: _schema(answers.ScoreAnswer), **_lines(answers.ScoreAnswer)}, *_TAKEN, 501) | {
    "openapi_extra": _body(answers.ScoreRequest)
}
EMBED = _answers({JSON: _schema(answers.EmbedAnswer)}, *_TAKEN) | {"openapi_extra": _body(answers.EmbedRequest)}
EXPLAIN = _answers({JSON: _schema(explain_answers.ExplainAnswer)}, *_TAKEN, 501) | {
    "openapi_extra": _body(explain_answers.ExplainRequest)
}
SCAN = _answers({JSON: _schema(scan_answers.ScanAnswer), **_lines(scan_answers.ScanAnswer)}, *_TAKEN, 501) | {
    "openapi_extra": {"requestBody": {"required": True, "content": {JSON: _schema(scan_answers.ScanRequest)}}}
}
MODEL = _answers({JSON: _schema(answers.ModelAnswer)}, 401, 500, 503)
RELOAD = _answers({JSON: _schema(answers.ModelAnswer)}, 401, 403, 500, 503)
HEALTH = _answers({JSON: _schema(answers.Health)}, 500)
READY = _answers({JSON: _schema(answers.Health)}, 500, 503)
METRICS = _answers({CONTENT_TYPE_LATEST: {"schema": {"type": "string"}}}, 401, 500)


def complete(app: FastAPI, *, needs_token: bool) -> None:
    """Give the app its OpenAPI document: FastAPI's own, with the schemas of our types and the tokens."""
    document = get_openapi(
        title="abonyx",
        version=__version__,
        summary="Antibody sequences scored for non-specificity",
        description="Any other path gets 404, and any other method 405, each with a Problem. HEAD is handled as GET.",
        routes=app.routes,
    )
    _, schemas = msgspec.json.schema_components(_TYPES, ref_template=_REFERENCE)
    components = document.setdefault("components", {})
    components.setdefault("schemas", {}).update(schemas)
    bearer = {"type": "http", "scheme": "bearer"}
    components["securitySchemes"] = {"token": bearer, "admin_token": bearer}
    for path, item in document["paths"].items():
        for operation in item.values():
            if path == "/v1/reload":
                operation["security"] = [{"admin_token": []}]
            elif needs_token and (path == "/metrics" or path.startswith("/v1/")):
                operation["security"] = [{"token": []}]
    app.openapi = lambda: document  # type: ignore[method-assign]  # FastAPI's own way to replace the document
