"""The routes: what each takes and answers. Everything that waits or computes is elsewhere."""

from __future__ import annotations

import functools
import importlib.resources
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from abonyx.bundle.chosen import choose_heads
from abonyx.contributions import refuse_without
from abonyx.errors import EngineError, InputError, RequestRefused
from abonyx.output.beside import refuse_columns, refuse_pair_columns
from abonyx.serve import answers, bodies, openapi
from abonyx.serve.direct import Direct, Endpoint
from abonyx.serve.explain_answers import ExplainRequest
from abonyx.serve.explanations import explain_answer
from abonyx.serve.gate import METRICS, RELOAD, Gate
from abonyx.serve.metrics import Metrics
from abonyx.serve.problems import problem, problem_response
from abonyx.serve.queries import FileExplainQuery, FileQuery, FileScoreQuery
from abonyx.serve.requests import JSON
from abonyx.serve.scans import NO_TIME_FIX, plan_scan_request, refuse_slow, scan_answer
from abonyx.serve.scheduler import DEAD, NO_MODEL
from abonyx.serve.service import LOOK_S, Service, Waiting

NDJSON = "application/x-ndjson"
_SCRIPTS = (
    *("app", "assessment", "card", "contributions", "dom", "explanation", "files", "heatmap", "histogram"),
    *("input", "pasted", "results", "scan", "scores", "server", "table"),
)
PAGE = {"/": "index.html", "/page/style.css": "style.css"} | {f"/page/{name}.js": f"{name}.js" for name in _SCRIPTS}
_PAGE_TYPES = {"html": "text/html; charset=utf-8", "js": "text/javascript; charset=utf-8", "css": "text/css"}


def create_app(service: Service) -> Gate:
    """The ASGI application of a service."""
    app = FastAPI(title="abonyx", docs_url=None, redoc_url=None, redirect_slashes=False)
    _add_errors(app, service)
    endpoints = _add_scoring(app, service)
    _add_model(app, service)
    _add_state(app, service)
    _add_page(app)
    openapi.complete(app, needs_token=service.settings.token is not None)
    paths = frozenset(getattr(route, "path", "") for route in app.routes)
    direct = Direct(app, endpoints, functools.partial(_refused, service.metrics), lambda: _fault(service.metrics))
    return Gate(direct, paths, service.settings, service.metrics)


def _refused(metrics: Metrics, error: EngineError) -> Response:
    metrics.count_rejected(error)
    return problem_response(error)


def _fault(metrics: Metrics) -> Response:
    error = RequestRefused(500, "fault", "a fault in abonyx; the service's log has its traceback", "Please report it.")
    return _refused(metrics, error)


def _add_errors(app: FastAPI, service: Service) -> None:
    answer = functools.partial(_refused, service.metrics)

    @app.exception_handler(EngineError)
    async def engine_error(_request: Request, error: EngineError) -> Response:
        return answer(error)

    @app.exception_handler(RequestValidationError)
    async def wrong_query(_request: Request, error: RequestValidationError) -> Response:
        found = "; ".join(map(_wrong, error.errors()[:5]))
        return answer(InputError(f"request: {ascii(found)[1:-1][:500]}", "/openapi.json lists the parameters."))

    @app.exception_handler(HTTPException)
    async def no_route(request: Request, error: HTTPException) -> Response:
        what = f"{request.method} {ascii(request.url.path)[1:-1][:200]}: {error.detail}"
        reason = {404: "route", 405: "method"}.get(error.status_code, "http")
        response = answer(RequestRefused(error.status_code, reason, what, "/openapi.json lists all routes."))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def fault(_request: Request, _error: Exception) -> Response:
        # After this answer is sent, Starlette raises the error again, and uvicorn logs it.
        return _fault(service.metrics)


def _wrong(error: dict[str, Any]) -> str:
    """What is wrong with one parameter of a query. If only a few values are allowed, the text has the given value."""
    given = f", not {error['input']!r}" if error["type"] == "literal_error" else ""
    return f"{'.'.join(map(str, error['loc']))}: {error['msg']}{given}"


def _add_scoring(app: FastAPI, service: Service) -> dict[str, Endpoint]:
    """Add the routes that score. Returns path -> function for requests without a query (direct.py)."""

    @app.post("/v1/score", **openapi.SCORE)
    async def score(request: Request, query: Annotated[FileScoreQuery, Query()]) -> Response:
        """Score sequences. The body is JSON, FASTA, a table or one sequence on each line; a file may be gzipped."""
        model = service.scheduler.model()
        checked, asked, until = await service.checked(request, model, answers.ScoreRequest, query)
        beside = refuse_columns(asked.with_columns, asked.domain)
        heads = model.choose_heads(asked.heads, asked.assay, asked.threshold, asked.panel, beside)
        refuse_pair_columns(beside, heads.chains)
        waiting = Waiting(service, request, model, checked, heads.names, until)

        async def answer() -> bytes:
            return msgspec.json.encode(bodies.score_answer(model, checked, waiting.job.values, heads, asked))

        return await _answered(request, waiting, answer, service.metrics)

    @app.post("/v1/embed", **openapi.EMBED)
    async def embed(request: Request, query: Annotated[FileQuery, Query()]) -> Response:
        """Give pooled embeddings of sequences. Send the sequences as to /v1/score."""
        model = service.scheduler.model()
        checked, asked, until = await service.checked(request, model, answers.EmbedRequest, query)
        waiting = Waiting(service, request, model, checked, None, until)
        await waiting.finished()
        return StreamingResponse(bodies.embed_answer(model, checked, waiting.job.values, asked), media_type=JSON)

    @app.post("/v1/explain", **openapi.EXPLAIN)
    async def explain(request: Request, query: Annotated[FileExplainQuery, Query()]) -> Response:
        """Say what each residue of a few sequences adds to a score. Send the sequences as to /v1/score."""
        model = service.scheduler.model()
        refuse_without(model, model.bundle.name)
        checked, asked, until = await service.checked(request, model, ExplainRequest, query)
        heads = choose_heads(model.bundle, asked.heads)
        waiting = Waiting(service, request, model, checked, heads.names, until, explain=True)
        await waiting.finished()
        found = [each for _, each in sorted((waiting.job.explained or {}).items())]
        return StreamingResponse(explain_answer(model, checked, found, heads, asked), media_type=JSON)

    @app.post("/v1/scan", **openapi.SCAN)
    async def scan(request: Request) -> Response:
        """Score the single mutants of one sequence, and say what charge explains. No mutant is recommended."""
        model = service.scheduler.model()
        body, until = await service.received_json(request)
        plan = functools.partial(plan_scan_request, body, model, service.settings)
        planned = await service.read(request, lambda turn: plan(turn.step), until)
        in_time = functools.partial(refuse_slow, planned, service.scheduler, service.settings)
        in_time(0, until)
        waiting = Waiting(
            *(service, request, model, planned.scored, planned.options.names, until),
            totals=True,
            in_time=in_time,
            no_time_fix=NO_TIME_FIX,
        )

        async def answer() -> bytes:
            assert waiting.job.totals is not None
            encode = functools.partial(scan_answer, model, planned, waiting.job.totals)
            # In a reader's thread, because it takes a tenth of a second.
            return await service.read(request, lambda turn: encode(turn.step), until)

        return await _answered(request, waiting, answer, service.metrics)

    return {
        "/v1/score": lambda request: score(request, FileScoreQuery.model_validate({})),
        "/v1/embed": lambda request: embed(request, FileQuery()),
    }


async def _answered(
    request: Request, waiting: Waiting, answer: Callable[[], Awaitable[bytes]], metrics: Metrics
) -> Response:
    """The answer once the scores are there: lines for a client that accepts them, else one JSON."""
    if NDJSON in request.headers.get("accept", ""):
        return _Lines(waiting, answer, metrics)
    await waiting.finished()
    return Response(await answer(), media_type=JSON)


class _Lines(StreamingResponse):
    """An answer as lines. At its end, sequences of the request that are still in the queue are dropped."""

    def __init__(self, waiting: Waiting, answer: Callable[[], Awaitable[bytes]], metrics: Metrics) -> None:
        super().__init__(_lines(waiting, answer, metrics), media_type=NDJSON)
        self._waiting = waiting

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:  # not in the generator, which never starts if the client leaves at once
            self._waiting.drop()


async def _lines(waiting: Waiting, answer: Callable[[], Awaitable[bytes]], metrics: Metrics) -> AsyncIterator[bytes]:
    """Lines of progress, then the answer or the problem as the last line."""
    try:
        said, at = -1, 0.0
        while await waiting.change():
            done, now = waiting.job.done, time.monotonic()
            if done > said and now >= at:
                said, at = done, now + LOOK_S
                yield msgspec.json.encode({"done": done, "total": len(waiting.job.ids)}) + b"\n"
        yield await answer() + b"\n"
    except EngineError as error:
        metrics.count_rejected(error)
        yield msgspec.json.encode({"problem": problem(error)}) + b"\n"


def _described(service: Service) -> Response:
    found = bodies.model_answer(service.scheduler.model(), service.settings)
    return Response(msgspec.json.encode(found), media_type=JSON)


def _add_model(app: FastAPI, service: Service) -> None:
    @app.get("/v1/model", **openapi.MODEL)
    async def model() -> Response:
        """The open model, its card, and the limits of a request."""
        return _described(service)

    @app.post(RELOAD, **openapi.RELOAD)
    async def reload() -> Response:
        """Read the service's config again, and open the bundle that it names. Meanwhile, requests get 503."""
        await service.reload()
        return _described(service)


def _add_state(app: FastAPI, service: Service) -> None:
    scheduler = service.scheduler

    @app.get("/healthz", **openapi.HEALTH)
    async def healthz() -> Response:
        """Whether the service works."""
        if not scheduler.alive:
            raise DEAD.error()
        return Response(msgspec.json.encode(answers.Health()), media_type=JSON)

    @app.get("/readyz", **openapi.READY)
    async def readyz() -> Response:
        """Whether the service takes requests, and if not, why. If a token is set, the reason is only in /v1/model."""
        try:
            scheduler.model()
        except RequestRefused as error:
            if service.settings.token is None or error.reason != NO_MODEL:
                raise
            fix = "Send the token to /v1/model, which says why."
            raise RequestRefused(error.status, NO_MODEL, "no model is open", fix) from None
        return Response(msgspec.json.encode(answers.Health()), media_type=JSON)

    @app.get(METRICS, **openapi.METRICS)
    async def metrics() -> Response:
        """Counters for Prometheus."""
        return Response(service.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)


def _add_page(app: FastAPI) -> None:
    folder = importlib.resources.files("abonyx") / "serve" / "page"

    def add(path: str, name: str) -> None:
        async def page() -> Response:
            file = folder / name
            if not file.is_file():
                raise HTTPException(404, "Not Found")
            return Response(file.read_bytes(), media_type=_PAGE_TYPES[name.rpartition(".")[2]])

        app.add_api_route(path, page, include_in_schema=False)

    for path, name in PAGE.items():
        add(path, name)
